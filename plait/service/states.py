"""Encoded histories in memory: so many bytes of them, the longest unused out first. Never more than a cache."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import final

from plait.engine.state import State

BYTES_PER_ENTRY = 2_000  # of objects beside the arrays


@dataclass(frozen=True)
class CachedState:
    """A user's state, and which history it is of: that of `epoch` up to `version` and the key `last`."""

    epoch: int
    version: int
    last: bytes
    state: State

    @property
    def nbytes(self) -> int:
        events = self.state.events
        arrays = (events.item_E, events.action_EA, events.time_s_E, events.request_E, events.context_EF)
        beside = sum(array.nbytes for array in (*arrays, *self.state.seen_U))
        return self.state.nbytes + beside + BYTES_PER_ENTRY


@final
class StateCache:
    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.nbytes, self.hits, self.misses, self.appended = most_bytes, 0, 0, 0, 0
        self.num_forgotten = 0  # times that a user was forgotten
        self._kept: OrderedDict[str, CachedState] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, user: str) -> CachedState | None:
        with self._lock:
            found = self._kept.get(user)
            if found is not None:
                self._kept.move_to_end(user)
            return found

    def put(self, user: str, entry: CachedState, num_forgotten: int) -> None:
        """One that is larger than the cache is not kept.

        Args:
            num_forgotten: as it stood before the history was read. Where anybody was forgotten since, the entry may be
                of that very user, and is not kept.
        """
        with self._lock:
            self._drop(user)
            if entry.nbytes > self.most_bytes or num_forgotten != self.num_forgotten:
                return
            self._kept[user] = entry
            self.nbytes += entry.nbytes
            while self.nbytes > self.most_bytes:
                self._drop(next(iter(self._kept)))

    def forget(self, user: str) -> None:
        """After it is gone from the store."""
        with self._lock:
            self.num_forgotten += 1
            self._drop(user)

    def users(self) -> list[str]:
        """Those used last come first."""
        with self._lock:
            return list(reversed(self._kept))

    def _drop(self, user: str) -> None:
        gone = self._kept.pop(user, None)
        if gone is not None:
            self.nbytes -= gone.nbytes
