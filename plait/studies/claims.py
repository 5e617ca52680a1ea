"""What a paper says of its figures, put to the test on ours: reproduced, not reproduced, or too close to tell.

Two things blur a difference: which users there are, and which seeds were run. Both enter its interval and its p.

Shape letter: D draws.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import msgspec
import numpy as np
from jaxtyping import Float64

from plait.metrics.intervals import Bootstrap, Difference, average, bootstrap, holm, paired_difference
from plait.metrics.statistic import Statistic
from plait.studies.rows import LEVEL
from plait.studies.words import metric_label, number, p_value, signed

Outcome = Literal["reproduced", "not reproduced", "too close to tell", "not measured"]
Statistics = Mapping[tuple[str, int], Mapping[str, Statistic]]  # by (variant, seed), then by metric


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An order that a paper gives two variants in one metric.

    `first` beats `second`; with a margin, it is at most that share of `second`'s value worse ("on par with").
    """

    first: str
    second: str
    metric: str
    margin: float | None = None
    source: str = ""  # where the paper says so, if it is not the table itself

    def __post_init__(self) -> None:
        if self.margin is not None and not self.margin > 0:
            raise ValueError(f"claim {self}: margin = {self.margin}; expected a share above 0, or None")

    def __str__(self) -> str:
        """
        >>> print(Claim(first="lac", second="pc", metric="rmse_scaled:rating"))
        lac beats pc in scaled RMSE rating
        >>> print(Claim(first="lac", second="interleaved", metric="hr@10", margin=0.035))
        lac is on par with interleaved in HR@10 (at most 3.5 % worse)
        """
        label = metric_label(self.metric)
        if self.margin is None:
            return f"{self.first} beats {self.second} in {label}"
        return f"{self.first} is on par with {self.second} in {label} (at most {100 * self.margin:g} % worse)"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What our figures say of a claim, and why."""

    claim: str
    outcome: Outcome
    why: str
    source: str = ""


@dataclass(frozen=True)
class _Tested:
    """A claim's two sides on the same users."""

    claim: Claim
    difference: Difference  # first minus second, each averaged over its seeds
    second: float
    sign: int  # 1 where a higher value is better, else -1
    num_seeds: int  # of the side with fewer

    @property
    def gain(self) -> tuple[float, float]:
        """By how much the first is better: the bounds of the 95 % interval."""
        low, high = sorted((self.sign * self.difference.low, self.sign * self.difference.high))
        return low, high


def judge(claims: Sequence[Claim], statistics: Statistics, min_draws: int = 1000) -> tuple[Verdict, ...]:
    """Every claim against what was measured, in the claims' order.

    "Beats" asks for a paired test over users, each side averaged over its seeds, at 5 % after Holm's correction over
    the orders judged together. "On par" asks that the 95 % interval of the difference does not reach beyond the
    margin; it is not corrected. Interval and p cover users and seeds (see `averages`), so both ask for more than one
    seed of each side. A claim is "not reproduced" only where the same evidence stands against it.

    Raises:
        ValueError: the two sides of a claim were evaluated on different users.
    """
    num_draws = max(min_draws, round(4 * len(claims) / LEVEL))  # the least corrected p is half of LEVEL

    @cache
    def seeds(variant: str, metric: str) -> tuple[Bootstrap, ...]:
        runs = (its for (name, _), its in statistics.items() if name == variant)
        return tuple(bootstrap(its[metric], num_draws) for its in runs if metric in its)

    noise = {claim.metric: seed_noise(statistics, claim.metric) for claim in claims}
    tested = [
        _tested(
            claim, seeds(claim.first, claim.metric), seeds(claim.second, claim.metric), noise[claim.metric]
        )
        for claim in claims
    ]
    orders = [n for n, found in enumerate(tested) if found and found.claim.margin is None]
    p_values = np.array([found.difference.p for found in tested if found and found.claim.margin is None])
    p_holm = dict(zip(orders, holm(p_values.astype(np.float64)).tolist(), strict=True))
    return tuple(
        _verdict(claim, found, p_holm.get(n))
        for n, (claim, found) in enumerate(zip(claims, tested, strict=True))
    )


@dataclass(frozen=True)
class SeedNoise:
    """What another seed changes of a metric, taken to be alike for all variants that were trained together."""

    variance: float = 0.0  # of one run
    freedom: int = 0  # degrees, of the estimate: 0 where no variant has two seeds

    def draws(self, num_first: int, num_second: int, num_draws: int) -> Float64[np.ndarray, "D"]:
        """Of the difference of two means over so many seeds: none where a side has one, which tells nothing."""
        if not self.freedom or min(num_first, num_second) < 2:
            return np.zeros(num_draws)
        error = np.sqrt(self.variance * (1 / num_first + 1 / num_second))
        rng = np.random.default_rng(self.freedom)  # the same for every claim, and apart from the users'
        return error * rng.standard_t(self.freedom, num_draws)


def seed_noise(statistics: Statistics, metric: str) -> SeedNoise:
    """Pooled over the variants that have several seeds: few seeds of one variant tell too little of themselves."""
    by_variant: dict[str, list[float]] = {}
    for (variant, _), its in statistics.items():
        if metric in its and (value := its[metric].value) is not None:
            by_variant.setdefault(variant, []).append(value)
    several = [values for values in by_variant.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    squares = sum(float(np.var(values)) * len(values) for values in several)
    return SeedNoise(squares / freedom, freedom) if freedom else SeedNoise()


def averages(
    first: Sequence[Bootstrap], second: Sequence[Bootstrap], noise: SeedNoise
) -> tuple[Bootstrap, Bootstrap]:
    """Both sides averaged over their seeds; the draws of the first carry what other seeds would have changed.

    To every draw is added a draw of s * sqrt(1 / n1 + 1 / n2) * t, with s and the degrees of freedom of `noise`. So
    the interval of the difference is that of a t test of the seeds where users are many, and that of the users where
    seeds agree.
    """
    mean_first, mean_second = average(first), average(second)
    noise_D = noise.draws(len(first), len(second), len(mean_first.value_D))
    return replace(mean_first, value_D=mean_first.value_D + noise_D), mean_second


def _tested(
    claim: Claim, first: Sequence[Bootstrap], second: Sequence[Bootstrap], noise: SeedNoise
) -> _Tested | None:
    if not first or not second:
        return None
    mean_first, mean_second = averages(first, second, noise)
    if mean_first.value is None or mean_second.value is None:
        return None
    return _Tested(
        claim,
        paired_difference(mean_first, mean_second),
        mean_second.value,
        sign=1 if mean_first.better == "higher" else -1,
        num_seeds=min(len(first), len(second)),
    )


def _verdict(claim: Claim, found: _Tested | None, p_holm: float | None) -> Verdict:
    outcome: Outcome = "not measured"
    why = "one side has no finished run, or its metric is not defined"
    if found is not None:
        outcome, why = _order(found, p_holm) if p_holm is not None else _parity(found)
        if found.num_seeds < 2:
            outcome, why = (
                "too close to tell",
                f"{why}; but one seed does not tell training noise from a difference",
            )
    return Verdict(claim=str(claim), outcome=outcome, why=why, source=claim.source)


def _order(found: _Tested, p_holm: float) -> tuple[Outcome, str]:
    words = f"{_interval(found)}, {p_value(p_holm)}"
    if p_holm >= LEVEL:
        return "too close to tell", words
    return ("reproduced" if found.sign * found.difference.value > 0 else "not reproduced"), words


def _parity(found: _Tested) -> tuple[Outcome, str]:
    assert found.claim.margin is not None
    allowed = found.claim.margin * abs(found.second)
    low, high = found.gain
    words = f"{_interval(found)}, margin {number(allowed)}"
    if low <= -allowed <= high:
        return "too close to tell", words
    return ("reproduced" if low > -allowed else "not reproduced"), words


def _interval(found: _Tested) -> str:
    d = found.difference
    return f"{signed(d.value)} ({signed(d.low)} to {signed(d.high)})"


def answer(verdicts: Sequence[Verdict]) -> str:
    """What became of all claims, in one line.

    >>> outcomes = ["reproduced", "too close to tell", "reproduced"]
    >>> answer([Verdict(claim="", outcome=outcome, why="") for outcome in outcomes])
    'reproduced in 2 of 3 claims, not in 0, 1 too close to tell'
    """
    counted = Counter(verdict.outcome for verdict in verdicts)
    unmeasured = counted["not measured"]
    return (
        f"reproduced in {counted['reproduced']} of {len(verdicts)} claims, not in {counted['not reproduced']}, "
        f"{counted['too close to tell']} too close to tell"
        + (f", {unmeasured} not measured" if unmeasured else "")
    )
