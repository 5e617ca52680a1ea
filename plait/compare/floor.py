"""What counting reaches, under layouts that were compared: does a model pay here?

Baselines are told apart among themselves, and each layout from the best of them. They have no seeds: nothing of them is
drawn, and they are in no pool of what seeds do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from plait.compare.results import Contrast, CountedRow, Floor, against
from plait.compare.significance import LEVEL, Side, drawn, value_of
from plait.evaluation.counting import Baselines
from plait.metrics.intervals import Bootstrap, bootstrap
from plait.metrics.statistic import Statistic
from plait.schema import check_unique


def floor_of(
    baselines: Baselines,
    counted: Mapping[str, Mapping[str, Statistic]],
    statistics: Mapping[tuple[str, int], Mapping[str, Statistic]],
    min_draws: int = 1000,
) -> Floor:
    """Holds layouts against baselines, metric by metric, over the same draws of users.

    Args:
        counted: by name, the baselines' metrics on the test users.
        statistics: by (layout, seed), the metrics of that run on the test users.
        min_draws: of the bootstrap; many contenders take more, or no difference could outlast the correction.

    Raises:
        ValueError: a layout has a baseline's name, or was evaluated on other users.
    """
    layouts = list(dict.fromkeys(layout for layout, _ in statistics))
    check_unique([*counted, *layouts], "contenders")
    num_draws = max(min_draws, round(4 * (len(counted) + len(layouts)) / LEVEL))

    def resample(statistic: Statistic) -> Bootstrap:
        return bootstrap(statistic, num_draws)

    columns = {
        metric: _Column(
            {name: resample(its[metric]) for name, its in counted.items() if metric in its},
            _layouts_with(metric, statistics, layouts, resample),
        )
        for metric in dict.fromkeys(metric for its in counted.values() for metric in its)
    }
    found = {metric: column.contrasts() for metric, column in columns.items()}
    return Floor(
        tuple(
            CountedRow(
                its.name,
                its.settings,
                {
                    m: column.counted[its.name].estimate
                    for m, column in columns.items()
                    if its.name in column.counted
                },
                {m: vs_best[its.name] for m, (vs_best, _) in found.items() if its.name in vs_best},
            )
            for its in baselines.counted
        ),
        {metric: of_layouts for metric, (_, of_layouts) in found.items() if of_layouts},
        baselines.left_out,
        baselines.note,
        baselines.wall_s,
    )


def _layouts_with(
    metric: str,
    statistics: Mapping[tuple[str, int], Mapping[str, Statistic]],
    layouts: Sequence[str],
    resample: Callable[[Statistic], Bootstrap],
) -> dict[str, Side]:
    """The layouts that have a metric with all of their seeds."""
    found = {}
    for layout in layouts:
        runs = {seed: its.get(metric) for (name, seed), its in statistics.items() if name == layout}
        resampled = {seed: resample(of) for seed, of in runs.items() if of is not None}
        if len(resampled) == len(runs) and all(run.value is not None for run in resampled.values()):
            found[layout] = Side(resampled)
    return found


@dataclass(frozen=True)
class _Column:
    """One metric of everything that has it."""

    counted: Mapping[str, Bootstrap]
    layouts: Mapping[str, Side]

    def contrasts(self) -> tuple[dict[str, Contrast], dict[str, Contrast]]:
        """Of baselines to the best of them, and of layouts to it. It was chosen from the same data: what is told of it
        is told beside all other pairs of baselines."""
        defined = {name: of for name, of in self.counted.items() if of.value is not None}
        if not defined:
            return {}, {}
        choose = max if next(iter(defined.values())).better == "higher" else min
        best = choose(defined, key=lambda name: value_of(defined[name]))
        sides = {name: Side({0: of}, has_seeds=False) for name, of in defined.items()} | dict(self.layouts)
        joint = drawn(sides)
        beside = list(combinations([joint[name] for name in defined if name != best], 2))
        among = against(best, sides, {name: joint[name] for name in defined}, beside)
        beside += [(joint[name], joint[best]) for name in defined if name != best]
        return among, against(best, sides, {name: joint[name] for name in (*self.layouts, best)}, beside)
