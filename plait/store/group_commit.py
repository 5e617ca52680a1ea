"""One thread that writes for all: what waits while it writes is written together next.

So an append waits for at most two writes, its own and the one before, however many come at once.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar, final

Asked = TypeVar("Asked")
Done = TypeVar("Done")

MOST_TOGETHER = 512  # so that the first of a long queue does not wait for its last


class Closed(Exception):
    """Nothing is taken any more."""


@final
class GroupCommit(Generic[Asked, Done]):
    """
    Args:
        write: takes what waits, and returns what became of each when it is safe. Where it raises one of `refusals`
            for some together, each is written alone.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Asked]], Sequence[Done]],
        refusals: tuple[type[Exception], ...] = (ValueError,),
        most_together: int = MOST_TOGETHER,
    ) -> None:
        self._write, self._refusals, self._most = write, refusals, most_together
        self._waiting: deque[tuple[Asked, Future[Done]]] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="plait-writer", daemon=True)
        self._thread.start()

    def submit(self, asked: Asked) -> "Future[Done]":
        """Raises Closed."""
        future: Future[Done] = Future()
        with self._changed:
            if self._closed:
                raise Closed("the service is going down; try again")
            self._waiting.append((asked, future))
            self._changed.notify()
        return future

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        """Writes what waits, and takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                together = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            self._answer([each for each in together if each[1].set_running_or_notify_cancel()])

    def _answer(self, together: "list[tuple[Asked, Future[Done]]]") -> None:
        if not together:
            return
        try:
            done = self._write([asked for asked, _ in together])
        except Exception as error:
            if isinstance(error, self._refusals) and len(together) > 1:
                for each in together:
                    self._answer([each])
                return
            for _, future in together:
                future.set_exception(error)
            return
        for (_, future), one in zip(together, done, strict=True):
            future.set_result(one)
