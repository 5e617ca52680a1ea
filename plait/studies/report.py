"""A comparison for people: a table for the terminal, and one self-contained HTML page.

The page holds everything that it needs: no script, no font, no image from elsewhere.
"""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from plait.studies import reading
from plait.studies.reading import COST_COLUMNS, Cell
from plait.studies.rows import Comparison
from plait.studies.words import NOTHING, duration, metric_label, number

TERMINAL_STYLE = {"best": "bold", "second": "underline", "other": ""}


def terminal_table(comparison: Comparison) -> Table:
    """A layout a line, within 100 columns: the first two retrieval metrics, the first scoring one, cost."""
    shown = [*comparison.retrieval[:2], *comparison.scoring[:1]]
    # Text, not str: a str is read as markup, in which the [t] of a notation would be a tag.
    table = Table(
        title=Text(f"{comparison.dataset.name}: layouts compared"),
        title_justify="left",
        caption=Text("\n".join([*reading.rules(comparison), *reading.notes(comparison)])),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("layout", overflow="fold")
    for heading in (*map(metric_label, shown), "cost", "s/epoch"):
        table.add_column(heading, justify="right")
    table.add_column("retr.")
    table.add_column("score")
    for line in reading.lines(comparison):
        summary = comparison.summary_of(line.card.name)
        table.add_row(
            Text(line.card.name + line.marks),
            *(_terminal_cell(line.cells[metric]) for metric in shown),
            reading.relative_cost(comparison, summary) if summary else NOTHING,
            number(summary.cost.epoch_s, 1) if summary else NOTHING,
            *(ability.verdict if ability else NOTHING for ability in (line.card.retrieves, line.card.scores)),
        )
    return table


def _terminal_cell(cell: Cell) -> Text:
    """Value, half-interval and marks; only the value carries the place.

    >>> _terminal_cell(Cell("0.1830", "0.0051", "best", marks="*")).plain
    '0.1830 ±.0051*'
    """
    text = Text(cell.value, style=TERMINAL_STYLE[cell.place])
    if cell.plus_minus:
        text.append(f" ±{cell.plus_minus.removeprefix('0')}", style="not bold not underline")
    return text.append(cell.marks, style="not underline")


def page_template() -> Any:
    """The page's jinja2 template.

    Raises:
        ModuleNotFoundError: the extra `report` is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("an HTML report needs jinja2: pip install 'plait[report]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("plait", "studies"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def html_page(comparison: Comparison) -> str:
    """The whole report as one page: readable without a network or scripts, on a phone, by day and night.

    Raises:
        ModuleNotFoundError: the extra `report` is not installed.
    """
    return page_template().render(
        c=comparison,
        lines=reading.lines(comparison),
        cost_columns=COST_COLUMNS,
        findings=[
            sentence for metric in comparison.charted for sentence in reading.findings(comparison, metric)
        ],
        rules=reading.rules(comparison),
        notes=reading.notes(comparison),
        charts={metric: reading.charts(comparison, metric) for metric in comparison.charted},
        details={metric: reading.details(comparison, metric) for metric in comparison.charted},
        label=metric_label,
        number=number,
        duration=duration,
    )
