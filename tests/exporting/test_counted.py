"""Counts beside a model are tables in its exported programs, whose answers are the engine's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_counts import COUNTED_ITEMS, action_counts, counting, item_counts
from test_graphs import CASES, OF_ALL_KINDS, check_says_the_same, model_for, run_by_torch
from tiny import assert_caught, assert_not_vacuous, model_of, trunk_of

from plait.counts.beside import Counts
from plait.exporting import counted as exported_counts
from plait.exporting.comparing import differences_on_drawn, drawn_histories, native_logits
from plait.exporting.exported import Exported
from plait.exporting.programs import as_torch, drafted
from plait.layouts import Layout, resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.nn.losses import RetrievalLoss


def with_all_kinds(layout: str, **rule: int) -> GenerativeRecommender:
    settings = ModelSettings(
        trunk=trunk_of("alibi"), retrieval=RetrievalLoss(item_bias="popularity"), counts="auto"
    )
    return model_of(
        Layout.parse(str(resolve(layout))), max_events=5, settings=settings, actions=OF_ALL_KINDS, **rule
    )


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize("layout", ["lac", "lac_patched", "item", "interleaved", "genrank"])
@pytest.mark.parametrize("step", [1, 2])
def test_graphs_with_counts_say_what_the_engine_says(layout, step):
    model = with_all_kinds(layout, window_step=step)
    events = drawn_histories(model, 4, seed=1)
    item_UC, at_s = np.full((4, 2), 5), int(events.time_s_E.max()) + 60
    alone = native_logits(model, events, item_UC, at_s)
    counting(model)
    assert check_says_the_same(model, CASES) >= 3
    heard = native_logits(model, events, item_UC, at_s)
    moved = {name: int(not np.allclose(heard[name], alone[name], atol=0.05)) for name in alone}
    assert_not_vacuous(moved, above=0)


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize("ease", [True, False])
@pytest.mark.parametrize("reads_own", [True, False])
def test_every_table_alone(ease, reads_own):
    model = model_for("item")
    model.counts = Counts(item_counts(ease=ease, reads_own=reads_own), None, "causal")
    check_says_the_same(model)
    none = replace(item_counts().tables, popularity_V1=np.zeros(COUNTED_ITEMS + 1))
    model.counts = Counts(replace(item_counts(), tables=none), None, "causal")
    check_says_the_same(model)


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_the_network_may_weigh_nothing_and_users_alone_may_count():
    model = with_all_kinds("lac")
    alone = replace(item_counts(), weight_T=np.array([0.0, 1.0, 1.0, 1.0]))
    model.counts = Counts(alone, action_counts(model, reads_item=False), "causal")
    check_says_the_same(model)
    assert np.isneginf(run_rank(model)[:, 0]).all() and np.isfinite(run_rank(model)[:, 1:]).all()


def run_rank(model: GenerativeRecommender) -> np.ndarray:
    exported = run_by_torch(model)
    history = {port.name: np.ones((1, 2), np.int64) for port in exported.about.programs["encode"].inputs}
    history |= {"length": np.array([2]), "before": np.array([0])}
    history["actions"] = np.full((1, 2, len(model.config.actions)), np.nan, np.float32)
    return exported.rank(exported.encode(history))["logits"]


def rules_without_their_decay(monkeypatch):
    right = exported_counts.met_items

    def met(tables, *rest):
        return right(replace(tables, decay=1.0), *rest)

    monkeypatch.setattr("plait.exporting.graphs.met_items", met)


def repeats_that_count_twice(monkeypatch):
    monkeypatch.setattr(exported_counts, "_is_repeated", lambda item_UT: torch.zeros_like(item_UT).bool())


def new_items_that_are_impossible(monkeypatch):
    monkeypatch.setattr(exported_counts.AddedToItems, "_with_new", lambda self, term_UV: term_UV)


def a_user_who_does_not_count(monkeypatch):
    right = exported_counts.OfUser.forward
    monkeypatch.setattr(exported_counts.OfUser, "forward", lambda self, *its: 0 * right(self, *its))


def unknown_actions_that_count(monkeypatch):
    right = exported_counts._decayed
    known = lambda is_known_UT, decay: right(torch.ones_like(is_known_UT), decay)  # noqa: E731
    monkeypatch.setattr(exported_counts, "_decayed", known)


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize(
    "broken",
    [
        rules_without_their_decay,
        repeats_that_count_twice,
        new_items_that_are_impossible,
        a_user_who_does_not_count,
        unknown_actions_that_count,
    ],
)
def test_counts_that_are_added_otherwise_are_caught(broken, monkeypatch):
    model = counting(with_all_kinds("lac"))
    check_says_the_same(model)
    broken(monkeypatch)
    assert_caught(check_says_the_same, model)


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_programs_of_every_kind_take_any_size():
    """As `torch.export` makes them: it may fix a size that it was shown."""
    model = counting(with_all_kinds("lac"))
    as_they_stand = run_by_torch(model)
    module = as_torch(drafted(model)["score"]).module()

    def score(arrays):
        with torch.no_grad():
            found = module({name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()})
        return {name: x.numpy() for name, x in found.items()}

    exported = Exported(as_they_stand.about, {**as_they_stand.programs, "score": score})
    found = differences_on_drawn(model, exported)
    assert len(found) == len(CASES) * (1 + len(OF_ALL_KINDS))
    assert all(each.difference <= each.allowed for each in found), found
