"""What a comparison says: its cells with their marks, its findings, rules and notes, and the charts to draw.

The terminal and the page show the same; this is where it is decided.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from plait.compare.charts import Chart, Look, Measured, Trace, learning_curves, quality_against_cost
from plait.compare.regret import Regret
from plait.compare.results import Comparison, Contrast, CountedRow, LayoutCard, MetricSummary, Row, Summary
from plait.compare.significance import LEVEL
from plait.compare.words import (
    NOTHING,
    duration,
    metric_label,
    number,
    p_value,
    percent,
    signed,
    times,
    with_prefix,
)
from plait.evaluation.provenance import Provenance
from plait.metrics.intervals import Estimate
from plait.metrics.table import CHIEF_RETRIEVAL, task_of

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
ABOUT_ORACLE = (
    "oracle: the best that anyone could expect who knows the simulated world and the whole history. In brackets what a "
    "layout lacks to it, on the same users: for NE, log-loss and RMSE in % of the oracle's, else in points. By chance "
    "it can be negative."
)


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


@dataclass(frozen=True)
class Line:
    """One layout's line of the table, and its card."""

    card: LayoutCard
    look: Look
    marks: str  # † a run was stopped by the cap, ‼ it reads its own answers
    cells: dict[str, Cell]
    cost: tuple[tuple[str, str], ...]  # by COST_COLUMNS, with a remark; empty where no run finished


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
            {metric: columns[metric].get(card.name, Cell(NOTHING)) for metric in metrics},
            _cost_cells(comparison, card.name),
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


def findings(comparison: Comparison, metric: str) -> list[str]:
    """Who leads in a metric, and the cheapest layout that cannot be told apart from the leader, in a sentence
    or two; nothing where the metric was not measured."""
    found = _measured(comparison, metric)
    leader = next((s for s in found if s.metrics[metric].vs_best is None), None)
    if leader is None:
        return []
    estimate = leader.metrics[metric].estimate
    lead = f"{metric_label(metric)}: {leader.layout} leads with {number(estimate.value)}{_bounds(estimate)}."
    cheaper = [s for s in found if s.cost.train_flops < leader.cost.train_flops]
    if not cheaper:
        return [f"{lead} Nothing that was measured in it trained for less."]
    for summary in sorted(cheaper, key=lambda s: s.cost.train_flops):
        contrast = summary.metrics[metric].vs_best
        if contrast is not None and not contrast.is_significant:
            ratio = times(summary.cost.train_flops / leader.cost.train_flops)
            words = _words(contrast, False, "the best")
            return [f"{lead} {summary.layout} trained for {ratio} its FLOPs; against it: {words}."]
    return [f"{lead} Every layout that trained for less is worse by more than chance."]


def rules(comparison: Comparison) -> list[str]:
    """How to read numbers and marks."""
    seeds = max((summary.num_seeds for summary in comparison.summaries), default=0)
    several = seeds > 1
    return [
        f"Best bold, second underlined. ± half the 95 % interval, by bootstrap over users"
        f"{f', of the mean over {seeds} seeds; how seeds scatter is not in it' if several else ''}.",
        _rule_of_marks(seeds),
        f"Cost: training FLOPs, {comparison.reference} = 1. {NOTHING} not measured.",
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
    found += _given_up(comparison) + _rules_apart(comparison) + _left_out(comparison) + _stops(comparison)
    return found + _unsteady_times(comparison) + _several_origins(comparison)


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
    of_action = {metric.partition(":")[2]: metric for metric in reversed(comparison.scoring)}
    chief = [metric for metric in comparison.retrieval if metric == CHIEF_RETRIEVAL]
    found = []
    for summary in comparison.summaries:
        measured = (
            (metric, summary.metrics.get(metric)) for metric in (*chief, *reversed(of_action.values()))
        )
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
    of it. The date tells nothing apart: a study that runs past midnight is of one origin.

    >>> at = Provenance(commit="0a1b")
    >>> origins_of([("lac", 0, at), ("lac", 1, Provenance()), ("lac", 2, at)], "round")
    {'commit 0a1b': 'lac (round 0, 2)', 'not recorded': 'lac (round 1)'}
    """
    found: dict[str, list[tuple[str, int]]] = {}
    for name, count, provenance in runs:
        undated = msgspec.structs.replace(provenance, date="")
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
    """Quality against training FLOPs and time, then learning curves over epochs and time."""
    looks = {card.name: Look(index) for index, card in enumerate(comparison.layouts)}
    label = metric_label(metric)
    drawn = []
    found = _measured(comparison, metric)
    if found:
        better = found[0].metrics[metric].estimate.better
        flops = [_point(s, metric, looks[s.layout], s.cost.train_flops) for s in found]
        seconds = [_point(s, metric, looks[s.layout], s.cost.train_wall_s) for s in found]
        drawn += [
            quality_against_cost(f"{label} against training FLOPs", flops, label, better, "flops"),
            quality_against_cost(f"{label} against training time", seconds, label, better, "seconds"),
        ]
    traced = [row for row in comparison.rows if any(metric in point.validation for point in row.curve)]
    if traced:
        y_label = f"validation {label}"
        epochs = [_trace(row, metric, looks[row.layout], "epoch") for row in traced]
        seconds_ = [_trace(row, metric, looks[row.layout], "train_wall_s") for row in traced]
        drawn += [
            learning_curves(f"{label} on validation, by epoch", epochs, y_label, "epochs"),
            learning_curves(f"{label} on validation, by training time", seconds_, y_label, "seconds"),
        ]
    return drawn


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


def on_counting(comparison: Comparison, metric: str) -> list[str]:
    """Whether a layout beats the best baseline in a metric, in a sentence; nothing where none has it."""
    floor = comparison.floor
    best = None if floor is None else floor.best(metric)
    if floor is None or best is None or not floor.layouts.get(metric):
        return []
    estimate = best.metrics[metric]
    lead = f"{metric_label(metric)}: the best count is {best.name} with {number(estimate.value)}{_bounds(estimate)}."
    sign = 1 if estimate.better == "higher" else -1
    standing: dict[str, list[str]] = {}
    for layout, contrast in floor.layouts[metric].items():
        standing.setdefault(_against_count(contrast, sign), []).append(layout)
    told = "; ".join(f"{how}: {', '.join(names)}" for how, names in standing.items())
    return [f"{lead} {told[:1].upper()}{told[1:]}."]


def _against_count(contrast: Contrast, sign: int) -> str:
    if not contrast.covers_seeds:
        ahead = contrast.difference.value * sign > 0
        return f"{'ahead of' if ahead else 'not ahead of'} it with one seed, which tells no difference"
    if not contrast.is_significant:
        return "not told apart from it"
    return "better" if contrast.difference.value * sign > 0 else "worse"


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
    better = next((m.estimate.better for m in measured.values()), "higher")
    ranked = sorted(values, key=values.__getitem__, reverse=better == "higher")
    place: dict[str, Literal["best", "second"]] = dict(zip(ranked, ("best", "second"), strict=False))
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
        )
        for name, m in measured.items()
    }


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


def _point(summary: Summary, metric: str, look: Look, cost: float) -> Measured:
    estimate = summary.metrics[metric].estimate
    assert estimate.value is not None
    low, high = estimate.low, estimate.high
    return Measured(
        summary.layout,
        look,
        cost,
        estimate.value,
        estimate.value if low is None else low,
        estimate.value if high is None else high,
    )


def _trace(row: Row, metric: str, look: Look, x: Literal["epoch", "train_wall_s"]) -> Trace:
    kept = [point for point in row.curve if metric in point.validation]
    chosen = row.chosen.get(task_of(metric))
    epoch = chosen.epoch if chosen else row.cost.best_epoch if row.cost else None
    best = next((n for n, point in enumerate(kept) if point.epoch == epoch), len(kept) - 1)
    return Trace(row.layout, look, tuple((float(getattr(p, x)), p.validation[metric]) for p in kept), best)
