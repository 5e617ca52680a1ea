"""What the charts of a comparison draw of one metric. How they are drawn is `plait.compare.charts`'s."""

from collections.abc import Sequence
from math import isfinite

from plait.compare.charts import (
    Chart,
    Contrasted,
    CostPoint,
    Learning,
    Level,
    Look,
    Run,
    forest,
    learning_curves,
    quality_against_cost,
)
from plait.compare.results import Comparison, Row, Summary
from plait.compare.words import metric_label, p_value
from plait.metrics.statistic import Better
from plait.metrics.table import metric_of, task_of


def charts(comparison: Comparison, metric: str) -> list[Chart]:
    """Differences with what was told of them, quality against what training cost, and learning curves."""
    looks = {card.name: Look(index) for index, card in enumerate(comparison.layouts)}
    found = _measured(comparison, metric)
    drawn = [
        _forest(comparison, found, metric, looks),
        _costs(comparison, found, metric, looks),
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


def _costs(
    comparison: Comparison, found: Sequence[Summary], metric: str, looks: dict[str, Look]
) -> Chart | None:
    """None where there is nothing to hold a layout against; what trained for nothing has no place on its scale."""
    found = [summary for summary in found if summary.cost.train_flops > 0]
    if len(found) < 2:
        return None
    points = [_cost_point(summary, metric, looks, summary.cost.train_flops) for summary in found]
    label = metric_label(metric)
    better = found[0].metrics[metric].estimate.better
    title = f"{label} against the cost of training"
    return quality_against_cost(title, points, label, better, "FLOP", level=_best_count(comparison, metric))


def _best_count(comparison: Comparison, metric: str) -> Level | None:
    best = comparison.floor.best(metric) if comparison.floor else None
    value = best.metrics[metric].value if best else None
    return None if best is None or value is None else Level(best.name, value)


def serving_chart(comparison: Comparison) -> Chart | None:
    """Quality against the time of scoring 100 candidates, in the first action that is drawn; None where fewer than two
    layouts have both."""
    served = comparison.serving
    metric = next((metric for metric in comparison.charted if metric in comparison.scoring), None)
    if served is None or metric is None:
        return None
    seconds = {its.layout: its.median_s.get("score 100") for its in served.costs}
    looks = {card.name: Look(index) for index, card in enumerate(comparison.layouts)}
    points = [
        _cost_point(summary, metric, looks, cost_s)
        for summary in _measured(comparison, metric)
        if (cost_s := seconds.get(summary.layout))
    ]
    if len(points) < 2:
        return None
    label = metric_label(metric)
    title = f"{label} against the cost of scoring 100 candidates"
    return quality_against_cost(title, points, label, metric_of(metric).better, "s", "time of a request")


def _cost_point(summary: Summary, metric: str, looks: dict[str, Look], cost: float) -> CostPoint:
    measured = summary.metrics[metric]
    assert measured.estimate.value is not None
    is_worse = measured.vs_best is not None and measured.vs_best.is_significant
    return CostPoint(summary.layout, looks[summary.layout], cost, measured.estimate.value, not is_worse)


def _learning(comparison: Comparison, metric: str, looks: dict[str, Look]) -> Chart | None:
    better = metric_of(metric).better
    layouts = []
    for card in comparison.layouts:
        runs = [_run(row, metric, better) for row in comparison.rows if row.layout == card.name]
        kept = tuple(run for run in runs if run is not None)
        if kept:
            layouts.append(Learning(card.name, looks[card.name], kept))
    label = metric_label(metric)
    alone = ", models without counts" if comparison.counts else ""  # an epoch is chosen before counts enter
    title = f"{label} on validation{alone}"
    return learning_curves(title, layouts, label, better) if layouts else None


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


def _measured(comparison: Comparison, metric: str) -> list[Summary]:
    """The summaries in which the metric is defined."""
    return [
        summary
        for summary in comparison.summaries
        if metric in summary.metrics and summary.metrics[metric].estimate.value is not None
    ]
