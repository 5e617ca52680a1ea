"""On a terminal a bar under the lines of a training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from plait.compare.words import duration
from plait.notices import Outlook, Watch

MILLION = 1_000_000  # rich counts in whole numbers


@final
class Bar:
    """The progress of one training after another, each from the share of its cap that is spent."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("training", total=MILLION, speed="", left="", visible=False)
        self.share = 1.0
        self.outlook: Outlook | None = None
        self.begun_s = time.monotonic()

    def begins(self, outlook: Outlook) -> None:
        """The next of several trainings."""
        self.outlook, self.begun_s, self.share = outlook, time.monotonic(), 1.0
        self.progress.update(self.task, description=f"run {outlook.number} of {outlook.of}")

    def __call__(self, share: float, tokens_per_s: float) -> None:
        completed = round(share * MILLION)
        if share < self.share:  # the next training, or one that goes on from a checkpoint
            self.progress.reset(self.task, completed=completed, visible=True)
        self.share = share
        self.progress.update(
            self.task, completed=completed, speed=f"{tokens_per_s:,.0f} tokens/s", left=self._left()
        )

    def _left(self) -> str:
        left_s = self.outlook.left_s(time.monotonic() - self.begun_s) if self.outlook else None
        return "" if left_s is None else f", about {duration(left_s)} left"


@contextmanager
def training_bar(out: Console) -> Iterator[Watch | None]:
    """On a terminal a bar with the share of the cap that is spent, at which training ends at the latest; and where
    runs ended before, the time that is left by how long they took. Elsewhere nothing: the lines say enough."""
    if not out.is_terminal or out.quiet:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:.0f} % of the cap, {task.fields[speed]},"),
        TimeElapsedColumn(),
        TextColumn("elapsed{task.fields[left]}"),
    )
    with Progress(*columns, console=out, transient=True) as progress:
        yield Bar(progress)
