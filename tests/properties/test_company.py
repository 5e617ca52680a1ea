"""A user's states and losses depend on nothing but the user: not on rows, padding or batch-mates."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tiny import (
    EVERY_LAYOUT,
    EVERY_POSITION,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    part_of,
    together,
)

from plait.layouts import Layout, resolve
from plait.layouts.packing import pack, pad
from plait.models.inputs import training_inputs
from plait.nn import gpt, heads
from plait.nn.attention import Segments, attend_reference
from plait.schema import EventBatch

LENGTHS, LEADS = (7, 2, 5, 3), (1, 0, 2, 0)
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def alone(batch: EventBatch) -> list[EventBatch]:
    return [part_of(batch, user, lead=int(lead)) for user, lead in enumerate(batch.lead_U)]


@torch.no_grad()
def check_company(layout: Layout, positions: str = "learned") -> None:
    """States and losses of a batch: packed into rows of two lengths, padded, user by user, and in other company."""
    batch = batch_of(LENGTHS, LEADS)
    model = model_of(layout, positions)
    padded = training_inputs(layout, batch, pad)
    packers = (pack, partial(pack, row_length=2 * padded.segments.segment_RL.shape[1] + 1))
    met = {"users beside each other": 0, "states": 0}
    expected = model(padded)
    for packer in packers:
        packed = training_inputs(layout, batch, packer)
        for found_MD, state_MD in zip(model(packed), expected, strict=True):
            close(found_MD, state_MD)
        close(model.losses(packed), model.losses(padded))
        met["users beside each other"] += not packed.segments.one_user_per_row
    for singles in (alone(batch), alone(together(*reversed(alone(batch))))[::-1]):
        one_by_one = [model(training_inputs(layout, single)) for single in singles]
        for found, state_MD in zip(zip(*one_by_one, strict=True), expected, strict=True):
            close(torch.cat(found), state_MD)
            met["states"] += len(state_MD)
    others = batch_of((4, 6), seed=11)
    mixed = model(training_inputs(layout, together(others, batch)))
    for asked, found_MD, state_MD in zip(padded.asked, mixed, expected, strict=True):
        close(found_MD[-len(asked.label_M) :], state_MD)
    assert_not_vacuous(met)


@pytest.mark.parametrize("positions", EVERY_POSITION)
@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_packed_equals_padded_equals_alone(layout, positions):
    check_company(layout, positions)


@pytest.mark.parametrize("positions", EVERY_POSITION)
def test_attention_across_users_is_caught(positions, monkeypatch):
    def across(q, k, v, segments, *, slopes_N=None):
        row = Segments(torch.zeros_like(segments.segment_RL), segments.position_RL)
        return attend_reference(q, k, v, row, slopes_N=slopes_N)

    monkeypatch.setattr(gpt, "attend", across)
    assert_caught(check_company, EVERY_LAYOUT[0].values[0], positions)


def test_positions_that_run_on_in_a_row_are_caught(monkeypatch):
    right = gpt.GptTrunk.enter

    def broken(self, x_RLD, position_RL):
        in_row_L = torch.arange(position_RL.shape[1]) % self.positions.table.num_embeddings
        return right(self, x_RLD, in_row_L.expand_as(position_RL))

    monkeypatch.setattr(gpt.GptTrunk, "enter", broken)
    assert_caught(check_company, EVERY_LAYOUT[0].values[0])


@torch.no_grad()
def check_losses_are_means(layout: Layout) -> None:
    """A task's loss is the mean over its labels: of a batch, the mean of its users' weighted by their labels."""
    batch = batch_of(LENGTHS, LEADS)
    model = model_of(layout)
    inputs = training_inputs(layout, batch)
    assert inputs.asked
    whole = model.losses(inputs)
    total = dict.fromkeys(whole, 0.0)
    count = dict.fromkeys(whole, 0)
    for single in alone(batch):
        single_inputs = training_inputs(layout, single)
        labels = {"retrieval": 0, "rating": 0, "liked": 0}
        for asked in single_inputs.asked:
            if asked.target.fact.field == "i":
                labels["retrieval"] = len(asked.label_M)
            else:
                known_A = (~single_inputs.action_EA[asked.label_M].isnan()).sum(0).tolist()
                labels["rating"], labels["liked"] = known_A
        for task, loss in model.losses(single_inputs).items():
            total[task] += float(loss) * labels[task]
            count[task] += labels[task]
    assert_not_vacuous(count)
    for task, loss in whole.items():
        assert float(loss) == pytest.approx(total[task] / count[task], rel=1e-5), task


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_losses_are_means_over_the_labels_that_are_there(layout):
    check_losses_are_means(layout)


def test_a_mean_over_missing_labels_too_is_caught(monkeypatch):
    def broken(kind, out_MC, unit_M):
        return ((out_MC[:, 0] - unit_M) ** 2).nan_to_num(0).mean()

    monkeypatch.setattr(heads, "_mean_loss", broken)
    assert_caught(check_losses_are_means, resolve("lac"))


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
@torch.no_grad()
def test_bf16_states_are_close_to_fp32(layout):
    """bf16 keeps 8 bits: states of size 1 are off by some hundredths, and point the same way."""
    model, inputs = model_of(layout), training_inputs(layout, batch_of(LENGTHS, LEADS))
    exact = model(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(inputs)
    for state_MD, rounded_MD in zip(exact, rounded, strict=True):
        same_way_M = torch.cosine_similarity(state_MD, rounded_MD.float())
        assert same_way_M.min() > 0.98
        assert not torch.equal(state_MD, rounded_MD.float()), "autocast did nothing"


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_losses_and_gradients_are_finite_without_a_single_label(layout, precision):
    """Every action missing, and every item unknown."""
    batch = batch_of(LENGTHS, LEADS)
    empty = replace(
        batch, item_E=np.zeros_like(batch.item_E), action_EA=np.full_like(batch.action_EA, np.nan)
    )
    model = model_of(layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        losses = model.losses(training_inputs(layout, empty))
        model.total(losses).backward()
    assert losses and all(loss.item() == 0 for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
