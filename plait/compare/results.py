"""What a comparison found, as plain data: a row per layout and seed, a summary per layout, the setting.

Where a study varies more than the layout, `layout` is the name of a variant.

Shape letters: D draws, V validations of a run.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Literal, assert_never

import msgspec
import numpy as np

from plait.compare.regret import Regret, regrets
from plait.compare.sensitivity import Sensitivity, sensitivity
from plait.compare.significance import LEVEL, Pair, Side, as_drawn, drawn, scattering_apart, tell_apart
from plait.evaluation.beyond_accuracy import BeyondAccuracy
from plait.evaluation.counts_effect import CountsEffect, CountsInTime
from plait.evaluation.provenance import Provenance
from plait.metrics.intervals import (
    Bootstrap,
    Difference,
    Estimate,
    average,
    bootstrap,
    check_same_draws,
    paired_difference,
)
from plait.metrics.statistic import Statistic
from plait.metrics.table import Task, task_of

Request = Literal["score 1", "score 100", "score 1000", "retrieve", "append"]  # numbers: of candidates
STEADY = 1.3  # times the shortest epoch, the longest where nothing else ran on the machine


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one training run cost; of a summary, the mean over its seeds."""

    train_flops: float
    train_tokens: float
    wall_s: float  # everything: training, validation, test, writing
    train_wall_s: float  # optimiser steps only
    train_cpu_s: float | None  # of all threads during the steps; None where a run did not record it
    epochs: float
    best_epoch: float
    peak_memory_mb: float | None  # main memory of the process during the run; None where nothing tells it
    tokens_per_event: float
    num_parameters: float

    @property
    def tokens_per_s(self) -> float:
        return self.train_tokens / self.train_wall_s

    @property
    def epoch_flops(self) -> float:
        """Training FLOPs of an epoch: given by layout, trunk and data, whenever a run stops."""
        return self.train_flops / self.epochs if self.epochs else self.train_flops


class EpochTimes(msgspec.Struct, frozen=True):
    """Training seconds per epoch, without validation, over the epochs of all seeds."""

    median_s: float
    low_s: float
    high_s: float

    @property
    def scatter(self) -> bool:
        """Whether they differ by more than an epoch's work does."""
        return self.high_s > STEADY * self.low_s


class Point(msgspec.Struct, frozen=True):
    """One validation during training."""

    epoch: float
    train_wall_s: float
    train_flops: float
    validation: dict[str, float]  # by metric; a metric that the layout does not give is left out


class Chosen(msgspec.Struct, frozen=True):
    """The checkpoint of a run that is measured."""

    by: str  # of validation
    epoch: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One layout trained with one seed."""

    layout: str
    seed: int
    metrics: dict[str, Estimate]  # a metric that the layout does not give is left out
    regret: dict[str, Regret] = {}  # of those metrics that have a limit, on data whose truth is known
    cost: Cost | None  # None where the run failed
    curve: tuple[Point, ...] = ()
    chosen: dict[Task, Chosen] = {}  # by what is measured; empty where that was not recorded
    status: Literal["finished", "capped", "failed"] = "finished"
    note: str = ""  # why it was capped or failed
    protocol: str  # in one line, with the seed
    provenance: Provenance  # of this run: a comparison that was taken up again may hold runs of several

    def __post_init__(self) -> None:
        if self.status != "failed" and self.cost is None:
            raise ValueError(f"Row {self.layout!r} seed {self.seed}: {self.status}, but without a cost")

    def rule_of(self, metric: str) -> str:
        """By what the checkpoint was chosen that a metric is measured on; "" where that was not recorded."""
        chosen = self.chosen.get(task_of(metric))
        return chosen.by if chosen else ""


class Contrast(msgspec.Struct, frozen=True):
    """A layout's metric minus another layout's, each averaged over its seeds, on the same users.

    Intervals and p cover users and, where both layouts tell how far another seed would have come out, seeds.
    """

    other: str
    difference: Difference  # told alone
    p_adjusted: float  # for all layouts compared in this metric; against the best, for choosing it, too
    low: float  # simultaneous 95 % interval: of all that p_adjusted is for, and in agreement with it
    high: float
    covers_seeds: bool
    chosen_alike: bool = True  # the epochs of both by one rule
    sensitivity: Sensitivity | None = (
        None  # to the best; None where seeds are not covered, or nothing scatters
    )

    @property
    def half_width(self) -> float:
        """Of the simultaneous interval: a smaller difference is not told."""
        return (self.high - self.low) / 2

    @property
    def is_significant(self) -> bool:
        """Never where seeds are not covered: one run may have been a lucky one. Nor where the epochs were chosen by
        different rules: that may be the difference."""
        return self.covers_seeds and self.chosen_alike and self.p_adjusted < LEVEL


class Deployed(msgspec.Struct, frozen=True):
    """What the deployed checkpoint of the same runs gives, where another is measured."""

    estimate: Estimate
    difference: Difference  # from the one that is measured, on the same users and seeds


class MetricSummary(msgspec.Struct, frozen=True):
    """One metric of one layout over its seeds."""

    estimate: Estimate  # of the mean over seeds; its interval covers the users, not the seeds
    spread: float | None  # standard deviation over seeds; None with one seed
    vs_reference: Contrast | None  # None: it is the reference, or one of the two lacks the metric
    vs_best: Contrast | None  # None: it is the best
    regret: Regret | None = None  # over users and seeds; None: there is no limit, or one is not defined
    deployed: Deployed | None = None  # None: it is the one that is measured
    scatters_apart: bool = False  # its seeds scatter more than those of the others: they alone tell how far


class Summary(msgspec.Struct, frozen=True):
    """One layout over its seeds, failed runs left out."""

    layout: str
    num_seeds: int
    metrics: dict[str, MetricSummary]
    cost: Cost
    epoch_times: EpochTimes


class CountedRow(msgspec.Struct, frozen=True):
    """One baseline."""

    name: str
    settings: str  # that the validation chose, in words; "" where there was nothing to choose
    metrics: dict[str, Estimate]
    vs_best: dict[str, Contrast]  # of baselines; a metric in which it is the best is left out


class Floor(msgspec.Struct, frozen=True):
    """All baselines under a comparison."""

    rows: tuple[CountedRow, ...]
    layouts: dict[str, dict[str, Contrast]]  # by metric and layout: the layout minus the best baseline
    left_out: dict[str, str]  # baselines by name, and why they were not asked
    note: str
    wall_s: float

    def best(self, metric: str) -> CountedRow | None:
        """The best baseline; None where none has the metric, or it is not defined."""
        rows = [row for row in self.rows if metric in row.metrics and row.metrics[metric].value is not None]
        return next((row for row in rows if metric not in row.vs_best), None)


class Beyond(msgspec.Struct, frozen=True):
    """What a layout or a baseline shows besides its means over all answers."""

    name: str
    is_baseline: bool
    found: BeyondAccuracy  # in the mean over seeds


class Ability(msgspec.Struct, frozen=True):
    """Whether a layout can do a task, and in which way."""

    verdict: Literal["yes", "early", "late", "no"]
    why: str = ""  # why not

    def __bool__(self) -> bool:
        return self.verdict != "no"


class LayoutCard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a layout before it is trained."""

    name: str
    notation: str
    retrieves: Ability
    scores: Ability
    audit: dict[str, str]  # "P1 information", "P2 action given item", "P3 no leak": in words
    tokens: tuple[str, ...]  # labels of the drawn tokens
    predicts: tuple[str, ...] = ()  # by token of the history; empty where it is not recorded
    mask: tuple[str, ...]  # by token, "1" where it sees the token of that column, else "0"
    drawing: str  # the same as text
    leaks: tuple[str, ...] = ()  # not empty: it reads its own answers, and is studied for that
    targets_per_epoch: dict[str, int] = {}  # of how many events the first epoch supervises "items", "actions"

    def __post_init__(self) -> None:
        lengths = [len(self.mask), *map(len, self.mask)]
        if set(lengths) != {len(self.tokens)} or set("".join(self.mask)) - {"0", "1"}:
            raise ValueError(
                f"LayoutCard {self.name!r}: mask {self.mask}, "
                f"expected a square of 0 and 1 over {len(self.tokens)} tokens"
            )

    def answers(self, request: Request) -> Ability:
        """Whether the layout can answer it."""
        match request:
            case "score 1" | "score 100" | "score 1000":
                return self.scores
            case "retrieve":
                return self.retrieves
            case "append":
                return Ability("yes")
            case _:
                assert_never(request)


class DatasetFacts(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    num_users: int
    num_items: int
    num_events: int
    tie_share: float  # events that share their user's timestamp with another event
    missed_share: float | None = (
        None  # test answers that a filter of seen items makes certain misses; None: not told
    )
    note: str = ""


class Example(msgspec.Struct, frozen=True):
    """A user: the last items with their actions, and what layouts would recommend next, best first."""

    user: str
    history: tuple[str, ...]
    recommended: dict[str, tuple[str, ...]]  # by layout


class ServingCost(msgspec.Struct, frozen=True):
    """What requests of one user take a layout's model."""

    layout: str
    median_s: dict[Request, float]
    why_not: dict[Request, str] = {}  # of requests that the layout can answer, and this user's could not be


class Serving(msgspec.Struct, frozen=True):
    """What serving takes the layouts whose models were kept."""

    costs: tuple[ServingCost, ...]
    num_events: int  # of the user
    k: int  # items retrieved, or as many as there are
    wall_s: float  # of the measuring


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a report shows."""

    title: str = "Layouts compared"
    dataset: DatasetFacts
    retrieval: tuple[str, ...]  # metrics to show, in this order
    scoring: tuple[str, ...]
    charted: tuple[str, ...]  # those of them that are drawn
    oracle: dict[str, Estimate] = {}  # the best that anyone could expect, on data whose truth is known
    floor: Floor | None = None  # what counting reaches on the same users; None where it was not asked
    counts: dict[str, tuple[CountsEffect, ...]] = {}  # by layout that has them: what they do to its metrics
    without_counts: tuple[Summary, ...] = ()  # of the same layouts, by their models alone
    counts_in_time: dict[str, CountsInTime] = {}  # by layout that has them, where the data is cut in time
    beyond_accuracy: tuple[Beyond, ...] = ()  # empty in comparisons of before it was measured
    serving: Serving | None = (
        None  # None in comparisons of before it was measured, or where no model was kept
    )
    reference: str  # the layout that costs and differences are measured against
    layouts: tuple[LayoutCard, ...]  # in the order to show them
    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    examples: tuple[Example, ...] = ()  # of real users
    protocol: str
    cap: str
    command: str
    machine: str  # this and the following: of the call that wrote the comparison; each row has its run's own
    commit: str
    date: str
    version: str

    def __post_init__(self) -> None:
        names = [card.name for card in self.layouts]
        for what, found in (
            ("reference", [self.reference]),
            ("rows", [row.layout for row in self.rows]),
            ("summaries", [summary.layout for summary in self.summaries]),
        ):
            _check_known(what, found, names)
        _check_known("charted", self.charted, [*self.retrieval, *self.scoring])

    def summary_of(self, layout: str) -> Summary | None:
        return next((summary for summary in self.summaries if summary.layout == layout), None)


def _check_known(what: str, found: Iterable[str], known: Sequence[str]) -> None:
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise ValueError(f"Comparison.{what}: {', '.join(unknown)} not among {', '.join(known)}")


def summarise(
    rows: Sequence[Row],
    statistics: Mapping[tuple[str, int], Mapping[str, Statistic]],
    reference: str,
    min_draws: int = 1000,
    seed: int = 0,
    limits: Mapping[int, Mapping[str, Statistic]] | None = None,
    deployed: Mapping[tuple[str, int], Mapping[str, Statistic]] | None = None,
) -> tuple[Summary, ...]:
    """One summary per layout that has a finished run, in the rows' order.

    Every metric is averaged over a layout's seeds and resampled by user, with the same draws for all layouts,
    so that the differences are paired. Differences to the reference are told together, and so are those between any
    two, of which those to the best are shown: it was chosen from the same data (see `plait.compare.significance`).

    Args:
        statistics: by (layout, seed), the metrics of that run on the test users.
        reference: the layout that the others are compared with, besides the best.
        min_draws: of the bootstrap; many layouts take more, or no difference could outlast the correction.
        limits: by seed, the oracle's metrics; see `plait.compare.regret`.
        deployed: by (layout, seed), what the deployed checkpoint gives in metrics that are measured on another.

    Raises:
        ValueError: two layouts were evaluated on different users, or a finished row has no statistics.
    """
    finished = [row for row in rows if row.status != "failed"]
    missing = [
        f"{row.layout} seed {row.seed}" for row in finished if (row.layout, row.seed) not in statistics
    ]
    if missing:
        raise ValueError(f"summarise: no statistics of {', '.join(missing)}")
    by_layout = {row.layout: [other for other in finished if other.layout == row.layout] for row in finished}
    num_draws = max(min_draws, round(4 * len(by_layout) / LEVEL))  # the least corrected p is half of LEVEL
    names = dict.fromkeys(name for row in finished for name in statistics[row.layout, row.seed])
    columns = {
        name: _column(
            {
                layout: {row.seed: statistics[layout, row.seed].get(name) for row in its}
                for layout, its in by_layout.items()
            },
            reference,
            lambda statistic: bootstrap(statistic, num_draws, seed),
            [limit[name] for limit in (limits or {}).values() if name in limit],
            name,
        )
        for name in names
    }
    for name, column in columns.items():
        rules = {layout: {row.rule_of(name) for row in its} for layout, its in by_layout.items()}
        both = {
            layout: [
                (its[name], statistics[run][name])
                for run, its in (deployed or {}).items()
                if run[0] == layout and name in its and name in statistics[run]
            ]
            for layout in column
        }
        columns[name] = _with_deployed(
            _marked(column, rules), both, lambda statistic: bootstrap(statistic, num_draws, seed)
        )
    return tuple(
        Summary(
            layout,
            len(its),
            {name: column[layout] for name, column in columns.items() if layout in column},
            _mean_cost([row.cost for row in its if row.cost is not None]),
            _epoch_times(its),
        )
        for layout, its in by_layout.items()
    )


def _column(
    runs: Mapping[str, Mapping[int, Statistic | None]],
    reference: str,
    resample: Callable[[Statistic], Bootstrap],
    limits: Sequence[Statistic],
    metric: str,
) -> dict[str, MetricSummary]:
    """One metric of every layout that gives it with all of its seeds."""
    seeds = {
        layout: {seed: resample(statistic) for seed, statistic in its.items() if statistic is not None}
        for layout, its in runs.items()
        if None not in its.values()
    }
    means = {layout: average(list(boots.values())) for layout, boots in seeds.items()}
    defined = {layout: mean.value for layout, mean in means.items() if mean.value is not None}
    best = None
    if defined:
        choose = max if next(iter(means.values())).better == "higher" else min
        best = choose(defined, key=defined.__getitem__)
    sides = {layout: Side(seeds[layout]) for layout in defined}
    joint, apart = drawn(sides), scattering_apart(sides)
    against_reference = against(reference, sides, joint)
    chosen_from = list(combinations((mean for layout, mean in joint.items() if layout != best), 2))
    against_best = {
        layout: msgspec.structs.replace(contrast, sensitivity=_sensitivity(layout, contrast.other, sides))
        for layout, contrast in against(best, sides, joint, chosen_from).items()
    }
    limit = {metric: as_drawn(average([resample(statistic) for statistic in limits]))} if limits else {}
    return {
        layout: MetricSummary(
            mean.estimate,
            _spread(list(seeds[layout].values())),
            against_reference.get(layout),
            against_best.get(layout),
            regrets({metric: joint.get(layout, mean)}, limit).get(metric),
            scatters_apart=layout in apart,
        )
        for layout, mean in means.items()
    }


def _marked(column: Mapping[str, MetricSummary], rules: Mapping[str, set[str]]) -> dict[str, MetricSummary]:
    """The column, with what is told of two layouts whose epochs were chosen by different rules marked as such."""

    def marked(layout: str, contrast: Contrast | None) -> Contrast | None:
        if contrast is None or rules[layout] == rules[contrast.other]:
            return contrast
        return msgspec.structs.replace(contrast, chosen_alike=False)

    return {
        layout: msgspec.structs.replace(
            found, vs_reference=marked(layout, found.vs_reference), vs_best=marked(layout, found.vs_best)
        )
        for layout, found in column.items()
    }


def _with_deployed(
    column: Mapping[str, MetricSummary],
    both: Mapping[str, Sequence[tuple[Statistic, Statistic]]],
    resample: Callable[[Statistic], Bootstrap],
) -> dict[str, MetricSummary]:
    """The column, with what the deployed checkpoints give up.

    Args:
        both: by layout, seed after seed, the deployed checkpoint's metric and that of the one that is measured.
    """
    found = dict(column)
    for layout, pairs in both.items():
        if not pairs:
            continue
        deployed, measured = (average([resample(pair[side]) for pair in pairs]) for side in (0, 1))
        if deployed.value is not None and measured.value is not None:
            its = Deployed(deployed.estimate, paired_difference(deployed, measured))
            found[layout] = msgspec.structs.replace(found[layout], deployed=its)
    return found


def against(
    other: str | None, sides: Mapping[str, Side], joint: Mapping[str, Bootstrap], beside: Sequence[Pair] = ()
) -> dict[str, Contrast]:
    """Every layout against `other`, where both have the metric; told together with the pairs `beside` them.

    Of layouts that are alike one is always ahead, and the more there are the further: what is told of the best of them
    is told beside all other pairs.
    """
    if other is None or other not in joint:
        return {}
    layouts = [layout for layout in joint if layout != other]
    for layout in layouts:
        check_same_draws(f"{layout} against {other}: summarise", joint[layout], joint[other])
    told = tell_apart([(joint[layout], joint[other]) for layout in layouts], beside)
    return {
        layout: Contrast(
            other,
            its.alone,
            its.together.p,
            its.together.low,
            its.together.high,
            sides[layout].covers_seeds and sides[other].covers_seeds,
        )
        for layout, its in zip(layouts, told, strict=True)
    }


def _sensitivity(layout: str, other: str, sides: Mapping[str, Side]) -> Sensitivity | None:
    return sensitivity((sides[layout], sides[other]), list(sides.values()))


def _spread(runs: Sequence[Bootstrap]) -> float | None:
    values = [run.value for run in runs if run.value is not None]
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    def mean(name: str) -> float | None:
        known = [getattr(cost, name) for cost in costs]
        return None if None in known else float(np.mean(known))

    return Cost(**{name: mean(name) for name in Cost.__struct_fields__})  # type: ignore[arg-type]


def _epoch_times(rows: Sequence[Row]) -> EpochTimes:
    epoch_s = [seconds for row in rows for seconds in _seconds_per_epoch(row)]
    return EpochTimes(float(np.median(epoch_s)), min(epoch_s), max(epoch_s))


def _seconds_per_epoch(row: Row) -> list[float]:
    """Between one validation and the next; of the whole run where it has none."""
    assert row.cost is not None, "a finished run has a cost"
    points = row.curve or (Point(row.cost.epochs, row.cost.train_wall_s, row.cost.train_flops, {}),)
    epoch_V, wall_s_V = (
        np.diff([0.0, *(getattr(p, name) for p in points)]) for name in ("epoch", "train_wall_s")
    )
    return [float(wall_s / epochs) for epochs, wall_s in zip(epoch_V, wall_s_V, strict=True) if epochs]
