"""A metric of a population of users, kept so that users can be resampled without scoring anything again.

Shape letters: E events (or queries), U users, K sums, D draws (resampled populations).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

Better = Literal["higher", "lower"]
# A share lies between 0 and 1; a root is that of a mean; a mean may be anything. Intervals are made accordingly.
Form = Literal["share", "mean", "root"]
ROUNDING = 1e-10  # a part of a sum below it is none
STEP = 3e-4  # of a derivative, as a part of the sum that it is taken along


@dataclass(frozen=True)
class Parts:
    """What each user brings to a metric, to first order."""

    influence_U: Float64[np.ndarray, " U"]  # derivatives by how often each user counts; they sum to 0
    share_U: Float64[np.ndarray, " U"]  # of that which the metric is a mean over; they sum to 1
    form: Form

    @property
    def num_units(self) -> float:
        """As many users of equal share would make as good a mean (Kish)."""
        return effective_number(self.share_U)

    def carried_by(self, value: float) -> float:
        """How many users carry the metric: the hits, those of the rarer class, the few whose errors are large.

        It is the effective number of what users bring: 1 where it comes from one of them, U where all bring the same.
        Of a share it is the smaller one of those who raise it and of those who lower it.
        """
        has_share_U = self.share_U > 0  # else it only lies in another's way, as a negative in a positive's
        influence_U, share_U = self.influence_U[has_share_U], self.share_U[has_share_U]
        match self.form:
            case "share":
                hit_U = influence_U + value * share_U
                return min(effective_number(hit_U), effective_number(share_U - hit_U))
            case "mean":
                return effective_number(influence_U + value * share_U)
            case "root":
                return effective_number(2 * value * influence_U + value**2 * share_U)
            case _:
                assert_never(self.form)


def effective_number(part_U: Float64[np.ndarray, " U"]) -> float:
    """How many equal parts scatter as these do: the squared sum of their sizes over the sum of squares; 0 of nothing.

    Source: Kish, Survey Sampling, 1965, section 11.7.

    >>> effective_number(np.array([1.0, 1.0, 0.0, 0.0])), round(effective_number(np.array([9.0, 1.0])), 2)
    (2.0, 1.22)
    """
    size_U = np.where(np.abs(part_U) > ROUNDING * np.abs(part_U).sum(), np.abs(part_U), 0.0)
    squares = float((size_U**2).sum())
    return float(size_U.sum()) ** 2 / squares if squares else 0.0


def _unknown() -> None:
    """Of a metric that is no smooth function of its users."""


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of how often each user counts.

    `under(weight_DU)` gives the metric of D populations, user u of population d counted `weight_DU[d, u]`
    times; NaN where it is not defined there.
    """

    user_U: Int64[np.ndarray, " U"]  # ascending, each once
    under: Callable[[Float64[np.ndarray, "D U"]], Float64[np.ndarray, " D"]]
    better: Better
    num_users: int  # the users that the metric rests on; fewer than U where some had to be left out
    parts: Callable[[], Parts | None] = _unknown  # computed when asked for; None where it is not defined

    @property
    def value(self) -> float | None:
        """The metric with every user counted once; None where it is not defined."""
        value = float(self.under(np.ones((1, len(self.user_U))))[0])
        return None if np.isnan(value) else value


def from_sums(
    user_U: Int64[np.ndarray, " U"],
    sum_UK: Float64[np.ndarray, "U K"],
    finish: Callable[[Float64[np.ndarray, "D K"]], Float64[np.ndarray, " D"]],
    better: Better,
    form: Form = "mean",
) -> Statistic:
    """A metric that needs only sums over users: a draw costs one row of a matrix product.

    Args:
        sum_UK: the last column counts what the metric is a mean over (users, or their events).

    >>> mean = from_sums(np.array([4, 9]), np.array([[1.0, 1.0], [3.0, 1.0]]), ratio, "higher")
    >>> mean.value, mean.under(np.array([[0.0, 2.0]]))
    (2.0, array([3.]))
    >>> mean.parts().influence_U
    array([-0.5,  0.5])
    """

    def parts() -> Parts | None:
        influence_U, counted = influence(sum_UK, finish), sum_UK[:, -1].sum()
        if not np.isfinite(influence_U).all() or counted <= 0:
            return None
        return Parts(influence_U, sum_UK[:, -1] / counted, form)

    return Statistic(user_U, lambda weight_DU: finish(weight_DU @ sum_UK), better, len(user_U), parts)


def influence(
    sum_UK: Float64[np.ndarray, "U K"],
    finish: Callable[[Float64[np.ndarray, "D K"]], Float64[np.ndarray, " D"]],
) -> Float64[np.ndarray, " U"]:
    """The derivative of a function of sums by how often each user counts, from two differences to each side."""
    step_K, total_K = STEP * np.abs(sum_UK).sum(axis=0), sum_UK.sum(axis=0)
    near_K, far_K = (
        finish(total_K + steps * np.diag(step_K)) - finish(total_K - steps * np.diag(step_K))
        for steps in (1, 2)
    )
    slope_K = np.divide(8 * near_K - far_K, 12 * step_K, out=np.zeros_like(step_K), where=step_K > 0)
    return sum_UK @ slope_K


def mean_parts(parts: Sequence[Parts | None]) -> Parts | None:
    """Those of the mean of several metrics of the same users; None where those of one are not known."""
    known = [its for its in parts if its is not None]
    if len(known) < len(parts):
        return None
    return Parts(
        np.mean([its.influence_U for its in known], axis=0),
        np.mean([its.share_U for its in known], axis=0),
        known[0].form,
    )


def ratio(sum_D2: Float64[np.ndarray, "D 2"]) -> Float64[np.ndarray, " D"]:
    """First column over the second; NaN where the second is zero."""
    top_D, bottom_D = sum_D2.T
    return np.divide(top_D, bottom_D, out=np.full(len(top_D), np.nan), where=bottom_D > 0)


def mean_over_users(
    user_E: Int[np.ndarray, " E"],
    value_E: Float[np.ndarray, " E"],
    better: Better = "higher",
    form: Form = "mean",
) -> Statistic:
    """The mean over users of each user's mean, so that a busy user counts as much as any other.

    Range: that of the values. User 7 has two events below, user 8 one:

    >>> mean_over_users(np.array([7, 8, 7]), np.array([1.0, 1.0, 0.0])).value
    0.75

    Raises:
        ValueError: there is no event, a value is not finite, or one of a share lies outside [0, 1].
    """
    user_U, place_E = _places("mean_over_users", user_E, value_E)
    outside_E = (value_E < 0) | (value_E > 1)
    if form == "share" and outside_E.any():
        at = int(outside_E.argmax())
        raise ValueError(
            f"mean_over_users: the value at position {at} is {value_E[at]}, expected a share in [0, 1]; "
            'a metric that may be larger is of the form "mean"'
        )
    mean_U = _sum_per_user(place_E, value_E) / _sum_per_user(place_E, np.ones(len(value_E)))
    return from_sums(user_U, np.stack([mean_U, np.ones(len(user_U))], axis=1), ratio, better, form)


def sums_per_user(
    place_E: Int64[np.ndarray, " E"], *value_E: Float[np.ndarray, " E"]
) -> Float64[np.ndarray, "U K"]:
    """Each column's sum over every user's events. Places run from 0 without a gap.

    >>> sums_per_user(np.array([1, 0, 1]), np.array([1.0, 2.0, 3.0]))
    array([[2.],
           [4.]])
    """
    return np.stack([_sum_per_user(place_E, column_E) for column_E in value_E], axis=1)


def _sum_per_user(
    place_E: Int64[np.ndarray, " E"], value_E: Float[np.ndarray, " E"]
) -> Float64[np.ndarray, " U"]:
    return np.bincount(place_E, weights=value_E)


def _places(
    name: str, user_E: Int[np.ndarray, " E"], value_E: Float[np.ndarray, " E"]
) -> tuple[Int64[np.ndarray, " U"], Int64[np.ndarray, " E"]]:
    """The users that occur, ascending, and which of them each event belongs to."""
    if not len(user_E):
        raise ValueError(f"{name}: no events; a mean over nothing has no value")
    if not np.isfinite(value_E).all():
        at = int(np.flatnonzero(~np.isfinite(value_E))[0])
        raise ValueError(f"{name}: the value at position {at} is {value_E[at]}, expected a finite number")
    user_U, place_E = np.unique(user_E.astype(np.int64), return_inverse=True)
    return user_U, place_E
