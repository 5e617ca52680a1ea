"""What a paper says of its figures, put to the test on ours: reproduced, not reproduced, or too close to tell.

Two things blur a difference: which users there are, and which seeds were run. Both enter its interval and its p.
Where a run gives a number and no users (an attention map, a time), the runs alone are tested.

Shape letters: D draws, N runs (seeds, rounds), A angles.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import msgspec
import numpy as np
from jaxtyping import Float64

from plait.compare.results import LEVEL
from plait.compare.significance import SeedNoise
from plait.compare.words import metric_label, number, p_value, signed
from plait.metrics.intervals import Bootstrap, Difference, average, bootstrap, holm, paired_difference
from plait.metrics.statistic import Statistic

Outcome = Literal["reproduced", "not reproduced", "too close to tell", "not measured"]
Statistics = Mapping[tuple[str, int], Mapping[str, Statistic]]  # by (variant, seed), then by metric

ANGLES = 20_000  # at which the distribution of Student's t is summed


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


def seed_noise(statistics: Statistics, metric: str) -> SeedNoise:
    """Pooled over all variants of the part."""
    by_variant: dict[str, list[float]] = {}
    for (variant, _), its in statistics.items():
        if metric in its and (value := its[metric].value) is not None:
            by_variant.setdefault(variant, []).append(value)
    return SeedNoise.of(by_variant.values())


def averages(
    first: Sequence[Bootstrap], second: Sequence[Bootstrap], noise: SeedNoise
) -> tuple[Bootstrap, Bootstrap]:
    """Both sides averaged over their seeds, in draws that cover users and seeds."""
    sides = enumerate((first, second))
    mean_first, mean_second = (noise.added(average(runs), len(runs), side) for side, runs in sides)
    return mean_first, mean_second


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
        if p_holm is None:
            outcome, why = _parity(found)
        else:
            outcome, why = _order(found.difference, p_holm, found.sign * found.difference.value > 0)
        if found.num_seeds < 2:
            outcome, why = _alone(why, "seed")
    return Verdict(claim=str(claim), outcome=outcome, why=why, source=claim.source)


def _order(difference: Difference, p_holm: float, is_as_claimed: bool) -> tuple[Outcome, str]:
    words = f"{_interval(difference)}, {p_value(p_holm)}"
    if p_holm >= LEVEL:
        return "too close to tell", words
    return ("reproduced" if is_as_claimed else "not reproduced"), words


def _alone(words: str, unit: str) -> tuple[Outcome, str]:
    return "too close to tell", f"{words}; but one {unit} does not tell noise from a difference"


def _parity(found: _Tested) -> tuple[Outcome, str]:
    assert found.claim.margin is not None
    allowed = found.claim.margin * abs(found.second)
    low, high = found.gain
    words = f"{_interval(found.difference)}, margin {number(allowed)}"
    if low <= -allowed <= high:
        return "too close to tell", words
    return ("reproduced" if low > -allowed else "not reproduced"), words


def _interval(difference: Difference) -> str:
    return f"{signed(difference.value)} ({signed(difference.low)} to {signed(difference.high)})"


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """The claim that a number lies above a bar, and what each of several runs found."""

    claim: str
    value_N: Float64[np.ndarray, " N"]
    bar: float = 0.0
    unit: str  # what is repeated: "seed"
    words: str  # what the runs found
    source: str = ""


def judge_repeated(claims: Sequence[Repeated]) -> tuple[Verdict, ...]:
    """Every claim by a t test over its runs, at 5 % after Holm's correction over the claims judged together."""
    tested = [t_test(claim.value_N, claim.bar) if len(claim.value_N) > 1 else None for claim in claims]
    p_values = [1.0 if found is None else found.p for found in tested]
    verdicts = []
    for claim, found, p in zip(claims, tested, holm(np.array(p_values)).tolist(), strict=True):
        outcome, why = _alone(claim.words, claim.unit)
        if found is not None:
            outcome, why = _order(found, p, found.value > claim.bar)
            why += f"; {claim.words}"
        verdicts.append(Verdict(claim=claim.claim, outcome=outcome, why=why, source=claim.source))
    return tuple(verdicts)


def t_test(value_N: Float64[np.ndarray, " N"], bar: float = 0.0) -> Difference:
    """The mean with its 95 % interval by Student's t, and the two-sided p of its distance to `bar`.

    >>> found = t_test(np.array([1.0, 2.0, 3.0]))
    >>> f"{found.value:.1f} ({found.low:.1f} to {found.high:.1f}), p = {found.p:.2f}"
    '2.0 (-0.5 to 4.5), p = 0.07'
    """
    assert len(value_N) > 1, "one run has no spread"
    mean, error = float(np.mean(value_N)), np.std(value_N, ddof=1) / np.sqrt(len(value_N))
    # Of f degrees of freedom, t / sqrt(f) is the tangent of an angle whose density is cos(angle) ** (f - 1).
    freedom = len(value_N) - 1
    angle_A = (np.arange(ANGLES) + 0.5) * np.pi / (2 * ANGLES)
    share_A = np.cos(angle_A) ** (freedom - 1)
    share_A /= share_A.sum()
    away_A = error * np.sqrt(freedom) * np.tan(angle_A)
    half = float(away_A[np.searchsorted(share_A.cumsum(), 1 - LEVEL)])
    p = float(share_A[away_A >= abs(mean - bar)].sum())
    return Difference(mean, mean - half, mean + half, min(1.0, p))


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
