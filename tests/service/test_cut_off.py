"""The store's server cut off from the service and back: `make test-serve` starts one, `make test` leaves it out."""

import asyncio
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest
from real_redis import free_port, server_of
from served import asked, client_of, prepared_log, rating_event, service_of

from plait.data import Dataset
from plait.service.service import Service
from plait.store import redis_store
from plait.store.redis_store import RedisStore

pytestmark = pytest.mark.skipif("PLAIT_REDIS" not in os.environ, reason="needs redis-server: make test-serve")
Way = Literal["open", "broken", "silent"]
EVENTS = 8  # in each way


class Wire:
    """Between a service and its server. Broken, it hangs up; silent, it takes all and gives nothing."""

    def __init__(self, port: int, to_port: int) -> None:
        self.way: Way = "open"
        self._to = to_port
        self._listening = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError), one, other:
            while (content := one.recv(65_536)) and self.way != "broken":
                if self.way == "open":
                    other.sendall(content)


@contextmanager
def wired(folder: Path, data: Dataset) -> Iterator[tuple[Service, Wire]]:
    port, near_port = free_port(), free_port()
    with server_of(folder / "redis", port):
        wire = Wire(near_port, port)
        store = RedisStore.at(f"redis://127.0.0.1:{near_port}/0")
        service = service_of(folder, data, store=store)
        try:
            yield service, wire
        finally:
            wire.way = "open"
            service.close()
            wire.close()


async def used(service: Service, wire: Wire) -> tuple[dict[str, set[str]], Counter[tuple[str, int]]]:
    """Appends and questions while the wire changes; the events by what became of them."""
    events: dict[str, set[str]] = {"acknowledged": set(), "refused": set()}
    met: Counter[tuple[str, int]] = Counter()
    async with client_of(service) as client:
        for nth, way in enumerate(("open", "broken", "open", "silent", "open")):
            wire.way = way
            for n in range(EVENTS):
                event = rating_event(f"{nth}-{n}", 191, time=1_600_000_000 + 10 * nth + n)
                answer = await asked(client, "/v1/events", {"events": [event]})
                events["acknowledged" if answer.status_code == 200 else "refused"].add(event["id"])
                met[way, answer.status_code] += 1
                asking = await asked(client, "/v1/retrieve", {"user": 191, "k": 2})
                met[way, asking.status_code] += 1
            wire.way = "open"
    return events, met


def test_a_server_that_is_cut_off_costs_no_event_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_store, "WAIT_S", 0.2)
    (tmp_path / "redis").mkdir()
    data = prepared_log(tmp_path)
    with wired(tmp_path, data) as (service, wire):
        events, met = asyncio.run(used(service, wire))
        kept = service.store.history("191")
        assert kept is not None and kept.head.count == len(kept.events), "no event is half there"
        ids = {event.id for event in kept.events}
    assert events["acknowledged"] <= ids
    assert {status for _, status in met} == {200, 503}, met
    assert met["broken", 503] and met["silent", 503] and met["open", 200] >= 3 * EVENTS
