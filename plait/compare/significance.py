"""Whether two of those compared differ by more than which users were asked and which seeds were run explain.

Runs are nested in layouts and crossed with users. A metric of a run departs from its layout's for two reasons: every
user has a part of his own (a flip), and the seed has a part that all users share (its main effect). Drawing users
again draws their flips as well, so to the draws of a mean over S seeds only main effects are added, of variance

    max(0, between - flips) / S

where `between` is the mean square between the seeds of a layout and `flips` the part of it that flips explain. Its
uncertainty is that of `between`, pooled over the layouts: see `SeedScatter.main_effect_D`. Of one seed alone nobody
knows how far another would have come out, so where a side has one, nothing that is said of it covers seeds.

Several differences are told together by single-step maxT over the same draws, and the intervals come from it too.

Shape letters: G sides of one group, S seeds, D draws, P pairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from plait.metrics.distributions import f_critical
from plait.metrics.intervals import (
    Bootstrap,
    Difference,
    average,
    check_same_draws,
    critical,
    departures,
    difference_of,
    difference_of_draws,
    least_p,
    widened,
)

LEVEL = 0.05  # of every test, after its correction
# For every draw of users: few would give each number of degrees of freedom one error of its own, always the same.
NOISE_DRAWS = 10

Pair = tuple[Bootstrap, Bootstrap]  # of two sides, as `drawn` gives them


@dataclass(frozen=True)
class Side:
    """One of those that are compared in a metric, on users and draws that all of them share."""

    runs: Mapping[int, Bootstrap]  # by seed; the metric is defined in each
    has_seeds: bool = True  # False: nothing of it is drawn, so another seed would change nothing (a count)
    trained_as: str = ""  # sides of one name are judged on the same training runs; "": on runs of its own

    @property
    def covers_seeds(self) -> bool:
        """Whether its runs tell how far another seed would have come out."""
        return not self.has_seeds or len(self.runs) > 1


@dataclass(frozen=True)
class SeedScatter:
    """How runs of one layout scatter: sums of squares, and their degrees of freedom."""

    between: float = 0.0  # between its seeds
    flips: float = 0.0  # what users' flips alone would give: the same sum, as users are drawn again
    freedom: int = 0  # 0 where no layout has two seeds

    def __add__(self, other: "SeedScatter") -> "SeedScatter":
        return SeedScatter(
            self.between + other.between, self.flips + other.flips, self.freedom + other.freedom
        )

    @property
    def mean_square(self) -> float:
        return self.between / self.freedom

    def main_effect_D(self, num_draws: int, rng: np.random.Generator) -> Float64[np.ndarray, " D"]:
        """What the variance of the seeds' main effect may be: max(0, between / chi^2 - flips / freedom).

        The expected mean square between seeds is the main effect's variance plus that of the flips, and `between` over
        it is distributed as chi^2. The flips' part is known well, from as many users as there are.

        Source: Weerahandi, Journal of the American Statistical Association 88(423), 1993 (generalised pivots).
        """
        if not self.freedom:
            return np.zeros(num_draws)
        expected_D = self.between / rng.chisquare(self.freedom, num_draws)
        return np.maximum(0.0, expected_D - self.flips / self.freedom)


@dataclass(frozen=True)
class Told:
    """A difference, by itself and among all those that are told together; the two share their value.

    `together` holds the simultaneous interval and the adjusted p, which agree: the interval leaves out 0 where p is
    below LEVEL.
    """

    alone: Difference
    together: Difference


def drawn(sides: Mapping[str, Side], stream: int = 0) -> dict[str, Bootstrap]:
    """Every side's mean over its seeds, in joint draws of what other users and other seeds would have made of it.

    Sides that are judged on the same runs share the part of the main effect that moves them alike, so that their
    difference is that of pairs of one seed.

    Args:
        stream: those of different streams are drawn apart (say, those of another metric).

    Raises:
        ValueError: the runs of a side differ in users or draws, or sides of the same runs in their seeds.
    """
    joint = {name: as_drawn(average(list(side.runs.values()))) for name, side in sides.items()}
    groups = _groups(sides)
    if not groups:
        return joint
    rng, num_draws = np.random.default_rng(stream), len(next(iter(joint.values())).value_D)
    scatters = {name: _scatters([sides[its] for its in group]) for name, group in groups.items()}
    variance = _main_effects({name: own for name, (own, _) in scatters.items()}, num_draws, rng)
    apart_D = _pooled(apart for _, apart in scatters.values()).main_effect_D(num_draws, rng)
    for name, group in groups.items():
        own_D = apart_D if len(group) > 1 else np.zeros(num_draws)
        shared_D = np.sqrt(np.maximum(0.0, variance[name] - own_D)) * rng.standard_normal(num_draws)
        for its in group:
            noise_D = shared_D + (np.sqrt(own_D) * rng.standard_normal(num_draws) if own_D.any() else 0.0)
            noise_D /= np.sqrt(len(sides[its].runs))
            joint[its] = replace(
                joint[its],
                value_D=joint[its].value_D + noise_D,
                noise_NF=noise_D.reshape(NOISE_DRAWS, -1),
            )
    return joint


def as_drawn(mean: Bootstrap) -> Bootstrap:
    """What `drawn` gives of a side without seeds."""
    shape = (NOISE_DRAWS, len(mean.value_D))
    return replace(mean, value_D=np.tile(mean.value_D, NOISE_DRAWS), noise_NF=np.zeros(shape))


def tell_apart(pairs: Sequence[Pair], beside: Sequence[Pair] = ()) -> list[Told]:
    """How the first of each pair differs from the second, alone and among all `pairs` and those `beside` them.

    The adjusted p is the share of draws in which some pair departs from what it is by as much as the difference in
    question. Every pair is measured in half-widths of its interval when told alone, or one side that scatters more than
    the others would hide what tells these apart.

    p is never below what a sign test could say about the few users in whom two sides differ (`least_p`).

    Raises:
        ValueError: two sides differ in users or draws.

    Source: Westfall & Young, Resampling-Based Multiple Testing, 1993, section 2.3 (single-step maxT); the scales as
    Beran, Journal of the American Statistical Association 83(403), 1988, balances simultaneous intervals.
    """
    if not pairs:
        return []
    all_pairs = [*pairs, *beside]
    away_PD = away_of(all_pairs)
    away_PD = away_PD[:, np.isfinite(away_PD).all(axis=0)]  # the metric is defined for all sides
    half_P = np.array(
        [
            widened(half, difference_of(*pair), least_p(*pair))
            for pair, half in zip(all_pairs, critical(away_PD, LEVEL).tolist(), strict=True)
        ]
    )
    with np.errstate(divide="ignore", invalid="ignore"):  # sides that are as far apart in every draw
        largest_D = np.fmax.reduce(away_PD / half_P[:, None], axis=0, initial=0.0)
    wider = max(1.0, float(critical(largest_D[None], LEVEL)[0]))
    told = []
    for pair, own_D, half in zip(pairs, away_PD, half_P.tolist(), strict=False):
        value, least = difference_of(*pair), least_p(*pair)
        size = abs(value) / half if half else np.inf if value else 0.0
        together = wider * half if 0 < half < np.inf else half
        if wider == size:  # as far as chance reaches, but for rounding
            together = abs(value)
        told.append(
            Told(
                difference_of_draws(value, half, int((own_D >= abs(value)).sum()), len(own_D), least),
                difference_of_draws(value, together, int((largest_D >= size).sum()), len(own_D), least),
            )
        )
    return told


def scattering_apart(sides: Mapping[str, Side]) -> set[str]:
    """The sides whose seeds scatter more than those of the others, so that their own alone tell how far."""
    groups = _groups(sides)
    loners = _loners({name: _scatters([sides[its] for its in group])[0] for name, group in groups.items()})
    return {its for name in loners for its in groups[name]}


def scatter_of(side: Side) -> SeedScatter:
    """How the runs of one side scatter."""
    return _scatters([side])[0]


def value_of(run: Bootstrap) -> float:
    """The metric of a run of a side, which is always defined."""
    assert run.value is not None, "a side's runs are defined"
    return run.value


def interval(value: float, value_D: Float64[np.ndarray, " D"]) -> tuple[float, float]:
    """The symmetric interval of anything that is computed draw by draw, as that of a difference told alone."""
    away_D = np.abs(value_D - value)
    half = float(critical(away_D[None, np.isfinite(away_D)], LEVEL)[0])
    return value - half, value + half


def away_of(pairs: Sequence[Pair]) -> Float64[np.ndarray, "P D"]:
    """How far each pair departs, draw by draw, from what it is."""
    for first, second in pairs:
        check_same_draws("tell_apart", first, second)
    return np.abs(departures(pairs))


def _groups(sides: Mapping[str, Side]) -> dict[str, list[str]]:
    """The sides that have seeds, those of the same training runs together."""
    groups: dict[str, list[str]] = {}
    for name, side in sides.items():
        if side.has_seeds:
            groups.setdefault(f"shared {side.trained_as}" if side.trained_as else f"own {name}", []).append(
                name
            )
    for group in groups.values():
        seeds = {name: sorted(sides[name].runs) for name in group}
        if any(its != seeds[group[0]] for its in seeds.values()):
            raise ValueError(
                f"drawn: sides of the same runs with other seeds: {seeds}; give all of them each seed"
            )
    return groups


def _scatters(group: Sequence[Side]) -> tuple[SeedScatter, SeedScatter]:
    """How a side of the group scatters over seeds, and how its sides' differences do (half of their mean square).

    Source: the analysis of variance of runs crossed with sides, as in any textbook.
    """
    seeds = list(group[0].runs)
    if len(seeds) < 2:
        return SeedScatter(), SeedScatter()
    value_GS = np.array([[value_of(side.runs[seed]) for seed in seeds] for side in group])
    away_GSD = np.array([[side.runs[seed].value_D for seed in seeds] for side in group]) - value_GS[..., None]
    between_GS, flips_GSD = (of - of.mean(axis=1, keepdims=True) for of in (value_GS, away_GSD))
    freedom = len(seeds) - 1
    each = SeedScatter(float((between_GS**2).sum() / len(group)), _expected(flips_GSD) / len(group), freedom)
    between_GS, flips_GSD = (of - of.mean(axis=0) for of in (between_GS, flips_GSD))
    apart = SeedScatter(float((between_GS**2).sum()), _expected(flips_GSD), freedom * (len(group) - 1))
    return each, apart


def _expected(flips_GSD: Float64[np.ndarray, "G S D"]) -> float:
    """The sum of squares over sides and seeds, as it comes out on average over the draws."""
    sum_D = (flips_GSD**2).sum(axis=(0, 1))
    return float(sum_D[np.isfinite(sum_D)].mean())


def _main_effects(
    scatters: Mapping[str, SeedScatter], num_draws: int, rng: np.random.Generator
) -> dict[str, Float64[np.ndarray, " D"]]:
    """By group, draws of its main effect's variance: one and the same for all that scatter alike."""
    loners = _loners(scatters)
    pool = _pooled(scatter for name, scatter in scatters.items() if name not in loners)
    pooled_D = pool.main_effect_D(num_draws, rng)
    return {
        name: scatter.main_effect_D(num_draws, rng) if name in loners else pooled_D
        for name, scatter in scatters.items()
    }


def _loners(scatters: Mapping[str, SeedScatter]) -> set[str]:
    """The groups whose seeds scatter more than those of the others, by an F test at LEVEL over the groups' number.

    The one that scatters most is tested first, and the next where that one left. Two seeds tell too little for it.
    """
    alike = {name: scatter for name, scatter in scatters.items() if scatter.freedom}
    level = LEVEL / max(1, len(alike))
    loners: set[str] = set()
    while len(alike) > 1:
        name = max(alike, key=lambda its: alike[its].mean_square)
        own = alike.pop(name)
        others = _pooled(alike.values())
        if own.mean_square <= f_critical(level, own.freedom, others.freedom) * others.mean_square:
            break
        loners.add(name)
    return loners


def _pooled(scatters: Iterable[SeedScatter]) -> SeedScatter:
    return sum(scatters, SeedScatter())
