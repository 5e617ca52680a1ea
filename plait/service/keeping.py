"""Interests on their way into the store, in a thread of its own: what gathers for a second is written together.

Nobody waits for them, so a kill loses those of the last second, which the next question asks anew.
"""

import threading
from collections.abc import Callable
from typing import Literal, final

from plait.store.history import KeptInterests, Store

MOST_WAITING = 4_096  # users and versions; more find no room
EVERY_S = 1.0

KeptFate = Literal["written", "other history", "no room", "failed"]


@final
class Keeping:
    """
    Args:
        told: of interests, as they are written, are of a history that is gone, find no room, or fail.
        every_s: from the first that waits to the write of all that came since.
    """

    def __init__(self, store: Store, told: Callable[[KeptFate, int], None], every_s: float = EVERY_S) -> None:
        self._store, self._told, self._every_s = store, told, every_s
        self._waiting: dict[tuple[str, str], KeptInterests] = {}
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="plait-interests", daemon=True)
        self._thread.start()

    def keep(self, its: KeptInterests) -> None:
        """In place of what waits of the same user and version; waits for nothing."""
        key = its.user, its.version
        with self._changed:
            fits = not self._closed and (key in self._waiting or len(self._waiting) < MOST_WAITING)
            if fits:
                self._waiting[key] = its
                self._changed.notify()
        if not fits:
            self._told("no room", 1)

    def forget(self, user: str) -> None:
        """Nothing of a user waits from now on. What is being written is of a history that is gone, and is refused."""
        with self._changed:
            for key in [key for key in self._waiting if key[0] == user]:
                del self._waiting[key]

    def close(self) -> None:
        """Writes what waits, and takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed or self._waiting:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._changed.wait_for(lambda: self._closed, self._every_s)  # others may come meanwhile
                together, self._waiting = list(self._waiting.values()), {}
            if together:
                self._write(together)

    def _write(self, together: list[KeptInterests]) -> None:
        try:
            were_kept = self._store.keep_interests(together)
        except Exception:  # of the store, or ours: the next question makes them anew, and this thread goes on
            self._told("failed", len(together))
            return
        self._told("written", sum(were_kept))
        self._told("other history", len(were_kept) - sum(were_kept))
