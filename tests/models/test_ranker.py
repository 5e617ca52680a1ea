"""Rankers as models: one answer whatever way they are asked, no look at what is asked about, and honest costs."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from tiny import (
    ACTIONS,
    NUM_ITEMS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    part_of,
    started,
    together,
    trunk_of,
)
from torch.utils.flop_counter import FlopCounterMode

from plait.engine import one_pass, plain
from plait.engine.state import append, encode
from plait.layouts import resolve
from plait.layouts.packing import pack, pad
from plait.models.building import built
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import Inputs, query_inputs, training_inputs
from plait.models.ranker import AUXILIARY, Ranker
from plait.nn.ranker_settings import RankerSettings
from plait.nn.rankers import Asked, Din
from plait.nn.token_mixer import MixerSettings
from plait.nn.towers import TowerConfig
from plait.rankers.settings import layout_of
from plait.schema import Category, EventBatch, Feature, FeatureTable
from plait.training.flops import step_flops

KINDS = ("din", "dien", "sim", "sim hard", "twin", "rankmixer")
MIXER = MixerSettings(num_tokens=3, token_width=9, expansion=1)
HISTORIES = ("actions", "items")
GROUP = Feature("group", Category(("a", "b", "c")))
WINDOW = 6  # shorter than the longest history
ITEMS = np.array([[3, 5, 16, 1], [2, 9, 4, 11], [6, 6, 1, 13]])
AT_S = 2_000_000
close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
close_arrays = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@cache
def ranker_of(kind: str, history: str = "actions") -> Ranker:
    """A ranker in evaluation mode whose weights are large, so that no path through it is near to zero."""
    name, _, search = kind.partition(" ")
    hard = {"search": "hard", "category": "group"} if search else {}
    settings = ModelSettings(
        trunk=trunk_of(dropout=0.1),
        tower=TowerConfig(kind="linear"),
        ranker=RankerSettings(
            kind=name, recent_events=3, top_k=2, hidden=(9, 7), unit_width=5, mixer=MIXER, **hard
        ),
    )
    config = ModelConfig(
        layout=layout_of(history),
        settings=settings,
        num_items=NUM_ITEMS,
        actions=ACTIONS,
        max_events=WINDOW,
        item_features=(GROUP,) if search else (),
    )
    model = started(built(config)).eval()
    assert isinstance(model, Ranker)
    for place, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(place))
    torch.nn.init.normal_(model.heads.weight_KD, std=0.02, generator=torch.Generator().manual_seed(9))
    torch.nn.init.constant_(model.heads.bias_K, 0.5)  # predicted actions lie well inside their ranges
    if search:
        code_NK = np.random.default_rng(0).integers(0, 5, (NUM_ITEMS + 1, 1)).astype(np.int32)
        table = FeatureTable((GROUP,), code_NK, np.zeros((NUM_ITEMS + 1, 0), dtype=np.float32))
        model.items.describe(table, np.ones(NUM_ITEMS + 1, dtype=np.int64))
    return model


def log() -> EventBatch:
    """Requests of one to three events."""
    batch = batch_of((7, 9, 5))
    nth_E = batch.number_E if batch.number_E is not None else np.arange(len(batch.item_E))
    request_E = np.concatenate([[0, 0, 1, 2, 2, 2, 3], [0, 1, 1, 2, 3, 3, 4, 5, 5], [0, 1, 1, 1, 2]])
    return replace(batch, request_E=request_E, time_s_E=batch.time_s_E + 997 * request_E**3 + 0 * nth_E)


def training(model: Ranker, batch: EventBatch, packer=pack) -> Inputs:
    plan = replace(model.plan, candidate_requests=50)
    return training_inputs(plan, batch, packer)


@torch.no_grad()
def states(model: Ranker, inputs: Inputs) -> dict[tuple[int, int], torch.Tensor]:
    """What heads read, by user and event."""
    (asked,), (state_MW,) = inputs.questions, model(inputs)
    user_M = inputs.user_N[model._token_of(inputs, asked)].tolist()
    return dict(zip(zip(user_M, asked.label_M.tolist(), strict=True), state_MW, strict=True))


def check_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        close(found[key], row)


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_padded_and_alone_are_one(kind, history):
    model, batch = ranker_of(kind, history), log()
    packed = states(model, training(model, batch))
    check_same(states(model, training(model, batch, pad)), packed)
    for user in range(batch.num_users):
        alone = states(model, training(model, part_of(batch, user)))
        first = int(batch.start_U1[user])
        check_same({(user, first + event): row for (_, event), row in alone.items()},
                   {key: row for key, row in packed.items() if key[0] == user})  # fmt: skip
    assert_not_vacuous({"questions": len(packed)}, above=15)


def check_sees(model: Ranker, batch: EventBatch) -> dict[str, int]:
    """An answer depends on the events before its request in the window's reach, and on no other."""
    before, changed = states(model, training(model, batch)), {"read": 0, "not read": 0}
    begin_E = np.array([np.flatnonzero(batch.request_E[:9] == request)[0] for request in batch.request_E[:9]])
    for event in range(len(batch.item_E)):
        action_EA, item_E = batch.action_EA.copy(), batch.item_E.copy()
        action_EA[event] = (1.0, 1.0) if action_EA[event, 0] != 1.0 else (5.0, 0.0)
        after = states(model, training(model, replace(batch, action_EA=action_EA, item_E=item_E)))
        for key, row in before.items():
            is_same = torch.equal(row, after[key])
            if event >= begin_E[key[1]]:
                assert is_same, f"the answer about event {key[1]} reads the actions of event {event}"
                changed["not read"] += 1
            else:
                changed["read"] += not is_same
    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_reads_its_own_request_or_what_comes_later(kind):
    assert_not_vacuous(check_sees(ranker_of(kind), part_of(log(), 1)), above=3)


def test_a_ranker_that_reads_its_own_event_is_caught(monkeypatch):
    def one_more(self, inputs, token_M, made=Ranker._asked):
        found = made(self, inputs, token_M)
        last_M = np.minimum(found.end_M + 1, 8)
        return Asked(found.user_M, found.first_M, last_M)

    monkeypatch.setattr(Ranker, "_asked", one_more)
    assert_caught(check_sees, ranker_of("din"), part_of(log(), 1))


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_append_and_one_forward_for_each_candidate_agree(kind, history):
    model, batch = ranker_of(kind, history), log()
    state = encode(batch, model.plan.window, model.plan.lead)
    expected = plain.score(model, state, ITEMS, at_s=AT_S)
    encoded = one_pass.encode(model, state)
    assert encoded.kept is not None
    for name, found in one_pass.score(model, encoded, ITEMS, at_s=AT_S).items():
        close_arrays(found, expected[name])
        assert found.std() > 20 * 1e-5  # more than what counts as equal
    some = one_pass.score(model, encoded, ITEMS[:, 1:3], at_s=AT_S)
    close_arrays(some["rating"], expected["rating"][:, 1:3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_grew_answers_as_one_that_was_encoded(kind):
    model, batch = ranker_of(kind), log()
    short = together(*(part_of(batch, user, end=4) for user in range(3)))
    more = together(*(part_of(batch, user, begin=4, end=5) for user in range(3)))
    window, lead = model.plan.window, model.plan.lead
    before = one_pass.encode(model, encode(short, window, lead))
    after = append(before, more, window, lead)
    grown = one_pass.append(model, before, after)
    anew = one_pass.score(model, replace(after, kept=None), ITEMS, at_s=AT_S)
    for name, found in one_pass.score(model, grown, ITEMS, at_s=AT_S).items():
        close_arrays(found, anew[name])


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_trained(kind, history):
    model = started(built(ranker_of(kind, history).config)).train()
    losses = model.losses(training(model, log()))
    model.total(losses).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not without
    assert (AUXILIARY in losses) == (kind in ("dien", "sim"))


def test_the_weight_of_the_auxiliary_loss_is_the_settings():
    model = ranker_of("dien")
    losses = {"rating": torch.tensor(1.0), AUXILIARY: torch.tensor(2.0)}
    config = replace(model.config.settings.ranker, auxiliary_weight=0.25)
    model = built(replace(model.config, settings=replace(model.config.settings, ranker=config)))
    assert float(model.total(losses)) == 1.5


def check_flops(model: Ranker, inputs: Inputs) -> None:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(inputs)
    in_training_alone = [model.search_layers, model.search_heads] if model.search_layers is not None else []
    weights = [weight for part in in_training_alone for weight in part.parameters() if weight.ndim > 1]
    unread = 2 * len(inputs.questions[0].cell_M) * sum(weight.numel() for weight in weights)
    assert model.flops(inputs) - unread == counter.get_total_flops()


@pytest.mark.parametrize("kind", ["din", "dien", "sim", "twin", "rankmixer"])
def test_a_forward_pass_costs_what_torch_counts(kind):
    """Of one candidate after each of equally long histories, where there is no padding."""
    model = ranker_of(kind)
    inputs = query_inputs(model.plan, batch_of([4, 4, 4]), ("a",))
    check_flops(model, inputs)
    assert step_flops(model, inputs) > 3 * model.flops(inputs)


def test_flops_that_leave_pairs_out_are_caught(monkeypatch):
    monkeypatch.setattr(
        Din, "flops", lambda self, of, made=Din.flops: made(self, replace(of, recent_pairs=0))
    )
    assert_caught(
        check_flops, ranker_of("din"), query_inputs(ranker_of("din").plan, batch_of([4, 4]), ("a",))
    )


@pytest.mark.parametrize(
    ("layout", "ranker", "said"),
    [
        ("lac", RankerSettings(kind="din"), "use genrank"),
        ("item", RankerSettings(kind="twin"), "use genrank"),
        ("genrank", RankerSettings(kind="sim", search="hard", category="brand"), "the data has none"),
    ],
)
def test_what_is_no_ranker_is_refused(layout, ranker, said):
    config = replace(ranker_of("din").config, layout=str(resolve(layout)))
    config = replace(config, settings=replace(config.settings, ranker=ranker))
    with pytest.raises(ValueError, match=said):
        built(config)


def test_hard_search_and_its_category_come_together():
    with pytest.raises(ValueError, match="category"):
        RankerSettings(kind="sim", search="hard")
    with pytest.raises(ValueError, match="category"):
        RankerSettings(kind="sim", category="group")


def test_without_a_ranker_the_model_has_a_trunk():
    config = replace(ranker_of("din").config, settings=ModelSettings(trunk=trunk_of()))
    model = built(config)
    assert type(model) is GenerativeRecommender and hasattr(model, "trunk")
