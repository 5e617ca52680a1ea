"""A metric of a population of users, kept so that users can be resampled without scoring anything again.

Shape letters: E events (or queries), U users, K sums, D draws (resampled populations).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

Better = Literal["higher", "lower"]


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
) -> Statistic:
    """A metric that needs only sums over users: a draw costs one row of a matrix product.

    >>> mean = from_sums(np.array([4, 9]), np.array([[1.0, 1.0], [3.0, 1.0]]), ratio, "higher")
    >>> mean.value, mean.under(np.array([[0.0, 2.0]]))
    (2.0, array([3.]))
    """
    return Statistic(user_U, lambda weight_DU: finish(weight_DU @ sum_UK), better, len(user_U))


def ratio(sum_D2: Float64[np.ndarray, "D 2"]) -> Float64[np.ndarray, " D"]:
    """First column over the second; NaN where the second is zero."""
    top_D, bottom_D = sum_D2.T
    return np.divide(top_D, bottom_D, out=np.full(len(top_D), np.nan), where=bottom_D > 0)


def mean_over_users(
    user_E: Int[np.ndarray, " E"], value_E: Float[np.ndarray, " E"], better: Better = "higher"
) -> Statistic:
    """The mean over users of each user's mean, so that a busy user counts as much as any other.

    Range: that of the values. User 7 has two events below, user 8 one:

    >>> mean_over_users(np.array([7, 8, 7]), np.array([1.0, 1.0, 0.0])).value
    0.75

    Raises:
        ValueError: there is no event, or a value is not finite.
    """
    user_U, place_E = _places("mean_over_users", user_E, value_E)
    mean_U = _sum_per_user(place_E, value_E) / _sum_per_user(place_E, np.ones(len(value_E)))
    return from_sums(user_U, np.stack([mean_U, np.ones(len(user_U))], axis=1), ratio, better)


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
