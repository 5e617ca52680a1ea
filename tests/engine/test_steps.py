"""What is held in memory at a time is bounded, whatever the history's length, the width and the catalogue's size."""

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import assert_caught, batch_of, model_of, started
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plait.engine import plain, steps
from plait.engine.state import encode
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.nn.config import TrunkConfig

LAC = resolve("lac")


class Allocations(TorchDispatchMode):
    """The most bytes of tensors alive at a time, and the largest tensor, of all that is made inside."""

    def __init__(self, model: GenerativeRecommender) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.ours = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
        self.most_bytes = self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.ours:
                storage = tensor.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, storage._cdata, None)
                self.largest = max(self.largest, storage.nbytes() // tensor.element_size())
        self.most_bytes = max(self.most_bytes, sum(self.alive.values()))
        return out


def model_with(num_events: int, dim: int, num_items: int) -> GenerativeRecommender:
    trunk = TrunkConfig(dim=dim, num_layers=2, num_heads=2, dropout=0.0)
    model = model_of(LAC, max_events=num_events, settings=ModelSettings(trunk=trunk))
    return started(GenerativeRecommender(replace(model.config, num_items=num_items))).eval()


def check_score(num_events: int, dim: int, step_bytes: int) -> None:
    model, state = model_with(num_events, dim, 17), encode(batch_of([num_events] * 2), num_events, LAC.lag)
    with Allocations(model) as found:
        plain.score(model, state, np.arange(48).reshape(2, 24) % 17 + 1)
    assert found.most_bytes <= 1.1 * step_bytes
    assert found.most_bytes > 0.3 * step_bytes or num_events * dim < 1_000, "a step is not much smaller"


STEP_BYTES = 4 << 20  # a sequence of the largest model below, and not many of the smallest


@pytest.mark.parametrize("num_events", [64, 256])
@pytest.mark.parametrize("dim", [32, 128])
def test_scoring_holds_no_more_than_its_step(num_events, dim, monkeypatch):
    monkeypatch.setattr(steps, "STEP_BYTES", STEP_BYTES)
    check_score(num_events, dim, STEP_BYTES)


def test_a_step_without_a_bound_is_caught():
    assert_caught(check_score, 64, 64, STEP_BYTES)


def check_retrieve(num_items: int, step_logits: int) -> None:
    model, state = model_with(5, 8, num_items), encode(batch_of([3] * 64), 5, LAC.lag)
    with Allocations(model) as found:
        plain.retrieve(model, state, 10, filter_seen=True)
    assert found.largest <= max(step_logits, num_items + 1), "one number an item, or a step's logits"


STEP_LOGITS = 1 << 14


@pytest.mark.parametrize("num_items", [500, 5_000, 40_000])
def test_retrieval_never_holds_users_times_items(num_items, monkeypatch):
    """Of the largest catalogue not even one user's scores fit into a step."""
    monkeypatch.setattr(steps, "STEP_LOGITS", STEP_LOGITS)
    monkeypatch.setattr(steps, "STEP_BYTES", 1 << 18)
    check_retrieve(num_items, STEP_LOGITS)


def test_logits_without_a_bound_are_caught(monkeypatch):
    monkeypatch.setattr(steps, "STEP_BYTES", 1 << 18)
    assert_caught(check_retrieve, 5_000, STEP_LOGITS)


def test_parts_are_as_large_as_they_may_be():
    cost_S, first_S = np.array([9, 1, 1, 9, 1, 40, 1]), np.array([9, 9, 9, 9, 9, 40, 9])
    assert [(s.start, s.stop) for s in steps.within(cost_S, 12, first_S)] == [(0, 3), (3, 5), (5, 6), (6, 7)]
    assert [(s.start, s.stop) for s in steps.within(cost_S, 1)] == [(at, at + 1) for at in range(7)]
    assert list(steps.within(cost_S[:0], 12)) == []
