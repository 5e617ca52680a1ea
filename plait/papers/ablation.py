"""What one change to a model is worth: its metrics against those of the same model without it, in pairs.

Papers of ablations print differences to a baseline, and so does this: in % of the baseline's metric, or as it is (of
AUC), with the interval of the difference on the same users. The page of each comparison shows the metrics themselves.

Shape letter: D draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar, assert_never

import msgspec
import numpy as np
from jaxtyping import Float64

from plait.compare.comparing import DRAWS, Compared, compare_variants
from plait.compare.notes import origins
from plait.compare.significance import Side, drawn, interval, value_of
from plait.compare.variants import Variant
from plait.compare.words import number
from plait.data import Dataset
from plait.metrics.intervals import check_same_draws
from plait.metrics.statistic import Statistic, mean_parts
from plait.metrics.table import metric_of
from plait.papers.claims import Claim, judge, sides_of
from plait.papers.logs import StudyLog
from plait.papers.study import Figure, Finding, Place, failures, shrunk, words_of, words_of_epochs
from plait.training.batches import targets_per_epoch

Unit = Literal["%", "AUC"]
GAIN = "auc:gain"  # the metric of claims about gains: they are held apart in the first column
Measured = TypeVar("Measured", float, np.ndarray)


@dataclass(frozen=True)
class AblationColumn:
    """A metric, or the mean of several, and what the paper measured there."""

    metrics: tuple[str, ...]
    paper: str = ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A variant, the one that it changes in one thing, and what the paper says that this is worth, by column."""

    variant: str
    baseline: str
    paper: tuple[float | None, ...] = ()  # () where it gives no figures


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What a variant brings over another one in a column, as something that claims hold against other gains.

    The two are trained under the same seeds and asked about the same users, so gains are paired by both.
    """

    variant: str
    baseline: str
    times: float = 1.0  # a claim of "more than twice" is held against twice the gain


@dataclass(frozen=True)
class Arm:
    """Variants of one log."""

    log: StudyLog
    variants: tuple[Variant, ...]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Variants, each held against another one.

    Where a change is to what the log tells, its variants have a log of their own, of the same users and events.
    Runs and page of each log lie in OUT/NAME/PART/LOG/.
    """

    name: str
    arms: tuple[Arm, ...]
    columns: Mapping[str, AblationColumn]  # by the name under which claims know it
    changes: tuple[Change, ...]
    claims: tuple[Claim, ...]
    gains: Mapping[str, Gain] = field(default_factory=dict)  # by the name under which claims know it
    num_seeds: int = 2
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [variant.name for arm in self.arms for variant in arm.variants]
        assert len(set(names)) == len(names), f"{self.name}: {names}"
        named = {side for change in self.changes for side in (change.variant, change.baseline)}
        named |= {side for gain in self.gains.values() for side in (gain.variant, gain.baseline)}
        assert named <= set(names), f"{self.name}: {named - set(names)}"
        for claim in self.claims:
            is_of_gains = claim.metric == GAIN
            known = self.gains.keys() if is_of_gains else set(names)
            assert {claim.first, claim.second} <= known, f"{self.name}: {claim}"
            assert is_of_gains or claim.metric in self.columns, f"{self.name}: {claim}"
        assert all(len(change.paper) in (0, len(self.columns)) for change in self.changes), self.name
        assert not self.gains or self.unit == "AUC", f"{self.name}: gains are differences of AUC"

    @property
    def unit(self) -> Unit:
        """The unit of its differences: all of its columns are of metrics that are held apart in one way."""
        columns = self.columns.values()
        [distance] = {metric_of(metric).distance for column in columns for metric in column.metrics}
        match distance:
            case "points":
                return "AUC"
            case "share":
                return "%"
            case _:
                assert_never(distance)

    @property
    def logs(self) -> tuple[StudyLog, ...]:
        return tuple(arm.log for arm in self.arms)

    def quick(self) -> "Ablation":
        arms = tuple(
            Arm(arm.log.quick(), tuple(Variant(v.name, shrunk(v.settings)) for v in arm.variants))
            for arm in self.arms
        )
        return replace(self, arms=arms, num_seeds=1)

    def run(self, study: str, place: Place) -> Finding:
        datasets = [arm.log.open(place.logs, place.data) for arm in self.arms]
        folder = place.folder_of(study, self.name)
        compared = [
            compare_variants(
                dataset,
                arm.variants,
                self.num_seeds,
                folder / arm.log.name,
                command=place.command,
                title=f"{study}, {self.name}, {arm.log.name}",
                report=place.report,
                device=place.device,
                watch=place.watch,
            )
            for arm, dataset in zip(self.arms, datasets, strict=True)
        ]
        page = folder / self.arms[0].log.name / "report.html"
        return self._finding(datasets, compared, str(page.relative_to(place.out)))

    def _finding(self, datasets: Sequence[Dataset], compared: Sequence[Compared], page: str) -> Finding:
        comparisons = [found.comparison for found in compared]
        statistics = {
            run: column_statistics(its, self.columns)
            for found in compared
            for run, its in found.statistics.items()
        }
        rows = [row for comparison in comparisons for row in comparison.rows]
        protocols = dict.fromkeys(comparison.protocol for comparison in comparisons)
        return Finding(
            part=self.name,
            data=" || ".join(map(words_of, datasets)),
            protocol=" || ".join(protocols),
            metrics={f"{name}, {self.unit}": column.paper for name, column in self.columns.items()},
            figures=tuple(self._figures(statistics)),
            verdicts=judge(self.claims, statistics | self.gains_of(statistics)),
            notes=(
                *self._words_of_baselines(statistics),
                words_of_epochs(rows),
                self._words_of_targets(datasets),
                *self.notes,
            ),
            failed=failures(rows),
            page=page,
            wall_s=sum(row.cost.wall_s for row in rows if row.cost),
            origins=origins(rows),
        )

    def _figures(self, statistics: Mapping[tuple[str, int], Mapping[str, Statistic]]) -> list[Figure]:
        sides = {column: sides_of(statistics, column, DRAWS) for column in self.columns}
        return [
            difference_figure(
                sides[name],
                change,
                self.unit,
                Figure(
                    variant=f"{change.variant} \N{MINUS SIGN} {change.baseline}",
                    metric=f"{name}, {self.unit}",
                    paper=change.paper[at] if change.paper else None,
                ),
            )
            for change in self.changes
            for at, name in enumerate(self.columns)
        ]

    def gains_of(
        self, statistics: Mapping[tuple[str, int], Mapping[str, Statistic]]
    ) -> dict[tuple[str, int], dict[str, Statistic]]:
        """Each gain of each seed, in the first column, where both of its sides finished."""
        column = next(iter(self.columns))
        seeds = dict.fromkeys(seed for _, seed in statistics)
        return {
            (name, seed): {
                GAIN: gain_of(statistics[variant][column], statistics[baseline][column], gain.times)
            }
            for name, gain in self.gains.items()
            for seed in seeds
            for variant, baseline in [((gain.variant, seed), (gain.baseline, seed))]
            if column in statistics.get(variant, {}) and column in statistics.get(baseline, {})
        }

    def _words_of_baselines(self, statistics: Mapping[tuple[str, int], Mapping[str, Statistic]]) -> list[str]:
        """What the differences are to: the mean over seeds."""
        lines = []
        for baseline in dict.fromkeys(change.baseline for change in self.changes):
            runs = [its for (name, _), its in statistics.items() if name == baseline]
            values = {column: [its[column].value for its in runs if column in its] for column in self.columns}
            known = {column: [v for v in its if v is not None] for column, its in values.items()}
            words = (f"{column} {number(float(np.mean(its)))}" for column, its in known.items() if its)
            lines.append(f"{baseline}: {', '.join(words)}.")
        return lines

    def _words_of_targets(self, datasets: Sequence[Dataset]) -> str:
        """How much supervision each variant gets: two that differ in it differ in more than their name says."""
        by_count: dict[int, list[str]] = {}
        for arm, dataset in zip(self.arms, datasets, strict=True):
            for variant in arm.variants:
                by_count.setdefault(supervised_actions(dataset, variant), []).append(variant.name)
        words = (f"{count:,} ({', '.join(names)})" for count, names in by_count.items())
        return f"Supervised events in the first epoch: {'; '.join(words)}."


def column_statistics(
    found: Mapping[str, Statistic], columns: Mapping[str, AblationColumn]
) -> dict[str, Statistic]:
    """The columns of a run that gives all of their metrics."""
    return {
        name: mean_of([found[metric] for metric in column.metrics])
        for name, column in columns.items()
        if all(metric in found for metric in column.metrics)
    }


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of several metrics of the same users; not defined where one of them is not.

    Raises:
        ValueError: they are of different users.

    >>> from plait.metrics.statistic import mean_over_users
    >>> hits = [mean_over_users(np.arange(2), np.array(value_U)) for value_U in ([0.0, 1.0], [1.0, 1.0])]
    >>> mean_of(hits).value
    0.75
    """
    first = statistics[0]
    if not all(np.array_equal(each.user_U, first.user_U) for each in statistics):
        raise ValueError(
            "a mean of metrics that rest on different users: give every event all of the actions"
        )

    def under(weight_DU: Float64[np.ndarray, "D U"]) -> Float64[np.ndarray, " D"]:
        return np.mean([each.under(weight_DU) for each in statistics], axis=0)

    num_users = min(each.num_users for each in statistics)
    return Statistic(
        first.user_U,
        under,
        first.better,
        num_users,
        lambda: mean_parts([each.parts() for each in statistics]),
    )


def gain_of(variant: Statistic, baseline: Statistic, times: float = 1.0) -> Statistic:
    """So many times what a variant has above its baseline, on the same users; not defined where one of them is not.

    Raises:
        ValueError: they are of different users.

    >>> from plait.metrics.statistic import mean_over_users
    >>> new, old = (mean_over_users(np.arange(2), np.array(value_U)) for value_U in ([1.0, 0.5], [0.5, 0.5]))
    >>> gain_of(new, old, times=2.0).value
    0.5
    """
    if not np.array_equal(variant.user_U, baseline.user_U):
        raise ValueError("a gain of a variant over another one that was asked about different users")

    def under(weight_DU: Float64[np.ndarray, "D U"]) -> Float64[np.ndarray, " D"]:
        return times * (variant.under(weight_DU) - baseline.under(weight_DU))

    return Statistic(variant.user_U, under, variant.better, min(variant.num_users, baseline.num_users))


def difference_figure(sides: Mapping[str, Side], change: Change, unit: Unit, figure: Figure) -> Figure:
    """The figure, with the difference of two variants' means over seeds where both are measured.

    Its interval covers users and seeds; the spread is that of the difference between two runs of one seed.

    Args:
        sides: every variant's runs in this metric, as `sides_of` gives them: the seeds of all tell how seeds scatter.

    Raises:
        ValueError: the two were evaluated on different users.
    """
    if not {change.variant, change.baseline} <= sides.keys():
        return figure
    variant, baseline = (sides[name].runs for name in (change.variant, change.baseline))
    seeds = variant.keys() & baseline.keys()
    by_seed = [_difference(value_of(variant[seed]), value_of(baseline[seed]), unit) for seed in seeds]
    joint = drawn(sides)
    a, b = joint[change.variant], joint[change.baseline]
    check_same_draws(figure.variant, a, b)
    value = _difference(value_of(a), value_of(b), unit)
    low, high = interval(value, _difference(a.value_D, b.value_D, unit))
    return msgspec.structs.replace(
        figure,
        value=value,
        low=low,
        high=high,
        spread=float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
    )


def _difference(variant: Measured, baseline: Measured, unit: Unit) -> Measured:
    """In the unit of the paper's tables; of values, and draw by draw."""
    match unit:
        case "AUC":
            return variant - baseline
        case "%":
            return 100 * (variant / baseline - 1)
        case _:
            assert_never(unit)


def supervised_actions(dataset: Dataset, variant: Variant) -> int:
    """How many events' actions the first epoch supervises."""
    its = variant.settings
    plan = its.protocol.plan(variant.layout, its.model)
    return targets_per_epoch(dataset, plan, its.optim.users_per_step, its.protocol).get("a", 0)
