"""Interests on their way into the store, in a thread of its own: what gathers for a second is written together.

Nobody waits for them, so a kill loses those of the last second, which the next question asks anew.
"""

from collections.abc import Callable
from typing import Literal, final

from plait.store.gathering import Gathering
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
        self._store, self._told = store, told
        self._gathering: Gathering[tuple[str, str], KeptInterests] = Gathering(
            "plait-interests", self._write, most_waiting=MOST_WAITING, every_s=every_s
        )

    def keep(self, its: KeptInterests) -> None:
        """In place of what waits of the same user and version; waits for nothing."""
        if not self._gathering.put((its.user, its.version), its):
            self._told("no room", 1)

    def forget(self, user: str) -> None:
        """Nothing of a user waits from now on. What is being written is of a history that is gone, and is refused."""
        self._gathering.forget(lambda key: key[0] == user)

    def close(self) -> None:
        """Writes what waits, and takes nothing more."""
        self._gathering.close()

    def _write(self, together: list[KeptInterests]) -> None:
        try:
            were_kept = self._store.keep_interests(together)
        except Exception:  # of the store, or ours: the next question makes them anew, and this thread goes on
            self._told("failed", len(together))
            return
        self._told("written", sum(were_kept))
        self._told("other history", len(were_kept) - sum(were_kept))
