"""Histories that were encoded once, and how they grow.

Each history lies in a room of cells, of which it fills the first; in those behind it grows without copying what stands
there. Histories are values all the same: those that were shorter share the room and read their own cells alone. Who
comes second to a cell finds it written, and takes a copy.

Shape letters: U users, S cells of all rooms, each user's after the other's; N heads, H head width, D width.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

_WRITING = threading.Lock()  # for the time in which cells are claimed


class Keys(NamedTuple):
    """What is kept of one place where tokens attend."""

    k_SNH: Float[Tensor, "S N H"]
    v_SNH: Float[Tensor, "S N H"]


@dataclass(frozen=True, eq=False)
class Written:
    """How far rooms are written. One for all histories that share them."""

    until_U: Int64[np.ndarray, " U"]  # tokens of each room

    def of(self, users: slice) -> "Written":
        """Of some rooms; what is claimed there is claimed here."""
        return Written(self.until_U[users])

    def claim(self, from_U: Int64[np.ndarray, " U"], until_U: Int64[np.ndarray, " U"]) -> bool:
        """Whether nobody wrote behind `from_U`; then the cells up to `until_U` are the caller's."""
        with _WRITING:
            is_free = np.array_equal(self.until_U, from_U)
            if is_free:
                self.until_U[:] = until_U
        return is_free


@dataclass(frozen=True, eq=False)
class Encoded:
    """Histories as later tokens need them. In cells behind a history stands whatever was there."""

    start_U1: Int64[np.ndarray, " U1"]  # user u's room is start_U1[u] : start_U1[u + 1]
    length_U: Int64[np.ndarray, " U"]  # tokens of each history, which fill the first cells of its room
    position_S: Int64[Tensor, " S"]
    time_s_S: Int64[Tensor, " S"]
    keys: tuple[Keys, ...]  # of every place where the trunk attends, in its order
    hidden_SD: Float[Tensor, "S D"]  # what heads read
    written: Written

    @classmethod
    def whole(
        cls,
        start_U1: Int64[np.ndarray, " U1"],
        position_S: Int64[Tensor, " S"],
        time_s_S: Int64[Tensor, " S"],
        keys: tuple[Keys, ...],
        hidden_SD: Float[Tensor, "S D"],
    ) -> "Encoded":
        """Histories that fill their rooms."""
        length_U = np.diff(start_U1)
        return cls(start_U1, length_U, position_S, time_s_S, keys, hidden_SD, Written(length_U.copy()))

    @property
    def nbytes(self) -> int:
        """Of the rooms, be they filled or not."""
        return sum(each.nbytes for each in self._tensors)

    def of(self, users: slice) -> "Encoded":
        """Some users' histories; no copies."""
        start_u1 = self.start_U1[users.start : users.stop + 1]
        tensors = [x[start_u1[0] : start_u1[-1]] for x in self._tensors]
        return self._from(tensors, start_u1 - start_u1[0], self.length_U[users], self.written.of(users))

    @classmethod
    def joined(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """The users of all parts, in order; each in a room that it fills."""
        compact = [part._moved(part.length_U) if part._has_room else part for part in parts]
        length_U = np.concatenate([part.length_U for part in compact])
        pairs = zip(*(part._tensors for part in compact), strict=True)
        return compact[0]._from([torch.cat(each) for each in pairs], starts(length_U), length_U)

    def followed_by(self, more: "Encoded", room_U: Int64[np.ndarray, " U"]) -> "Encoded":
        """Each user's tokens of `more` behind its own: in its room where there is place that nobody wrote to, else in a
        copy.

        Args:
            room_U: how many tokens the rooms of a copy hold, where that is more than it takes.
        """
        length_U = self.length_U + more.length_U
        its = self
        if not self._may_write(length_U):
            its = self._moved(np.maximum(room_U, length_U))
            its.written.claim(self.length_U, length_U)
        cells = torch.from_numpy(_cells(its.start_U1[:-1] + self.length_U, more.length_U))
        cells = cells.to(its.hidden_SD.device)
        for own, new in zip(its._tensors, more._tensors, strict=True):
            own.index_copy_(0, cells, new.to(own.dtype))
        return replace(its, length_U=length_U)

    def arrays(self) -> dict[str, np.ndarray | Tensor]:
        """All that it is, by name, without what lies behind the histories: `from_arrays` is the inverse."""
        its = self._moved(self.length_U) if self._has_room else self
        found: dict[str, np.ndarray | Tensor] = {
            "start_U1": its.start_U1,
            "position_S": its.position_S,
            "time_s_S": its.time_s_S,
            "hidden_SD": its.hidden_SD,
        }
        for place, keys in enumerate(its.keys):
            found |= {f"k_SNH.{place}": keys.k_SNH, f"v_SNH.{place}": keys.v_SNH}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> "Encoded":
        """Raises KeyError where one is not there."""
        places = range(sum(name.startswith("k_SNH.") for name in arrays))
        return cls.whole(
            arrays["start_U1"].cpu().numpy(),
            arrays["position_S"],
            arrays["time_s_S"],
            tuple(Keys(arrays[f"k_SNH.{place}"], arrays[f"v_SNH.{place}"]) for place in places),
            arrays["hidden_SD"],
        )

    @property
    def _has_room(self) -> bool:
        return int(self.start_U1[-1]) > int(self.length_U.sum())

    def _may_write(self, length_U: Int64[np.ndarray, " U"]) -> bool:
        """Whether the histories may grow to these lengths where they lie; then the cells are theirs. (What torch's
        inference mode made, nobody may write to outside of it.)"""
        is_frozen = self.hidden_SD.is_inference() and not torch.is_inference_mode_enabled()
        fits = bool((length_U <= np.diff(self.start_U1)).all())
        return fits and not is_frozen and self.written.claim(self.length_U, length_U)

    def _moved(self, room_U: Int64[np.ndarray, " U"]) -> "Encoded":
        """A copy in rooms of so many tokens."""
        start_U1 = starts(room_U)
        tensors = [x.new_empty(int(start_U1[-1]), *x.shape[1:]) for x in self._tensors]
        for old, new in zip(self._tensors, tensors, strict=True):
            for at, to, length in self._ranges(start_U1):
                new[to : to + length] = old[at : at + length]
        return self._from(tensors, start_U1, self.length_U)

    def _ranges(self, start_U1: Int64[np.ndarray, " U1"]) -> Iterator[tuple[int, int, int]]:
        """Where each history begins here, where it begins in other rooms, and its tokens."""
        return zip(self.start_U1[:-1].tolist(), start_U1[:-1].tolist(), self.length_U.tolist(), strict=True)

    @property
    def _tensors(self) -> list[Tensor]:
        return [self.position_S, self.time_s_S, self.hidden_SD, *(x for keys in self.keys for x in keys)]

    def _from(
        self,
        tensors: Sequence[Tensor],
        start_U1: Int64[np.ndarray, " U1"],
        length_U: Int64[np.ndarray, " U"],
        written: Written | None = None,
    ) -> "Encoded":
        """Others in place of these; by default nobody else's."""
        position_S, time_s_S, hidden_SD, *rest = tensors
        keys = tuple(Keys(k, v) for k, v in zip(rest[::2], rest[1::2], strict=True))
        written = Written(length_U.copy()) if written is None else written
        return Encoded(start_U1, length_U, position_S, time_s_S, keys, hidden_SD, written)


def starts(length_U: Int64[np.ndarray, " U"]) -> Int64[np.ndarray, " U1"]:
    """
    >>> starts(np.array([2, 3])).tolist()
    [0, 2, 5]
    """
    return np.concatenate([[0], np.cumsum(length_U)])


def _cells(first_U: Int64[np.ndarray, " U"], count_U: Int64[np.ndarray, " U"]) -> Int64[np.ndarray, " S"]:
    """The numbers of `count_U` cells from `first_U` on, user after user.

    >>> _cells(np.array([4, 9]), np.array([2, 1])).tolist()
    [4, 5, 9]
    """
    begin_U1 = starts(count_U)
    return np.arange(begin_U1[-1]) + np.repeat(first_U - begin_U1[:-1], count_U)
