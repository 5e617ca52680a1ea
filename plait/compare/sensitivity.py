"""How many users would tell half as small a difference between two layouts, and what one seed more of each would tell.

Both are foreseen as differences are told (`plait.compare.significance`), from draws as they would come out then. More
users leave less of who was asked, and of the flips: of users who come out otherwise with another seed. More seeds leave
less of the flips and of the seeds' main effect, and let it be known from more degrees of freedom.

Shape letter: D draws.
"""

from dataclasses import dataclass
from math import log

import msgspec
import numpy as np
from jaxtyping import Float64

from plait.compare.significance import SeedScatter, Side, interval, scatter_of, value_of
from plait.metrics.intervals import average

DRAWS = 4000  # of users and of the main effect together
MOST_USERS = 10_000.0  # times as many as were asked; more is no number of users
STEPS = 8  # in which the number of users is found, to 4 %


class Sensitivity(msgspec.Struct, frozen=True):
    """What would narrow the interval of a difference."""

    users_for_half: float | None  # times as many users leave half of its width; None: no number of users does
    with_one_seed_more: float  # the part of its width that one seed more of each leaves


def sensitivity(pair: tuple[Side, Side], every: list[Side]) -> Sensitivity | None:
    """What would narrow the interval of the first minus the second.

    None where it cannot be known, since a side does not tell how its seeds scatter, or where the two do not differ in
    any draw.

    Args:
        every: the sides that are drawn together with the two, and these.
    """
    if not all(side.covers_seeds for side in pair) or not any(side.has_seeds for side in pair):
        return None
    drawn = _Drawn.of(pair, every)
    now = drawn.half_width()
    if not 0 < now < np.inf:
        return None
    return Sensitivity(_users_for(drawn, now / 2), drawn.half_width(more_seeds=1) / now)


def _users_for(drawn: "_Drawn", half_width: float) -> float | None:
    if drawn.half_width(MOST_USERS) > half_width:
        return None
    few, many = 0.0, log(MOST_USERS)
    for _ in range(STEPS):
        middle = (few + many) / 2
        few, many = (few, middle) if drawn.half_width(float(np.exp(middle))) <= half_width else (middle, many)
    return float(np.exp(many))


@dataclass(frozen=True)
class _Drawn:
    """A difference in joint draws of users and seeds, in its parts."""

    users_D: Float64[np.ndarray, " D"]  # how far other users move it
    flips: float  # the share of flips in the variance of that
    seeds: tuple[int, ...]  # of the sides that have them
    scatter: SeedScatter  # of all that were drawn together
    fewest: int  # seeds of one of these

    @classmethod
    def of(cls, pair: tuple[Side, Side], every: list[Side]) -> "_Drawn":
        first, second = (average(list(side.runs.values())) for side in pair)
        away_D = first.value_D - second.value_D - (value_of(first) - value_of(second))
        own = [(scatter_of(side), len(side.runs)) for side in pair if side.has_seeds]
        flips = sum(scatter.flips / scatter.freedom / seeds for scatter, seeds in own)
        scattered = [side for side in every if side.has_seeds and side.covers_seeds]
        return cls(
            away_D[np.isfinite(away_D)],
            min(1.0, flips / (float(np.nanvar(away_D)) or np.inf)),
            tuple(seeds for _, seeds in own),
            sum(map(scatter_of, scattered), SeedScatter()),
            min(len(side.runs) for side in scattered),
        )

    def half_width(self, more_users: float = 1.0, more_seeds: int = 0) -> float:
        """Of the interval, were so many times as many users asked and so many seeds more of each run."""
        rng = np.random.default_rng(
            0
        )  # the same draws whatever is asked, so that they do not blur what more would do
        users_D = np.resize(self.users_D, DRAWS)
        seeds = min(self.seeds)
        left = 1 - self.flips + self.flips * seeds / (seeds + more_seeds)
        main_D = self._later(more_users, more_seeds).main_effect_D(DRAWS, rng)
        noise_D = sum(rng.standard_normal(DRAWS) / np.sqrt(its + more_seeds) for its in self.seeds)
        return interval(0.0, users_D * np.sqrt(left / more_users) + noise_D * np.sqrt(main_D))[1]

    def _later(self, more_users: float, more_seeds: int) -> SeedScatter:
        """How the runs would scatter then: what they scatter beyond flips stays, and flips become fewer."""
        more = (self.fewest + more_seeds - 1) / (self.fewest - 1)
        flips = self.scatter.flips / more_users
        between = max(0.0, self.scatter.between - self.scatter.flips + flips)
        return SeedScatter(between * more, flips * more, round(self.scatter.freedom * more))
