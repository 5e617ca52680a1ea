"""One thread that writes for all: what waits while it writes is written together next.

So an append waits for at most two writes, its own and the one before, however many come at once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar, final

from plait.store.gathering import Gathering

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
        self._write, self._refusals = write, refusals
        self._gathering: Gathering[Future[Done], tuple[Asked, Future[Done]]] = Gathering(
            "plait-writer", self._answer_waiting, most_together=most_together
        )

    def submit(self, asked: Asked) -> "Future[Done]":
        """Raises Closed."""
        future: Future[Done] = Future()
        if not self._gathering.put(future, (asked, future)):
            raise Closed("the service is going down; try again")
        return future

    @property
    def num_waiting(self) -> int:
        return len(self._gathering)

    def close(self) -> None:
        """Writes what waits, and takes nothing more."""
        self._gathering.close()

    def _answer_waiting(self, together: "list[tuple[Asked, Future[Done]]]") -> None:
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
