"""Which slots of packed rows may see which, and what time it is there.

Shape letters: R rows, L slots of a row; Q queries and K keys, which are the same slots or others; of one block:
G rows.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

# What is found out about pairs, a byte for each, serves all layers as long as it fits; the rest is found out again
# in every layer, so that memory does not grow with the square of a row's length.
KEPT_BYTES = 1 << 25
COUNTED_PAIRS = 1 << 22  # looked at together where pairs are counted


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

    A slot sees the slots of its own event up to itself, and of its user's other slots the first `seen_RL`. The
    tensors must not change afterwards: `Visibility` keeps here what all layers of all heads share.
    """

    segment_RL: Int64[Tensor, "R L"]  # user number within the batch, -1 = padding
    position_RL: Int64[Tensor, "R L"]  # token position within its user; padding: any valid position
    event_RL: Int64[Tensor, "R L"] | None = None  # whose slot it is; None: every slot is an event of its own
    seen_RL: Int64[Tensor, "R L"] | None = None  # None: all earlier slots of its user, plain causality
    clock: Clock | None = None
    nth_RL: Int64[Tensor, "R L"] | None = None
    """Number of the slot within its user's slots; None: a user's slots stand here one after another, from the first."""
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
        return self.nth_RL is None and self.seen_RL is None and self.one_user_per_row

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
        return self._slot_L - self.first_RL if self.nth_RL is None else self.nth_RL

    @cached_property
    def first_RL(self) -> Int64[Tensor, "R L"]:
        """Where in its row the neighbours begin that belong to the same user."""
        begins_RL = torch.ones_like(self.segment_RL, dtype=torch.bool)
        begins_RL[:, 1:] = self.segment_RL[:, 1:] != self.segment_RL[:, :-1]
        return (self._slot_L * begins_RL).cummax(dim=1).values

    @property
    def _slot_L(self) -> Int64[Tensor, " L"]:
        return torch.arange(self.segment_RL.shape[1], device=self.segment_RL.device)

    def at(self, slot_RQ: Int64[Tensor, "R Q"]) -> "Segments":
        """Some slots of every row as they stand among the others: queries apart from the keys that they look at.

        >>> Segments(torch.tensor([[3, 3, 5]]), torch.tensor([[0, 1, 0]])).at(torch.tensor([[1]])).index_RL.tolist()
        [[1]]
        """

        def picked(value_RL: Tensor | None) -> Tensor | None:
            return None if value_RL is None else value_RL.gather(1, slot_RQ)

        clock = self.clock and Clock(**{name: x.gather(1, slot_RQ) for name, x in vars(self.clock).items()})
        places = (self.segment_RL, self.position_RL, self.event_RL, self.seen_RL)
        segment_RQ, position_RQ, event_RQ, seen_RQ = map(picked, places)
        assert segment_RQ is not None and position_RQ is not None
        return Segments(segment_RQ, position_RQ, event_RQ, seen_RQ, clock, picked(self.index_RL))

    @property
    def visible_RQK(self) -> Bool[Tensor, "R Q K"]:
        """What a slot sees, whole: for references and drawings. Padding sees itself.

        >>> segments = Segments(torch.tensor([[3, 3, 5]]), torch.tensor([[0, 1, 0]]))
        >>> segments.visible_RQK.int().tolist()
        [[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]
        """
        return Visibility(self, self).dense(strict=False)

    @property
    def strictly_visible_RQK(self) -> Bool[Tensor, "R Q K"]:
        """What a slot sees beside its own event, whole: the first slot of a user sees nothing."""
        return Visibility(self, self).dense(strict=True)


class Block(NamedTuple):
    """Some rows' queries, and the keys that one of them may see."""

    rows: slice
    queries: slice
    keys: slice

    def pairs(
        self, value_RQ: Shaped[Tensor, "R Q"], value_RK: Shaped[Tensor, "R K"]
    ) -> tuple[Shaped[Tensor, "G q 1"], Shaped[Tensor, "G 1 k"]]:
        """A value of every query and one of every key, as what is compared pair by pair."""
        return value_RQ[self.rows, self.queries, None], value_RK[self.rows, None, self.keys]


@dataclass(frozen=True, eq=False)
class Visibility:
    """Which keys every query sees. In self-attention both are the same `Segments`.

    Row r of the queries looks at row r of the keys; users, events and numbers within a user count for both alike.
    """

    queries: Segments
    keys: Segments

    def __post_init__(self) -> None:
        rows = [len(side.segment_RL) for side in (self.queries, self.keys)]
        assert rows[0] == rows[1], f"queries of {rows[0]} rows and keys of {rows[1]}"
        told = [side.event_RL is not None for side in (self.queries, self.keys)]
        assert told[0] == told[1], "events are told of queries and of keys, or of neither"

    def check(self, q_RNQH: Tensor, k_RNKH: Tensor, v_RNKH: Tensor) -> None:
        """Refuses tensors that are not of these rows and slots: some would be broadcast, or read in part."""
        for name, x, side in (
            ("q", q_RNQH, self.queries),
            ("k", k_RNKH, self.keys),
            ("v", v_RNKH, self.keys),
        ):
            found, expected = (len(x), x.shape[2]), tuple(side.segment_RL.shape)
            assert found == expected, f"{name} has {found} rows and slots, and its segments have {expected}"

    @property
    def is_self(self) -> bool:
        return self.queries is self.keys

    def is_causality(self, strict: bool) -> bool:
        """Every query sees exactly the earlier slots of its row and, unless `strict`, itself."""
        plain = self.queries.shift_is_strict if strict else self.queries.causality_is_all
        return self.is_self and plain

    @property
    def in_order(self) -> bool:
        """No query sees a later slot of its row, or one before the first slot of its user."""
        return self.is_self and self.queries.nth_RL is None and not self.queries.looks_ahead

    def visible(self, block: Block, strict: bool) -> Bool[Tensor, "G Q K"]:
        """What the queries of a block see among its keys; `strict`: beside their own event."""
        return self.kept(("visible", strict), block, lambda: self._visible(block, strict))

    def kept(self, name: Hashable, block: Block, make: Callable[[], Tensor]) -> Tensor:
        """What `make` returned at the first call for this block, where it was kept (KEPT_BYTES): it must depend on
        these queries and keys alone."""
        kept, key = self.queries._kept, self._key(name, *((part.start, part.stop) for part in block))
        if key in kept:
            return kept[key]
        made = make()
        if made.nbytes + sum(tensor.nbytes for tensor in kept.values()) <= KEPT_BYTES:
            kept[key] = made
        return made

    def num_seen(self, strict: bool) -> Int64[Tensor, "R Q"]:
        """How many keys every query sees."""
        kept, key = self.queries._kept, self._key("number seen", strict)
        if key not in kept:
            kept[key] = self._num_seen(strict)
        return kept[key]

    def _key(self, *name: Hashable) -> Hashable:
        return None if self.is_self else self.keys, *name  # itself in its own keep would never be freed

    def _num_seen(self, strict: bool) -> Int64[Tensor, "R Q"]:
        num_rows, num_keys = self.keys.segment_RL.shape
        step = max(1, COUNTED_PAIRS // max(1, num_rows * num_keys))
        counts = [
            self._visible(Block(slice(num_rows), slice(at, at + step), slice(num_keys)), strict).sum(-1)
            for at in range(0, self.queries.segment_RL.shape[1], step)
        ]
        return torch.cat(counts, dim=1)

    def dense(self, strict: bool) -> Bool[Tensor, "R Q K"]:
        """All pairs at once: for references and drawings."""
        return self._visible(Block(slice(None), slice(None), slice(None)), strict)

    @property
    def distance_RQK(self) -> Int64[Tensor, "R Q K"]:
        """In positions, from every key to every query, whole: for references."""
        return self.queries.position_RL[:, :, None] - self.keys.position_RL[:, None, :]

    def _visible(self, block: Block, strict: bool) -> Bool[Tensor, "G Q K"]:
        queries, keys = self.queries, self.keys
        user_GQ1, user_G1K = block.pairs(queries.segment_RL, keys.segment_RL)
        index_GQ1, index_G1K = block.pairs(queries.index_RL, keys.index_RL)
        if queries.event_RL is None or keys.event_RL is None:
            own_GQK = so_far_GQK = index_G1K == index_GQ1
        else:
            event_GQ1, event_G1K = block.pairs(queries.event_RL, keys.event_RL)
            own_GQK = event_G1K == event_GQ1
            so_far_GQK = own_GQK & (index_G1K <= index_GQ1)
        seen_RQ = queries.index_RL if queries.seen_RL is None else queries.seen_RL
        seen_GQK = (index_G1K < seen_RQ[block.rows, block.queries, None]) & ~own_GQK
        return (user_GQ1 == user_G1K) & (seen_GQK if strict else seen_GQK | so_far_GQK)
