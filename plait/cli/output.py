"""What people see: results on stdout, and on stderr what is told on the way to them."""

import json
import sys
from collections.abc import Iterable, Sequence

import msgspec
from rich.console import Console, RenderableType
from rich.text import Text

from plait.terminal import ENDLESS, FittedTable, NumberHeading

LONGEST_CELL = 200  # characters in a table on a terminal: an id may be a page of text


def console() -> Console:
    """Of results."""
    return Console(width=None if sys.stdout.isatty() else ENDLESS)


def progress_console(*, quiet: bool = False) -> Console:
    """Of all that is told on the way to a result."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else ENDLESS, quiet=quiet)


def say(line: str, out: Console | None = None) -> None:
    """One line as it is: the [t] of a notation is no markup, and nothing is wrapped."""
    (out or console()).print(line, markup=False, highlight=False, soft_wrap=True)


def show(table: RenderableType, out: Console | None = None) -> None:
    """A table, or whatever holds some: what is wider than a terminal is not cut."""
    (out or console()).print(table, crop=False)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> None:
    """Rows under headings; columns of numbers are told by their cells."""
    out = console()
    values = [tuple(row) for row in rows]
    columns = zip(headings, *values, strict=True)
    told = [
        NumberHeading(heading) if all(isinstance(value, float) for value in column) and column else heading
        for heading, *column in columns
    ]
    cells = [[_cell(value) for value in row] for row in values]
    if out.is_terminal:
        cells = [[_shortened(cell) for cell in row] for row in cells]
    show(FittedTable(told, cells, notes=[caption] if caption else []), out)


def show_rows(headings: Sequence[str], rows: Iterable[Sequence[object]], *, json: bool) -> None:
    """A table for people, or an object for each row for programs."""
    if json:
        show_json([dict(zip(headings, row, strict=True)) for row in rows])
    else:
        show_table(headings, rows)


def show_json(value: object) -> None:
    """One JSON document, in characters that the console knows."""
    text = msgspec.json.format(msgspec.json.encode(value)).decode()
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text), indent=2)
    print(text)


def _cell(value: object) -> Text:
    if value is None:
        return Text()
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, list):
        return Text(", ".join(map(str, value)))
    return Text(f"{value:.4g}" if isinstance(value, float) else str(value))


def _shortened(cell: Text) -> Text:
    """
    >>> len(_shortened(Text("x" * 5_000))), _shortened(Text("Heat, 1995")).plain
    (200, 'Heat, 1995')
    """
    begin, end, text = LONGEST_CELL // 2, LONGEST_CELL // 2 - 1, cell.plain
    return cell if len(text) <= LONGEST_CELL else Text(f"{text[:begin]}…{text[-end:]}")
