"""How much is computed at a time where no gradient is needed: forward passes by the memory that their tokens take,
products with the catalogue by their logits. A step's size changes answers by rounding alone.

Shape letters: S sequences.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from jaxtyping import Int64

from plait.models.generative import GenerativeRecommender
from plait.models.ranker import Ranker
from plait.models.two_tower import TwoTower

STEP_BYTES = 256 << 20  # of a forward pass: what its tokens take at the peak, beside the weights
STATE_BYTES = (
    1 << 30
)  # of the keys that a state keeps; more histories than that are encoded when they are asked about
STEP_LOGITS = 1 << 24  # scores of the catalogue held at a time, of one user or of many: 64 MiB in fp32
# Measured at the peak of a forward pass, over layouts, trunks and positions: 18 to 26 vectors for each token.
WIDTHS_PER_TOKEN = 18  # embeddings, residual stream, projections, and their copies in rows
INDEX_BYTES_PER_TOKEN = 256  # numbers that say where a token stands, and when

_most_bytes: ContextVar[int] = ContextVar("most_bytes", default=sys.maxsize)


def bytes_per_token(model: GenerativeRecommender) -> int:
    """About what a token takes at the peak of a forward pass without gradients, whatever the number of layers."""
    trunk = model.config.settings.trunk
    widths = (WIDTHS_PER_TOKEN + 2 * trunk.mlp_multiple) * trunk.dim
    if (
        model.items is not None and model.items.features
    ):  # an item's parts side by side, before they are projected
        widths += 2 * model.items.project.in_features
    return INDEX_BYTES_PER_TOKEN + 4 * widths


def kept_bytes_per_token(model: GenerativeRecommender) -> int:
    """What is kept of a token of an encoded history: keys and values, hidden state, position and time."""
    if isinstance(model, Ranker | TwoTower):  # an event's item and its actions, or its user's features
        return 16 + 2 * next(model.parameters()).element_size() * model.config.settings.trunk.dim
    trunk = model.trunk
    return 16 + next(trunk.parameters()).element_size() * (2 * trunk.num_attentions + 1) * trunk.config.dim


def step_bytes() -> int:
    """What a forward pass may take."""
    return min(STEP_BYTES, _most_bytes.get())


def tokens_per_step(model: GenerativeRecommender) -> int:
    """How many tokens a forward pass may hold."""
    return max(1, step_bytes() // bytes_per_token(model))


@contextmanager
def smaller(num_bytes: int) -> Iterator[None]:
    """Forward passes of no more bytes, for the time inside: to see that their size changes no answer."""
    before = _most_bytes.set(num_bytes)
    try:
        yield
    finally:
        _most_bytes.reset(before)


def tokens_of(
    model: GenerativeRecommender, length_S: Int64[np.ndarray, " S"], num_candidates: int = 1
) -> Int64[np.ndarray, " S"]:
    """How many tokens sequences take: histories of so many events, as far as the model looks, and candidates."""
    plan = model.plan
    seen_S = np.minimum(length_S, plan.window.longest + plan.lead)
    return seen_S * model.layout.tokens_per_event + num_candidates * plan.tokens_to_come


def rows_per_step(width: int) -> int:
    """How many rows of so many numbers are held at a time: users by items, or items by the width of their features."""
    return max(1, STEP_LOGITS // max(1, width))


def even(count: int, most: int) -> Iterator[slice]:
    """Parts of at most `most`.

    >>> list(even(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(at, min(at + most, count)) for at in range(0, count, most))


def within(
    cost_S: Int64[np.ndarray, " S"], most: int, first_S: Int64[np.ndarray, " S"] | None = None
) -> Iterator[slice]:
    """Sequences in a row, as many as cost at most `most` together, and at least one.

    Args:
        first_S: what each costs where it is the first of its part; by default the same.

    >>> list(within(np.array([2, 2, 9, 1]), 4))
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    spent_S = np.cumsum(cost_S)
    first_S = cost_S if first_S is None else first_S
    at = 0
    while at < len(cost_S):
        end = int(np.searchsorted(spent_S, spent_S[at] + most - first_S[at], side="right"))
        yield slice(at, max(at + 1, end))
        at = max(at + 1, end)
