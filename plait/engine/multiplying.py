"""In which arithmetic the engine multiplies: as the model was trained and tested, where this machine gains by it.

Recorded with a model is what its training multiplied in. The machine that serves is another one, maybe: a probe of some
milliseconds, once in a process, says what is worth it here. No way is taken that is less exact than the recorded one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import assert_never

from plait.models.generative import GenerativeRecommender
from plait.nn.arithmetic import Measured, choice, measure_multiplying
from plait.nn.precision import Multiplied, autocast, products_by

FEW_TOKENS = 64  # with fewer, to round all weights to bf16 costs more than the products gain

_forced: ContextVar[Multiplied | None] = ContextVar("multiplied", default=None)


@contextmanager
def multiplied_in(way: Multiplied | None) -> Iterator[None]:
    """Forward passes in this arithmetic, whatever was recorded, for the time inside: to compare ways of asking. None:
    again as served."""
    before = _forced.set(way)
    try:
        yield
    finally:
        _forced.reset(before)


@contextmanager
def as_served(model: GenerativeRecommender, num_tokens: int) -> Iterator[None]:
    """A forward pass of so many tokens in what `served_in` says, for the time inside."""
    way, device = served_in(model, num_tokens), next(model.parameters()).device.type
    with products_by(way), autocast(way, device):
        yield


def served_in(model: GenerativeRecommender, num_tokens: int = FEW_TOKENS) -> Multiplied:
    """What products of so many tokens are computed in on this machine, for this model."""
    forced = _forced.get()
    if forced is not None:
        return forced
    allowed = as_exact_as(model.config.arithmetic)
    if num_tokens < FEW_TOKENS:
        allowed = allowed - {"bf16"}
    return _chosen(allowed, model.config.settings.trunk.dim, next(model.parameters()).device.type)


def as_exact_as(recorded: Multiplied | None) -> frozenset[Multiplied]:
    """The ways that are as exact as what was recorded. (What was recorded nowhere was fp32, or might have been.)

    >>> sorted(as_exact_as("fp32_onednn"))
    ['fp32', 'fp32_onednn']
    """
    match recorded:
        case None | "fp32" | "fp32_onednn":
            return frozenset({"fp32", "fp32_onednn"})
        case "bf16":
            return frozenset({"fp32", "fp32_onednn", "bf16"})
        case never:
            assert_never(never)


@cache
def _chosen(allowed: frozenset[Multiplied], dim: int, device: str) -> Multiplied:
    return choice({way: its for way, its in _measured(dim, device).items() if way in allowed})


@cache
def _measured(dim: int, device: str) -> dict[Multiplied, Measured]:
    return measure_multiplying(dim, device)
