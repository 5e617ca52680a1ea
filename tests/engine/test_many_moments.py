"""Interests at many moments of a user: one encoding a window, and each moment as if it alone were asked about.

Shape letters: Q moments, N conditions, G columns of conditions, W width of an interest.
"""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tiny import assert_caught, assert_not_vacuous, model_of, prepared, random_log, trunk_of

from plait.data import Dataset
from plait.data.history import columns_read
from plait.engine import moments, steps
from plait.engine.moments import num_encodings, query_moments, wanted_at_moments
from plait.engine.multiplying import multiplied_in
from plait.evaluation.answers import in_context
from plait.layouts import resolve
from plait.lum.interests import coming_of_targets, own_conditions
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import query_inputs
from plait.models.questions import Exposure
from plait.nn.config import TRUNKS
from plait.recommender import Recommender
from plait.schema import Category, Feature

close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
HSTU = replace(TRUNKS["hstu"], dim=8, num_layers=2, num_heads=2, dropout=0.0, positions="rab")
SETTINGS = {
    "gpt": ModelSettings(trunk=trunk_of("rope"), interest_dim=5),
    "blind": ModelSettings(trunk=trunk_of("alibi"), exposure=Exposure(same_request="blind")),
    "hstu": ModelSettings(trunk=HSTU),
    "at one moment": ModelSettings(trunk=HSTU, exposure=Exposure(time_anchor="request")),
    "by requests": ModelSettings(trunk=replace(HSTU, positions="genrank")),
}
T, S = 4, 3  # shorter than most histories


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    """Requests of two events at one time."""
    log = random_log(num_users=9)
    nth = log["time"].to_numpy() // 120 * 120
    return prepared(log.with_columns(time=nth), tmp_path_factory.mktemp("moments") / "data")


def model_for(data: Dataset, settings: ModelSettings) -> GenerativeRecommender:
    return model_of(
        resolve("lum"), settings=settings, max_events=T, window_step=S, conditions=data.conditions
    )


def asked_of(data: Dataset, model: GenerativeRecommender, part: str = "train"):
    """The moments, what each is asked from, and its own condition among others."""
    targets = in_context(data, data.moments(part), model.plan)
    coming = coming_of_targets(data, targets, Recommender(model, data.items, columns_read(data)))
    other_Q1G = np.full((len(targets), 1, 1), 3)
    return (
        targets,
        coming,
        np.concatenate([own_conditions(data, targets)[:, None], other_Q1G, other_Q1G - 1], axis=1),
    )


@torch.no_grad()
def one_by_one(data: Dataset, model: GenerativeRecommender, targets, condition_QNG) -> np.ndarray:
    """The reference: what evaluation asks, a sequence for every event and condition."""
    found = []
    for n in range(condition_QNG.shape[1]):
        batch = data.target_batch(targets, model.plan.window, model.plan.lead)
        condition_EG = batch.condition_EG.copy()
        condition_EG[batch.start_U1[1:] - 1] = condition_QNG[:, n]
        inputs = query_inputs(model.plan, replace(batch, condition_EG=condition_EG), ("i",))
        found.append(model.retrieval.keys(model(inputs)[0]).numpy())
    return np.stack(found, axis=1)


def check_moments(data: Dataset, model: GenerativeRecommender) -> None:
    targets, coming, condition_QNG = asked_of(data, model)
    found_QNW = query_moments(model, coming, condition_QNG)
    close(found_QNW, one_by_one(data, model, targets, condition_QNG))
    with steps.smaller(12 * steps.bytes_per_token(model)):
        close(query_moments(model, coming, condition_QNG), found_QNW)
    apart = np.abs(found_QNW[:, 1] - found_QNW[:, 2]).max(axis=1)
    assert_not_vacuous({"moments": len(targets), "conditions apart": int((apart > 1e-4).sum())}, above=30)


@pytest.mark.parametrize("name", SETTINGS)
def test_many_moments_are_as_one_by_one(name, data):
    model = model_for(data, SETTINGS[name])
    check_moments(data, model)
    targets, coming, _ = asked_of(data, model)
    encoded = num_encodings(model.plan, coming)
    if SETTINGS[name].exposure.time_anchor == "request":
        assert encoded == len(targets), "histories know when they are asked about"
    else:
        assert encoded < len(targets) * 0.7, "a window is shared"


def check_moments_without_conditions(data: Dataset, model: GenerativeRecommender) -> None:
    targets, coming, condition_QNG = asked_of(data, model)
    found_QNW = wanted_at_moments(model, coming, condition_QNG[:, :1])
    close(found_QNW, one_by_one(data, model, targets, condition_QNG[:, :1]))
    apart = np.abs(np.diff(found_QNW[:, 0], axis=0)).max(axis=1)
    assert_not_vacuous({"moments apart": int((apart > 1e-4).sum())}, above=30)


@pytest.mark.parametrize("name", ["gpt", "hstu"])
def test_a_layout_without_conditions_says_what_comes_next(name, data, monkeypatch):
    model = model_of(resolve("item"), settings=SETTINGS[name], max_events=T, window_step=S)
    check_moments_without_conditions(data, model)
    with pytest.raises(ValueError, match="is not asked under conditions"):
        query_moments(model, *asked_of(data, model)[1:])
    monkeypatch.setattr(moments, "candidate_tokens", lambda layout: layout.tokens)  # windows are shared
    assert_caught(check_moments_without_conditions, data, model)


def test_windows_that_are_wrongly_shared_are_caught(data, monkeypatch):
    """As if no window ever began anew."""

    def of_users_alone(plan, coming):
        opens_Q = np.ones(coming.events.num_users, dtype=bool)
        opens_Q[1:] = np.diff(coming.events.user_U) != 0
        return opens_Q

    monkeypatch.setattr(moments, "_opens_window", of_users_alone)
    assert_caught(check_moments, data, model_for(data, SETTINGS["gpt"]))


def test_moments_are_the_events_of_a_part_behind_another(data):
    rows = {part: data.moments(part) for part in ("train", "validation", "test")}
    every = np.concatenate([its.event_Q for its in rows.values()])
    missing = np.setdiff1d(np.arange(data.manifest.counts.events), every)
    assert missing.tolist() == data._start_U1[:-1].tolist() and len(np.unique(every)) == len(every)
    assert sum(map(data.num_events, rows)) == data.manifest.counts.events
    for its in rows.values():
        np.testing.assert_array_equal(its.history_end_Q, its.event_Q)
        np.testing.assert_array_equal(
            np.searchsorted(data._start_U1, its.event_Q, side="right") - 1, its.user_Q
        )


def test_what_is_of_the_item_is_not_given(data, tmp_path):
    from plait.data import prepare

    log = random_log(num_users=9)
    items = (
        log.select("item").unique().with_columns(genre=log.select("item").unique()["item"].str.slice(0, 2))
    )
    both = prepare(
        log, user="user", item="item", time="time", actions=(), out=tmp_path / "both", min_item_events=1,
        conditions={"scenario": Category()}, item_conditions=("genre",), items=items,
        item_features=[Feature("genre", Category())],
    )  # fmt: skip
    own_QG = own_conditions(both, both.moments("train"))
    assert (own_QG[:, 0] > 1).all() and (own_QG[:, 1] == 0).all()
    assert (both.conditions_of(both.moments("train").event_Q)[:, 1] > 0).all(), "the dataset knows it"


def check_multiplied_in_one_arithmetic(data: Dataset, model: GenerativeRecommender) -> None:
    """Histories and questions alike: both forward passes run where products are those that are served."""
    in_bf16: list[bool] = []
    with pytest.MonkeyPatch.context() as patch, multiplied_in("bf16"):
        for name in ("encoded", "answered"):
            right = getattr(model, name)

            def seen(*given, right=right):
                in_bf16.append(torch.is_autocast_enabled("cpu"))
                return right(*given)

            patch.setattr(model, name, seen)
        _, coming, condition_QNG = asked_of(data, model)
        query_moments(model, coming, condition_QNG)
    assert len(in_bf16) >= 2 and all(in_bf16)


def test_moments_are_asked_in_the_arithmetic_that_is_served(data, monkeypatch):
    model = model_for(data, SETTINGS["gpt"])
    check_multiplied_in_one_arithmetic(data, model)
    monkeypatch.setattr(moments, "as_served", lambda model, num_tokens: nullcontext())
    assert_caught(check_multiplied_in_one_arithmetic, data, model)
