"""What people see: lines, tables, and on a terminal a bar under the lines of a training."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from plait.data import Dataset
from plait.data.manifest import left_out
from plait.training.loop import Watch

MILLION = 1_000_000  # rich counts in whole numbers
YEAR_1971_S = 31_536_000
LONGEST_CELL = 200  # characters in a table on a terminal: an id may be a page of text
LOG_WIDTH = 140  # off a terminal, so that the tables in a log stay whole


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def say(line: str, out: Console | None = None) -> None:
    """One line as it is: the [t] of a notation is no markup, and nothing is wrapped."""
    (out or console()).print(line, markup=False, highlight=False, soft_wrap=True)


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> None:
    columns = (Column(heading, overflow="fold") for heading in headings)  # off a terminal nothing is cut
    table = Table(*columns, box=None, pad_edge=False, caption=Text(caption), caption_justify="left")
    out = console()
    for row in rows:
        cells = [_cell(value) for value in row]
        table.add_row(*(Text(_shortened(cell) if out.is_terminal else cell) for cell in cells))
    out.print(table)


def show_dataset(dataset: Dataset) -> None:
    """What a prepared folder holds, and where the rows of the log went."""
    manifest, counts = dataset.manifest, dataset.manifest.counts
    say(
        f"{dataset.folder}: {counts.events:,} events, {counts.users:,} users, {counts.items:,} items; "
        f"{manifest.tied_share:.1%} of the events share a time with another of their user"
    )
    gone = (counts.rejected, counts.duplicates_removed, counts.single_event_rows, counts.core_rows)
    for line in manifest.read_as:
        say(line)
    say(f"{counts.rows_read:,} rows read, left out: {left_out(manifest.settings, *gone)}")
    if manifest.settings.time is not None and dataset.last_s < YEAR_1971_S:
        say(
            f"all times lie before 1971, the last at {datetime.fromtimestamp(dataset.last_s, UTC):%Y-%m-%d %H:%M:%S}, "
            f"read in {manifest.settings.time_unit}; where that is wrong, prepare again with another --time-unit"
        )
    shares = [f"{name} {missing / counts.events:.1%}" for name, missing in counts.missing.items() if missing]
    if shares:
        say(f"events without a value: {', '.join(shares)}")
    if counts.duplicates > counts.duplicates_removed:
        say(
            f"{counts.duplicates:,} rows repeat a user's item and time and were kept; --deduplicate drops them"
        )


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
