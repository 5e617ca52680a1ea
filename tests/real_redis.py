"""A real server of Redis, which `make test-serve` names."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis


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
