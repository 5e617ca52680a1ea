"""A task's loss counts its labels and nothing else, and half precision changes little."""

from typing import get_args

import pytest
import torch
from tiny import (
    EVERY_LAYOUT,
    asked_in_training,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    part_of,
)

from plait.layouts import Layout, resolve
from plait.models.combining import named_trunk
from plait.models.generative import ModelSettings
from plait.models.questions import Exposure
from plait.nn import heads
from plait.nn.config import TRUNKS
from plait.nn.positions import Positions
from plait.schema import EventBatch

LENGTHS, LEADS = (7, 2, 5, 3), (1, 0, 2, 0)


def alone(batch: EventBatch) -> list[EventBatch]:
    return [part_of(batch, user, lead=int(lead)) for user, lead in enumerate(batch.lead_U)]


@torch.no_grad()
def check_losses_are_means(layout: Layout) -> None:
    """A task's loss is the mean over its labels: of a batch, the mean of its users' weighted by their labels."""
    batch = batch_of(LENGTHS, LEADS)
    model = model_of(layout)
    inputs = asked_in_training(layout, batch)
    assert inputs.questions
    whole = model.losses(inputs)
    total = dict.fromkeys(whole, 0.0)
    count = dict.fromkeys(whole, 0)
    for single in alone(batch):
        single_inputs = asked_in_training(layout, single)
        labels = {"retrieval": 0, "rating": 0, "liked": 0}
        for asked in single_inputs.questions:
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


@pytest.mark.parametrize("positions", get_args(Positions))
@pytest.mark.parametrize("trunk", TRUNKS)
@torch.no_grad()
def test_bf16_states_are_close_to_fp32(trunk, positions):
    """bf16 keeps 8 bits: states of size 1 are off by some hundredths, and point the same way."""
    of_request = positions == "dlrm_v3"  # which know nothing but the moment that candidates are asked about
    exposure = Exposure(time_anchor="request" if of_request else "current")
    settings = ModelSettings(trunk=named_trunk(trunk, positions, dim=12, dropout=0.0), exposure=exposure)
    model = model_of(resolve("lac"), settings=settings)
    kwargs = {"exposure": exposure, "candidate_requests": 1 if of_request else None}
    inputs = asked_in_training(model.layout, batch_of(LENGTHS, LEADS), **kwargs)
    exact = model(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(inputs)
    for state_MD, rounded_MD in zip(exact, rounded, strict=True):
        same_way_M = torch.cosine_similarity(state_MD, rounded_MD.float())
        assert same_way_M.min() > 0.98
        assert not torch.equal(state_MD, rounded_MD.float()), "autocast did nothing"
