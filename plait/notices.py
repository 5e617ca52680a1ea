"""What a training tells whoever started it: how far it is, and why it stopped early. Loads no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

Watch = Callable[[float, float], None]  # called after every step: share of the cap spent, tokens per second


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Which of several runs begins now, and how long it and the rest may take, by how the runs before it ended."""

    number: int  # from 1
    of: int
    elapsed_s: float  # since the first began
    this_s: float | None  # None while no run has ended, like the next
    later_s: float | None

    def left_s(self, spent_s: float = 0.0) -> float | None:
        """Until all runs have ended, when this one has run for `spent_s`.

        >>> Outlook(number=2, of=3, elapsed_s=50.0, this_s=40.0, later_s=30.0).left_s(spent_s=15.0)
        55.0
        """
        if self.this_s is None or self.later_s is None:
            return None
        return max(self.this_s - spent_s, 0.0) + self.later_s


@runtime_checkable
class WatchesRuns(Protocol):
    """A watch that is also told which of several runs it watches."""

    def __call__(self, share: float, tokens_per_s: float) -> None: ...

    def begins(self, outlook: Outlook) -> None: ...


class Diverged(ArithmeticError):
    """Training went wrong in a way that more steps will not mend. The message names the batch."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came between two steps."""

    def __init__(self, stopped: str, saved: Path) -> None:
        super().__init__(f"{stopped}, and was saved in {saved}; the same command goes on from there")
        self.stopped = stopped  # says where
