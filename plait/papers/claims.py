"""What a paper says of its figures, put to the test on ours: reproduced, not reproduced, or too close to tell.

Two things blur a difference: which users there are, and which seeds were run. Both enter its interval and its p
(see `plait.compare.significance`). Where a run gives a number and no users (an attention map, a time), the
runs alone are tested.

Shape letter: N runs (seeds, rounds).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from jaxtyping import Float64

from plait.compare.significance import LEVEL, Side, Told, drawn, tell_apart, value_of
from plait.compare.words import metric_label, number, p_value, signed
from plait.metrics.distributions import f_critical, f_tail
from plait.metrics.intervals import Bootstrap, Difference, bootstrap
from plait.metrics.statistic import Statistic

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


class ClaimVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What our figures say of a claim, and why."""

    claim: str
    outcome: Outcome
    why: str
    source: str = ""


@dataclass(frozen=True)
class _Tested:
    """A claim's two sides on the same users."""

    claim: Claim
    told: Told  # first minus second, each averaged over its seeds; together with all other orders
    second: float
    sign: int  # 1 where a higher value is better, else -1
    covers_seeds: bool

    @property
    def gain(self) -> tuple[float, float]:
        """By how much the first is better: the bounds of the 95 % interval."""
        alone = self.told.alone
        low, high = sorted((self.sign * alone.low, self.sign * alone.high))
        return low, high


def judge(claims: Sequence[Claim], statistics: Statistics, min_draws: int = 1000) -> tuple[ClaimVerdict, ...]:
    """Every claim against what was measured, in the claims' order.

    "Beats" asks that the difference, each side averaged over its seeds, be told from 0 at 5 % together with all orders
    that are judged here (`tell_apart`). Orders in different metrics are drawn apart as to seeds, where in truth a good
    seed is good in several: the more apart, the larger the largest of them by chance, so this errs on the safe side.
    "On par" asks that the difference's own 95 % interval does not reach beyond the margin; it is not corrected.
    Interval and p cover users and seeds, so both ask for more than one seed of each side. A claim is "not reproduced"
    only where the same evidence stands against it.

    Nothing is trained or asked for it: `statistics` may be measured from stored answers.

    Raises:
        ValueError: the two sides of a claim were evaluated on different users.
    """
    num_draws = max(min_draws, round(4 * len(claims) / LEVEL))  # the least corrected p is half of LEVEL
    metrics = dict.fromkeys(claim.metric for claim in claims)
    measured = {metric: sides_of(statistics, metric, num_draws) for metric in metrics}
    joint = {metric: drawn(measured[metric], stream) for stream, metric in enumerate(metrics)}
    known = [
        n for n, claim in enumerate(claims) if {claim.first, claim.second} <= measured[claim.metric].keys()
    ]
    orders = [n for n in known if claims[n].margin is None]
    pairs = {
        n: (joint[claims[n].metric][claims[n].first], joint[claims[n].metric][claims[n].second])
        for n in known
    }
    told = dict(zip(orders, tell_apart([pairs[n] for n in orders]), strict=True))
    told |= {n: tell_apart([pairs[n]])[0] for n in known if n not in told}
    return tuple(
        _verdict(claim, _tested(claim, told[n], measured[claim.metric], pairs[n][1]) if n in told else None)
        for n, claim in enumerate(claims)
    )


def sides_of(statistics: Statistics, metric: str, num_draws: int) -> dict[str, Side]:
    """Every variant that gives the metric, and in which it is defined with each of its seeds."""
    runs: dict[str, dict[int, Bootstrap]] = {}
    for (variant, seed), its in statistics.items():
        if metric in its:
            runs.setdefault(variant, {})[seed] = bootstrap(its[metric], num_draws)
    return {
        variant: Side(its)
        for variant, its in runs.items()
        if all(run.value is not None for run in its.values())
    }


def _tested(claim: Claim, told: Told, sides: Mapping[str, Side], second: Bootstrap) -> _Tested:
    return _Tested(
        claim,
        told,
        value_of(second),
        sign=1 if second.better == "higher" else -1,
        covers_seeds=sides[claim.first].covers_seeds and sides[claim.second].covers_seeds,
    )


def _verdict(claim: Claim, found: _Tested | None) -> ClaimVerdict:
    outcome: Outcome = "not measured"
    why = "one side has no finished run, or its metric is not defined"
    if found is not None:
        if claim.margin is None:
            together = found.told.together
            outcome, why = _order(together, together.p, found.sign * together.value > 0)
        else:
            outcome, why = _parity(found)
        if not found.covers_seeds:
            outcome, why = _alone(why, "seed")
    return ClaimVerdict(claim=str(claim), outcome=outcome, why=why, source=claim.source)


def _order(difference: Difference, p_adjusted: float, is_as_claimed: bool) -> tuple[Outcome, str]:
    words = f"{_interval(difference)}, {p_value(p_adjusted)}"
    if p_adjusted >= LEVEL:
        return "too close to tell", words
    return ("reproduced" if is_as_claimed else "not reproduced"), words


def _alone(words: str, unit: str) -> tuple[Outcome, str]:
    return "too close to tell", f"{words}; but one {unit} does not tell noise from a difference"


def _parity(found: _Tested) -> tuple[Outcome, str]:
    assert found.claim.margin is not None
    allowed = found.claim.margin * abs(found.second)
    low, high = found.gain
    words = f"{_interval(found.told.alone)}, margin {number(allowed)}"
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


def judge_repeated(claims: Sequence[Repeated]) -> tuple[ClaimVerdict, ...]:
    """Every claim by a t test over its runs, at 5 % over all claims judged together.

    The interval is simultaneous, too, so that it leaves out the bar where p is below 5 %.
    """
    verdicts = []
    for claim in claims:
        outcome, why = _alone(claim.words, claim.unit)
        if len(claim.value_N) > 1:
            found = t_test(claim.value_N, claim.bar, len(claims))
            outcome, why = _order(found, found.p, found.value > claim.bar)
            why += f"; {claim.words}"
        verdicts.append(ClaimVerdict(claim=claim.claim, outcome=outcome, why=why, source=claim.source))
    return tuple(verdicts)


def t_test(value_N: Float64[np.ndarray, " N"], bar: float = 0.0, num_tests: int = 1) -> Difference:
    """The mean with its 95 % interval by Student's t, and the two-sided p of its distance to `bar`.

    Args:
        num_tests: how many are told together; interval and p are corrected for it (Bonferroni).

    >>> found = t_test(np.array([1.0, 2.0, 3.0]))
    >>> f"{found.value:.1f} ({found.low:.1f} to {found.high:.1f}), p = {found.p:.2f}"
    '2.0 (-0.5 to 4.5), p = 0.07'
    """
    assert len(value_N) > 1, "one run has no spread"
    mean, error = float(np.mean(value_N)), np.std(value_N, ddof=1) / np.sqrt(len(value_N))
    freedom = len(value_N) - 1
    # t squared is F of one degree and these
    half = float(error * np.sqrt(f_critical(LEVEL / num_tests, 1, freedom)))
    with np.errstate(divide="ignore", invalid="ignore"):  # runs that are all alike
        ratio = np.nan_to_num(((mean - bar) / error) ** 2, nan=0.0, posinf=np.inf)
    p = min(1.0, num_tests * f_tail(float(ratio), 1, freedom))
    return Difference(mean, mean - half, mean + half, p)


def answer(verdicts: Sequence[ClaimVerdict]) -> str:
    """What became of all claims, in one line.

    >>> outcomes = ["reproduced", "too close to tell", "reproduced"]
    >>> answer([ClaimVerdict(claim="", outcome=outcome, why="") for outcome in outcomes])
    'reproduced in 2 of 3 claims, not in 0, 1 too close to tell'
    """
    counted = Counter(verdict.outcome for verdict in verdicts)
    unmeasured = counted["not measured"]
    return (
        f"reproduced in {counted['reproduced']} of {len(verdicts)} claims, not in {counted['not reproduced']}, "
        f"{counted['too close to tell']} too close to tell"
        + (f", {unmeasured} not measured" if unmeasured else "")
    )
