"""A comparison for people: a table for the terminal, and one self-contained HTML page.

The page holds everything that it needs: no font, image or script from elsewhere. Its own script sorts tables and folds
them on narrow screens; without it everything is there.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rich.text import Text

from plait.compare import charted, notes, presentation
from plait.compare.presentation import COST_COLUMNS, Line
from plait.compare.presentation import Cell as MetricCell
from plait.compare.results import Comparison
from plait.compare.side_tables import (
    COUNTS_IN_TIME_NOTE,
    COUNTS_NOTE,
    counts_in_time_tables,
    counts_tables,
    list_metrics,
    serving_notes,
    serving_table,
    side_notes,
    side_tables,
)
from plait.compare.verdict import verdict_of
from plait.compare.words import NOTHING, duration, in_percent, meaning, metric_label, number, run_folder
from plait.terminal import Cell, FittedTable, NumberHeading

TERMINAL_STYLE = {"best": "bold", "second": "underline", "other": ""}


def terminal_table(comparison: Comparison, width: int = 100) -> FittedTable:
    """A layout a line: metrics, cost, abilities. Where not all metrics fit side by side into `width` columns, the first
    two of retrieval and the first of each action, in as many blocks as it takes; the notes name the others."""
    everything = (*comparison.retrieval, *comparison.scoring)
    whole = _table(comparison, everything, [])
    if len(whole.blocks(width)) == 1:
        return whole
    actions = {metric.partition(":")[2]: metric for metric in reversed(comparison.scoring)}
    main = [metric for metric in everything if metric in (*comparison.retrieval[:2], *actions.values())]
    return _table(comparison, main, [metric for metric in everything if metric not in main])


def terminal_side_tables(comparison: Comparison) -> list[FittedTable]:
    """What lists hold, and the metrics that the verdict is about by slices of the answers."""
    found = []
    for table in side_tables(comparison, chief_alone=True):
        rows: list[list[Cell]] = [[name, *map(_terminal_cell, cells)] for name, cells in table.rows]
        found.append(FittedTable(["layout", *map(NumberHeading, table.headings)], rows, table.title))
    return found


def _table(comparison: Comparison, shown: Sequence[str], on_page_only: Sequence[str]) -> FittedTable:
    below = [*notes.rules(comparison), *notes.notes(comparison)]
    if on_page_only:
        below.append(f"On the page only: {', '.join(map(metric_label, on_page_only))}.")
    rows = [_row(comparison, line, shown) for line in presentation.lines(comparison)]
    for name, cells in presentation.baseline_cells(comparison, shown).items():
        rows.append([name, *(_terminal_cell(cells[metric]) for metric in shown), *[""] * 4])
    if oracle := presentation.oracle_cells(comparison):
        rows.append(["oracle", *(_terminal_cell(oracle[metric]) for metric in shown), *[""] * 4])
    return FittedTable(
        headings=[
            "layout",
            *map(NumberHeading, (*map(metric_label, shown), "cost", "s/epoch")),
            "retr.",
            "score",
        ],
        rows=rows,
        title=f"{comparison.title} on {comparison.dataset.name}",
        notes=["", *below, f"Protocol: {comparison.protocol}"],
    )


def _row(comparison: Comparison, line: Line, shown: Sequence[str]) -> list[Cell]:
    summary = comparison.summary_of(line.card.name)
    return [
        line.card.name + line.marks,
        *(_terminal_cell(line.cells[metric]) for metric in shown),
        presentation.relative_cost(comparison, summary) if summary else NOTHING,
        number(summary.epoch_times.median_s, 1) if summary else NOTHING,
        *(ability.verdict if ability else NOTHING for ability in (line.card.retrieves, line.card.scores)),
    ]


def _terminal_cell(cell: MetricCell) -> Text:
    """Value, half-interval and marks; only the value carries the place.

    >>> _terminal_cell(MetricCell("0.1830", "0.0051", "best", marks="*")).plain
    '0.1830 ±.0051*'
    """
    text = Text(cell.value, style=TERMINAL_STYLE[cell.place])
    if cell.plus_minus:
        text.append(f" ±{cell.plus_minus.removeprefix('0')}", style="not bold not underline")
    text.append(cell.marks, style="not underline")
    return text.append(f" ({cell.regret})" if cell.regret else "", style="not bold not underline")


def page_template() -> Any:
    """The page's jinja2 template.

    Raises:
        ModuleNotFoundError: the extra `report` is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("an HTML report needs jinja2: pip install 'plait[report]'") from error
    return _compiled(jinja2)


@cache
def _compiled(jinja2: Any) -> Any:
    """Once in a process: it takes a third of a second."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("plait", "compare"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def html_page(comparison: Comparison, folder: Path | None = None) -> str:
    """The whole report as one page: readable without a network or scripts, on a phone, by day and night, and printed.

    Args:
        folder: where the page and its runs lie, as the commands on it name it.

    Raises:
        ModuleNotFoundError: the extra `report` is not installed.
    """
    verdict = verdict_of(comparison)
    page: str = page_template().render(
        c=comparison,
        verdict=verdict,
        use=presentation.use(comparison, verdict, folder or Path()),
        lines=presentation.lines(comparison),
        oracle=presentation.oracle_cells(comparison),
        baselines={
            group.title: presentation.baseline_cells(comparison, group.metrics)
            for group in presentation.groups(comparison)
        },
        counts_tables=counts_tables(comparison),
        counts_note=COUNTS_NOTE,
        counts_in_time_tables=counts_in_time_tables(comparison),
        counts_in_time_note=COUNTS_IN_TIME_NOTE,
        side_tables=side_tables(comparison),
        list_metrics=list_metrics(comparison),
        side_notes=side_notes(comparison),
        serving_table=serving_table(comparison),
        serving_notes=serving_notes(comparison),
        serving_chart=charted.serving_chart(comparison),
        cost_columns=COST_COLUMNS,
        groups=presentation.groups(comparison),
        rules=notes.rules(comparison),
        page_notes=notes.notes(comparison, counts_in_tables=True),
        warnings=notes.warnings(comparison),
        key=presentation.KEY,
        charts={metric: charted.charts(comparison, metric) for metric in comparison.charted},
        details={
            metric: presentation.details(comparison, metric)
            for metric in (*comparison.retrieval, *comparison.scoring)
        },
        label=metric_label,
        meaning=meaning,
        number=number,
        share=in_percent,
        draws_candidates=any("ix0" in token.split() for card in comparison.layouts for token in card.tokens),
        duration=duration,
        run_folder=run_folder,
    )
    return page.lstrip()
