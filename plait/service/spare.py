"""Work that nobody waits for, in a thread of its own that leaves the processor to all others."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Full, Queue
from typing import TypeVar, final

Done = TypeVar("Done")

MOST_SPARE = 32  # works that wait
NICENESS = 10  # more than the process has: about a tenth of the processor, where another thread wants it
MOST_NICENESS = 19  # the system knows no more


@final
class SpareThread:
    """One work after the other, as they came."""

    def __init__(self) -> None:
        self._works: Queue[Callable[[], object] | None] = Queue(MOST_SPARE)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="plait-spare", daemon=True)
        self._thread.start()

    def take(self, work: Callable[[], object]) -> bool:
        """Whether it will be done; not where too many wait. It may not raise."""
        if self._closed:
            return False
        try:
            self._works.put_nowait(work)
        except Full:
            return False
        return True

    def close(self) -> None:
        """Ends after the work that runs; what waits is not done."""
        self._closed = True
        while not self._works.empty():
            self._works.get_nowait()
            self._works.task_done()
        self._works.put(None)
        self._thread.join()

    def _run(self) -> None:
        lower_priority()
        while (work := self._works.get()) is not None:
            work()
            self._works.task_done()


def in_spare_time(work: Callable[[], Done]) -> Done:
    """Does it in a thread of low priority, as are those that it starts; waits for it, and raises as it does."""
    with ThreadPoolExecutor(1, "plait-coming", lower_priority) as pool:
        return pool.submit(work).result()


def lower_priority() -> None:
    """Of the thread that calls."""
    if sys.platform == "linux":  # elsewhere niceness is of the whole process
        niceness = min(MOST_NICENESS, os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICENESS)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
