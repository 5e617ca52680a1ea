"""FLOPs of a step, against torch's own count of what ran."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from described import LATE, described, reading_model
from tiny import (
    ACTIONS,
    assert_caught,
    batch_of,
    model_of,
    plan_of,
    started,
    trunk_of,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from plait.data import Dataset
from plait.layouts import CATALOGUE, resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import Inputs, training_inputs
from plait.models.questions import Exposure
from plait.nn import packed
from plait.nn.config import DLRM_V3, TrunkConfig
from plait.nn.encoders import ItemEncoding
from plait.nn.heads import ActionHeads
from plait.nn.losses import RetrievalLoss
from plait.nn.towers import TowerConfig
from plait.nn.visibility import Segments, Visibility
from plait.schema import EventBatch
from plait.training import flops
from plait.training.flops import num_pairs, step_flops, weight_flops

RIDES = [name for name, entry in CATALOGUE.items() if entry.layout.rides]
LENGTH = 7  # events of every user: rows without padding, which nobody counts


def counted(model: GenerativeRecommender, inputs: Inputs) -> float:
    """What torch counts of a step, and beside it 2 H for every head and pair that attends, twice forward and four
    times backward: torch knows no product over fewer than all pairs, so none runs here."""
    attended: list[float] = []

    def attend(q_RNQH, k_RNLH, v_RNLH, segments, *_, keys=None, strict=False, **__):
        visible_RQK = Visibility(segments, keys or segments).dense(strict)
        pairs = visible_RQK[segments.segment_RL >= 0].sum()
        attended.append(6 * 2 * q_RNQH.shape[1] * q_RNQH.shape[3] * float(pairs))
        return q_RNQH + (k_RNLH + v_RNLH).mean(2, keepdim=True)

    with pytest.MonkeyPatch.context() as patch, FlopCounterMode(display=False) as counter:
        for name in ("attend", "attend_biased", "attend_silu"):
            patch.setattr(packed, name, attend)
        model.total(model.losses(inputs)).backward()
    assert min(attended) > 0
    return counter.get_total_flops() + sum(attended)


def check_counted(model: GenerativeRecommender, inputs: Inputs) -> None:
    assert inputs.num_tokens == inputs.segments.segment_RL.numel(), "padding proves nothing"
    assert step_flops(model, inputs) == counted(model, inputs)


def check_step(layout: str, trunk: TrunkConfig) -> None:
    model = model_of(resolve(layout), settings=ModelSettings(trunk=trunk))
    check_counted(model, training_inputs(model.plan, batch_of([LENGTH] * 3)))


@pytest.mark.parametrize(
    "layout", ["item", "action_in", "action_out", "lac", "pc", "interleaved", "lac_patched"]
)
@pytest.mark.parametrize("mlp_multiple", [4, 3])
def test_a_step_costs_what_torch_counts(layout, mlp_multiple):
    check_step(layout, replace(trunk_of(), mlp_multiple=mlp_multiple))


HSTU = replace(trunk_of(), kind="hstu")


@pytest.mark.parametrize(
    ("layout", "trunk"),
    [
        ("lac", HSTU),
        ("interleaved", replace(HSTU, positions="rab")),
        ("pc", replace(HSTU, hstu=DLRM_V3, positions="rab", rab="time")),
        ("lac", replace(trunk_of(), positions="rab")),
        ("interleaved", replace(trunk_of(), positions="genrank")),
        *((name, trunk_of("rope")) for name in RIDES),
        ("attn_mvp", replace(trunk_of(), pool_fuses_item=False)),
        ("lum", trunk_of()),
    ],
)
def test_other_trunks_and_rides_cost_what_torch_counts(layout, trunk):
    check_step(layout, trunk)


def test_interests_of_another_width_cost_what_torch_counts():
    """A state and an item are each projected, and compared at that width."""
    settings = ModelSettings(trunk=trunk_of(), interest_dim=5, retrieval=RetrievalLoss(kind="full"))
    model = model_of(resolve("lum"), settings=settings)
    check_counted(model, training_inputs(model.plan, batch_of([LENGTH] * 3)))
    plain = replace(settings, interest_dim=None)
    assert_caught(check_as, model, model_of(resolve("lum"), settings=plain))


def check_as(model: GenerativeRecommender, other: GenerativeRecommender) -> None:
    """What one model's step costs is told as that of another."""
    inputs = training_inputs(model.plan, batch_of([LENGTH] * 3))
    assert step_flops(other, inputs) == counted(model, inputs)


def in_requests(number: int) -> EventBatch:
    """Users alike in all but their items: requests of one to three events, some before the window."""
    request_E = np.tile([0, 0, 1, 2, 2, 2, 3], number)
    return replace(batch_of([LENGTH] * number, [1] * number), request_E=request_E)


@pytest.mark.parametrize("trunk", [trunk_of(), replace(HSTU, positions="rab")], ids=["gpt", "hstu"])
@pytest.mark.parametrize(
    ("layout", "exposure", "requests"),
    [
        ("lac", Exposure(), 2),
        ("interleaved", Exposure(same_request="blind"), None),
        ("interleaved", Exposure(history="full"), 1),
        ("genrank", Exposure(), 3),
    ],
)
def test_candidates_and_requests_cost_what_torch_counts(layout, exposure, requests, trunk):
    model = model_of(resolve(layout), settings=ModelSettings(trunk=trunk, exposure=exposure))
    inputs = training_inputs(plan_of(model.layout, exposure, requests), in_requests(3))
    assert inputs.segments.seen_RL is not None
    check_counted(model, inputs)


def check_read(
    layout: str, trunk: TrunkConfig, changed: Callable[[Inputs], Inputs] = lambda its: its
) -> None:
    """Candidates of one request, which are a part of their rows."""
    model = model_of(resolve(layout), settings=ModelSettings(trunk=trunk))
    inputs = training_inputs(plan_of(model.layout, candidate_requests=1), in_requests(3))
    assert inputs.read is not None and 0 < len(inputs.read.cell_M) < inputs.num_tokens
    assert step_flops(model, changed(inputs)) == counted(model, inputs)
    assert step_flops(model, inputs) < step_flops(model, replace(inputs, read=None))


@pytest.mark.parametrize("kind", ["gpt", "hstu"])
@pytest.mark.parametrize("layout", ["genrank", "lac", "interleaved", *RIDES])
def test_rows_that_nobody_reads_cost_what_torch_counts(layout, kind):
    check_read(layout, replace(trunk_of(), kind=kind))
    assert_caught(check_read, layout, trunk_of(), lambda its: replace(its, read=None))


def test_rides_of_candidates_cost_what_torch_counts():
    exposure = Exposure(same_request="blind")
    model = model_of(resolve("attn_mvp"), settings=ModelSettings(trunk=trunk_of(), exposure=exposure))
    for requests in (None, 2):
        check_counted(
            model,
            training_inputs(plan_of(model.layout, exposure, requests), in_requests(3)),
        )


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return described(tmp_path_factory.mktemp("described") / "data")


def check_features(dataset: Dataset, items: ItemEncoding, tower: TowerConfig) -> None:
    settings = ModelSettings(trunk=trunk_of(), items=items, tower=tower, late=LATE)
    model = reading_model(dataset, str(resolve("lac")), settings, max_events=4)
    users = dataset.train_users()
    users = users[dataset.train_lengths(9)[: len(users)] >= 4][:5]
    batch = dataset.train_batch(users, 4, lead=0)
    assert (
        batch.num_events_U.tolist() == [4] * 5 and batch.user_code_UK.shape[1] and batch.context_EF.shape[1]
    )
    check_counted(model, training_inputs(model.plan, batch, late=model.late_statistics()))


@pytest.mark.parametrize("items", [ItemEncoding(), ItemEncoding(use_id=False, feature_dim=5)])
@pytest.mark.parametrize("kind", ["mlp", "ple"])
@pytest.mark.parametrize("gate", ["none", "ppnet"])
def test_features_cost_what_torch_counts(known, items, kind, gate):
    check_features(known, items, TowerConfig(kind=kind, gate=gate, num_task_experts=2))


@pytest.mark.parametrize("left_out", ["PersonalGate", "ItemEncoder"])
def test_a_gradient_that_nobody_computes_is_noticed(known, left_out, monkeypatch):
    monkeypatch.setattr(flops, left_out, type("Nobody", (), {}))
    assert_caught(check_features, known, ItemEncoding(), TowerConfig(gate="ppnet"))


@pytest.mark.parametrize("name", RIDES)
def test_pairs_of_events_with_themselves_are_noticed(name, monkeypatch):
    monkeypatch.setattr(
        flops, "num_pairs", lambda segments, strict=False, read=None: num_pairs(segments, read=read)
    )
    assert_caught(check_step, name, trunk_of())


@pytest.mark.parametrize("left_out", [nn.ModuleList, ActionHeads], ids=["couplers", "towers"])
def test_products_that_are_left_out_are_noticed(left_out, monkeypatch):
    right = weight_flops
    monkeypatch.setattr(
        flops, "weight_flops", lambda part: 0.0 if isinstance(part, left_out) else right(part)
    )
    assert_caught(check_step, "pc", trunk_of())


@pytest.mark.parametrize("kind", ["linear", "mlp", "mmoe", "ple"])
def test_every_tower_costs_what_torch_counts(kind):
    heads = started(ActionHeads(ACTIONS, 12, TowerConfig(kind=kind, num_task_experts=3, num_levels=3)))
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
    inputs = training_inputs(model.plan, batch_of([LENGTH]))
    questions = sum(len(asked.cell_M) for asked in inputs.questions)
    saved = step_flops(model, inputs) - step_flops(sampled, inputs)
    assert saved == 3 * 2 * 12 * questions * (model.items.num_items - 4) > 0


def test_pairs_are_those_that_are_visible():
    segments = Segments(torch.tensor([[4, 4, 4, 7, 7, -1]]), torch.tensor([[0, 1, 2, 0, 1, 0]]))
    assert num_pairs(segments) == 6 + 3
    rng = np.random.default_rng(0)
    for _ in range(5):
        batch = batch_of(rng.integers(1, 9, 4).tolist())
        segments = training_inputs(plan_of("interleaved"), batch).segments
        is_token_RL = segments.segment_RL >= 0
        assert num_pairs(segments) == int((segments.visible_RQK & is_token_RL[:, :, None]).sum()) > 10


def test_counting_costs_no_time():
    """Against the step itself, of a tiny model: at most a tenth here, and less than a hundredth of a real one."""
    model, inputs = model_of(resolve("pc")), training_inputs(plan_of("pc"), batch_of([11] * 64))

    def seconds(call) -> float:
        times = []
        for _ in range(7):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    step_s = seconds(lambda: model.total(model.losses(inputs)).backward())
    assert seconds(lambda: step_flops(model, inputs)) < step_s / 5
