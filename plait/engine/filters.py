"""Which items a list may hold: those that are kept for everyone, but for what each user has seen.

Shape letters: U users, I rows of the item table (row 0 the unknown item), S seen items of all users laid end to end,
C items of a part of the catalogue.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from plait.engine.ranking import Scores, Seen, without
from plait.engine.state import called
from plait.schema import UNKNOWN_ITEM
from plait.wording import setting


@dataclass(frozen=True)
class Filters:
    """Of some users; `of` gives those of a few of them."""

    num_items: int
    num_users: int
    seen: Seen | None  # None: what users have seen stays
    kept_I: Bool[np.ndarray, " I"] | None  # None: all items are

    @classmethod
    def joined(
        cls,
        num_items: int,
        seen_U: Sequence[Int64[np.ndarray, " _"]],
        filter_seen: bool,
        kept_I: Bool[np.ndarray, " I"] | None,
    ) -> "Filters":
        return cls(num_items, len(seen_U), Seen.joined(seen_U) if filter_seen else None, kept_I)

    @property
    def num_kept(self) -> int:
        if self.kept_I is None:
            return self.num_items
        return int(self.kept_I[UNKNOWN_ITEM + 1 :].sum())

    @property
    def left_U(self) -> Int64[np.ndarray, " U"]:
        """How many items each user's list may hold."""
        left_U = np.full(self.num_users, self.num_kept)
        if self.seen is None:
            return left_U
        counts_S = self.seen.item_S != UNKNOWN_ITEM
        if self.kept_I is not None:
            counts_S &= self.kept_I[self.seen.item_S]
        user_S = np.repeat(np.arange(self.num_users), np.diff(self.seen.start_U1))
        return left_U - np.bincount(user_S[counts_S], minlength=self.num_users)

    @property
    def most_seen(self) -> int:
        """The most items that are filtered as seen of one user."""
        return 0 if self.seen is None else int(np.diff(self.seen.start_U1).max(initial=0))

    def kept_of(self, item_UC: Int64[Tensor, "U C"]) -> Bool[Tensor, "U C"]:
        """Whether each user's candidates may be in its list; the unknown item never is."""
        kept_UC = item_UC != UNKNOWN_ITEM
        if self.kept_I is not None:
            kept_UC &= torch.from_numpy(self.kept_I)[item_UC]
        if self.seen is not None:
            for user in range(self.num_users):
                seen = self.seen.of(slice(user, user + 1)).item_S
                kept_UC[user] &= ~torch.isin(item_UC[user], torch.from_numpy(seen))
        return kept_UC

    def check_left(self, k: int, id_U: Sequence[Hashable]) -> None:
        """
        Args:
            id_U: what the caller calls the users.

        Raises:
            ValueError: `k` items are not left to every user.
        """
        left_U = self.left_U
        user = int(np.argmin(left_U))
        left = int(left_U[user])
        if 0 < k <= left:
            return
        if not self.num_kept:
            raise ValueError(
                f"the filters keep none of the {self.num_items} items of the catalogue, so none is left to recommend; "
                "allow more, or deny fewer"
            )
        which = "the items of the catalogue" if self.kept_I is None else "the items that the filters keep"
        if self.seen is None:
            raise ValueError(f"{setting('k', k)}: expected 1 to {left}, {which}")
        whose = called(id_U[user])
        if left <= 0:
            raise ValueError(
                f"{whose} has seen all {self.num_kept} {which.removeprefix('the ')}, so none is left to recommend; "
                f"keep the seen ones with {setting('filter_seen', False)}"
            )
        raise ValueError(
            f"{setting('k', k)}: expected 1 to {left}, {which} that {whose} has not seen, of {self.num_kept}; ask for "
            "fewer, or do not filter the seen ones"
        )

    def of(self, users: slice) -> "Filters":
        seen = None if self.seen is None else self.seen.of(users)
        return Filters(self.num_items, users.stop - users.start, seen, self.kept_I)

    def applied(self, part: Scores) -> Scores:
        """The part itself, in which items that are filtered score -inf from now on."""
        if self.kept_I is not None:
            kept_C = torch.from_numpy(self.kept_I)[part.item_C.cpu()].to(part.item_C.device)
            part.score_UC[:, ~kept_C] = -torch.inf
        return without(part, self.seen)
