"""What many leave for one thread, which takes some at a time."""

import threading
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Generic, TypeVar, final

Key = TypeVar("Key", bound=Hashable)
Its = TypeVar("Its")


@final
class Gathering(Generic[Key, Its]):
    """
    Args:
        name: the thread's.
        handle: does something with what gathered, in the thread, in the order of `put`. It lets no error out.
        most_waiting: more find no room.
        most_together: more are left for the next call of `handle`.
        every_s: from the first that waits to the call of `handle` for all that came since.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[list[Its]], None],
        *,
        most_waiting: int | None = None,
        most_together: int | None = None,
        every_s: float = 0.0,
    ) -> None:
        self._handle, self._every_s = handle, every_s
        self._most_waiting, self._most_together = most_waiting, most_together
        self._waiting: dict[Key, Its] = {}
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, key: Key, its: Its) -> bool:
        """In place of what waits under the key; whether it was taken: not when it finds no room, or after `close`."""
        with self._changed:
            most = self._most_waiting
            has_room = most is None or key in self._waiting or len(self._waiting) < most
            fits = has_room and not self._closed
            if fits:
                self._waiting[key] = its
                self._changed.notify()
        return fits

    def forget(self, is_gone: Callable[[Key], bool]) -> None:
        """Nothing waits from now on under a key that is gone."""
        with self._changed:
            for key in [key for key in self._waiting if is_gone(key)]:
                del self._waiting[key]

    def close(self) -> None:
        """Handles what waits, and takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed or self._waiting:
            if together := self._gathered():
                self._handle(together)

    def _gathered(self) -> list[Its]:
        """What is handled next; nothing where it was forgotten meanwhile, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._every_s:
                self._changed.wait_for(lambda: self._closed, self._every_s)  # others may come meanwhile
            return [self._waiting.pop(key) for key in list(islice(self._waiting, self._most_together))]
