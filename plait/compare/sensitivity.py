"""How small a difference between two layouts can be told, and how many users or seeds would tell a smaller one.

The half-width of a difference's interval, squared, has three parts. Users: who was asked; it falls as more are asked.
Flips: users who come out otherwise with another seed; it falls with more users and with more seeds. The main effect of
the seeds, which moves all users at once, falls with more seeds alone.

Shape letters: S seeds, D draws.
"""

from math import sqrt

import msgspec
import numpy as np
from jaxtyping import Float64

from plait.compare.significance import LEVEL, Pair, Side, as_drawn, interval, value_of
from plait.metrics.distributions import f_critical
from plait.metrics.intervals import Bootstrap, average


class Sensitivity(msgspec.Struct, frozen=True):
    """What the squared half-width of a difference is made of; the rest is who was asked."""

    flips: float  # as a share
    seeds: float  # of the main effect, as a share
    freedom: int  # degrees of freedom that the main effect is known from, of all layouts together

    def users_for(self, part: float) -> float | None:
        """How many times as many users would bring the half-width down to a part of it; None: no number would.

        >>> Sensitivity(0.5, 0.0, 5).users_for(0.5), Sensitivity(0.5, 0.3, 5).users_for(0.5)
        (4.0, None)
        """
        return (1 - self.seeds) / (part**2 - self.seeds) if part**2 > self.seeds else None

    def with_one_seed_more(self, num_seeds: int) -> float:
        """Which part of the half-width would be left.

        >>> round(Sensitivity(0.0, 0.0, 5).with_one_seed_more(2), 2)
        1.0
        >>> round(Sensitivity(1.0, 0.0, 5).with_one_seed_more(2), 2)
        0.82
        """
        fewer = num_seeds / (num_seeds + 1)
        later = round(self.freedom * num_seeds / (num_seeds - 1))
        surer = f_critical(LEVEL, 1, later) / f_critical(LEVEL, 1, self.freedom)
        return sqrt(1 - self.flips - self.seeds + self.flips * fewer + self.seeds * fewer * surer)


def sensitivity(pair: tuple[Side, Side], joint: Pair, freedom: int) -> Sensitivity | None:
    """What the interval of a pair's difference is made of; None where one side does not tell how its seeds scatter.

    Args:
        joint: the same two as `drawn` gives them.
        freedom: of all sides that were drawn together.
    """
    first, second = pair
    if not (first.covers_seeds and second.covers_seeds and freedom):
        return None
    users = [as_drawn(average(list(side.runs.values()))) for side in pair]
    difference_D = users[0].value_D - users[1].value_D
    of_users = _half_width(users[0], users[1]) ** 2
    whole = _half_width(*joint) ** 2
    if not 0 < whole < np.inf:
        return None
    flips = sum(map(_flips_of_mean, pair)) / float(np.nanvar(difference_D) or np.inf)
    left = min(1.0, of_users / whole)  # less the main effect
    return Sensitivity(min(1.0, flips) * left, 1 - left, freedom)


def _half_width(first: Bootstrap, second: Bootstrap) -> float:
    value = value_of(first) - value_of(second)
    return value - interval(value, first.value_D - second.value_D)[0]


def _flips_of_mean(side: Side) -> float:
    """The variance over draws of users that flips give to the mean over a side's seeds."""
    if not side.has_seeds:
        return 0.0
    away_SD: Float64[np.ndarray, "S D"] = np.array(
        [run.value_D - value_of(run) for run in side.runs.values()]
    )
    return float(np.nanmean(away_SD.var(axis=0, ddof=1))) / len(away_SD)
