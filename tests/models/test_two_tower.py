"""Two towers: held against a plain double loop, whatever way they are asked; a state that grew is one encoded anew."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

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

from plait.data import Dataset
from plait.engine import one_pass, plain
from plait.engine.state import encode
from plait.layouts.packing import pack, pad
from plait.models import two_tower as module
from plait.models.building import built
from plait.models.generative import ModelConfig, ModelSettings
from plait.models.inputs import training_inputs
from plait.models.saving import load_model, save_model
from plait.models.two_tower import TwoTower
from plait.nn.interests import InterestRows
from plait.nn.losses import RetrievalLoss
from plait.nn.two_tower import TowerInterests, TwoTowerSettings
from plait.schema import EventBatch
from plait.training import start as start_module
from plait.training.start import Start

WINDOW, RECENT, WIDTH, CONDITIONS = 6, 3, 4, 2
SWITCHES = {"none": None, "user": (True, False), "item": (False, True), "both": (True, True)}
LAYOUTS = ("i[t] -> i[t+1]", "(i[t], a[t]) -> i[t+1]")
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


class Known:
    """Vectors that follow from the key; some are missing."""

    def of(self, user_M, number_M, item_M) -> InterestRows:
        def drawn(*key: int) -> np.ndarray:
            return np.random.default_rng(key).normal(size=(CONDITIONS, WIDTH)).astype(np.float32)

        of_user = [drawn(int(user), int(at)) for user, at in zip(user_M, number_M, strict=True)]
        of_item = [drawn(int(item))[0] for item in item_M]
        return InterestRows(
            torch.from_numpy(np.stack(of_user)),
            torch.from_numpy(np.stack([number_M % 3 != 1, number_M % 4 != 1], axis=1)),
            torch.from_numpy(np.stack(of_item)),
            torch.from_numpy(np.asarray(item_M) % 5 > 0),
        )


@cache
def towers_of(switch: str, layout: str = LAYOUTS[0]) -> TwoTower:
    read = SWITCHES[switch]
    told = TowerInterests()
    if read is not None:
        told = TowerInterests(num_conditions=CONDITIONS, width=WIDTH, user=read[0], item=read[1])
    settings = ModelSettings(
        trunk=trunk_of(),
        retrieval=RetrievalLoss(kind="info_nce", l2_norm=True, temperature=0.2),
        two_tower=TwoTowerSettings(kind="ebr", recent_events=RECENT, hidden=(7,), interests=told),
    )
    config = ModelConfig(
        layout=layout, settings=settings, num_items=NUM_ITEMS, actions=ACTIONS, max_events=WINDOW
    )
    model = started(built(config)).eval()
    assert isinstance(model, TwoTower)
    for place, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(place))
    if read is not None:
        model.interests = Known()
        model.describe_items(Known())
    return model


def check_own_vectors(dataset: Dataset, into: Callable[..., None]) -> None:
    """A tower that goes on from another has the weights of that one, and the vectors of its own user model."""
    before, after = towers_of("item"), started(built(towers_of("item").config)).eval()
    assert isinstance(after, TwoTower) and after.no_item_interest_W is not None
    with torch.no_grad():
        after.item_interest_VW.fill_(2.0)
        after.has_item_interest_V.fill_(True)
    start = Start(before, dataset.items, settings=None, folder=Path("before"), sha256="0")
    into(start, after, dataset)
    assert torch.equal(after.no_item_interest_W, before.no_item_interest_W)
    assert (after.item_interest_VW == 2.0).all() and after.has_item_interest_V.all()
    assert not torch.equal(before.item_interest_VW, after.item_interest_VW)


def test_towers_that_go_on_keep_the_vectors_of_their_own_items(dataset):
    check_own_vectors(dataset, Start.into)


def test_vectors_of_the_tower_before_are_caught(dataset, monkeypatch):
    kept = tuple(name for name in start_module.OF_DATA if "item_interest" not in name)
    monkeypatch.setattr(start_module, "OF_DATA", kept)
    assert_caught(check_own_vectors, dataset, Start.into)


def log() -> EventBatch:
    return batch_of((7, 9, 5))


@torch.no_grad()
def by_double_loop(model: TwoTower, batch: EventBatch) -> np.ndarray:
    """The cosine of every user's next event and every item, each computed for itself."""
    told, known, items = model.config.settings.two_tower.interests, Known(), model.items.table()
    rows = []
    for user, last in enumerate(batch.start_U1[1:]):
        seen = range(max(int(batch.start_U1[user]), int(last) - RECENT), int(last))
        shown = [items[batch.item_E[event]] + model_action(model, batch, event) for event in seen]
        read = [torch.stack(shown).mean(0)]
        if told.of_user:
            number = np.array([batch.number_E[last - 1] + 1])
            its = known.of(batch.user_U[user : user + 1], number, np.array([0]))
            for place in range(CONDITIONS):
                none = model.interest_features.no_interest_QW[place]
                read.append(its.interest_MQW[0, place] if its.has_interest_MQ[0, place] else none)
        of_user, scores = model.user_tower(torch.cat(read)), []
        for item in range(1, NUM_ITEMS + 1):
            of_item = [items[item]]
            if told.of_item:
                its = known.of(np.array([0]), np.array([0]), np.array([item]))
                of_item.append(its.item_MW[0] if its.has_item_M[0] else model.no_item_interest_W)
            vector = model.item_tower(torch.cat(of_item))
            scores.append(float(torch.cosine_similarity(of_user, vector, dim=0)) / 0.2)
        rows.append(scores)
    return np.array(rows)


def model_action(model: TwoTower, batch: EventBatch, event: int) -> torch.Tensor:
    if model.actions is None:
        return torch.zeros(model.config.settings.trunk.dim)
    return model.actions(torch.from_numpy(batch.action_EA[event : event + 1]))[0]


def scored(found: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """By item, of lists that hold the whole catalogue."""
    item_UK, score_UK = found
    rows = np.full((len(item_UK), NUM_ITEMS), np.nan)
    np.put_along_axis(rows, item_UK - 1, score_UK, axis=1)
    assert not np.isnan(rows).any()
    return rows


def check_loop(model: TwoTower, batch: EventBatch) -> None:
    state, expected = encode(batch, model.plan.window, model.plan.lead), by_double_loop(model, batch)
    kept = one_pass.encode(model, state)
    assert kept.kept is not None and expected.std() > 0.1
    close(scored(one_pass.retrieve(model, kept, NUM_ITEMS, False)), expected)
    close(scored(plain.retrieve(model, state, NUM_ITEMS, False)), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("switch", SWITCHES)
def test_retrieval_is_that_of_a_plain_double_loop(switch, layout):
    check_loop(towers_of(switch, layout), log())


def test_a_mean_of_one_event_too_many_is_caught(monkeypatch):
    made = module.mean_of_last
    monkeypatch.setattr(module, "mean_of_last", lambda x, first, last, most: made(x, first, last, most + 1))
    assert_caught(check_loop, towers_of("both"), log())


def test_interests_of_another_event_are_caught(monkeypatch):
    class Late(Known):
        def of(self, user_M, number_M, item_M):
            return super().of(user_M, number_M + 1, item_M)

    monkeypatch.setattr(towers_of("user"), "interests", Late())
    assert_caught(check_loop, towers_of("user"), log())


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_state_that_grew_answers_as_one_that_was_encoded(switch):
    model, batch = towers_of(switch), log()
    short = together(*(part_of(batch, user, end=3) for user in range(3)))
    longer = together(*(part_of(batch, user, end=4) for user in range(3)))
    before = one_pass.encode(model, encode(short, model.plan.window, model.plan.lead))
    after = encode(longer, model.plan.window, model.plan.lead)
    grown = one_pass.append(model, before, replace(after, kept=None))
    assert grown.kept is not None
    anew = one_pass.retrieve(model, one_pass.encode(model, after), 9, False)
    for one, other in zip(one_pass.retrieve(model, grown, 9, False), anew, strict=True):
        close(one, other)


@pytest.mark.parametrize("packer", [pack, pad])
def test_no_state_reads_the_event_that_is_asked_about_or_later_ones(packer):
    model, batch = towers_of("both"), log()

    def states(changed: EventBatch) -> tuple[torch.Tensor, np.ndarray]:
        inputs = training_inputs(model.plan, changed, packer)
        return model(inputs)[0].detach(), inputs.questions[0].label_M.numpy()

    before, label_M = states(batch)
    read = 0
    for event in range(len(batch.item_E)):
        item_E = batch.item_E.copy()
        item_E[event] = item_E[event] % NUM_ITEMS + 1
        after, _ = states(replace(batch, item_E=item_E))
        is_same_M = (before == after).all(1).numpy()
        assert is_same_M[label_M <= event].all()
        read += int((~is_same_M).sum())
    assert_not_vacuous({"read": read}, above=15)


def test_a_saved_model_answers_as_before_with_the_items_that_it_was_told(tmp_path):
    model, batch = towers_of("item"), log()
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert isinstance(again, TwoTower) and again.interests is None
    check_loop(again, batch)


def test_a_layout_that_predicts_actions_is_refused():
    config = replace(towers_of("none").config, layout="(i[t], a[t]) -> () / i[t] -> a[t]")
    with pytest.raises(ValueError, match="use item, or leave the towers out"):
        built(config)
