"""How far a comparison is: which run of how many, how long it took so far, and how long the rest may take."""

import time
from collections.abc import Callable, Sequence
from math import fsum
from typing import final

from plait.compare.words import duration
from plait.notices import Outlook, Watch, WatchesRuns


def outlook(names: Sequence[str], wall_s: Sequence[float], elapsed_s: float) -> Outlook:
    """Of the run after those that have ended. A run takes as long as those of its name did, else as all of them did.

    Args:
        names: whose turn it is, run by run.
        wall_s: what each run that has ended took, by itself.

    >>> outlook(["item", "lac", "item", "lac"], [10.0, 30.0], elapsed_s=41.0).left_s()
    40.0
    """
    ended = list(zip(names, wall_s, strict=False))

    def expected_s(name: str) -> float | None:
        its = [seconds for other, seconds in ended if other == name] or list(wall_s)
        return sum(its) / len(its) if its else None

    this_s, *later_s = map(expected_s, names[len(ended) :])
    known_s = [seconds for seconds in later_s if seconds is not None]
    return Outlook(
        number=len(ended) + 1,
        of=len(names),
        elapsed_s=elapsed_s,
        this_s=this_s,
        later_s=None if this_s is None else fsum(known_s),
    )


def outlook_words(outlook: Outlook) -> str:
    """
    >>> outlook_words(Outlook(number=3, of=10, elapsed_s=250.0, this_s=60.0, later_s=600.0))
    'run 3 of 10, after 4 min 10 s, about 11 min 00 s left'
    """
    left_s = outlook.left_s()
    after = f", after {duration(outlook.elapsed_s)}" if outlook.number > 1 else ""
    return f"run {outlook.number} of {outlook.of}{after}" + (
        "" if left_s is None else f", about {duration(left_s)} left"
    )


@final
class Runs:
    """Trainings one after another, each announced before it begins."""

    def __init__(self, names: Sequence[str], report: Callable[[str], None], watch: Watch | None) -> None:
        self.names, self.report, self.watch = names, report, watch
        self.wall_s: list[float] = []
        self.first_s = self.begun_s = time.monotonic()

    def begin(self, what: str) -> None:
        self.begun_s = time.monotonic()
        now = outlook(self.names, self.wall_s, self.begun_s - self.first_s)
        self.report(f"{what} ({outlook_words(now)})")
        if isinstance(self.watch, WatchesRuns):
            self.watch.begins(now)

    def end(self, wall_s: float | None = None) -> None:
        """
        Args:
            wall_s: what the run took, where it knows: one of an earlier call took longer than to read it takes now.
        """
        self.wall_s.append(time.monotonic() - self.begun_s if wall_s is None else wall_s)
