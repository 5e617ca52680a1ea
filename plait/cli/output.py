"""What people see: lines, tables, and on a terminal a bar under the lines of a training."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from plait.notices import Watch

MILLION = 1_000_000  # rich counts in whole numbers
LONGEST_CELL = 200  # characters in a table on a terminal: an id may be a page of text
GAP = 2  # characters between columns
LOG_WIDTH = 140  # off a terminal, so that the tables in a log stay whole


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def say(line: str, out: Console | None = None) -> None:
    """One line as it is: the [t] of a notation is no markup, and nothing is wrapped."""
    (out or console()).print(line, markup=False, highlight=False, soft_wrap=True)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> None:
    """Rows under headings. On a terminal too narrow for all columns, they stand in blocks under one another, each with
    the first column again; elsewhere a line is as long as it must be."""
    out = console()
    cells = [[_cell(value) for value in row] for row in rows]
    if out.is_terminal:
        cells = [[_shortened(cell) for cell in row] for row in cells]
    blocks = [list(range(len(headings)))]
    if out.is_terminal:
        blocks = _blocks(headings, cells, out.width)
    else:
        longest = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
        out.width = max(out.width, sum(min(length, LONGEST_CELL) + GAP for length in longest))
    for number, block in enumerate(blocks):
        if number:
            out.line()
        of_block = [[row[at] for at in block] for row in cells]
        is_last = number == len(blocks) - 1
        out.print(_table([headings[at] for at in block], of_block, caption if is_last else ""))


def _table(headings: Sequence[str], cells: Sequence[Sequence[str]], caption: str) -> Table:
    columns = (Column(heading, overflow="fold") for heading in headings)  # nothing is cut
    table = Table(*columns, box=None, pad_edge=False, caption=Text(caption), caption_justify="left")
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def _blocks(headings: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns of each block: as many as fit without breaking a word, and at least one beside the first.

    >>> _blocks(["item", "liked", "watched"], [["a5", "0.5", "1"]], width=14)
    [[0, 1], [0, 2]]
    """
    columns = zip(headings, *cells, strict=True)
    longest = [max(len(word) for text in column for word in ("", *text.split())) for column in columns]
    blocks: list[list[int]] = [[0]]
    for at in range(1, len(headings)):
        needed = sum(longest[column] + GAP for column in (*blocks[-1], at)) - GAP
        if needed > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(at)
    return blocks


@final
class Bar:
    """The progress of one training after another, each from the share of its cap that is spent."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("", total=MILLION, speed="", visible=False)
        self.share = 1.0

    def __call__(self, share: float, tokens_per_s: float) -> None:
        completed = round(share * MILLION)
        if share < self.share:  # the next training, or one that goes on from a checkpoint
            self.progress.reset(self.task, completed=completed, visible=True)
        self.share = share
        self.progress.update(self.task, completed=completed, speed=f"{tokens_per_s:,.0f} tokens/s")


@contextmanager
def training_bar(out: Console) -> Iterator[Watch | None]:
    """On a terminal a bar with tokens per second and the time left, which is the most that it can be: training
    may stop before its cap. Elsewhere nothing: the lines say enough."""
    if not out.is_terminal:
        yield None
        return
    columns = (
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.fields[speed]}, at most"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=out, transient=True) as progress:
        yield Bar(progress)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shortened(text: str) -> str:
    """
    >>> len(_shortened("x" * 5_000)), _shortened("Heat, 1995")
    (200, 'Heat, 1995')
    """
    begin, end = LONGEST_CELL // 2, LONGEST_CELL // 2 - 1
    return text if len(text) <= LONGEST_CELL else f"{text[:begin]}…{text[-end:]}"
