"""What a reader of a comparison is told in sentences: how to read its marks, what each dash stands for, where its runs
come from, and what the data warns of.
"""

from collections.abc import Iterable, Sequence

import msgspec

from plait.compare.results import Comparison, MetricSummary, Row
from plait.compare.significance import LEVEL
from plait.compare.verdict import chief_metrics
from plait.compare.words import NOTHING, in_percent, metric_label, number, p_value, signed
from plait.evaluation.counts_effect import CountsEffect
from plait.evaluation.provenance import Provenance

COUNT = "count: "  # before the names of baselines, which are no layouts
ABOUT_BASELINES = "count: baselines, which train nothing. Their stars are against the best of them alone."
MANY_TIES = 0.05  # share of the events
ABOUT_ORACLE = (
    "oracle: the best that anyone could expect who knows the simulated world and the whole history. In brackets what a "
    "layout lacks to it, on the same users: for NE, log-loss and RMSE in % of the oracle's, else in points. By chance "
    "it can be negative."
)


def warnings(comparison: Comparison) -> list[str]:
    """What about the data a reader should know before the numbers."""
    data, found = comparison.dataset, []
    if data.tie_share > MANY_TIES:
        found.append(
            f"{in_percent(data.tie_share)} of the events share a time with another event of their user. Their order is "
            "the log's, and what is asked next may depend on it."
        )
    if comparison.retrieval and data.missed_share:
        found.append(
            f"{in_percent(data.missed_share)} of the answers were met before. Seen items are filtered, so each of them "
            "is a certain miss of every list."
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
        f"Cost: training FLOPs of all epochs, {comparison.reference} = 1. {NOTHING} no value.",
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


def notes(comparison: Comparison, *, counts_in_tables: bool = False) -> list[str]:
    """What dashes and marks stand for, layout by layout.

    Args:
        counts_in_tables: whether what counts do stands elsewhere.
    """
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
    found += [] if counts_in_tables else _counts(comparison)
    found += _given_up(comparison) + _rules_apart(comparison) + _left_out(comparison) + _stops(comparison)
    return found + _unsteady_times(comparison) + _several_origins(comparison)


def _counts(comparison: Comparison) -> list[str]:
    """What counts do to each layout that has them, then how these layouts stand without."""
    found = [f"{layout}: {'; '.join(map(_effect, its))}" for layout, its in comparison.counts.items()]
    found += [
        f"{layout}, counted until the test: {'; '.join(map(_effect, its.until_test))}"
        for layout, its in comparison.counts_in_time.items()
    ]
    if len(comparison.without_counts) < 2:
        return found
    for metric in (*comparison.retrieval, *comparison.scoring):
        cells = [
            f"{its.layout} {number(summary.estimate.value)}{'*' * _is_told(summary)}"
            for its in comparison.without_counts
            if (summary := its.metrics.get(metric)) is not None
        ]
        if len(cells) > 1:
            found.append(f"{metric_label(metric)} without counts, told among themselves: {', '.join(cells)}")
    return found


def _effect(its: CountsEffect) -> str:
    """
    >>> from plait.metrics.intervals import Difference
    >>> _effect(CountsEffect("ndcg@10", 0.12, 0.1, Difference(0.02, 0.01, 0.03, 0.002)))
    'NDCG@10 0.1200 with counts, 0.1000 without: +0.0200 (+0.0100 to +0.0300), p = 0.002'
    """
    difference = f"{signed(its.difference.value)} {bounds_and_p(its)}"
    values = f"{number(its.with_counts)} with counts, {number(its.without)} without"
    return f"{metric_label(its.metric)} {values}: {difference}"


def bounds_and_p(its: CountsEffect) -> str:
    """Of the difference that counts make."""
    return f"({signed(its.difference.low)} to {signed(its.difference.high)}), {p_value(its.difference.p)}"


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


def _summary(comparison: Comparison, layout: str, metric: str) -> MetricSummary | None:
    summary = comparison.summary_of(layout)
    return summary.metrics.get(metric) if summary else None
