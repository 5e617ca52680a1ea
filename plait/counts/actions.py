"""Counts of actions that stand beside a trained model: what items and users add to its scores of an action.

A question counts the events of its user that the model may read of it, and no more. What an event itself adds to the
mean of its item stays in it: what serves does not know which events were counted, and it makes a residual smaller by at
most one part in as many as the damping counts, and one.

Shape letters: E events, M questions, T terms, K columns of a part of an action, X columns of all parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from plait.counts import histories as rows
from plait.counts.effects import Damping, ItemTotals
from plait.counts.kinds import Part
from plait.counts.weighing import TermWeights
from plait.schema import UNKNOWN_ITEM, ActionKind, EventBatch


@dataclass(frozen=True)
class ActionQuestions:
    """Questions about actions: each counts the events `first_M : end_M` of a batch, and is about an item."""

    item_E: Int64[np.ndarray, " E"]
    action_EA: Float32[np.ndarray, "E A"]
    first_M: Int64[np.ndarray, " M"]
    end_M: Int64[np.ndarray, " M"]
    item_M: Int64[np.ndarray, " M"]

    @classmethod
    def of(
        cls,
        batch: EventBatch,
        first_M: Int64[np.ndarray, " M"],
        end_M: Int64[np.ndarray, " M"],
        label_M: Int64[np.ndarray, " M"],
    ) -> "ActionQuestions":
        """
        Args:
            label_M: the event asked about, of which only the item is read.
        """
        return cls(batch.item_E, batch.action_EA, first_M, end_M, batch.item_E[label_M])

    def those(self, chosen_M: Bool[np.ndarray, " M"]) -> "ActionQuestions":
        """Some of them."""
        return replace(
            self,
            first_M=self.first_M[chosen_M],
            end_M=self.end_M[chosen_M],
            item_M=self.item_M[chosen_M],
        )


@dataclass(frozen=True)
class CountedPart:
    """What is counted of a part of an action."""

    part: Part
    action: int  # its column
    totals: ItemTotals = field(repr=False)
    damping: Damping
    reads_item: bool  # whether the item asked about may be known

    @property
    def names(self) -> tuple[str, ...]:
        """What is counted, in the order of the terms."""
        return ("item", "user") if self.reads_item else ("user",)

    @property
    def num_columns(self) -> int:
        return len(self.totals.mean_K)

    def terms(self, asked: ActionQuestions) -> Float64[np.ndarray, "T M K"]:
        """What each way of counting adds to a score."""
        user_MK = self.of_user(asked)
        if not self.reads_item:
            return user_MK[None]
        return np.stack([self.part.scale.score_of(self.means(asked.item_M)), user_MK])

    def of_user(self, asked: ActionQuestions) -> Float64[np.ndarray, "M K"]:
        """What the user's events add to a score."""
        assert self.damping.user is not None, "users count beside a model"
        shift_M_ = self.part.scale.shift(self._sums(asked), self.damping.user, self.totals.mean_K)
        return np.broadcast_to(shift_M_, (len(asked.item_M), self.num_columns))

    def means(self, item_M: Int64[np.ndarray, " M"]) -> Float64[np.ndarray, "M K"]:
        """The damped means of items; of those that came later, the mean of all."""
        assert self.damping.item is not None, "items count beside a model"
        known_M = np.where(item_M < len(self.totals.events_V), item_M, UNKNOWN_ITEM)  # items that came later
        return self.totals.means(known_M, self.damping.item)

    def _sums(self, asked: ActionQuestions) -> Float64[np.ndarray, "M C"]:
        """What the events of each question lack to what was to be expected, an old one less."""
        y_EK = self.part.columns(asked.action_EA[:, self.action].astype(np.float64))
        is_known_E = ~np.isnan(y_EK[:, 0])
        lacking_EC = self.part.scale.to_sum(y_EK[is_known_E], self.means(asked.item_E[is_known_E]))
        before_E1 = np.concatenate([[0], np.cumsum(is_known_E)])
        return rows.sums_of_windows(
            lacking_EC, before_E1[asked.first_M], before_E1[asked.end_M], self.damping.decay
        )


@dataclass(frozen=True)
class WeighedPart:
    """A part of an action, and how much its counts weigh beside a model that they were fitted with."""

    counted: CountedPart
    weights: TermWeights

    def __post_init__(self) -> None:
        if len(self.weights.weight_T) != 1 + len(self.counted.names):
            raise ValueError(
                f"{len(self.weights.weight_T)} weights of a model and {len(self.counted.names)} counts of actions"
            )

    def added(self, asked: ActionQuestions) -> Float64[np.ndarray, "M K"]:
        """What is added to the weighted score of the model."""
        _, *of_counts = self.weights.weight_T
        return TermWeights(np.array(of_counts), self.weights.constant).score(self.counted.terms(asked))


@dataclass(frozen=True)
class CountedAction:
    """An action with all its parts."""

    kind: ActionKind
    parts: tuple[WeighedPart, ...]
    said: str  # what was found, in a line

    @property
    def pay(self) -> bool:
        return any(part.weights.has_counts for part in self.parts)


@dataclass(frozen=True)
class ActionCounts:
    """Every action of a model."""

    actions: tuple[CountedAction, ...]

    @property
    def pay(self) -> bool:
        return any(action.pay for action in self.actions)

    @property
    def paying(self) -> Iterator[WeighedPart]:
        """All parts of the actions to which something is added, in order."""
        return (part for action in self.actions if action.pay for part in action.parts)

    def added(self, asked: ActionQuestions) -> Float32[np.ndarray, "M X"]:
        """What is added to the weighted scores of a model, of all paying parts side by side."""
        return np.concatenate([part.added(asked) for part in self.paying], axis=1, dtype=np.float32)
