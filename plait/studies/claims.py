"""What a paper says of its figures, put to the test on ours: reproduced, not reproduced, or too close to tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import msgspec
import numpy as np

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
    gaps: tuple[float, ...]  # by how much every seed of the first is better than every seed of the second

    @property
    def gain(self) -> tuple[float, float]:
        """By how much the first is better: the bounds of the 95 % interval."""
        low, high = sorted((self.sign * self.difference.low, self.sign * self.difference.high))
        return low, high


def judge(claims: Sequence[Claim], statistics: Statistics, min_draws: int = 1000) -> tuple[Verdict, ...]:
    """Every claim against what was measured, in the claims' order.

    "Beats" asks for a paired test over users, each side averaged over its seeds, at 5 % after Holm's correction over
    the claims judged together. "On par" asks that the 95 % interval of the difference does not reach beyond the
    margin. Both ask for more than one seed, and that every pair of seeds says so, too. A claim is "not reproduced"
    only where the same evidence stands against it.

    Raises:
        ValueError: the two sides of a claim were evaluated on different users.
    """
    num_draws = max(min_draws, round(4 * len(claims) / LEVEL))  # the least corrected p is half of LEVEL

    @cache
    def seeds(variant: str, metric: str) -> tuple[Bootstrap, ...]:
        runs = (its for (name, _), its in statistics.items() if name == variant)
        return tuple(bootstrap(its[metric], num_draws) for its in runs if metric in its)

    tested = [
        _tested(claim, seeds(claim.first, claim.metric), seeds(claim.second, claim.metric))
        for claim in claims
    ]
    orders = [n for n, found in enumerate(tested) if found and found.claim.margin is None]
    p_values = np.array([found.difference.p for found in tested if found and found.claim.margin is None])
    p_holm = dict(zip(orders, holm(p_values.astype(np.float64)).tolist(), strict=True))
    return tuple(
        _verdict(claim, found, p_holm.get(n))
        for n, (claim, found) in enumerate(zip(claims, tested, strict=True))
    )


def _tested(claim: Claim, first: Sequence[Bootstrap], second: Sequence[Bootstrap]) -> _Tested | None:
    if not first or not second:
        return None
    mean_first, mean_second = average(first), average(second)
    if mean_first.value is None or mean_second.value is None:
        return None
    sign = 1 if mean_first.better == "higher" else -1
    values = ([run.value for run in side if run.value is not None] for side in (first, second))
    return _Tested(
        claim,
        paired_difference(mean_first, mean_second),
        mean_second.value,
        sign,
        num_seeds=min(len(first), len(second)),
        gaps=tuple(sign * (a - b) for a, b in product(*values)),
    )


def _verdict(claim: Claim, found: _Tested | None, p_holm: float | None) -> Verdict:
    outcome: Outcome = "not measured"
    why = "one side has no finished run, or its metric is not defined"
    if found is not None and p_holm is not None:
        outcome, why = _order(found, p_holm)
    elif found is not None and claim.margin is not None:
        outcome, why = _parity(found, claim.margin)
    return Verdict(claim=str(claim), outcome=outcome, why=why, source=claim.source)


def _order(found: _Tested, p_holm: float) -> tuple[Outcome, str]:
    words = f"{_interval(found)}, {p_value(p_holm)}"
    if p_holm >= LEVEL:
        return "too close to tell", words
    return _if_seeds_agree(found, 0.0, words)


def _parity(found: _Tested, margin: float) -> tuple[Outcome, str]:
    allowed = margin * abs(found.second)
    low, high = found.gain
    words = f"{_interval(found)}, margin {number(allowed)}"
    if low <= -allowed <= high:
        return "too close to tell", words
    return _if_seeds_agree(found, -allowed, words)


def _if_seeds_agree(found: _Tested, bar: float, words: str) -> tuple[Outcome, str]:
    """Users alone do not settle it: the seeds, of which there must be several, must stand on one side of the bar."""
    if found.num_seeds < 2:
        return "too close to tell", f"{words}; but one seed does not tell training noise from a difference"
    above = [gap > bar for gap in found.gaps]
    if any(above) and not all(above):
        return "too close to tell", f"{words}; but seeds overlap"
    return ("reproduced" if all(above) else "not reproduced"), words


def _interval(found: _Tested) -> str:
    d = found.difference
    return f"{signed(d.value)} ({signed(d.low)} to {signed(d.high)})"
