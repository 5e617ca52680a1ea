"""Processes that were forked while polars had threads: the child has none of them, and waits for them for ever."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

THREADS = Path("/proc/self/task")  # Linux, the one system where fork is usual
OF_POLARS = re.compile(r"polars-\d+|async-executor.*|tokio-rt-worker")  # threads that do its work


class _Fork:
    """What a process remembers of the fork that it came from."""

    def __init__(self) -> None:
        self.in_parent = False  # were there such threads, when it was forked
        self.lost_threads = False

    def before(self) -> None:
        self.in_parent = any(OF_POLARS.fullmatch(name) for name in _thread_names())

    def in_child(self) -> None:
        self.lost_threads |= self.in_parent


def _thread_names() -> Iterator[str]:
    for name in THREADS.glob("*/comm"):
        try:
            yield name.read_text().strip()
        except OSError:  # it ended meanwhile
            continue


_fork = _Fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_fork.before, after_in_child=_fork.in_child)


def check_can_work() -> None:
    """Raises ValueError in a process that polars would hang in."""
    if _fork.lost_threads:
        raise ValueError(
            "this process was forked from one that had used polars already, and would hang: start it by spawn or "
            "forkserver, as with multiprocessing.get_context('spawn') (of a torch DataLoader: "
            "multiprocessing_context='spawn'), and open models and data in it"
        )
