"""FLOPs of a step, against torch's own count of what ran."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import ACTIONS, assert_caught, batch_of, model_of, trunk_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import Inputs, training_inputs
from plait.nn.config import TrunkConfig
from plait.nn.heads import ActionHeads
from plait.nn.losses import RetrievalLoss
from plait.nn.towers import TowerConfig
from plait.nn.visibility import Segments
from plait.training import flops
from plait.training.flops import num_pairs, step_flops, weight_flops

LENGTH = 7  # events of every user: rows without padding, which nobody counts


def counted(model: GenerativeRecommender, inputs: Inputs) -> int:
    with FlopCounterMode(display=False) as counter:
        model.total(model.losses(inputs)).backward()
    return counter.get_total_flops()


def check_step(layout: str, trunk: TrunkConfig) -> None:
    """Attention apart, whose kernel torch does not count."""
    model = model_of(resolve(layout), settings=ModelSettings(trunk=trunk))
    inputs = training_inputs(model.layout, batch_of([LENGTH] * 3))
    assert inputs.num_tokens == inputs.segments.segment_RL.numel(), "padding proves nothing"
    attention = 3 * 4 * trunk.dim * trunk.num_layers * num_pairs(inputs.segments)
    assert attention > 0 and step_flops(model, inputs) - attention == counted(model, inputs)


@pytest.mark.parametrize(
    "layout", ["item", "action_in", "action_out", "lac", "pc", "interleaved", "lac_patched"]
)
@pytest.mark.parametrize("mlp_multiple", [4, 3])
def test_a_step_costs_what_torch_counts(layout, mlp_multiple):
    check_step(layout, replace(trunk_of(), mlp_multiple=mlp_multiple))


@pytest.mark.parametrize("left_out", ["couplers", "towers", "actions"])
def test_products_that_are_left_out_are_noticed(left_out, monkeypatch):
    if left_out == "actions":
        monkeypatch.setattr(flops, "_reads_actions", lambda model, inputs: False)
    else:
        kind = {"couplers": nn.ModuleList, "towers": ActionHeads}[left_out]
        right = weight_flops
        monkeypatch.setattr(
            flops, "weight_flops", lambda part: 0.0 if isinstance(part, kind) else right(part)
        )
    assert_caught(check_step, "pc", trunk_of())


@pytest.mark.parametrize("kind", ["linear", "mlp", "mmoe", "ple"])
def test_every_tower_costs_what_torch_counts(kind):
    heads = ActionHeads(ACTIONS, 12, TowerConfig(kind=kind, num_task_experts=3, num_levels=3))
    state_MD = torch.randn(5, 12, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        heads(state_MD)
    assert counter.get_total_flops() == 5 * weight_flops(heads)


def test_sampled_negatives_cost_less_than_the_catalogue():
    model = model_of(
        resolve("item"), settings=ModelSettings(trunk=trunk_of(), retrieval=RetrievalLoss(kind="full"))
    )
    few = RetrievalLoss(kind="sampled", num_negatives=3)
    sampled = model_of(resolve("item"), settings=ModelSettings(trunk=trunk_of(), retrieval=few))
    inputs = training_inputs(model.layout, batch_of([LENGTH]))
    questions = sum(len(asked.cell_M) for asked in inputs.asked)
    saved = step_flops(model, inputs) - step_flops(sampled, inputs)
    assert saved == 3 * 2 * 12 * questions * (model.items.num_items - 4) > 0


def test_pairs_are_those_that_are_visible():
    segments = Segments(torch.tensor([[4, 4, 4, 7, 7, -1]]), torch.tensor([[0, 1, 2, 0, 1, 0]]))
    assert num_pairs(segments) == 6 + 3
    rng = np.random.default_rng(0)
    for _ in range(5):
        batch = batch_of(rng.integers(1, 9, 4).tolist())
        segments = training_inputs(resolve("interleaved"), batch).segments
        is_token_RL = segments.segment_RL >= 0
        assert num_pairs(segments) == int((segments.visible_RQK & is_token_RL[:, :, None]).sum()) > 10


def test_counting_costs_no_time():
    """Against the step itself, of a tiny model: at most a tenth here, and less than a hundredth of a real one."""
    model, inputs = model_of(resolve("pc")), training_inputs(resolve("pc"), batch_of([11] * 64))

    def seconds(call) -> float:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    step_s = seconds(lambda: model.total(model.losses(inputs)).backward())
    assert seconds(lambda: step_flops(model, inputs)) < step_s / 5
