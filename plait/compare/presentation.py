"""What a comparison shows: its cells with their marks, rules and notes, the charts to draw, and how to use what was
chosen. What it decides is `plait.compare.verdict`'s.

The terminal and the page show the same; this is where it is decided.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from shlex import quote
from typing import Literal

import msgspec

from plait.compare.charts import (
    Chart,
    Contrasted,
    CostPoint,
    Learning,
    Look,
    Run,
    forest,
    learning_curves,
    quality_against_cost,
)
from plait.compare.regret import Regret
from plait.compare.results import Comparison, Contrast, CountedRow, LayoutCard, MetricSummary, Row, Summary
from plait.compare.significance import LEVEL
from plait.compare.verdict import Verdict, chief_metrics
from plait.compare.words import (
    NOTHING,
    duration,
    metric_label,
    number,
    p_value,
    percent,
    run_folder,
    signed,
    times,
    with_prefix,
)
from plait.evaluation.provenance import Provenance
from plait.metrics.intervals import Estimate
from plait.metrics.statistic import Better
from plait.metrics.table import metric_of, task_of

COST_COLUMNS = (
    "training FLOPs",
    "training time",
    "processor time",
    "epochs (best)",
    "tokens/s",
    "tokens/event",
    "targets/epoch",
    "parameters",
    "peak memory",
)
MANY_TIES = 0.05  # share of the events
ABOUT_ORACLE = (
    "oracle: the best that anyone could expect who knows the simulated world and the whole history. In brackets what a "
    "layout lacks to it, on the same users: for NE, log-loss and RMSE in % of the oracle's, else in points. By chance "
    "it can be negative."
)

Missing = Literal["", "cannot", "not measured", "undefined", "failed"]
KEY = {
    "cannot": "The layout predicts no such thing, so there is nothing to measure.",
    "not measured": "It could be measured, and was not in this comparison.",
    "undefined": "It was asked for, and the test users do not define it: an AUC of events of one class, say.",
    "failed": "No run of the layout finished.",
    NOTHING: "In a table of differences and of runs: there is no value, for one of these reasons.",
    "±": "Half the 95 % interval over users: another choice of users would move the value by about as much. It says "
    "nothing about other seeds; the differences and their p do.",
    "p": "How often chance alone parts any two of the column as far, with other users and other seeds.",
    "early": "The candidate item is read by the model itself, before its actions are predicted.",
    "late": "The candidate item is given at the very end, to the head that predicts its actions.",
    "P1": "Information: whether items and actions are both read and both predicted.",
    "P2": "Action given item: whether an action is predicted for a known item.",
    "P3": "No leak: nothing that is predicted can be read from what the token sees.",
    "tied": "Events that share a time with another event of their user; their order is the log's.",
    "tokens/event": "Positions of the sequence that an event takes.",
    "i2, a2, ix0": "The item and the actions of the third event; the item of the first candidate.",
}


@dataclass(frozen=True)
class Cell:
    """One metric of one layout."""

    value: str
    plus_minus: str = ""
    place: Literal["best", "second", "other"] = "other"
    against_best: str = ""  # in words
    marks: str = ""  # * differs from the best, ‡ measured though the layout lacks the ability
    regret: str = ""  # to the oracle; "" where nobody knows it
    regret_interval: str = ""
    missing: Missing = ""  # why there is no value


@dataclass(frozen=True)
class Line:
    """One layout's line of the table, and its card."""

    card: LayoutCard
    look: Look
    marks: str  # † a run was stopped by the cap, ‼ it reads its own answers
    cells: dict[str, Cell]
    cost: tuple[tuple[str, str], ...]  # by COST_COLUMNS, with a remark; empty where no run finished
    failures: str = ""  # which runs failed, and why


@dataclass(frozen=True)
class Group:
    """Metrics that stand together: those of retrieval, or of an action."""

    title: str
    anchor: str
    metrics: tuple[str, ...]
    chief: str  # of those, what is decided by and drawn

    @property
    def labels(self) -> list[str]:
        return [metric_label(metric) for metric in self.metrics]


@dataclass(frozen=True)
class Use:
    """How to ask the model that was chosen."""

    layout: str
    command: str
    python: str


@dataclass(frozen=True)
class Detail:
    """The numbers behind one column's marks."""

    layout: str
    mean: str
    interval: str
    spread: str
    against_reference: str
    against_best: str


def lines(comparison: Comparison) -> list[Line]:
    """One per layout, in the comparison's order."""
    metrics = (*comparison.retrieval, *comparison.scoring)
    columns = {metric: _column(comparison, metric) for metric in metrics}
    return [
        Line(
            card,
            Look(index),
            _run_marks(comparison, card),
            {
                metric: columns[metric].get(card.name)
                or Cell(NOTHING, missing=_missing(comparison, card, metric))
                for metric in metrics
            },
            _cost_cells(comparison, card.name),
            _failures(comparison, card.name),
        )
        for index, card in enumerate(comparison.layouts)
    ]


def oracle_cells(comparison: Comparison) -> dict[str, Cell]:
    """The oracle's own line, by metric; empty where nobody knows it."""
    if not comparison.oracle:
        return {}
    found = {}
    for metric in (*comparison.retrieval, *comparison.scoring):
        estimate = comparison.oracle.get(metric)
        half = estimate.half_width if estimate else None
        found[metric] = Cell(
            number(estimate.value if estimate else None), "" if half is None else number(half)
        )
    return found


def groups(comparison: Comparison) -> list[Group]:
    """The metrics of retrieval, and those of each action."""
    its = {"Retrieval": list(comparison.retrieval)} if comparison.retrieval else {}
    for metric in comparison.scoring:
        its.setdefault(f"Scoring: {metric.partition(':')[2]}", []).append(metric)
    chiefs = set(chief_metrics(comparison.retrieval, comparison.scoring))
    return [
        Group(title, f"group-{n}", tuple(metrics), next(metric for metric in metrics if metric in chiefs))
        for n, (title, metrics) in enumerate(its.items())
    ]


def use(comparison: Comparison, verdict: Verdict, folder: Path) -> Use | None:
    """The first finished run of the recommended layout, on the command line and in Python; None where none is.

    Args:
        folder: of the comparison, as its reader calls it.
    """
    chosen = verdict.recommended
    if chosen is None:
        return None
    seed = min(row.seed for row in comparison.rows if row.layout == chosen.name and row.status != "failed")
    run = folder / run_folder(chosen.name, seed)
    card = next(card for card in comparison.layouts if card.name == chosen.name)
    verb = "recommend" if card.retrieves else "score"
    more = "-k 10" if card.retrieves else "--items A,B,C"
    return Use(
        chosen.name,
        f"plait {verb} {quote(str(run))} --user USER {more}",
        f"model = plait.Recommender.from_pretrained({str(run / 'model')!r})",
    )


def warnings(comparison: Comparison) -> list[str]:
    """What about the data a reader should know before the numbers."""
    data, found = comparison.dataset, []
    if data.tie_share > MANY_TIES:
        found.append(
            f"{data.tie_share:.1%} of the events share a time with another event of their user. Their order is the "
            "log's, and what is asked next may depend on it.".replace("%", " %", 1)
        )
    return found


def rules(comparison: Comparison) -> list[str]:
    """How to read numbers and marks."""
    seeds = max((summary.num_seeds for summary in comparison.summaries), default=0)
    several = seeds > 1
    return [
        f"Best bold, second underlined. ± half the 95 % interval, by bootstrap over users"
        f"{f', of the mean over {seeds} seeds; how seeds scatter is not in it' if several else ''}.",
        _rule_of_marks(seeds),
        f"Cost: training FLOPs, {comparison.reference} = 1. {NOTHING} no value.",
        *([ABOUT_ORACLE] if comparison.oracle else []),
        *([ABOUT_BASELINES] if comparison.floor else []),
    ]


def _rule_of_marks(seeds: int) -> str:
    if seeds < 2:
        return "No layout is marked as different; one seed each: training noise is not covered."
    rule = (
        f"* differs from the column's best: p < {LEVEL:g} that chance parts any two of the column as far "
        "(paired; users and seeds drawn)."
    )
    if seeds > 2:
        return rule
    return f"{rule} Two seeds do not tell a layout whose runs scatter more than the others'."


def notes(comparison: Comparison) -> list[str]:
    """What dashes and marks stand for, layout by layout."""
    found = []
    for card in comparison.layouts:
        tasks = (
            ("retrieve", card.retrieves, comparison.retrieval),
            ("score a candidate", card.scores, comparison.scoring),
        )
        for task, ability, metrics in tasks:
            if not ability and metrics:
                was_measured = any(_summary(comparison, card.name, metric) for metric in metrics)
                but = "; ‡ measured on the event that came" if was_measured else ""
                found.append(f"{card.name} cannot {task}: {ability.why}{but}")
        if card.leaks:
            found.append(f"‼ {card.name} reads its own answers: {'; '.join(card.leaks)}")
    found += _counts(comparison)
    found += _given_up(comparison) + _rules_apart(comparison) + _left_out(comparison) + _stops(comparison)
    return found + _unsteady_times(comparison) + _several_origins(comparison)


def _counts(comparison: Comparison) -> list[str]:
    """What counts do to each layout that has them, then how these layouts stand without."""
    found = [f"{layout}: {'; '.join(map(str, its))}" for layout, its in comparison.counts.items()]
    if len(comparison.without_counts) < 2:
        return found
    for metric in (*comparison.retrieval, *comparison.scoring):
        cells = [
            f"{its.layout} {number(summary.estimate.value)}{'*' * _is_told(summary)}"
            for its in comparison.without_counts
            if (summary := its.metrics.get(metric)) is not None
        ]
        if len(cells) > 1:
            found.append(f"{metric} without counts, told among themselves: {', '.join(cells)}")
    return found


def _is_told(summary: MetricSummary) -> bool:
    return summary.vs_best is not None and summary.vs_best.is_significant


def _left_out(comparison: Comparison) -> list[str]:
    """Why baselines were not asked, or how."""
    floor = comparison.floor
    if floor is None:
        return []
    reasons = [f"{COUNT}{name} left out: {why}" for name, why in floor.left_out.items()]
    return reasons + ([f"baselines: {floor.note}"] if floor.note else [])


def _rules_apart(comparison: Comparison) -> list[str]:
    """Where the layouts of a task's columns were not chosen by one rule, so that nothing is marked between them."""
    found = []
    for task, metrics in (("retrieval", comparison.retrieval), ("scoring", comparison.scoring)):
        layouts: dict[str, dict[str, None]] = {}
        for row in comparison.rows:
            measured = [metric for metric in metrics if metric in row.metrics]
            if measured:
                layouts.setdefault(row.rule_of(measured[0]), {})[row.layout] = None
        if len(layouts) > 1:
            rules = (f"{rule or 'a rule not recorded'} ({', '.join(its)})" for rule, its in layouts.items())
            found.append(
                f"{task}: epochs were chosen by {' and '.join(rules)}; nothing is marked between those"
            )
    return found


def _given_up(comparison: Comparison) -> list[str]:
    """What the deployed checkpoints have instead of what is shown, and by how much it differs; of each action one
    metric."""
    chief = chief_metrics(comparison.retrieval, comparison.scoring)
    found = []
    for summary in comparison.summaries:
        measured = ((metric, summary.metrics.get(metric)) for metric in chief)
        deployed = [(metric, its.deployed) for metric, its in measured if its and its.deployed]
        words = [
            f"{metric_label(metric)} {number(its.estimate.value)} ({signed(its.difference.value)}, "
            f"{signed(its.difference.low)} to {signed(its.difference.high)})"
            for metric, its in deployed
        ]
        if words:
            found.append(
                f"{summary.layout} is measured on the checkpoint that is best for each task; its deployed one (model/) "
                f"has {', '.join(words)}"
            )
    return found


def _stops(comparison: Comparison) -> list[str]:
    """The runs that did not finish by themselves, those of one reason together."""
    reasons: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for row in comparison.rows:
        if row.status != "finished":
            reasons.setdefault((row.status, row.note), []).append((row.layout, row.seed))
    return [
        f"{'† ' if status == 'capped' else ''}{status}, {note}: {_names_of(runs)}"
        for (status, note), runs in reasons.items()
    ]


def _unsteady_times(comparison: Comparison) -> list[str]:
    """The layouts whose epochs took so unlike times that something else may have run beside them."""
    unsteady = [
        f"{s.layout} {number(s.epoch_times.low_s, 1)} to {number(s.epoch_times.high_s, 1)}"
        for s in comparison.summaries
        if s.epoch_times.scatter
    ]
    if not unsteady:
        return []
    return [f"Times are not steady, in seconds per epoch: {', '.join(unsteady)}. Processor time says more."]


def origins(rows: Sequence[Row]) -> dict[str, str]:
    """The code and the machine of rows, and which of them are of it."""
    return origins_of((row.layout, row.seed, row.provenance) for row in rows)


def origins_of(runs: Iterable[tuple[str, int, Provenance]], unit: str = "seed") -> dict[str, str]:
    """The code and the machine of runs, each a name with its seed or whatever else is counted, and which runs are
    of it. The date tells nothing apart: a study that runs past midnight is of one origin. Nor do the times of a probe.

    >>> at = Provenance(commit="0a1b")
    >>> origins_of([("lac", 0, at), ("lac", 1, Provenance()), ("lac", 2, at)], "round")
    {'commit 0a1b': 'lac (round 0, 2)', 'not recorded': 'lac (round 1)'}
    """
    found: dict[str, list[tuple[str, int]]] = {}
    for name, count, provenance in runs:
        undated = msgspec.structs.replace(provenance, date="", arithmetic_because="")
        found.setdefault(str(undated), []).append((name, count))
    return {origin: _names_of(its, unit) for origin, its in found.items()}


def _several_origins(comparison: Comparison) -> list[str]:
    found = origins(comparison.rows)
    if len(found) < 2:
        return []
    of_each = "; ".join(f"{origin}: {runs}" for origin, runs in found.items())
    return [f"The runs are not all of one commit and machine. {of_each}"]


def _names_of(runs: Sequence[tuple[str, int]], unit: str = "seed") -> str:
    counts: dict[str, list[int]] = {}
    for name, count in runs:
        counts.setdefault(name, []).append(count)
    return ", ".join(f"{name} ({unit} {', '.join(map(str, its))})" for name, its in counts.items())


def details(comparison: Comparison, metric: str) -> list[Detail]:
    """Mean, interval, spread and contrasts of every layout that has the metric."""
    found = []
    for summary in comparison.summaries:
        if metric in summary.metrics:
            measured = summary.metrics[metric]
            found.append(
                Detail(
                    summary.layout,
                    number(measured.estimate.value),
                    _bounds(measured.estimate).strip(" ()"),
                    number(measured.spread),
                    _words(measured.vs_reference, summary.layout == comparison.reference, "the reference"),
                    _words(measured.vs_best, measured.vs_best is None, "the best"),
                )
            )
    return found


def charts(comparison: Comparison, metric: str) -> list[Chart]:
    """Differences with what was told of them, quality against what training cost, and learning curves."""
    looks = {card.name: Look(index) for index, card in enumerate(comparison.layouts)}
    found = _measured(comparison, metric)
    drawn = [
        _forest(comparison, found, metric, looks),
        _costs(found, metric, looks),
        _learning(comparison, metric, looks),
    ]
    return [chart for chart in drawn if chart is not None]


def _forest(
    comparison: Comparison, found: Sequence[Summary], metric: str, looks: dict[str, Look]
) -> Chart | None:
    """Against the reference, or against the best where the reference lacks the metric."""
    against_reference = [(s, s.metrics[metric].vs_reference) for s in found]
    against_best = [(s, s.metrics[metric].vs_best) for s in found]
    has_reference = any(contrast for _, contrast in against_reference)
    pairs = against_reference if has_reference else against_best
    rows = [(s, contrast) for s, contrast in pairs if contrast and isfinite(contrast.half_width)]
    if not rows:
        return None
    other = rows[0][1].other
    return forest(
        f"{metric_label(metric)} against {other if has_reference else f'the best, {other}'}",
        [
            Contrasted(
                s.layout,
                looks[s.layout],
                contrast.difference.value,
                contrast.low,
                contrast.high,
                contrast.is_significant,
                p_value(contrast.p_adjusted) if contrast.covers_seeds else "",
            )
            for s, contrast in rows
        ],
        f"difference in {metric_label(metric)}",
        found[0].metrics[metric].estimate.better,
    )


def _costs(found: Sequence[Summary], metric: str, looks: dict[str, Look]) -> Chart | None:
    """None where there is nothing to hold a layout against; what trained for nothing has no place on its scale."""
    found = [summary for summary in found if summary.cost.train_flops > 0]
    if len(found) < 2:
        return None
    points = []
    for summary in found:
        measured = summary.metrics[metric]
        assert measured.estimate.value is not None
        is_worse = measured.vs_best is not None and measured.vs_best.is_significant
        points.append(
            CostPoint(
                summary.layout,
                looks[summary.layout],
                summary.cost.train_flops,
                measured.estimate.value,
                not is_worse,
            )
        )
    label = metric_label(metric)
    better = found[0].metrics[metric].estimate.better
    return quality_against_cost(f"{label} against the cost of training", points, label, better, "FLOP")


def _learning(comparison: Comparison, metric: str, looks: dict[str, Look]) -> Chart | None:
    better = metric_of(metric).better
    layouts = []
    for card in comparison.layouts:
        runs = [_run(row, metric, better) for row in comparison.rows if row.layout == card.name]
        kept = tuple(run for run in runs if run is not None)
        if kept:
            layouts.append(Learning(card.name, looks[card.name], kept))
    label = metric_label(metric)
    return learning_curves(f"{label} on validation", layouts, label, better) if layouts else None


def _run(row: Row, metric: str, better: Better) -> Run | None:
    """The points of a run at which the metric was defined; None where it was at none."""
    kept = [p for p in row.curve if metric in p.validation and isfinite(p.validation[metric])]
    if not kept:
        return None
    values = [p.validation[metric] for p in kept]
    chosen = row.chosen.get(task_of(metric))
    epoch = chosen.epoch if chosen else row.cost.best_epoch if row.cost else None
    tested = [n for n, point in enumerate(kept) if point.epoch == epoch]
    best = (max if better == "higher" else min)(range(len(kept)), key=values.__getitem__)
    points = tuple((float(p.epoch), value) for p, value in zip(kept, values, strict=True))
    return Run(points, tested[0] if tested else None, best)


COUNT = "count: "  # before the names of baselines, which are no layouts
ABOUT_BASELINES = "count: baselines, which train nothing. Their stars are against the best of them alone."


def baseline_cells(comparison: Comparison) -> dict[str, dict[str, Cell]]:
    """The baselines' own lines, by name and metric; empty where they were not asked."""
    floor = comparison.floor
    if floor is None:
        return {}
    metrics = (*comparison.retrieval, *comparison.scoring)
    best = {metric: floor.best(metric) for metric in metrics}
    return {
        f"{COUNT}{row.name}": {metric: _baseline_cell(row, metric, best[metric]) for metric in metrics}
        for row in floor.rows
    }


def _baseline_cell(row: CountedRow, metric: str, best: CountedRow | None) -> Cell:
    if metric not in row.metrics:
        return Cell(NOTHING)
    estimate, vs_best = row.metrics[metric], row.vs_best.get(metric)
    return Cell(
        number(estimate.value),
        "" if estimate.half_width is None else number(estimate.half_width),
        "best" if row is best else "other",
        _words(vs_best, row is best, "the best of the baselines"),
        "*" * bool(vs_best and vs_best.is_significant),
    )


def _summary(comparison: Comparison, layout: str, metric: str) -> MetricSummary | None:
    summary = comparison.summary_of(layout)
    return summary.metrics.get(metric) if summary else None


def _measured(comparison: Comparison, metric: str) -> list[Summary]:
    """The summaries in which the metric is defined."""
    return [
        summary
        for summary in comparison.summaries
        if metric in summary.metrics and summary.metrics[metric].estimate.value is not None
    ]


def _column(comparison: Comparison, metric: str) -> dict[str, Cell]:
    """A metric's cells, by layout; those that lack it are left out."""
    measured = {s.layout: s.metrics[metric] for s in comparison.summaries if metric in s.metrics}
    values = {name: m.estimate.value for name, m in measured.items() if m.estimate.value is not None}
    better: Better = metric_of(metric).better
    place = _places(values, better)
    able = {
        card.name: bool(card.retrieves if metric in comparison.retrieval else card.scores)
        for card in comparison.layouts
    }
    return {
        name: Cell(
            number(m.estimate.value),
            number(m.estimate.half_width) if m.estimate.half_width is not None else "",
            place.get(name, "other"),
            _words(m.vs_best, place.get(name) == "best", "the best"),
            "*" * bool(m.vs_best and m.vs_best.is_significant) + "‡" * (not able[name]),
            *_distance(m.regret),
            "undefined" if m.estimate.value is None else "",
        )
        for name, m in measured.items()
    }


def _places(values: dict[str, float], better: Better) -> dict[str, Literal["best", "second"]]:
    """Equal values have equal rank, and where two share the first there is no second.

    >>> _places({"a": 0.2, "b": 0.3, "c": 0.3, "d": 0.1}, "higher")
    {'b': 'best', 'c': 'best'}
    >>> _places({"a": 0.2, "b": 0.3, "c": 0.2}, "higher")
    {'a': 'second', 'b': 'best', 'c': 'second'}
    """
    sign = 1 if better == "higher" else -1
    ahead = {name: sum(sign * of > sign * value for of in values.values()) for name, value in values.items()}
    ranks: tuple[Literal["best", "second"], ...] = ("best", "second")
    return {name: ranks[number] for name, number in ahead.items() if number < len(ranks)}


def _missing(comparison: Comparison, card: LayoutCard, metric: str) -> Missing:
    if comparison.summary_of(card.name) is None and _failures(comparison, card.name):
        return "failed"
    ability = card.retrieves if metric in comparison.retrieval else card.scores
    return "not measured" if ability else "cannot"


def _failures(comparison: Comparison, layout: str) -> str:
    """The seeds with their reasons; "" where none failed."""
    failed = [row for row in comparison.rows if row.layout == layout and row.status == "failed"]
    return "; ".join(f"seed {row.seed} failed: {row.note}" for row in failed)


def _distance(regret: Regret | None) -> tuple[str, str]:
    """What is lacking to the oracle, and its interval.

    >>> _distance(Regret(0.0312, 0.01, 0.05, "share"))
    ('+3.1 %', '+1.0 % to +5.0 %')
    """
    if regret is None:
        return "", ""
    in_words = percent if regret.unit == "share" else signed
    return in_words(regret.value), f"{in_words(regret.low)} to {in_words(regret.high)}"


def _run_marks(comparison: Comparison, card: LayoutCard) -> str:
    capped = any(row.layout == card.name and row.status == "capped" for row in comparison.rows)
    return "†" * capped + "‼" * bool(card.leaks)


def _cost_cells(comparison: Comparison, layout: str) -> tuple[tuple[str, str], ...]:
    summary = comparison.summary_of(layout)
    if summary is None:
        return ()
    cost, times_of = summary.cost, summary.epoch_times
    card = next(card for card in comparison.layouts if card.name == layout)
    spread = f"{number(times_of.low_s, 1)} to {number(times_of.high_s, 1)}"
    return (
        (with_prefix(cost.train_flops), relative_cost(comparison, summary)),
        (duration(cost.train_wall_s), f"{number(times_of.median_s, 1)} s per epoch ({spread})"),
        (NOTHING if cost.train_cpu_s is None else duration(cost.train_cpu_s), ""),
        (f"{cost.epochs:.3g} ({cost.best_epoch:.3g})", ""),
        (with_prefix(cost.tokens_per_s), ""),
        (f"{cost.tokens_per_event:.3g}", ""),
        (_targets(card.targets_per_epoch), ""),
        (with_prefix(cost.num_parameters), ""),
        (NOTHING if cost.peak_memory_mb is None else with_prefix(cost.peak_memory_mb * 1e6, "B"), ""),
    )


def _targets(counts: Mapping[str, int]) -> str:
    """How many events an epoch supervises: once, where all that is predicted has as many.

    >>> _targets({"items": 9000, "actions": 9000}), _targets({"items": 9000, "actions": 450}), _targets({})
    ('9.00 k', '9.00 k items, 450 actions', '–')
    """
    if len(set(counts.values())) == 1:
        return with_prefix(float(next(iter(counts.values()))))
    return ", ".join(f"{with_prefix(float(count))} {what}" for what, count in counts.items()) or NOTHING


def relative_cost(comparison: Comparison, summary: Summary) -> str:
    """Training FLOPs against the reference layout's."""
    reference = comparison.summary_of(comparison.reference)
    return times(summary.cost.train_flops / reference.cost.train_flops) if reference else NOTHING


def _bounds(estimate: Estimate) -> str:
    return "" if estimate.low is None else f" ({number(estimate.low)} to {number(estimate.high)})"


def _words(contrast: Contrast | None, is_it: bool, name: str) -> str:
    """How a layout stands to another; a dash where one of the two lacks the metric."""
    if contrast is None:
        return f"is {name}" if is_it else NOTHING
    told = "differs" if contrast.is_significant else "not told apart"
    if not contrast.chosen_alike:
        told = "epochs chosen by different rules, so not told apart"
    return (
        f"{signed(contrast.difference.value)} ({signed(contrast.low)} to {signed(contrast.high)}), "
        f"{p_value(contrast.p_adjusted)}: {told if contrast.covers_seeds else 'one seed tells no difference'}"
    )
