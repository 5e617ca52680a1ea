"""Memory of a training step grows with the length of rows, not with its square; nothing here is about speed."""

from dataclasses import replace

import pytest
import torch
from allocations import Allocations, allocations
from tiny import ACTIONS, NUM_ITEMS, assert_caught, batch_of, trunk_of

from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import query_inputs, training_inputs
from plait.models.questions import Exposure
from plait.nn import attention, blockwise, packed, visibility
from plait.nn.attention import attend_reference
from plait.schema import EventBatch
from plait.training.flops import step_flops

LENGTHS = (80, 160)  # of a row, in events
ROWS = 3
DOUBLED = 2.3  # linear growth, and what does not grow
TRUNKS = {  # narrow, so that pairs would show
    f"{kind} {positions}": replace(trunk_of(positions), kind=kind, num_layers=1, dim=4, mlp_multiple=1)
    for kind, positions in (
        ("gpt", "rope"),
        ("gpt", "alibi"),
        ("gpt", "rab"),
        ("gpt", "genrank"),
        ("hstu", "rab"),
        ("hstu", "alibi"),
    )
}
BLIND = Exposure(same_request="blind")
JOBS = [  # layout, trunk, exposure, requests that are supervised as candidates
    *(("lac", trunk, Exposure(), None) for trunk in TRUNKS),
    *(("attn_mvp", trunk, BLIND, None) for trunk in ("gpt rope", "gpt rab", "hstu rab")),
    ("interleaved", "gpt rope", BLIND, None),
    ("interleaved", "hstu rab", Exposure(), None),
    ("attn_dhn", "gpt alibi", Exposure(), 2),
    ("genrank", "hstu alibi", Exposure(), 2),
    ("item", "gpt rab", Exposure(history="full"), 1),
    ("item", "hstu rab", Exposure(history="full"), 1),
]


def users_of(length: int) -> EventBatch:
    """Rows of one long user, and of two; requests of three events."""
    batch = batch_of([length, length - length // 3, length // 3, length - 7])
    return replace(batch, request_E=batch.request_E // 3)


def model_of(layout: str, trunk: str, exposure: Exposure = Exposure()) -> GenerativeRecommender:
    config = ModelConfig(
        layout=str(resolve(layout)),
        settings=ModelSettings(trunk=TRUNKS[trunk], exposure=exposure),
        num_items=NUM_ITEMS,
        actions=ACTIONS,
        max_events=max(LENGTHS),
    )
    return GenerativeRecommender(config)


def step(layout: str, trunk: str, exposure: Exposure, requests: int | None, length: int) -> Allocations:
    model = model_of(layout, trunk, exposure)
    plan = model.plan
    if requests is not None:
        plan = replace(plan, supervise="candidates", candidate_requests=requests)
    inputs = training_inputs(plan, users_of(length))
    assert len(inputs.segments.segment_RL) >= ROWS
    with allocations() as found:
        model.total(model.losses(inputs)).backward()
        step_flops(model, inputs)
    assert found.saved_bytes > found.largest_bytes > 0
    return found


def check_growth(
    layout: str, trunk: str, exposure: Exposure = Exposure(), requests: int | None = None
) -> None:
    short, long = (step(layout, trunk, exposure, requests, length) for length in LENGTHS)
    assert long.largest_bytes < DOUBLED * short.largest_bytes, "one tensor"
    assert long.saved_bytes < DOUBLED * short.saved_bytes, "what waits for the backward pass"


@pytest.fixture
def small_blocks(monkeypatch):
    """So small that what is stated not to grow is small beside what does."""
    monkeypatch.setattr(blockwise, "QUERY_BLOCK", 8)
    monkeypatch.setattr(visibility, "COUNTED_PAIRS", 8 * ROWS * max(LENGTHS))
    monkeypatch.setattr(visibility, "KEPT_BYTES", 0)
    monkeypatch.setattr(attention, "KEPT_PROBABILITIES_BYTES", 0)


@pytest.mark.parametrize(("layout", "trunk", "exposure", "requests"), JOBS)
def test_training_holds_nothing_quadratic(layout, trunk, exposure, requests, small_blocks):
    check_growth(layout, trunk, exposure, requests)


def test_the_reference_is_seen_to_hold_all_pairs(small_blocks, monkeypatch):
    check_growth("lac", "gpt alibi")
    monkeypatch.setattr(packed, "attend", attend_reference)
    assert_caught(check_growth, "lac", "gpt alibi")


@pytest.mark.parametrize(
    ("room", "name"), [(visibility, "COUNTED_PAIRS"), (attention, "KEPT_PROBABILITIES_BYTES")]
)
def test_a_store_without_a_bound_is_noticed(room, name, small_blocks, monkeypatch):
    monkeypatch.setattr(room, name, 1 << 40)
    assert_caught(check_growth, "attn_mvp", "gpt rope", BLIND)


@pytest.mark.parametrize("trunk", ("gpt rope", "hstu rab"))
def test_scoring_holds_nothing_quadratic(trunk, small_blocks):
    largest, model = [], model_of("lac", trunk).eval()
    for length in LENGTHS:
        inputs = query_inputs(model.plan, users_of(length), ("a", "i"))
        with torch.no_grad(), allocations() as found:
            model(inputs)
        largest.append(found.largest_bytes)
    assert largest[1] < DOUBLED * largest[0]


def test_what_all_layers_share_stays_within_its_bytes(monkeypatch):
    length, model = max(LENGTHS), model_of("lac", "hstu rab")
    monkeypatch.setattr(visibility, "KEPT_BYTES", ROWS * length**2 // 2)  # a byte for every pair that is seen
    monkeypatch.setattr(blockwise, "QUERY_BLOCK", 8)
    inputs = training_inputs(model.plan, users_of(length))
    model.total(model.losses(inputs)).backward()
    held = [tensor.nbytes for tensor in inputs.segments._kept.values()]
    assert visibility.KEPT_BYTES / 2 < sum(held) <= visibility.KEPT_BYTES, "masks and time buckets are two"
