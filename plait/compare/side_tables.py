"""Tables beside the main one: what the lists of layouts and baselines hold, and how both fare on slices of the answers,
and what serving takes.

Nothing is marked as best in them: their metrics are no measure of quality, and slices are small.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from plait.compare.notes import COUNT, bounds_and_p
from plait.compare.presentation import Cell, around
from plait.compare.results import Beyond, Comparison, LayoutCard, Request, ServingCost
from plait.compare.verdict import chief_metrics
from plait.compare.words import NOTHING, duration, metric_label, number, signed
from plait.evaluation.counts_effect import CountsEffect, CountsInTime
from plait.metrics.intervals import Estimate


@dataclass(frozen=True)
class SideTable:
    """A line for each layout and baseline."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]  # name and cells


def side_tables(comparison: Comparison, *, chief_alone: bool = False) -> list[SideTable]:
    """What lists hold, then every metric by slices; empty where nothing was measured.

    Args:
        chief_alone: of the metrics, those that the verdict is about.
    """
    if not comparison.beyond_accuracy:
        return []
    shown = (*comparison.retrieval, *comparison.scoring)
    metrics = chief_metrics(comparison.retrieval, comparison.scoring) if chief_alone else shown
    return [*_of_lists(comparison), *(_of_slices(comparison, metric) for metric in metrics)]


COUNTS_NOTE = (
    "Every layout's runs with counts beside the model and without: what counts add to the same runs. The interval and "
    "p are over users; how other seeds would have come out is not in them. * worse than the best without counts."
)


def counts_tables(comparison: Comparison) -> list[SideTable]:
    """What counts do to each layout, metric by metric, the chief ones first; empty where no layout has them."""
    chief = chief_metrics(comparison.retrieval, comparison.scoring)
    metrics = dict.fromkeys((*chief, *comparison.retrieval, *comparison.scoring))
    tables = (_of_counts(comparison, metric) for metric in metrics)
    return [table for table in tables if table.rows]


def _of_counts(comparison: Comparison, metric: str) -> SideTable:
    alone = {of.layout: of.metrics.get(metric) for of in comparison.without_counts}
    rows = []
    for layout, effects in comparison.counts.items():
        for its in (its for its in effects if its.metric == metric):
            without = alone.get(layout)
            star = "*" * bool(without and without.vs_best and without.vs_best.is_significant)
            cells = (Cell(number(its.without) + star), Cell(number(its.with_counts)), _difference(its))
            rows.append((layout, cells))
    return SideTable(metric_label(metric), ("without counts", "with counts", "difference"), tuple(rows))


COUNTS_IN_TIME_NOTE = (
    "What counts add, with - without on the same runs. First with tables of the training and the validation rows, as "
    "one who serves would have them. Then with those of the training rows alone, by how long after the last of these "
    "a question was asked."
)


def counts_in_time_tables(comparison: Comparison) -> list[SideTable]:
    """What counts add as they age, for each of the chief metrics; empty where the data is not cut in time."""
    found = {layout: _by_heading(its) for layout, its in comparison.counts_in_time.items()}
    headings = tuple(dict.fromkeys(heading for its in found.values() for heading in its))
    metrics = chief_metrics(comparison.retrieval, comparison.scoring) if found else ()
    return [_of_counts_in_time(found, headings, metric) for metric in metrics]


def _by_heading(its: CountsInTime) -> dict[str, tuple[CountsEffect, ...]]:
    return {"counted until the test": its.until_test} | {age.heading: age.effects for age in its.by_age}


def _of_counts_in_time(
    found: Mapping[str, Mapping[str, tuple[CountsEffect, ...]]], headings: tuple[str, ...], metric: str
) -> SideTable:
    rows = []
    for layout, its in found.items():
        of = [{effect.metric: effect for effect in its.get(heading, ())} for heading in headings]
        rows.append((layout, tuple(_difference(by[metric]) if metric in by else Cell(NOTHING) for by in of)))
    return SideTable(metric_label(metric), headings, tuple(rows))


def _difference(its: CountsEffect) -> Cell:
    return Cell(signed(its.difference.value), around=bounds_and_p(its))


def list_metrics(comparison: Comparison) -> tuple[str, ...]:
    """The metrics of what lists hold that any contender has."""
    return tuple(dict.fromkeys(name for row in comparison.beyond_accuracy for name in row.found.lists))


def side_notes(comparison: Comparison) -> str:
    """Which answers are in which slice, and whose lists are not known."""
    rows = comparison.beyond_accuracy
    slices = "; ".join(str(of.slice) for of in rows[0].found.slices) if rows else ""
    said = f"Frequent items, and users, are those that together have half of all training events. {slices}."
    retrieves = {card.name for card in comparison.layouts if card.retrieves}
    unknown = [row.name for row in rows if row.name in retrieves and not row.found.lists]
    if not unknown:
        return said
    return f"{said} Not known is what the lists of {', '.join(unknown)} hold: their runs are of an earlier version."


def serving_table(comparison: Comparison) -> SideTable | None:
    """Milliseconds of every request; None where they were not measured."""
    served = comparison.serving
    if served is None:
        return None
    cards, requests = {card.name: card for card in comparison.layouts}, get_args(Request)
    rows = ((of.layout, tuple(_served(cards[of.layout], of, its) for its in requests)) for of in served.costs)
    return SideTable("Serving cost", tuple(f"{request}, ms" for request in requests), tuple(rows))


def serving_notes(comparison: Comparison) -> list[str]:
    """How it was measured, and where it was not."""
    served = comparison.serving
    if served is None:
        return []
    found = [
        f"Median times of a few repetitions, for one user with {served.num_events:,} events whose history is encoded "
        "(but by models that know when they are asked, which encode it each time): "
        f"to score so many candidates, to retrieve the best {served.k}, and to append an event. The models are of the "
        f"first runs, on {comparison.machine}. Measuring took {duration(served.wall_s)}."
    ]
    for of in served.costs:
        found += [f"{of.layout}, {request} not measured: {why}." for request, why in of.why_not.items()]
    rows = {of.layout for of in served.costs}
    without = [its.layout for its in comparison.summaries if its.layout not in rows]
    return found + ([f"Not measured, since no model was kept: {', '.join(without)}."] if without else [])


def _served(card: LayoutCard, of: ServingCost, request: Request) -> Cell:
    if request in of.median_s:
        return Cell(number(1000 * of.median_s[request], 2))
    return Cell("not measured" if card.answers(request) else "cannot")


def _of_lists(comparison: Comparison) -> Iterator[SideTable]:
    metrics = list_metrics(comparison)
    rows = [row for row in comparison.beyond_accuracy if row.found.lists]
    if rows:
        cells = ((_name(row), tuple(_cell(row.found.lists.get(name)) for name in metrics)) for row in rows)
        yield SideTable("What lists hold", tuple(map(metric_label, metrics)), tuple(cells))


def _of_slices(comparison: Comparison, metric: str) -> SideTable:
    rows = comparison.beyond_accuracy
    headings = (f"{of.slice.heading} ({of.slice.num_answers:,})" for of in rows[0].found.slices)
    cells = (
        (_name(row), tuple(_cell(of.metrics.get(metric)) for of in row.found.slices))
        for row in rows
        if any(metric in of.metrics for of in row.found.slices)
    )
    return SideTable(f"{metric_label(metric)} by training events (answers)", tuple(headings), tuple(cells))


def _name(row: Beyond) -> str:
    return f"{COUNT if row.is_baseline else ''}{row.name}"


def _cell(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell(NOTHING)
    half = estimate.half_width
    return Cell(number(estimate.value), "" if half is None else number(half), around=around(estimate))
