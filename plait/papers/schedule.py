"""How the variants of a study train: all for as many epochs, so that none is better for having been stopped later."""

from typing import Any

from plait.evaluation.selection import Selection
from plait.evaluation.settings import Optim, Protocol


def epochs(count: int, **choices: Any) -> Protocol:
    """A protocol without early stopping. The best epoch in validation is the one that is judged, in everything: what
    is recorded was found so.

    >>> epochs(8, max_events=50).max_epochs
    8
    """
    return Protocol(max_epochs=count, patience=count, **({"select": Selection.AUTO} | choices))


def optim(learning_rate: float = 1e-3, users_per_step: int = 16) -> Optim:
    """A rate that falls along a cosine until the last of the epochs."""
    return Optim(learning_rate=learning_rate, schedule="cosine", users_per_step=users_per_step)
