"""A real server of Redis, killed amid appends: `make test-serve` starts it, `make test` leaves it out."""

import os
import signal
from pathlib import Path

import pytest
from real_redis import free_port, server_of

from plait.store.history import Append, KeptInterests, StoredEvent, StoreUnavailable, place_of
from plait.store.redis_store import RedisStore

pytestmark = pytest.mark.skipif("PLAIT_REDIS" not in os.environ, reason="needs redis-server: make test-serve")
KILLS = max(1, int(os.environ.get("PLAIT_KILLS", "3")) // 10)


def test_a_server_that_syncs_less_is_refused(tmp_path: Path) -> None:
    port = free_port()
    with server_of(tmp_path, port, "everysec"):
        url = f"redis://localhost:{port}/0"
        with pytest.raises(ValueError, match="appendfsync everysec"):
            RedisStore.at(url)
        RedisStore.at(url, "process").close()


def test_kills_of_the_server_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    port, acknowledged, refused = free_port(), [], 0
    store: RedisStore | None = None
    for kill in range(KILLS):
        with server_of(tmp_path, port) as server:
            store = store or RedisStore.at(f"redis://localhost:{port}/0")
            for n in range(60):
                if n == 40:
                    os.kill(server.pid, signal.SIGKILL)
                event = StoredEvent(f"{kill}-{n}", place_of(100 * kill + n), b"x" * 50)
                try:
                    if store.append([[Append("u", event)]]) == [["stored"]]:
                        acknowledged.append(event.id)
                except StoreUnavailable:
                    refused += 1
    with server_of(tmp_path, port):
        assert store is not None
        history = store.history("u")
        assert history is not None
        ids = {event.id for event in history.events}
        store.close()
    assert len(acknowledged) >= 40 * KILLS and refused
    assert set(acknowledged) <= ids and len(ids) == history.head.count == len(history.events)


def test_a_kill_of_the_server_loses_no_interests_that_were_acknowledged(tmp_path: Path) -> None:
    port, last = free_port(), 0
    with server_of(tmp_path, port) as server:
        store = RedisStore.at(f"redis://localhost:{port}/0")
        store.append([[Append("u", StoredEvent("e", place_of(0), b""))]])
        head = store.head("u")
        assert head is not None
        for n in range(1, 60):
            if n == 40:
                os.kill(server.pid, signal.SIGKILL)
            try:
                if store.keep_interests([KeptInterests("u", head.epoch, "v", n, ("own",), b"x" * 50)]) == [
                    True
                ]:
                    last = n
            except StoreUnavailable:
                pass
    with server_of(tmp_path, port):
        (its,) = store.interests("u")
        assert 39 <= last <= its.time_us < 60
        assert store.delete("u") and store.interests("u") == ()
        store.close()
