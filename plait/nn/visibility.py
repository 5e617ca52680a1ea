"""Which slots of packed rows may see which, and what time it is there.

Shape letters: R rows, L slots of a row, Q and K the same slots as queries and as keys; B = R, or 1 where all
rows agree.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Clock:
    """The times of every slot, for positions that know time."""

    time_s_RL: Int64[Tensor, "R L"]  # of the slot's event
    anchor_s_RL: Int64[Tensor, "R L"]  # what a slot takes for "now" when it looks back (time_anchor)
    request_RL: Int64[Tensor, "R L"]  # number of the event's request within its user, from 1
    gap_s_RL: Int64[Tensor, "R L"]  # from the request before to the event; NO_REQUEST_BEFORE for the first
    left_RL: Int64[Tensor, "R L"]  # tokens of the history from the slot on, itself included; 0 for candidates


NO_REQUEST_BEFORE = -1


@dataclass(frozen=True, eq=False)
class Segments:
    """The owner and the position of every slot of a batch of rows, and what it sees.

    A slot sees the slots of its own event up to itself, and of its user's other slots the first `seen_RL`. What
    attention derives from that (masks) is computed at its first use and kept here, so that all layers of all
    heads share it. The tensors must not change afterwards.
    """

    segment_RL: Int64[
        Tensor, "R L"
    ]  # user number within the batch, -1 = padding; a user's slots are contiguous
    position_RL: Int64[Tensor, "R L"]  # token position within its user; padding: any valid position
    event_RL: Int64[Tensor, "R L"] | None = None  # whose slot it is; None: every slot is an event of its own
    seen_RL: Int64[Tensor, "R L"] | None = None  # None: all earlier slots of its user, plain causality
    clock: Clock | None = None
    _kept: dict[Hashable, Tensor] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def one_user_per_row(self) -> bool:
        """No row holds two users, and padding stands only on the right: causality alone separates users.

        >>> Segments(torch.tensor([[4, 4, -1]]), torch.tensor([[0, 1, 0]])).one_user_per_row
        True
        >>> Segments(torch.tensor([[4, 7, -1]]), torch.tensor([[0, 0, 0]])).one_user_per_row
        False
        """
        left, right = self.segment_RL[:, :-1], self.segment_RL[:, 1:]
        return bool(((right == left) | (right == -1)).all())

    @property
    def causality_is_all(self) -> bool:
        """Every slot sees exactly the earlier slots of its row, and itself."""
        return self.seen_RL is None and self.one_user_per_row

    @property
    def shift_is_strict(self) -> bool:
        """Every slot sees, beside its own event, exactly the earlier slots of its row."""
        return self.causality_is_all and self.event_RL is None

    @cached_property
    def looks_ahead(self) -> bool:
        """Some slot sees a later one (a history that is fully visible to itself)."""
        return self.seen_RL is not None and bool((self.seen_RL > self.index_RL + 1).any())

    @cached_property
    def index_RL(self) -> Int64[Tensor, "R L"]:
        """The number of every slot within its user's slots.

        >>> Segments(torch.tensor([[3, 3, 5]]), torch.tensor([[0, 1, 0]])).index_RL.tolist()
        [[0, 1, 0]]
        """
        slot_L = torch.arange(self.segment_RL.shape[1], device=self.segment_RL.device)
        begins_RL = torch.ones_like(self.segment_RL, dtype=torch.bool)
        begins_RL[:, 1:] = self.segment_RL[:, 1:] != self.segment_RL[:, :-1]
        return slot_L - (slot_L * begins_RL).cummax(dim=1).values

    @cached_property
    def visible_RQK(self) -> Bool[Tensor, "R Q K"]:
        """What a slot sees. Padding sees padding, so no softmax is empty.

        >>> segments = Segments(torch.tensor([[3, 3, 5]]), torch.tensor([[0, 1, 0]]))
        >>> segments.visible_RQK.int().tolist()
        [[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]
        """
        return self.strictly_visible_RQK | (self._same_user_RQK & self._same_event_RQK).tril()

    @cached_property
    def strictly_visible_RQK(self) -> Bool[Tensor, "R Q K"]:
        """What a slot sees beside its own event: the first slot of a user sees nothing."""
        others_RQK = self._same_user_RQK & ~self._same_event_RQK
        if self.seen_RL is None:
            return others_RQK.tril(-1)
        return others_RQK & (self.index_RL[:, None, :] < self.seen_RL[:, :, None])

    @cached_property
    def sees_nothing_RL(self) -> Bool[Tensor, "R L"]:
        """Slots without anything strictly visible."""
        return ~self.strictly_visible_RQK.any(-1)

    def softmax_mask(self, strict: bool = False) -> Bool[Tensor, "B Q K"]:
        """What a softmax runs over: what a slot sees. B = 1 if causality is all, and padding then sees more.

        Args:
            strict: without a slot's own event. A slot that then sees nothing sees itself, to keep the softmax
                finite; `sees_nothing_RL` tells which.
        """
        return self.kept(("mask", strict), lambda: self._softmax_mask(strict))

    def mask_bias(self, dtype: torch.dtype, strict: bool = False) -> Float[Tensor, "B 1 Q K"]:
        """`softmax_mask` as what scores get added: 0 where the query may see the key, else -inf."""
        zero = torch.zeros((), dtype=dtype, device=self.segment_RL.device)
        return self.kept(
            ("bias", dtype, strict),
            lambda: torch.where(self.softmax_mask(strict), zero, -torch.inf)[:, None],
        )

    def zeroed(self, out_RNLH: Float[Tensor, "R N L H"], strict: bool) -> Float[Tensor, "R N L H"]:
        """What attention over `softmax_mask` found, with zeros where a slot saw itself for want of anything."""
        return out_RNLH.masked_fill(self.sees_nothing_RL[:, None, :, None], 0.0) if strict else out_RNLH

    def kept(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returned at the first call with this key: it must depend on these segments alone."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _softmax_mask(self, strict: bool) -> Bool[Tensor, "B Q K"]:
        num_slots = self.segment_RL.shape[1]
        ones_QK = torch.ones(num_slots, num_slots, dtype=torch.bool, device=self.segment_RL.device)
        if not strict:
            return ones_QK.tril()[None] if self.causality_is_all else self.visible_RQK
        if not self.shift_is_strict:
            return self.strictly_visible_RQK | (ones_QK.diag().diag() & self.sees_nothing_RL[:, :, None])
        before_QK = ones_QK.tril(-1)
        before_QK[0, 0] = True  # the first slot sees nothing, so itself
        return before_QK[None]

    @cached_property
    def _same_user_RQK(self) -> Bool[Tensor, "R Q K"]:
        return self.segment_RL[:, :, None] == self.segment_RL[:, None, :]

    @cached_property
    def _same_event_RQK(self) -> Bool[Tensor, "R Q K"]:
        if self.event_RL is None:
            return torch.eye(
                self.segment_RL.shape[1], dtype=torch.bool, device=self.segment_RL.device
            ).expand_as(self._same_user_RQK)
        return self.event_RL[:, :, None] == self.event_RL[:, None, :]
