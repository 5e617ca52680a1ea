"""Intervals and comparisons, by resampling users.

Users are drawn with replacement, as many as there are; a user brings all of its events. Everything that is
computed with one seed and the same users sees the same draws, so subtracting two metrics draw by draw is a
paired comparison. With few users (below about 30) percentile intervals are too narrow.

Shape letters: U users, D draws.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from jaxtyping import Float64, Int64

from plait.metrics.statistic import Better, Statistic

TAIL = 0.025  # on each side of a 95 % interval
BLOCK_ELEMENTS = 4_000_000  # the largest (draws x users) table held at a time, 32 MB


class Estimate(msgspec.Struct, frozen=True):
    """A metric and its 95 % interval; None where it is not defined.

    The bounds are also None where fewer than two users leave nothing to resample.
    """

    value: float | None
    low: float | None
    high: float | None
    better: Better
    num_users: int  # the users that the metric rests on

    @property
    def half_width(self) -> float | None:
        """Half the interval, what stands after a plus-minus sign."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


class Difference(msgspec.Struct, frozen=True):
    """One metric minus another on the same users, with its 95 % interval."""

    value: float
    low: float
    high: float
    p: float  # two-sided: how surprising the difference is if the two are equal


@dataclass(frozen=True)
class Bootstrap:
    """A metric on the users as they are, and on each of D resampled populations (NaN: not defined there)."""

    value: float | None
    value_D: Float64[np.ndarray, " D"]
    user_U: Int64[np.ndarray, " U"]
    seed: int
    better: Better
    num_users: int

    @property
    def estimate(self) -> Estimate:
        """The metric with its percentile interval, over the draws in which it is defined."""
        low, high = (
            _percentiles(self.value_D) if self.value is not None and self.num_users > 1 else (None, None)
        )
        return Estimate(self.value, low, high, self.better, self.num_users)


def bootstrap(statistic: Statistic, num_draws: int = 1000, seed: int = 0) -> Bootstrap:
    """Recomputes a metric on `num_draws` resampled populations of its users.

    Raises:
        ValueError: num_draws is below 40, where a 2.5 % tail holds no draw.

    >>> from plait.metrics.statistic import mean_over_users
    >>> hits = bootstrap(mean_over_users(np.arange(4), np.array([0.0, 1.0, 1.0, 1.0])))
    >>> hits.estimate
    Estimate(value=0.75, low=0.25, high=1.0, better='higher', num_users=4)
    """
    if num_draws < 1 / TAIL:
        raise ValueError(
            f"bootstrap: num_draws={num_draws}, expected at least {round(1 / TAIL)}; 1000 is usual"
        )
    value_D = np.concatenate(
        [statistic.under(weight_DU) for weight_DU in _populations(len(statistic.user_U), num_draws, seed)]
    )
    return Bootstrap(statistic.value, value_D, statistic.user_U, seed, statistic.better, statistic.num_users)


def average(runs: Sequence[Bootstrap]) -> Bootstrap:
    """The mean over runs (say, training seeds) of one metric on the same users, draw by draw.

    Its interval covers which users there are, not which seeds were run: report their spread beside it.

    Raises:
        ValueError: no run, or the runs differ in users or draws.

    >>> from plait.metrics.statistic import mean_over_users
    >>> one, two = (bootstrap(mean_over_users(np.arange(2), np.full(2, v))) for v in (0.25, 0.75))
    >>> average([one, two]).value
    0.5
    """
    if not runs:
        raise ValueError("average: no runs")
    first = runs[0]
    for run in runs[1:]:
        check_same_draws("average", first, run)
    values = [run.value for run in runs if run.value is not None]
    return Bootstrap(
        float(np.mean(values)) if len(values) == len(runs) else None,
        np.mean([run.value_D for run in runs], axis=0),
        first.user_U,
        first.seed,
        first.better,
        min(run.num_users for run in runs),
    )


def paired_difference(a: Bootstrap, b: Bootstrap) -> Difference:
    """a - b on the same users, with its percentile interval and a two-sided p-value.

    The p-value inverts the interval: twice the share of draws in which the difference is zero or has the
    other sign, counting one draw more, so that it never is 0. It asks no metric to be a mean, so AUC is
    compared as HR is. It is never below `least_p` either.

    Raises:
        ValueError: the two differ in users or draws, or one is not defined.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 15.4.

    >>> from plait.metrics.statistic import mean_over_users
    >>> ndcg = [np.array([0.2, 0.4, 0.9]), np.array([0.1, 0.2, 0.6])]
    >>> a, b = (bootstrap(mean_over_users(np.arange(3), ndcg_U)) for ndcg_U in ndcg)
    >>> round(paired_difference(a, b).value, 3), paired_difference(a, b).p
    (0.2, 0.25)
    """
    check_same_draws("paired_difference", a, b)
    if a.value is None or b.value is None:
        raise ValueError("paired_difference: the metric is not defined for one of the two (one class only?)")
    difference_D = a.value_D - b.value_D
    difference_D = difference_D[~np.isnan(difference_D)]
    smaller_side = min((difference_D <= 0).sum(), (difference_D >= 0).sum())
    p = min(1.0, max(least_p(a, b), 2 * (1 + smaller_side) / (1 + len(difference_D))))
    low, high = _percentiles(difference_D)
    return Difference(a.value - b.value, low, high, float(p))


def least_p(a: Bootstrap, b: Bootstrap) -> float:
    """2^(1 - U), the least p that a sign test could say about the U users that both rest on.

    The few populations that can be drawn from a handful of users make anything look certain.
    """
    return 2.0 ** (1 - min(a.num_users, b.num_users))


def _populations(num_users: int, num_draws: int, seed: int) -> Iterator[Float64[np.ndarray, "D U"]]:
    """How often each user counts, one row per draw, in tables small enough to hold."""
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK_ELEMENTS // num_users)
    for at in range(0, num_draws, rows):
        count = min(rows, num_draws - at)
        drawn_DU = rng.integers(0, num_users, size=(count, num_users))
        drawn_DU += np.arange(count)[:, None] * num_users
        counts = np.bincount(drawn_DU.ravel(), minlength=count * num_users)
        yield counts.reshape(count, num_users).astype(np.float64)


def _percentiles(value_D: Float64[np.ndarray, " D"]) -> tuple[float, float]:
    low, high = np.quantile(value_D[~np.isnan(value_D)], [TAIL, 1 - TAIL])
    return float(low), float(high)


def check_same_draws(name: str, a: Bootstrap, b: Bootstrap) -> None:
    """Raises ValueError where the two differ in users or draws, and so cannot be paired."""
    if not np.array_equal(a.user_U, b.user_U):
        only_a, only_b = np.setdiff1d(a.user_U, b.user_U), np.setdiff1d(b.user_U, a.user_U)
        raise ValueError(
            f"{name}: not the same users: {len(a.user_U)} and {len(b.user_U)}, of which {len(only_a)} and "
            f"{len(only_b)} stand on one side only; evaluate both on the same users"
        )
    if a.seed != b.seed or len(a.value_D) != len(b.value_D):
        raise ValueError(
            f"{name}: not the same draws: {len(a.value_D)} with seed {a.seed} "
            f"and {len(b.value_D)} with seed {b.seed}"
        )
