"""Tables for a terminal of any width. Elsewhere a line is as long as it must be.

A table that is too wide for a terminal goes on in a second block, below the first; no word of it is broken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

ENDLESS = 100_000  # columns, of a console that wraps nothing
GAP = 2  # characters between columns


@dataclass(frozen=True)
class NumberHeading:
    """The heading of a column of numbers: to the right, and no cell of it in two lines."""

    heading: str


Cell = str | Text


@final
@dataclass(frozen=True)
class FittedTable:
    """Rows under headings, as many columns beside each other as fit; each further block has the first one again."""

    headings: Sequence[str | NumberHeading]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    notes: Sequence[str] = field(default=())  # below the last block

    def blocks(self, width: int) -> list[list[int]]:
        """The columns that stand beside each other, block by block."""
        return blocks([self._column(at).least for at in range(len(self.headings))], width)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType | Segment]:
        if self.title:
            yield Text(self.title, style="italic")
        columns = [self._column(at) for at in range(len(self.headings))]
        for number, block in enumerate(self.blocks(options.max_width)):
            if number:
                yield Text()
            of_block = [columns[at] for at in block]
            widths = widths_of(of_block, options.max_width)
            taken = options.update(width=max(options.max_width, sum(widths) + GAP * (len(widths) - 1)))
            yield from console.render(_table(of_block, widths), taken)
        yield from map(Text, self.notes)

    def _column(self, at: int) -> "MeasuredColumn":
        heading = self.headings[at]
        cells = [row[at] if at < len(row) else "" for row in self.rows]  # a row may end early
        is_number = isinstance(heading, NumberHeading)
        texts = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
        return MeasuredColumn(
            Text(heading.heading if isinstance(heading, NumberHeading) else heading), texts, is_number
        )


@dataclass(frozen=True)
class MeasuredColumn:
    """One column, and how wide it is."""

    heading: Text
    cells: Sequence[Text]
    is_number: bool

    @property
    def most(self) -> int:
        """Characters of the longest line."""
        lines = [line for text in (self.heading, *self.cells) for line in text.plain.split("\n")]
        return max(map(cell_len, lines), default=0)

    @property
    def least(self) -> int:
        """Characters of the longest piece that is not broken: a cell of numbers, otherwise a word."""
        pieces = [line for text in self.cells for line in text.plain.split("\n")] if self.is_number else []
        words = [word for text in (self.heading, *self.cells) for word in text.plain.split()]
        return max(map(cell_len, (*pieces, *words)), default=0)


def blocks(least: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each block: as many as fit, and at least one beside the first.

    Args:
        least: characters that each column needs.

    >>> blocks([4, 5, 7], width=14)
    [[0, 1], [0, 2]]
    """
    found: list[list[int]] = [[0]]
    for at in range(1, len(least)):
        needed = sum(least[column] + GAP for column in (*found[-1], at)) - GAP
        if needed > width and len(found[-1]) > 1:
            found.append([0])
        found[-1].append(at)
    return found


def widths_of(columns: Sequence[MeasuredColumn], width: int) -> list[int]:
    """What each column gets: all that it could use, or what it needs and a part of what is left then."""
    spare = width - sum(column.least + GAP for column in columns) + GAP
    wanted = sum(column.most - column.least for column in columns)
    share = min(max(spare, 0) / wanted, 1.0) if wanted else 0.0
    return [column.least + int(share * (column.most - column.least)) for column in columns]


def _table(columns: Sequence[MeasuredColumn], widths: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            column.heading, width=width, justify="right" if column.is_number else "left", overflow="fold"
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table
