"""Whether counts help: the same runs with counts and without, on the same users; and what they do to
questions of each age."""

from collections.abc import Mapping, Sequence

import msgspec

from plait.metrics.intervals import Difference, average, bootstrap, paired_difference
from plait.metrics.statistic import Statistic

Metrics = Mapping[str, Statistic]


class CountsEffect(msgspec.Struct, frozen=True):
    """A metric with counts and without, in the mean over seeds."""

    metric: str
    with_counts: float
    without: float
    difference: Difference  # of the same runs; how other seeds would have come out is not in its interval

    def __str__(self) -> str:
        """
        >>> print(CountsEffect("ndcg@10", 0.12, 0.1, Difference(0.02, 0.01, 0.03, 0.002)))
        ndcg@10 0.1200 with counts, 0.1000 without: +0.0200 (0.0100 to 0.0300), p = 0.002
        """
        its = self.difference
        return (
            f"{self.metric} {self.with_counts:.4f} with counts, {self.without:.4f} without: {its.value:+.4f} "
            f"({its.low:.4f} to {its.high:.4f}), p = {its.p:.2g}"
        )


def effects(
    with_counts: Sequence[Metrics], without: Sequence[Metrics], metrics: Sequence[str], num_draws: int = 1000
) -> tuple[CountsEffect, ...]:
    """What counts do to each metric that is defined.

    Args:
        with_counts, without: of the same runs in the same order, by seed.
    """
    found = []
    for metric in metrics:
        sides = [
            [bootstrap(run[metric], num_draws) for run in runs if metric in run]
            for runs in (with_counts, without)
        ]
        if any(len(side) < len(with_counts) or not side for side in sides):
            continue
        both, alone = map(average, sides)
        if both.value is not None and alone.value is not None:
            found.append(CountsEffect(metric, both.value, alone.value, paired_difference(both, alone)))
    return tuple(found)


class AgeEffects(msgspec.Struct, frozen=True):
    """What counts do to the questions that were asked so long after the last row that is counted."""

    least_days: float
    most_days: float
    num_answers: int
    effects: tuple[CountsEffect, ...]

    @property
    def heading(self) -> str:
        """
        >>> AgeEffects(0.0, 2.5, 100, ()).heading
        'after 0 to 2.5 days'
        """
        return f"after {self.least_days:.3g} to {self.most_days:.3g} days"


class CountsInTime(msgspec.Struct, frozen=True):
    """What counts do where the data is cut in time: tables of training rows are older than what is asked."""

    until_test: tuple[CountsEffect, ...]  # with counts of the validation's rows, too, and without counts
    by_age: tuple[
        AgeEffects, ...
    ]  # with counts of the training rows alone, and without counts; the young first
