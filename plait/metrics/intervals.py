"""Intervals of single metrics, and comparisons of two on the same users.

The interval of one metric is computed from what each user brings to it (`Parts`), by the metric's form. A share between
0 and 1 has Wilson's interval for as many users as would scatter like that. A mean, and the square of a root, has
Student's, with as few degrees of freedom as few users carry it, and without its skewness. A metric whose parts are not
known is drawn again: users with replacement, as many as there are, each with all of its events.

Two metrics are compared by flipping signs. If two models are alike, a user's part of the difference might as well have
come out with the other sign; p is how often chance makes as large a difference of the sizes that were seen. Four hits
against none are 2 of the 16 ways that four signs can fall.

Everything that is computed with one seed and the same users sees the same draws.

Shape letters: U users, D draws, N comparisons (or draws of seeds), P pairs, S sides of
them, F flips of all signs (or draws of users).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import assert_never

import msgspec
import numpy as np
from jaxtyping import Float64, Int64

from plait.metrics.distributions import f_critical
from plait.metrics.statistic import ROUNDING, Better, Parts, Statistic, mean_parts

TAIL = 0.025  # on each side of a 95 % interval
NORMAL = 1.959964  # what a standard normal exceeds with that chance
LEAST_UNITS = 2.0  # of fewer users nothing tells how they scatter
BLOCK_ELEMENTS = 4_000_000  # the largest (draws x users) table held at a time, 32 MB


class Estimate(msgspec.Struct, frozen=True):
    """A metric and its 95 % interval; None where it is not defined.

    The bounds are also None where fewer than two users tell how users scatter; for AUC, fewer of the rarer class.
    """

    value: float | None
    low: float | None
    high: float | None
    better: Better
    num_users: int  # the users that the metric rests on
    carried_by: float | None = (
        None  # as many of them carry it, see `Parts.carried_by`; None where nothing tells
    )

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
    parts: Parts | None = None  # of the users as they are
    noise_NF: Float64[np.ndarray, "N F"] | None = None  # seeds' part of value_D

    @property
    def estimate(self) -> Estimate:
        """The metric with its interval over users."""
        carried_by = None if self.value is None or self.parts is None else self.parts.carried_by(self.value)
        low, high = self._bounds() or (None, None)
        return Estimate(self.value, low, high, self.better, self.num_users, carried_by)

    def _bounds(self) -> tuple[float, float] | None:
        if self.value is None or self.num_users < LEAST_UNITS:
            return None
        if self.parts is None:
            return percentiles(self.value_D)
        return bounds(self.value, self.parts)


def bootstrap(statistic: Statistic, num_draws: int = 1000, seed: int = 0) -> Bootstrap:
    """Recomputes a metric on `num_draws` resampled populations of its users.

    Raises:
        ValueError: num_draws is below 40, where a 2.5 % tail holds no draw.

    >>> from plait.metrics.statistic import mean_over_users
    >>> hits = bootstrap(mean_over_users(np.arange(4), np.array([0.0, 1.0, 1.0, 1.0]), form="share")).estimate
    >>> hits.value, round(hits.low, 2), round(hits.high, 2)
    (0.75, 0.28, 0.96)
    """
    if num_draws < 1 / TAIL:
        raise ValueError(
            f"bootstrap: num_draws={num_draws}, expected at least {round(1 / TAIL)}; 1000 is usual"
        )
    value_D = np.concatenate(
        [statistic.under(weight_DU) for weight_DU in _populations(len(statistic.user_U), num_draws, seed)]
    )
    return Bootstrap(
        statistic.value,
        value_D,
        statistic.user_U,
        seed,
        statistic.better,
        statistic.num_users,
        statistic.parts(),
    )


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
        mean_parts([run.parts for run in runs]),
    )


def estimate(runs: Sequence[Statistic]) -> Estimate:
    """As `average` of their bootstraps tells it: one metric in the mean over runs on the same users. Nothing is drawn
    where the parts are known.

    >>> from plait.metrics.statistic import mean_over_users
    >>> runs = [mean_over_users(np.arange(9), np.arange(9) * size) for size in (1.0, 3.0)]
    >>> estimate(runs) == average([bootstrap(run) for run in runs]).estimate
    True
    """
    parts = [run.parts() for run in runs]
    values = [run.value for run in runs]
    if any(its is None and value is not None for its, value in zip(parts, values, strict=True)):
        return average([bootstrap(run) for run in runs]).estimate
    undrawn = [
        Bootstrap(value, np.empty(0), run.user_U, 0, run.better, run.num_users, its)
        for run, value, its in zip(runs, values, parts, strict=True)
    ]
    return average(undrawn).estimate


def bounds(value: float, parts: Parts) -> tuple[float, float] | None:
    """The 95 % interval of a metric over users; None where too few of them tell how they scatter."""
    if parts.num_units < LEAST_UNITS * (1 - ROUNDING):
        return None
    match parts.form:
        case "share":
            return _of_share(value, parts)
        case "mean":
            return _of_mean(value, parts.influence_U, parts.num_units)
        case "root":
            low, high = _of_mean(value**2, 2 * value * parts.influence_U, parts.num_units)
            return max(0.0, low) ** 0.5, high**0.5
        case _:
            assert_never(parts.form)


def _of_share(value: float, parts: Parts) -> tuple[float, float]:
    """Wilson's interval for the number of users that would scatter like this if each were all or nothing.

    The fewer users carry the metric, the less their scatter is known: one more is added to them that is all or nothing.

    Source: Wilson, Journal of the American Statistical Association 22(158), 1927; for means of clusters as Dean &
    Pagano, Journal of Survey Statistics and Methodology 3(4), 2015.
    """
    units, carried = parts.num_units, parts.carried_by(value)
    chance = value * (1 - value)
    seen = float((parts.influence_U**2).sum()) * units / (units - 1)
    variance = (carried * seen + chance / units) / (carried + 1)
    number = chance / variance if chance > ROUNDING and variance > 0 else units
    squared = NORMAL**2 / number
    middle = (value + squared / 2) / (1 + squared)
    half = (squared * (max(0.0, chance) + squared / 4)) ** 0.5 / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def _of_mean(value: float, influence_U: Float64[np.ndarray, " U"], units: float) -> tuple[float, float]:
    """Student's interval of a studentised mean from which the skewness has been taken.

    A standard error has as many degrees of freedom as its own scatter tells; a long tail leaves it few.

    Source: Hall, Journal of the Royal Statistical Society B 54(1), 1992, section 2 (the cubic transformation);
    Satterthwaite, Biometrics Bulletin 2(6), 1946.
    """
    power2, power3, power4 = (float((influence_U**power).sum()) for power in (2, 3, 4))
    if power2 <= (ROUNDING * value) ** 2:
        return value, value
    error = (power2 * units / (units - 1)) ** 0.5
    excess = power4 / power2**2 - 1 / units  # over that of users who all are as far off
    freedom = units - 1 if excess <= 2 / (units - 1) else 2 / excess
    student = f_critical(2 * TAIL, 1, max(1, round(freedom))) ** 0.5
    skewness = power3 / power2**1.5
    return value - error * _skewed(student, skewness), value - error * _skewed(-student, skewness)


def _skewed(size: float, skewness: float) -> float:
    """What a studentised mean reaches where one without skewness would reach `size`."""
    if abs(skewness) < ROUNDING**0.5:
        return size
    return 3 / skewness * (float(np.cbrt(1 + skewness * (size - skewness / 6))) - 1)


def paired_difference(a: Bootstrap, b: Bootstrap) -> Difference:
    """a - b on the same users, with the p-value of a sign-flip test and the interval that agrees with it.

    The interval leaves out 0 where p is below 0.05. No metric has to be a mean, so AUC is compared as HR is.

    Raises:
        ValueError: the two differ in users or draws, or one is not defined.

    Source: Fisher, The Design of Experiments, 1935, section 21.

    Four hits against none, of a hundred users:

    >>> from plait.metrics.statistic import mean_over_users
    >>> hit_U = (np.arange(100) < 4).astype(float)
    >>> a, b = (bootstrap(mean_over_users(np.arange(100), hits_U)) for hits_U in (hit_U, 0 * hit_U))
    >>> paired_difference(a, b).p > 0.1, paired_difference(a, b).low
    (True, 0.0)
    """
    check_same_draws("paired_difference", a, b)
    if a.value is None or b.value is None:
        raise ValueError("paired_difference: the metric is not defined for one of the two (one class only?)")
    value, least = a.value - b.value, least_p(a, b)
    away_D = np.abs(departures([(a, b)])[0])
    away_D = away_D[~np.isnan(away_D)]
    half = widened(float(critical(away_D[None], 2 * TAIL)[0]), value, least)
    return difference_of_draws(value, half, int((away_D >= abs(value)).sum()), len(away_D), least)


def departures(pairs: Sequence[tuple[Bootstrap, Bootstrap]]) -> Float64[np.ndarray, "P D"]:
    """How far each pair moves apart from where it is as users, and seeds where they are in the draws, come out anew.

    All pairs see the same flips of signs. Where the parts of a side are not known, users are drawn with replacement
    instead; NaN where the metric is not defined in a draw.
    """
    first = pairs[0][0]
    num_flips = len(first.value_D) if first.noise_NF is None else first.noise_NF.shape[1]
    sides = {id(side): side for pair in pairs for side in pair}
    part_SU = np.stack([_parts_of(side) for side in sides.values()])
    sums = dict(zip(sides, _flipped(part_SU, num_flips, first.seed), strict=True))
    return np.stack([_departure(a, b, sums[id(a)] - sums[id(b)]) for a, b in pairs])


def _departure(a: Bootstrap, b: Bootstrap, sum_F: Float64[np.ndarray, " F"]) -> Float64[np.ndarray, " D"]:
    if a.parts is None or b.parts is None:
        return a.value_D - b.value_D - difference_of(a, b)
    units = min(a.parts.num_units, b.parts.num_units)
    users_F = _studentised(sum_F, _parts_of(a) - _parts_of(b), difference_of(a, b), units)
    if a.noise_NF is None or b.noise_NF is None:
        return users_F
    return (users_F + a.noise_NF - b.noise_NF).ravel()


def difference_of(a: Bootstrap, b: Bootstrap) -> float:
    assert a.value is not None and b.value is not None, "those that are compared are defined"
    return a.value - b.value


def _parts_of(side: Bootstrap) -> Float64[np.ndarray, " U"]:
    """What each user brings to the metric, in sum all of it; NaN where nothing tells."""
    if side.parts is None or side.value is None:
        return np.full(len(side.user_U), np.nan)
    return side.parts.influence_U + side.value * side.parts.share_U


def _flipped(part_SU: Float64[np.ndarray, "S U"], num_flips: int, seed: int) -> Float64[np.ndarray, "S F"]:
    """The sums of the parts under random signs, each user's the same on all sides."""
    rng, num_users = np.random.default_rng(seed), part_SU.shape[1]
    rows, sum_FS = max(1, BLOCK_ELEMENTS // num_users), []
    for at in range(0, num_flips, rows):
        count = min(rows, num_flips - at)
        random_bytes = np.frombuffer(rng.bytes(-(-count * num_users // 8)), dtype=np.uint8)
        is_kept_FU = np.unpackbits(random_bytes, count=count * num_users).reshape(count, num_users)
        sum_FS.append(2 * (is_kept_FU.astype(np.float64) @ part_SU.T) - part_SU.sum(axis=1))
    return np.concatenate(sum_FS).T


def _studentised(
    sum_F: Float64[np.ndarray, " F"], part_U: Float64[np.ndarray, " U"], value: float, units: float
) -> Float64[np.ndarray, " F"]:
    """Sums of flipped parts, each in the scatter that the parts have around their own mean.

    The larger a sum, the less its parts scatter around it. So the draws keep their order and the test is that of the
    sums, while its interval is that of the difference: a gain that all users have alike is certain.
    """
    square = float((part_U**2).sum())
    if not square:
        return np.zeros_like(sum_F)
    own = max(0.0, square - value**2 / units)
    # At least so much that no sum beyond the value falls behind it.
    least = max(min(own, square / units), ROUNDING * square)
    rest_F = np.maximum(square - sum_F**2 / units, least)
    is_same_F = np.isclose(np.abs(sum_F), abs(value), rtol=ROUNDING**0.75, atol=0)
    return np.where(is_same_F, np.copysign(value, sum_F), sum_F * np.sqrt(own / rest_F))


def least_p(a: Bootstrap, b: Bootstrap) -> float:
    """2^(1 - U), the least p that a sign test could say about the U users in whom the two differ.

    Where nothing tells them, about those that both rest on.
    """
    num_users = min(a.num_users, b.num_users)
    size_U = np.abs(_parts_of(a) - _parts_of(b))
    if not np.isnan(size_U).any():
        num_users = min(num_users, int((size_U > ROUNDING * size_U.sum()).sum()))
    return min(1.0, 2.0 ** (1 - num_users))


def critical(size_PD: Float64[np.ndarray, "P D"], level: float) -> Float64[np.ndarray, " P"]:
    """The largest size whose p is not below the level; infinite where there are too few draws to go below it."""
    num_draws = size_PD.shape[1]
    beyond = (
        ceil(level * (1 + num_draws)) - 1
    )  # so many draws as large keep p = (1 + beyond) / (1 + D) at the level
    if beyond < 1:
        return np.full(len(size_PD), np.inf)
    return np.partition(size_PD, num_draws - beyond, axis=1)[:, num_draws - beyond]


def widened(half: float, value: float, least: float) -> float:
    """Half an interval that reaches 0 where no p could fall below the level."""
    return half if least < 2 * TAIL else max(half, abs(value))


def difference_of_draws(value: float, half: float, as_large: int, num_draws: int, least: float) -> Difference:
    """A difference whose size is reached by so many of the draws."""
    p = (1 + as_large) / (1 + num_draws)
    return Difference(value, value - half, value + half, min(1.0, max(least, p)))


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


def percentiles(value_D: Float64[np.ndarray, " D"]) -> tuple[float, float]:
    """The middle 95 % of the draws in which something is defined."""
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
