"""What a training tells whoever started it: how far it is, and why it stopped early. Loads no torch."""

from collections.abc import Callable
from pathlib import Path

Watch = Callable[[float, float], None]  # called after every step: share of the cap spent, tokens per second


class Diverged(ArithmeticError):
    """Training went wrong in a way that more steps will not mend. The message names the batch."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came between two steps."""

    def __init__(self, stopped: str, saved: Path) -> None:
        super().__init__(f"{stopped}, and was saved in {saved}; the same command goes on from there")
        self.stopped = stopped  # says where
