"""A real server of Redis, killed amid appends: `make test-serve` starts it, `make test` leaves it out."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from plait.store.history import Append, StoredEvent, StoreUnavailable, place_of
from plait.store.redis_store import RedisStore

pytestmark = pytest.mark.skipif("PLAIT_REDIS" not in os.environ, reason="needs redis-server: make test-serve")
KILLS = max(1, int(os.environ.get("PLAIT_KILLS", "3")) // 10)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def server_of(folder: Path, port: int, sync: str = "always") -> Iterator[subprocess.Popen]:
    words = ["--port", port, "--dir", folder, "--save", "", "--appendonly", "yes", "--appendfsync", sync]
    command = [os.environ["PLAIT_REDIS"], *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        client = redis.Redis(port=port)
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.RedisError:  # it starts, or reads its log
                time.sleep(0.05)
        client.close()
        try:
            yield child
        finally:
            child.kill()


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
