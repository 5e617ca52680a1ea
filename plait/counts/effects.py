"""What items and users add to the mean of an action: damped means, and the sum of what a user's events lack to them.

An action is counted in columns: a number is one column, "happened or not" one of 0 and 1, one of several values a
column of 0 and 1 for each of them, or for each step between ordered levels.

What a user adds is in closed form: of numbers the damped mean of the residuals; of chances one Newton step from "adds
nothing" on the scale of logits; of shares the ratio of what was observed to what the items let expect.

Scores stand on the scale on which parts of a prediction are added: numbers as they are, logits, logarithms of shares.

Shape letters: E training events, M questions, H histories, S their events laid end to end, oldest first, V1 items by
dense index with the unknown one, K columns of an action, C sums over a history.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import expit, log_expit, logit, logsumexp, softmax

from plait.schema import UNKNOWN_ITEM

HALF = (
    0.5  # an event: what every column of 0 and 1 counts at least, or a share of 0 would be infinite certainty
)
LEAST_GAP = 1e-9  # between logits of two levels: without any, the level between them would be impossible
LARGEST_EXPONENT = 700.0  # whose exponential is finite


@dataclass(frozen=True)
class Damping:
    """How far items and users are believed."""

    item: float | None = None  # None: items do not count, nor do users
    user: float | None = None  # None: users do not count
    decay: float = 1.0  # of a user's residuals, for each step back

    def __str__(self) -> str:
        parts = [] if self.item is None else [f"item damped by {self.item:g}"]
        parts += [] if self.user is None else [f"user by {self.user:g}"]
        parts += [] if self.decay == 1 else [f"residuals weighted {self.decay:g} for each step back"]
        return ", ".join(parts)


class EffectScale(ABC):
    """On which scale what a user adds is added."""

    @property
    @abstractmethod
    def has_intercept(self) -> bool:
        """Whether a constant that is added to all scores changes what they predict."""

    @abstractmethod
    def mean(self, y_EK: Float64[np.ndarray, "E K"]) -> Float64[np.ndarray, " K"]:
        """The mean of all events; of none, what is right where nothing is known."""

    @abstractmethod
    def to_sum(
        self, y_SK: Float64[np.ndarray, "S K"], expected_SK: Float64[np.ndarray, "S K"]
    ) -> Float64[np.ndarray, "S C"]:
        """What is summed over the events of a history, of which `expected_SK` was to be expected."""

    @abstractmethod
    def score_of(self, mean_MK: Float64[np.ndarray, "M K"]) -> Float64[np.ndarray, "M K"]:
        """What is expected, as scores."""

    @abstractmethod
    def mean_of(self, score_MK: Float64[np.ndarray, "M K"]) -> Float64[np.ndarray, "M K"]:
        """The inverse of `score_of`; scores of shares need not be normalised."""

    @abstractmethod
    def shift(
        self, sum_MC: Float64[np.ndarray, "M C"], damping: float, mean_K: Float64[np.ndarray, " K"]
    ) -> Float64[np.ndarray, "M _"]:
        """What the user adds to the scores; one column where it moves those of all alike.

        Args:
            sum_MC: over the user's history.
            damping: as many events without any residual that count beside it.
        """

    def moved(
        self,
        base_MK: Float64[np.ndarray, "M K"],
        sum_MC: Float64[np.ndarray, "M C"],
        damping: float,
        mean_K: Float64[np.ndarray, " K"],
    ) -> Float64[np.ndarray, "M K"]:
        """What was to be expected, and what the user adds to it: as `shift` takes them."""
        return self.mean_of(self.score_of(base_MK) + self.shift(sum_MC, damping, mean_K))

    @abstractmethod
    def losses_of_scores(
        self, score_MK: Float64[np.ndarray, "M K"], y_MK: Float64[np.ndarray, "M K"]
    ) -> tuple[Float64[np.ndarray, " M"], Float64[np.ndarray, "M K"]]:
        """What weights of scores are fitted by, convex in them, and its slope: a squared error, or what the outcome
        lacks in log-likelihood."""

    @abstractmethod
    def log_likelihood(self, loss_M: Float64[np.ndarray, " M"]) -> float:
        """Of all labels, from those losses; in nats."""

    @abstractmethod
    def losses(
        self, mean_MK: Float64[np.ndarray, "M K"], y_MK: Float64[np.ndarray, "M K"]
    ) -> Float64[np.ndarray, " M"]:
        """What a prediction lacks to what came: least, on average, for the truth."""


@final
@dataclass(frozen=True)
class NumberEffects(EffectScale):
    """The numbers' own scale. The loss is the squared error."""

    has_intercept = True

    def mean(self, y_EK: Float64[np.ndarray, "E K"]) -> Float64[np.ndarray, " K"]:
        return y_EK.sum(axis=0) / max(1, len(y_EK))

    def to_sum(
        self, y_SK: Float64[np.ndarray, "S K"], expected_SK: Float64[np.ndarray, "S K"]
    ) -> Float64[np.ndarray, "S C"]:
        return np.column_stack([y_SK - expected_SK, np.ones(len(y_SK))])

    def score_of(self, mean_MK: Float64[np.ndarray, "M K"]) -> Float64[np.ndarray, "M K"]:
        return mean_MK

    def mean_of(self, score_MK: Float64[np.ndarray, "M K"]) -> Float64[np.ndarray, "M K"]:
        return score_MK

    def shift(
        self, sum_MC: Float64[np.ndarray, "M C"], damping: float, mean_K: Float64[np.ndarray, " K"]
    ) -> Float64[np.ndarray, "M _"]:
        return sum_MC[:, :-1] / (sum_MC[:, -1:] + damping)

    def losses_of_scores(
        self, score_MK: Float64[np.ndarray, "M K"], y_MK: Float64[np.ndarray, "M K"]
    ) -> tuple[Float64[np.ndarray, " M"], Float64[np.ndarray, "M K"]]:
        return ((score_MK - y_MK) ** 2).sum(axis=1), 2 * (score_MK - y_MK)

    def log_likelihood(self, loss_M: Float64[np.ndarray, " M"]) -> float:
        """Of normal errors, with the spread that makes them most likely; but for a constant."""
        mean = max(float(loss_M.mean()), np.finfo(np.float64).tiny)
        return -0.5 * len(loss_M) * float(np.log(mean))

    def losses(
        self, mean_MK: Float64[np.ndarray, "M K"], y_MK: Float64[np.ndarray, "M K"]
    ) -> Float64[np.ndarray, " M"]:
        return ((mean_MK - y_MK) ** 2).sum(axis=1)


@final
@dataclass(frozen=True)
class LogitEffects(EffectScale):
    """Logits of columns of 0 and 1: a user moves those of all columns alike, so ordered ones stay in order. The loss is
    the log-loss of every column."""

    has_intercept = True

    def mean(self, y_EK: Float64[np.ndarray, "E K"]) -> Float64[np.ndarray, " K"]:
        return (y_EK.sum(axis=0) + HALF) / (len(y_EK) + 2 * HALF)

    def to_sum(
        self, y_SK: Float64[np.ndarray, "S K"], expected_SK: Float64[np.ndarray, "S K"]
    ) -> Float64[np.ndarray, "S C"]:
        return np.column_stack([(y_SK - expected_SK).sum(axis=1), _information(expected_SK)])

    def score_of(self, mean_MK: Float64[np.ndarray, "M K"]) -> Float64[np.ndarray, "M K"]:
        return logit(mean_MK)

    def mean_of(self, score_MK: Float64[np.ndarray, "M K"]) -> Float64[np.ndarray, "M K"]:
        return expit(score_MK)

    def shift(
        self, sum_MC: Float64[np.ndarray, "M C"], damping: float, mean_K: Float64[np.ndarray, " K"]
    ) -> Float64[np.ndarray, "M _"]:
        return sum_MC[:, :1] / (sum_MC[:, 1:] + damping * _information(mean_K[None])[:, None])

    def losses_of_scores(
        self, score_MK: Float64[np.ndarray, "M K"], y_MK: Float64[np.ndarray, "M K"]
    ) -> tuple[Float64[np.ndarray, " M"], Float64[np.ndarray, "M K"]]:
        """Columns are whether ordered levels are exceeded. The level that came lies between the last that was exceeded,
        by a logit a, and the first that was not, by b: its chance sigmoid(a) - sigmoid(b) is the product of sigmoid(a),
        sigmoid(-b) and 1 - exp(b - a). So nothing cancels."""
        row_M, level_M = np.arange(len(y_MK)), y_MK.sum(axis=1).astype(np.int64)
        bounded_MK = np.pad(score_MK, ((0, 0), (1, 1)), constant_values=((0, 0), (np.inf, -np.inf)))
        above_M, below_M = bounded_MK[row_M, level_M], bounded_MK[row_M, level_M + 1]
        gap_M = np.maximum(above_M - below_M, LEAST_GAP)
        loss_M = -log_expit(above_M) - log_expit(-below_M) - np.log(-np.expm1(-gap_M))
        between_M = 1 / np.expm1(np.minimum(gap_M, LARGEST_EXPONENT))
        slope_MK = np.zeros_like(bounded_MK)
        slope_MK[row_M, level_M] = -expit(-above_M) - between_M
        slope_MK[row_M, level_M + 1] = expit(below_M) + between_M
        return loss_M, slope_MK[:, 1:-1]

    def log_likelihood(self, loss_M: Float64[np.ndarray, " M"]) -> float:
        return -float(loss_M.sum())

    def losses(
        self, mean_MK: Float64[np.ndarray, "M K"], y_MK: Float64[np.ndarray, "M K"]
    ) -> Float64[np.ndarray, " M"]:
        return -np.log(np.where(y_MK == 1, mean_MK, 1 - mean_MK)).sum(axis=1)


@final
@dataclass(frozen=True)
class Shares(EffectScale):
    """Logarithms of shares that sum to 1, a column for each value. The loss is that of the value that came."""

    has_intercept = False

    def mean(self, y_EK: Float64[np.ndarray, "E K"]) -> Float64[np.ndarray, " K"]:
        times_K = y_EK.sum(axis=0) + HALF
        return times_K / times_K.sum()

    def to_sum(
        self, y_SK: Float64[np.ndarray, "S K"], expected_SK: Float64[np.ndarray, "S K"]
    ) -> Float64[np.ndarray, "S C"]:
        return np.column_stack([y_SK, expected_SK])

    def score_of(self, mean_MK: Float64[np.ndarray, "M K"]) -> Float64[np.ndarray, "M K"]:
        return np.log(mean_MK)

    def mean_of(self, score_MK: Float64[np.ndarray, "M K"]) -> Float64[np.ndarray, "M K"]:
        return softmax(score_MK, axis=1)

    def shift(
        self, sum_MC: Float64[np.ndarray, "M C"], damping: float, mean_K: Float64[np.ndarray, " K"]
    ) -> Float64[np.ndarray, "M _"]:
        observed_MK, expected_MK = np.split(sum_MC + damping * np.tile(mean_K, 2), 2, axis=1)
        return np.log(observed_MK / expected_MK)

    def losses_of_scores(
        self, score_MK: Float64[np.ndarray, "M K"], y_MK: Float64[np.ndarray, "M K"]
    ) -> tuple[Float64[np.ndarray, " M"], Float64[np.ndarray, "M K"]]:
        loss_M = logsumexp(score_MK, axis=1) - (score_MK * y_MK).sum(axis=1)
        return loss_M, softmax(score_MK, axis=1) - y_MK

    def log_likelihood(self, loss_M: Float64[np.ndarray, " M"]) -> float:
        return -float(loss_M.sum())

    def losses(
        self, mean_MK: Float64[np.ndarray, "M K"], y_MK: Float64[np.ndarray, "M K"]
    ) -> Float64[np.ndarray, " M"]:
        return -np.log((mean_MK * y_MK).sum(axis=1))


@dataclass(frozen=True)
class ItemTotals:
    """An action's columns, summed by item."""

    sum_VK: Float64[np.ndarray, "V1 K"]
    events_V: Float64[np.ndarray, " V1"]
    mean_K: Float64[np.ndarray, " K"]  # of all events

    @classmethod
    def of(
        cls,
        scale: EffectScale,
        y_EK: Float64[np.ndarray, "E K"],
        item_E: Int64[np.ndarray, " E"],
        num_items: int,
    ) -> "ItemTotals":
        """Counts events whose action is known."""
        known_E = item_E != UNKNOWN_ITEM
        *sum_V, events_V = (
            np.bincount(item_E, weights=y_E * known_E, minlength=num_items + 1).astype(np.float64)
            for y_E in (*y_EK.T, known_E)
        )
        return cls(np.stack(sum_V, axis=1), events_V, scale.mean(y_EK))

    def means(self, item_M: Int64[np.ndarray, " M"], damping: float) -> Float64[np.ndarray, "M K"]:
        """The damped means of items: as if each had `damping` more events with the mean of all.

        >>> totals = ItemTotals.of(NumberEffects(), np.array([[1.0], [4.0], [4.0]]), np.array([1, 2, 2]), num_items=3)
        >>> totals.means(np.array([1, 2, 3]), damping=1.0)[:, 0].tolist()
        [2.0, 3.6666666666666665, 3.0]
        """
        return self._damped(self.sum_VK[item_M], self.events_V[item_M], damping)

    def expected(
        self,
        item_S: Int64[np.ndarray, " S"],
        y_SK: Float64[np.ndarray, "S K"],
        is_counted_S: Bool[np.ndarray, " S"],
        damping: float,
    ) -> Float64[np.ndarray, "S K"]:
        """What is to be expected of events of a history from what others did: of the events that were counted, the
        item's damped mean without their own part in it."""
        own_S = (is_counted_S & (item_S != UNKNOWN_ITEM)).astype(np.float64)
        others_SK = self.sum_VK[item_S] - own_S[:, None] * y_SK
        return self._damped(others_SK, self.events_V[item_S] - own_S, damping)

    def _damped(
        self, sum_MK: Float64[np.ndarray, "M K"], events_M: Float64[np.ndarray, " M"], damping: float
    ) -> Float64[np.ndarray, "M K"]:
        return (sum_MK + damping * self.mean_K) / (events_M[:, None] + damping)


def _information(mean_MK: Float64[np.ndarray, "M K"]) -> Float64[np.ndarray, " M"]:
    return (mean_MK * (1 - mean_MK)).sum(axis=1)
