"""Counts of actions beside a model, for every kind of action: evaluation, scoring and appending agree, and nothing is
counted that a question may not know.

Shape letters: M questions, E events.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_action_kinds import ACTIONS, EXAMPLES, log_of
from tiny import assert_caught, assert_not_vacuous, started, trunk_of

import plait
from plait.baselines.actions import Effects, Predictor
from plait.baselines.asking import questions, training_log
from plait.counts.actions import ActionCounts, ActionQuestions, CountedAction, CountedPart, WeighedPart
from plait.counts.beside import Counts
from plait.counts.weighing import TermWeights
from plait.data import Dataset
from plait.engine import one_pass, plain
from plait.engine.state import append, before, encode, window
from plait.evaluation import action_counts
from plait.evaluation.action_counts import action_counts_of, counted_parts
from plait.evaluation.answers import answers_of, batch_of_targets, in_context, targets_of
from plait.evaluation.settings import Protocol
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import query_inputs
from plait.models.questions import Exposure
from plait.models.saving import load_model, save_model

PROTOCOL = Protocol(max_events=5)
LAYOUTS = "lac", "interleaved", "pc", "genrank", "attn_mvp"
HEARD = TermWeights(np.array([0.5, 0.6, 0.7]), 0.1)


def prepared(log: pl.DataFrame, out: Path, **choices: object) -> Dataset:
    columns = {"user": "user", "item": "item", "time": "time"}
    return plait.prepare(log, **columns, actions=list(ACTIONS), out=out, min_item_events=1, **choices)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(log_of(*EXAMPLES), tmp_path_factory.mktemp("kinds") / "data")


@pytest.fixture(scope="module")
def of_requests(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three events to a request."""
    nth = pl.int_range(pl.len()).over("user")
    log = log_of(*EXAMPLES).with_columns(time=1_000_000 + 60 * (nth // 3))
    return prepared(log, tmp_path_factory.mktemp("requests") / "data")


@pytest.fixture(autouse=True)
def one_damping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice of damping would take most of the time."""
    monkeypatch.setattr(action_counts, "GRID", {})


def model_of(
    data: Dataset, layout: str, max_events: int = 5, exposure: Exposure = Exposure()
) -> GenerativeRecommender:
    config = ModelConfig(
        layout=str(resolve(layout)),
        settings=ModelSettings(trunk=trunk_of(), exposure=exposure, counts="auto"),
        num_items=data.num_items,
        actions=data.actions,
        max_events=max_events,
    )
    return started(GenerativeRecommender(config)).eval()


def counting(
    model: GenerativeRecommender, data: Dataset, weights: TermWeights = HEARD
) -> GenerativeRecommender:
    """With weights that let counts be heard, whatever they would be fitted to."""
    parts = counted_parts(model, data)
    actions = tuple(
        CountedAction(
            action.kind,
            tuple(WeighedPart(part, _of_terms(weights, part)) for part in parts if part.action == column),
            "",
        )
        for column, action in enumerate(data.actions)
    )
    model.counts = Counts(None, ActionCounts(actions), model.config.settings.exposure.same_request)
    return model


def _of_terms(weights: TermWeights, part: CountedPart) -> TermWeights:
    return replace(weights, weight_T=weights.weight_T[[0, *range(3 - len(part.names), 3)]])


def check_agree(model: GenerativeRecommender, data: Dataset) -> None:
    """What evaluation predicts of each test event is what is scored among all items: encoded at once or by appending,
    one by one or in one pass."""
    answers, plan, different = answers_of(model, data, "test", PROTOCOL), model.plan, 0
    for user in range(0, data.num_users, 3):
        whole = data.history(user)
        history, item_1C = before(whole, np.array([1])), np.arange(1, data.num_items + 1)[None]
        at_s = int(whole.time_s_E[-1])
        state = encode(history, plan.window, plan.lead)
        shorter = encode(before(history, np.array([1])), plan.window, plan.lead)
        appended = append(shorter, window(history, 1, 0), plan.window, plan.lead)
        for way, score in product((state, appended), (plain.score, one_pass.score)):
            found = score(model, way, item_1C, at_s=at_s)
            for action in data.actions:
                scored = found[action.name][0, answers.item_Q[user] - 1]
                expected = answers.predicted[action.name][user]
                np.testing.assert_allclose(scored, expected, rtol=2e-4, atol=1e-5)
    counts, model.counts = model.counts, None
    alone = answers_of(model, data, "test", PROTOCOL)
    model.counts = counts
    for name, predicted in answers.predicted.items():
        different += not np.allclose(predicted, alone.predicted[name], rtol=1e-3)
    assert_not_vacuous({"actions that counts change": different}, above=len(data.actions) - 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_evaluation_scoring_and_appending_agree(data, layout):
    check_agree(counting(model_of(data, layout), data), data)


@pytest.mark.parametrize("layout", ["lac", "genrank"])
def test_they_agree_where_requests_are_blind(of_requests, layout):
    exposure = Exposure(same_request="blind")
    check_agree(counting(model_of(of_requests, layout, exposure=exposure), of_requests), of_requests)


def test_counts_of_another_history_are_caught(data, monkeypatch):
    right = plain._inputs

    def shorter(model, batch, field, late):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ActionCounts, "added", lambda self, asked: _added(self, _without_last(asked)))
            return right(model, batch, field, late)

    _added = ActionCounts.added
    monkeypatch.setattr(plain, "_inputs", shorter)
    assert_caught(check_agree, counting(model_of(data, "lac"), data), data)


def _without_last(asked: ActionQuestions) -> ActionQuestions:
    return replace(asked, end_M=np.maximum(asked.first_M, asked.end_M - 1))


@pytest.mark.parametrize("layout", ["lac", "pc"])
def test_alone_they_are_the_baseline(data, layout):
    """Of a model that weighs nothing, items and recent residuals stay."""
    model = counting(model_of(data, layout, max_events=8), data, TermWeights(np.array([0.0, 1.0, 1.0]), 0.0))
    assert model.counts is not None and model.counts.actions is not None
    effects = tuple(
        tuple(Effects(part.counted.part, part.counted.totals, part.counted.damping) for part in action.parts)
        for action in model.counts.actions.actions
    )
    log = training_log(data, "causal")
    asked = questions(data, data.targets("test"), log)
    nothing_S = np.zeros_like(
        asked.histories.is_counted_S
    )  # what an event adds to its item's mean stays in it
    asked = replace(asked, histories=replace(asked.histories, is_counted_S=nothing_S))
    expected = Predictor("", data.actions, effects).predicted(asked, asked.item_Q)
    found = answers_of(model, data, "test", replace(PROTOCOL, max_events=8)).predicted
    for action in data.actions:
        np.testing.assert_allclose(found[action.name], expected[action.name], rtol=1e-4, atol=1e-5)


def asked_of(model: GenerativeRecommender, data: Dataset) -> list[tuple[ActionQuestions, np.ndarray]]:
    """What is counted of each test event, and the requests of what is asked from."""
    found = []
    targets = in_context(data, targets_of(data, "test", model.plan, PROTOCOL), model.plan)
    for row in range(len(targets)):
        batch, count_B = batch_of_targets(data, targets[row : row + 1], model.plan)

        def note(asked: ActionQuestions, request_E: np.ndarray = batch.request_E) -> np.ndarray:
            found.append((asked, request_E))
            return np.zeros((len(asked.item_M), 0))

        query_inputs(model.plan, batch, ("a",), num_candidates_U=count_B, counting=note)
    return found


def test_nothing_of_the_own_request_is_counted_where_it_is_blind(of_requests):
    found, shorter = (
        asked_of(model_of(of_requests, "lac", exposure=Exposure(same_request="blind")), of_requests),
        0,
    )
    for asked, request_E in found:
        counted_E = request_E[asked.first_M[0] : asked.end_M[0]]
        assert (counted_E < request_E[-1]).all()
        shorter += len(counted_E) > 0
    assert_not_vacuous({"questions": shorter}, above=5)
    causal = asked_of(model_of(of_requests, "lac"), of_requests)
    assert any((request_E[asked.end_M[0] - 1] == request_E[-1]) for asked, request_E in causal)


@pytest.mark.parametrize("layout", ["next_action", "next_action_out"])
def test_a_layout_that_does_not_know_the_item_counts_the_user_alone(data, layout):
    model = model_of(data, layout)
    assert {part.names for part in counted_parts(model, data)} == {("user",)}
    counting(model, data)
    answers = answers_of(model, data, "test", PROTOCOL)
    assert all(np.isfinite(predicted).all() for predicted in answers.predicted.values())


def test_they_are_saved_with_the_model(data, tmp_path):
    model = counting(model_of(data, "action_out"), data)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    expected = answers_of(model, data, "test", PROTOCOL).predicted
    for name, predicted in answers_of(loaded, data, "test", PROTOCOL).predicted.items():
        np.testing.assert_array_equal(predicted, expected[name])
    (tmp_path / "counts.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"it has no counts.safetensors, and model.counts = 'auto'.* train it again"
    ):
        load_model(tmp_path)


def test_weights_are_fitted_from_what_evaluation_asks(data, monkeypatch):
    """The scores that weights are fitted by give the answers of evaluation."""
    monkeypatch.setattr(action_counts, "FEWEST", 5)
    model, fitted = model_of(data, "lac"), []
    right = action_counts.weighed
    monkeypatch.setattr(action_counts, "weighed", lambda labels: fitted.append(labels) or right(labels))
    found = action_counts_of(model, data, PROTOCOL, "cpu")
    counting(model, data)
    answers = answers_of(model, data, "validation", PROTOCOL)
    assert len(found.actions) == len(data.actions)
    (liked,) = (labels for labels in fitted[:1])
    known_Q = ~np.isnan(answers.label_QA[:, 0])
    score_M1 = HEARD.score(liked.term_TMK)
    np.testing.assert_allclose(
        1 / (1 + np.exp(-score_M1[:, 0])), answers.predicted["liked"][known_Q], rtol=1e-4
    )


def test_few_labels_and_labels_that_are_alike_are_said(data, monkeypatch):
    model = model_of(data, "lac")
    said = [action.said for action in action_counts_of(model, data, PROTOCOL, "cpu").actions]
    assert all("labels, fewer than 100" in line for line in said)
    monkeypatch.setattr(action_counts, "FEWEST", 2)
    alike = lambda self, targets: np.ones((len(targets), len(ACTIONS)), np.float32)  # noqa: E731
    monkeypatch.setattr(Dataset, "target_actions", alike)
    counts = action_counts_of(model, data, PROTOCOL, "cpu")
    assert not counts.pay
    assert all("labels of the validation are alike" in action.said for action in counts.actions)


def test_items_that_came_later_have_the_mean(data):
    model = counting(model_of(data, "lac"), data)
    assert model.counts is not None and model.counts.actions is not None
    (first, *_) = model.counts.actions.paying
    nobody = np.zeros(1, dtype=np.int64)
    asked = ActionQuestions(
        np.zeros(0, np.int64),
        np.zeros((0, len(ACTIONS)), np.float32),
        nobody,
        nobody,
        np.array([data.num_items + 3]),
    )
    item_1K, user_1K = first.counted.terms(asked)
    np.testing.assert_allclose(first.counted.part.scale.mean_of(item_1K)[0], first.counted.totals.mean_K)
    assert not user_1K.any()


def test_damping_is_chosen_by_the_last_training_events(data, monkeypatch):
    """Of every part, the best of the grid is better than the usual one or is it; held-out events have no say."""
    right = action_counts.best_of
    values: list[list[float]] = []

    def noted(options, judge):
        values.append([judge(option) for option in options])
        return right(options, judge)

    monkeypatch.setattr(action_counts, "GRID", {"decay": (0.8, 0.5), "user": (2.0, 50.0)})
    monkeypatch.setattr(action_counts, "best_of", noted)
    monkeypatch.setattr(Dataset, "target_actions", None)
    parts = counted_parts(model_of(data, "lac"), data)
    assert len(values) == 2 * len(parts)
    for part, of_decay, of_user in zip(parts, values[::2], values[1::2], strict=True):
        assert part.damping.decay == (0.8, 0.5)[int(np.argmax(of_decay))]
        assert part.damping.user == (2.0, 50.0)[int(np.argmax(of_user))]
        assert max(of_user) >= max(of_decay)
