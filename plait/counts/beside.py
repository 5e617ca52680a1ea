"""Counts that stand beside a trained model: what they say of every item, as terms of its score. What they say of
actions is in `plait.counts.actions`.

Shape letters: H histories, S their events laid end to end, oldest first, V1 items by dense index with the unknown one,
I items of a larger catalogue likewise, T terms, R the rarest items.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy import sparse

from plait.counts import histories as rows
from plait.counts import items
from plait.counts.actions import ActionCounts

SUCCESSORS = 200  # of each item that a table keeps
SMOOTHING = 0.1  # the share of popularity in the rules: an item that followed nothing is not impossible
RAREST = 0.1  # of the items with training events: what they have, new ones get


@dataclass(frozen=True)
class Tables:
    """Counts of a log's training rows, of V1 items."""

    popularity_V1: Float64[np.ndarray, " V1"]
    rules: sparse.csr_array
    last: int  # events of a history that rules read
    decay: float  # of their weight, for each step back
    ease: sparse.csr_array | None  # None: left out
    reads_own: bool  # whether how often a user met an item counts

    def __post_init__(self) -> None:
        for table in (self.rules, *([] if self.ease is None else [self.ease])):
            if table.shape != (len(self.popularity_V1),) * 2:
                raise ValueError(
                    f"counts of {len(self.popularity_V1)} items with a table of shape {table.shape}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """What is counted, in the order of the terms."""
        found = {"rules": True, "EASE": self.ease is not None, "own frequency": self.reads_own}
        return tuple(name for name, is_there in found.items() if is_there)

    @property
    def share_V1(self) -> Float64[np.ndarray, " V1"]:
        """The share of events that items have, none of them impossible."""
        return (self.popularity_V1 + 0.5) / (self.popularity_V1 + 0.5).sum()

    @property
    def rarest(self) -> Int64[np.ndarray, " R"]:
        """The rarest tenth of the items with training events."""
        counted = np.flatnonzero(self.popularity_V1)
        order = counted[np.argsort(self.popularity_V1[counted], kind="stable")]
        return order[: int(np.ceil(RAREST * len(order)))]

    def terms(
        self, item_S: Int64[np.ndarray, " S"], start_H1: Int64[np.ndarray, " H1"], num_items: int
    ) -> Iterator[Float32[np.ndarray, "H I"]]:
        """What each way of counting adds to a score, one after the other.

        An item without training events gets the mean of the rarest tenth of the others: what nobody counted yet is no
        proof against it.

        Args:
            num_items: of the catalogue, which may have grown since it was counted.
        """
        known_S = np.where(item_S < len(self.popularity_V1), item_S, 0)  # items added later were not counted
        for term_HV1 in self._terms_of_counted(known_S, start_H1):
            yield self._with_new(term_HV1.astype(np.float32), num_items)

    def _terms_of_counted(
        self, item_S: Int64[np.ndarray, " S"], start_H1: Int64[np.ndarray, " H1"]
    ) -> Iterator[np.ndarray]:
        num_items = len(self.popularity_V1) - 1
        weight_S = rows.recent(start_H1, self.decay, self.last)
        recent = rows.rows_of(item_S, start_H1, num_items, weight_S)
        total_H1 = np.maximum(recent.sum(axis=1), np.finfo(np.float32).tiny)[:, None]
        followed_HV1 = items.scores(recent, self.rules) / total_H1
        yield np.log((1 - SMOOTHING) * followed_HV1 + SMOOTHING * self.share_V1)
        if self.ease is not None:
            yield items.scores(rows.items_met(item_S, start_H1, num_items), self.ease)
        if self.reads_own:
            yield np.log1p(rows.rows_of(item_S, start_H1, num_items).toarray())

    def _with_new(self, term_HV1: Float32[np.ndarray, "H V1"], num_items: int) -> Float32[np.ndarray, "H I"]:
        counted, rarest = np.flatnonzero(self.popularity_V1), self.rarest
        mean_H1 = (
            term_HV1[:, rarest].mean(axis=1, keepdims=True) if len(rarest) else np.zeros((len(term_HV1), 1))
        )
        found_HI = np.repeat(mean_H1.astype(np.float32), num_items + 1, axis=1)
        found_HI[:, counted] = term_HV1[:, counted]
        return found_HI


@dataclass(frozen=True)
class ItemCounts:
    """Tables, and how much each term weighs beside a model that they were fitted with."""

    tables: Tables
    weight_T: Float64[np.ndarray, " T"]  # the model's first; 1, 0, 0, ... where counts do not pay
    said: str  # what was found, in a line

    def __post_init__(self) -> None:
        if len(self.weight_T) != 1 + len(self.tables.names):
            raise ValueError(
                f"{len(self.weight_T)} weights of a model and {len(self.tables.names)} tables of counts"
            )

    @property
    def pay(self) -> bool:
        return bool(self.weight_T[1:].any())

    def added(
        self, item_S: Int64[np.ndarray, " S"], start_H1: Int64[np.ndarray, " H1"], num_items: int
    ) -> Float32[np.ndarray, "H I"]:
        """What is added to the weighted logits of a catalogue, for each history."""
        terms = self.tables.terms(item_S, start_H1, num_items)
        found_HI = np.zeros((len(start_H1) - 1, num_items + 1), dtype=np.float32)
        for weight, term_HI in zip(self.weight_T[1:], terms, strict=True):
            found_HI += np.float32(weight) * term_HI
        return found_HI


@dataclass(frozen=True)
class Counts:
    """All that is counted beside a model."""

    items: ItemCounts | None  # None: it ranks none
    actions: ActionCounts | None  # None: it predicts none
    same_request: str  # what was counted as known of an event's own request

    @property
    def pay(self) -> bool:
        return any(its is not None and its.pay for its in (self.items, self.actions))

    @property
    def num_items(self) -> int:
        """The largest number of items that a table holds."""
        sizes = [] if self.items is None else [len(self.items.tables.popularity_V1)]
        actions = () if self.actions is None else self.actions.actions
        sizes += [len(part.counted.totals.events_V) for action in actions for part in action.parts]
        return max(sizes, default=1) - 1

    @property
    def said(self) -> tuple[str, ...]:
        """What was found, line by line."""
        of_items = () if self.items is None else (self.items.said,)
        return (*of_items, *(() if self.actions is None else (its.said for its in self.actions.actions)))


def pruned(table: items.Table, keep: int = SUCCESSORS) -> tuple[sparse.csr_array, float]:
    """A table with the `keep` largest entries of each row alone, by their size whatever their sign.

    Returns:
        The table, and the share of the sum of all sizes that it lost.

    >>> table, lost = pruned(sparse.csr_array([[0.0, 3.0, -5.0, 2.0]]), keep=2)
    >>> table.toarray().tolist(), lost
    ([[0.0, 3.0, -5.0, 0.0]], 0.2)
    """
    table = sparse.csr_array(table)
    kept, lost = table.copy(), 0.0
    for begin, end in zip(table.indptr[:-1], table.indptr[1:], strict=True):
        if end - begin > keep:
            least = np.argsort(-np.abs(table.data[begin:end]), kind="stable")[keep:]
            lost += float(np.abs(table.data[begin + least]).sum())
            kept.data[begin + least] = 0.0
    kept.eliminate_zeros()
    total = float(np.abs(table.data).sum())
    return kept, lost / total if total else 0.0
