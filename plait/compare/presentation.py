"""The cells of a comparison with their marks, and how to use what was chosen. What is decided, `verdict` says.

The terminal and the page show the same; this is where it is decided, with `notes` and `charted`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Literal

from plait.compare.charts import Look
from plait.compare.notes import COUNT
from plait.compare.regret import Regret
from plait.compare.results import Comparison, Contrast, CountedRow, LayoutCard, Summary
from plait.compare.verdict import FloorVerdict, Verdict, chief_metrics
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
from plait.metrics.intervals import Estimate
from plait.metrics.statistic import Better
from plait.metrics.table import metric_of

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
LOPSIDED = 0.25  # share of an interval's length
Missing = Literal["", "cannot", "not measured", "undefined", "failed"]
KEY = {
    "cannot": "The layout predicts no such thing, so there is nothing to measure.",
    "not measured": "It could be measured, and was not in this comparison.",
    "undefined": "It was asked for, and the test users do not define it: an AUC of events of one class, say.",
    "failed": "No run of the layout finished.",
    NOTHING: "In a table of differences and of runs: there is no value, for one of these reasons.",
    "±": "Half the 95 % interval over users: another choice of users would move the value by about as much. It says "
    "nothing about other seeds; the differences and their p do.",
    "low to high": "The 95 % interval over users, where the value is far from its middle.",
    "carried by": "As many users of equal weight would carry the value: few of them where hits are rare, or where a "
    "handful has the largest errors.",
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
    around: str = ""  # the interval in words: plus-minus, or low to high where that would be wrong


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
    """How to ask what was chosen."""

    command: str
    python: str


@dataclass(frozen=True)
class Detail:
    """The numbers behind one column's marks."""

    layout: str
    mean: str
    interval: str
    carried_by: str
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
            number(estimate.value if estimate else None),
            "" if half is None else number(half),
            around=around(estimate),
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
    """What is recommended, on the command line and in Python: a baseline, or the first finished run of a layout; None
    where nothing is.

    Args:
        folder: of the comparison, as its reader calls it.
    """
    finished = [row for row in comparison.rows if row.status != "failed"]
    if verdict.recommended_counts and finished:
        first = verdict.recommended_counts[0]
        run = folder / run_folder(finished[0].layout, finished[0].seed)
        return _use_of_counts(first, first.metric in comparison.retrieval, run)
    chosen = verdict.recommended
    if chosen is None:
        return None
    seed = min(row.seed for row in finished if row.layout == chosen.name)
    run = folder / run_folder(chosen.name, seed)
    card = next(card for card in comparison.layouts if card.name == chosen.name)
    return Use(
        _command(bool(card.retrieves), run),
        f"model = plait.Recommender.from_pretrained({str(run / 'model')!r})",
    )


def _use_of_counts(counts: FloorVerdict, retrieves: bool, run: Path) -> Use:
    """Any run says which data, and how it is asked."""
    face = "CountingRecommender" if retrieves else "CountingScorer"
    return Use(
        _command(retrieves, run, f" --baseline {quote(counts.name)}"),
        f"counts = plait.{face}.fit(data, {counts.name!r})",
    )


def _command(retrieves: bool, run: Path, more: str = "") -> str:
    verb, what = ("recommend", "-k 10") if retrieves else ("score", "--items A,B,C")
    return f"plait {verb} {quote(str(run))}{more} --user USER {what}"


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
                    _carried(measured.estimate),
                    number(measured.spread),
                    _words(measured.vs_reference, summary.layout == comparison.reference, "the reference"),
                    _words(measured.vs_best, measured.vs_best is None, "the best"),
                )
            )
    return found


def baseline_cells(comparison: Comparison, metrics: Sequence[str]) -> dict[str, dict[str, Cell]]:
    """The baselines' own lines, by name and metric, of those that have one of `metrics`; empty where none was asked."""
    floor = comparison.floor
    if floor is None:
        return {}
    best = {metric: floor.best(metric) for metric in metrics}
    return {
        f"{COUNT}{row.name}": {metric: _baseline_cell(row, metric, best[metric]) for metric in metrics}
        for row in floor.rows
        if not row.metrics.keys().isdisjoint(metrics)
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
        around=around(estimate),
    )


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
            around(m.estimate),
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
        (
            with_prefix(cost.train_flops),
            f"{relative_cost(comparison, summary)}; {with_prefix(cost.epoch_flops)} an epoch",
        ),
        (duration(cost.train_wall_s), f"{number(times_of.median_s, 1)} s per epoch ({spread})"),
        (NOTHING if cost.train_cpu_s is None else duration(cost.train_cpu_s), ""),
        (f"{cost.epochs:.3g} ({cost.best_epoch:.3g})", ""),
        (with_prefix(cost.tokens_per_s), ""),
        (f"{cost.tokens_per_event:.3g}", ""),
        _targets(card.targets_per_epoch),
        (with_prefix(cost.num_parameters), ""),
        (NOTHING if cost.peak_memory_mb is None else with_prefix(cost.peak_memory_mb * 1e6, "B"), ""),
    )


def _targets(counts: Mapping[str, int]) -> tuple[str, str]:
    """How many events an epoch supervises, and a remark: once, where all that is predicted has as many.

    >>> _targets({"items": 9000, "actions": 9000}), _targets({"items": 9000, "actions": 450}), _targets({})
    (('9.00 k', ''), ('9.00 k items', '450 actions'), ('–', ''))
    """
    if len(set(counts.values())) == 1:
        return with_prefix(float(next(iter(counts.values())))), ""
    several = [f"{with_prefix(float(count))} {what}" for what, count in counts.items()] or [NOTHING]
    return several[0], ", ".join(several[1:])


def relative_cost(comparison: Comparison, summary: Summary) -> str:
    """Training FLOPs against the reference layout's."""
    reference = comparison.summary_of(comparison.reference)
    return times(summary.cost.train_flops / reference.cost.train_flops) if reference else NOTHING


def _carried(estimate: Estimate) -> str:
    """
    >>> _carried(Estimate(0.02, 0.0, 0.1, "higher", 943, 18.7)), _carried(Estimate(0.02, 0.0, 0.1, "higher", 943))
    ('19 of 943', '–')
    """
    return NOTHING if estimate.carried_by is None else f"{estimate.carried_by:,.0f} of {estimate.num_users:,}"


def around(estimate: Estimate | None) -> str:
    """Half the interval, or both its ends where the value is off its middle by more than LOPSIDED of its length.

    >>> around(Estimate(0.5, 0.4, 0.6, "higher", 9)), around(Estimate(0.02, 0.0, 0.1, "higher", 9))
    ('±0.1000', '0.0000 to 0.1000')
    """
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    length = estimate.high - estimate.low
    if abs(estimate.high + estimate.low - 2 * estimate.value) / 2 > LOPSIDED * length:
        return f"{number(estimate.low)} to {number(estimate.high)}"
    return f"±{number(length / 2)}"


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
