"""Every kind of action goes the whole way: preparation, scale, training, answers, late features, metrics, simulator,
saved models. A kind that lacks a part fails here or in the type checker, never in silence.

Shape letters: E events, M questions, C outputs, W columns, A actions.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
import torch
from tiny import assert_caught, assert_not_vacuous, started, trunk_of

import plait
from plait.compare import comparing
from plait.counts.kinds import counted
from plait.data import Dataset
from plait.data.columns.actions import read_as
from plait.data.simulator import Knows, World, oracle, simulate
from plait.data.simulator.responses import Response
from plait.data.simulator.world import CLICK
from plait.evaluation.answers import Answers, measure
from plait.models.late import LateSettings, LateStatistics
from plait.nn import action_kinds
from plait.nn.action_kinds import ModelledKind, modelled
from plait.nn.actions import scaled
from plait.nn.encoders import ActionEncoder
from plait.nn.heads import ActionHeads
from plait.nn.towers import TowerConfig
from plait.recommender import Recommender
from plait.schema import (
    Action,
    ActionKind,
    Amount,
    Binary,
    Categorical,
    EventBatch,
    Kind,
    NumericKind,
    Ordinal,
    Regression,
)

USERS, EVENTS, ITEMS, WIDTH = 12, 8, 6, 8


@dataclass(frozen=True)
class Example:
    """An action, what its log holds, and what an answer about it looks like."""

    action: Action
    good: tuple[Any, ...]  # of the log
    held: tuple[float, ...]  # what events hold of them
    bad: Any
    rule: str  # that the bad one breaks
    columns: tuple[str, ...]  # of an answer
    low: float  # of the first of these
    high: float

    @property
    def kind(self) -> ActionKind:
        return self.action.kind


def example(name: str, kind: ActionKind, *rest: Any) -> Example:
    return Example(Action(name, kind), *rest)


STARS, GRADE = Ordinal([0.5, 2, 5]), Ordinal(("poor", "fair", "good"))
EXAMPLES = (
    example("liked", Binary(), (0, 1), (0.0, 1.0), 2, "neither 0 nor 1", ("liked",), 0, 1),
    example("score", Regression(1, 5), (1, 2.5, 5), (1.0, 2.5, 5.0), 6, "outside 1 to 5", ("score",), 1, 5),
    example("mark", Regression(0, 2, "huber"), (0, 2), (0.0, 2.0), -1, "outside 0 to 2", ("mark",), 0, 2),
    example("watched", Amount(), (1, 9), (1.0, 9.0), -1, "is negative", ("watched",), 0, 9.001),
    example("spent", Amount(zero_inflated=True), (0, 5), (0.0, 5.0), -1, "negative", ("spent",), 0, 5.001),
    example(
        "device",
        Categorical(("phone", "tv")),
        ("phone", "tv"),
        (0.0, 1.0),
        "radio",
        "none of phone, tv",
        ("device=phone", "device=tv"),
        0,
        1,
    ),
    example(
        "stars",
        STARS,
        ("0.5", "2.0", "5"),
        (0.0, 1.0, 2.0),
        "3",
        "none of 0.5, 2, 5",
        ("stars", "stars=0.5", "stars=2", "stars=5"),
        0.5,
        5,
    ),
    example(
        "grade",
        GRADE,
        ("poor", "fair", "good"),
        (0.0, 1.0, 2.0),
        "bad",
        "none of poor, fair, good",
        ("grade=poor", "grade=fair", "grade=good"),
        0,
        1,
    ),
)
ACTIONS = tuple(one.action for one in EXAMPLES)
every_kind = pytest.mark.parametrize("one", EXAMPLES, ids=lambda one: one.action.name)


def log_of(*examples: Example) -> pl.DataFrame:
    """Whatever the user, the item decides every action; of each a few values are missing."""
    item_E = np.random.default_rng(0).integers(0, ITEMS, USERS * EVENTS)
    user_E = np.repeat(np.arange(USERS), EVENTS)
    columns: dict[str, Any] = {
        "user": [f"u{user:02d}" for user in user_E],
        "item": [f"i{item}" for item in item_E],
        "time": 60 * np.arange(len(item_E)),
    }
    for nth, one in enumerate(examples):
        values: list[Any] = [one.good[item % len(one.good)] for item in item_E]
        values[nth :: 2 * EVENTS + 1] = [None] * len(values[nth :: 2 * EVENTS + 1])
        columns[one.action.name] = values
    return pl.DataFrame(columns, strict=False)


def prepared(log: pl.DataFrame, out: Any, *examples: Example) -> Dataset:
    actions = [one.action for one in examples]
    return plait.prepare(
        log, user="user", item="item", time="time", actions=actions, out=out, min_item_events=1
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(log_of(*EXAMPLES), tmp_path_factory.mktemp("kinds") / "data", *EXAMPLES)


@pytest.fixture(scope="module")
def trained(data: Dataset) -> Recommender:
    return plait.fit(
        data,
        "lac",
        model=plait.ModelSettings(trunk=trunk_of(), late=LateSettings(windows=(3,))),
        optim=plait.Optim(learning_rate=1e-2, users_per_step=6, precision="fp32"),
        protocol=plait.Protocol(max_events=5, max_epochs=2),
        report=lambda line: None,
    )


def history_of(data: Dataset, user: int) -> EventBatch:
    return data.history(user)


def test_no_kind_is_skipped() -> None:
    assert {type(one.kind) for one in EXAMPLES} == set(get_args(ActionKind))
    classes = {type(modelled(one.kind)) for one in EXAMPLES}
    assert classes == set(ModelledKind.__subclasses__()), "a class that no example reaches"
    assert len({type(read_as(one.kind)) for one in EXAMPLES}) == len(get_args(ActionKind))


# Preparation


@every_kind
def test_a_log_becomes_what_events_hold(data: Dataset, one: Example) -> None:
    column, log = ACTIONS.index(one.action), log_of(*EXAMPLES)
    held = np.concatenate([history_of(data, user).action_EA[:, column] for user in range(USERS)])
    of = dict(zip(map(str, one.good), one.held, strict=True))
    expected = [np.nan if value is None else of[str(value)] for value in _as_given(log, one)]
    np.testing.assert_array_equal(held, np.array(expected, np.float32))
    missing = np.isnan(held)
    assert 0 < missing.sum() < len(held)
    assert data.manifest.facts is not None
    assert data.manifest.facts.actions[one.action.name].known == (~missing).sum()


def _as_given(log: pl.DataFrame, one: Example) -> list[Any]:
    """A column of numbers spells the whole ones as floats where others are none."""
    values = log[one.action.name].to_list()
    by_number = {good: good for good in one.good}
    return [None if value is None else by_number.get(value, value) for value in values]


@every_kind
def test_a_bad_value_breaks_a_rule(tmp_path: Any, one: Example) -> None:
    log = log_of(one)
    values = [*log[one.action.name].to_list()[:-1], one.bad]
    broken = log.with_columns(pl.Series(one.action.name, values, strict=False))
    with pytest.raises(ValueError, match=one.rule):
        prepared(broken, tmp_path / "data", one)


# Scale and inputs


def check_there_and_back(one: Example) -> None:
    held = torch.tensor([*one.held, torch.nan])
    treated = modelled(fitted(one).kind)
    unit = treated.to_unit(held)
    torch.testing.assert_close(treated.from_unit(unit), held, equal_nan=True)
    low, high = one.kind.bounds
    assert (held[:-1] >= low).all() and (held[:-1] <= high).all()
    last = treated.knots.number - 1.0
    assert (unit[:-1] * treated.knots.per_unit <= last + 1e-4).all()


def fitted(one: Example) -> Action:
    kind = read_as(one.kind).fitted(np.array(one.held, np.float32))
    assert kind.unfitted() == one.kind
    return Action(one.action.name, kind)


@every_kind
def test_scales_lead_there_and_back(one: Example) -> None:
    check_there_and_back(one)


def test_a_scale_without_its_way_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_kinds.BoundedNumber, "from_unit", lambda self, unit_E: unit_E)
    assert_caught(check_there_and_back, EXAMPLES[1])


@every_kind
def test_every_value_is_read_as_a_vector_of_its_own(one: Example) -> None:
    encoder = started(ActionEncoder((fitted(one),), WIDTH))
    vectors = encoder(torch.tensor([*one.held, torch.nan])[:, None])
    assert torch.pdist(vectors).min() > 1e-3
    with pytest.raises(ValueError, match=f"action '{one.action.name}'"):
        encoder(torch.tensor([[min(-1.0, one.kind.bounds[0] - 1)]]))


# Training


def head_of(one: Example) -> ActionHeads:
    return started(ActionHeads((fitted(one),), WIDTH, TowerConfig(kind="linear")))


def toy(one: Example) -> tuple[torch.Tensor, torch.Tensor]:
    """Every value has a state of its own."""
    nth_M = torch.arange(60) % len(one.held)
    label_MA = torch.tensor(one.held)[nth_M][:, None].clone()
    label_MA[::7] = torch.nan
    return torch.eye(WIDTH)[nth_M], label_MA


def trained_head(one: Example) -> tuple[ActionHeads, float]:
    """And the loss of the marginal that it began at."""
    heads, (state_MD, label_MA) = head_of(one), toy(one)
    heads.start_at(label_MA)
    at_marginal = heads.losses(state_MD, label_MA)[one.action.name].item()
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        heads.losses(state_MD, label_MA)[one.action.name].backward()
        optimiser.step()
    return heads, at_marginal


def check_learns(one: Example) -> None:
    """The loss falls, and what is predicted is what came."""
    heads, at_marginal = trained_head(one)
    assert heads.losses(*toy(one))[one.action.name].item() < 0.3 * at_marginal
    for answer_W, held in zip(answers_of(heads, one), one.held, strict=False):
        if one.kind.outcomes:
            assert answer_W[-len(one.kind.outcomes) :][int(held)] > 0.6
        else:
            assert abs(answer_W[0] - held) < 0.2 * max(one.held)


@every_kind
def test_training_falls_below_the_marginal(one: Example) -> None:
    check_learns(one)


def test_a_loss_of_another_label_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = action_kinds.OrdinalOutcome.losses

    def of_lowest(self: Any, out_MC: torch.Tensor, unit_M: torch.Tensor) -> torch.Tensor:
        return right(self, out_MC, torch.zeros_like(unit_M))

    monkeypatch.setattr(action_kinds.OrdinalOutcome, "losses", of_lowest)
    for one in EXAMPLES[-2:]:
        assert_caught(check_learns, one)


@every_kind
def test_a_fresh_head_predicts_the_means(one: Example) -> None:
    """Of the labels at model scale; of outcomes, their shares."""
    heads, (state_MD, label_MA) = head_of(one), toy(one)
    heads.start_at(label_MA)
    known = ~label_MA[:, 0].isnan()
    unit_N = scaled((fitted(one),), label_MA)[known, 0]
    found = heads.predict(state_MD)[one.action.name]
    assert (found == found[:1]).all()
    if one.kind.outcomes:
        share = torch.stack([(unit_N == index).float().mean() for index in range(len(one.kind.outcomes))])
        torch.testing.assert_close(found[0], share)
    elif not isinstance(one.kind, Amount):
        torch.testing.assert_close(modelled(fitted(one).kind).to_unit(found)[0], unit_N.mean())


# Answers


def answers_of(heads: ActionHeads, one: Example) -> np.ndarray:
    predicted = heads.predict(torch.eye(WIDTH))[one.action.name].detach().numpy()
    return one.kind.answer(predicted.reshape(WIDTH, -1))


def check_answers(one: Example) -> None:
    names, value_MW = one.kind.answer_columns(one.action.name), answers_of(drawn_head(one), one)
    assert names == one.columns and value_MW.shape == (WIDTH, len(names)) and value_MW.dtype == np.float32
    assert np.isfinite(value_MW).all() and (value_MW.std(0) > 0).all()
    assert (value_MW[:, 0] >= one.low).all() and (value_MW[:, 0] <= one.high).all()
    if one.kind.outcomes:
        chance_MV = value_MW[:, -len(one.kind.outcomes) :]
        np.testing.assert_allclose(chance_MV.sum(1), 1, rtol=1e-5)


def drawn_head(one: Example) -> ActionHeads:
    heads = head_of(one)
    heads.start_at(toy(one)[1])
    torch.nn.init.normal_(heads.weight_KD, std=0.3, generator=torch.Generator().manual_seed(1))
    return heads


@every_kind
def test_answers_have_the_columns_of_the_kind(one: Example) -> None:
    check_answers(one)


def test_the_chance_of_the_lowest_level_in_place_of_the_answer_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Ordinal, "answer_columns", NumericKind.answer_columns)
    monkeypatch.setattr(Ordinal, "answer", lambda self, predicted_MC: predicted_MC[:, :1])
    for one in EXAMPLES[-2:]:
        assert_caught(check_answers, one)


def test_score_shows_every_kind(trained: Recommender) -> None:
    state = trained.encode(log_of(*EXAMPLES).filter(pl.col("user") == "u03"))
    found = trained.score(state, [f"i{item}" for item in range(ITEMS)])
    assert found.columns == ["user", "item", *(name for one in EXAMPLES for name in one.columns)]
    for one in EXAMPLES:
        assert found[one.columns[0]].is_between(one.low, one.high).all(), one.action.name


def test_a_saved_model_answers_the_same(trained: Recommender, tmp_path: Any) -> None:
    trained.save_pretrained(tmp_path)
    again = Recommender.from_pretrained(tmp_path)
    assert again.actions == trained.actions
    state = trained.encode(log_of(*EXAMPLES).filter(pl.col("user") == "u03"))
    assert again.score(state, ["i1", "i4"]).equals(trained.score(state, ["i1", "i4"]))


# Late features


@every_kind
def test_late_features_count_every_kind(data: Dataset, one: Example) -> None:
    column = ACTIONS.index(one.action)
    settings = LateSettings(windows=(3,))
    batch, first_M, now_M = history_of(data, 2), np.zeros(EVENTS, int), np.arange(EVENTS)
    statistics = LateStatistics(settings, data.actions, np.zeros((ITEMS + 1, 0), np.int32))
    found_MF = statistics.of(batch, first_M, now_M, now_M)
    assert found_MF.shape[1] == settings.num_features(data.actions)
    widths = [len(action.kind.outcomes) or 1 for action in data.actions]
    begin = sum(widths[:column])
    means_MW = found_MF[:, begin : begin + widths[column]]
    kind, met = data.actions[column].kind, 0
    for now in range(1, EVENTS):
        value_N = batch.action_EA[max(0, now - 3) : now, column]
        unit_N = modelled(kind).to_unit(torch.from_numpy(value_N[~np.isnan(value_N)])).numpy()
        if len(unit_N):
            index_V = np.arange(len(kind.outcomes))
            means = (unit_N[:, None] == index_V).mean(0) if kind.outcomes else unit_N.mean()[None]
            np.testing.assert_allclose(means_MW[now], means, rtol=1e-5)
            met += 1
    assert_not_vacuous({"means": met})


# Metrics


@every_kind
def test_a_comparison_shows_metrics_that_are_measured(one: Example) -> None:
    predicted = drawn_head(one).predict(torch.eye(WIDTH))[one.action.name].detach().numpy()
    label_QA = np.resize(np.array(one.held, np.float32), (WIDTH, 1))
    label_QA[-1] = np.nan
    user_Q = np.arange(WIDTH) // 4
    answers = Answers(
        user_Q, user_Q, user_Q + 1, None, {one.action.name: predicted}, label_QA, {}, (fitted(one),)
    )
    measured, shown = measure(answers), comparing._metrics_of(one.action)
    assert shown and all(measured[name].value is not None for name in shown)
    if one.kind == STARS:
        error = one.kind.mean_of(predicted) - np.array([0.5, 2, 5])[np.arange(WIDTH) % 3]
        assert measured["rmse:stars"].value == pytest.approx(np.sqrt((error[:-1] ** 2).mean()), rel=1e-5)


# Simulator

DRAWN = tuple(one for one in EXAMPLES if not isinstance(one.kind, Categorical))


def test_a_world_draws_every_kind_but_names_without_order(tmp_path: Any) -> None:
    responses = (CLICK, *(Response(action=one.action) for one in DRAWN))
    world = World(
        num_users=20, num_events=8, num_items=12, num_categories=3, responses=responses, steer="click"
    )
    simulated = simulate(world, tmp_path / "world")
    best = oracle(simulated, "test", Knows())
    for column, one in enumerate(DRAWN, start=1):
        low, high = one.kind.bounds
        held = np.concatenate([history_of(simulated, user).action_EA[:, column] for user in range(20)])
        assert low <= held.min() < held.max() <= high, one.action.name
        answered = best.mean[one.action.name]
        assert answered.shape == (20, *((len(one.kind.outcomes),) if one.kind.outcomes else ()))
        if one.kind.outcomes:
            assert set(held) == set(range(len(one.kind.outcomes)))
            np.testing.assert_allclose(answered.sum(1), 1)
    with pytest.raises(ValueError, match="'device' is categorical; expected"):
        Response(action=EXAMPLES[5].action)


def test_the_oracle_of_levels_is_calibrated(tmp_path: Any) -> None:
    """Chances that it gives a level add up to how often the level came."""
    stars = Response(action=Action("stars", STARS))
    world = World(seed=2, num_users=300, num_events=8, responses=(CLICK, stars), steer="click")
    best = oracle(simulate(world, tmp_path / "world"), "test", Knows())
    came_QV = best.label_QA[:, 1:] == np.arange(3)
    gap_V = (best.predicted["stars"] - came_QV).mean(0)
    assert np.abs(gap_V).max() < 4 * 0.5 / np.sqrt(len(came_QV))


# Parts that are missing


def lacking(kind: type[Kind]) -> list[str]:
    """The parts of a kind that it does not fill."""
    return [name for name in dir(kind) if getattr(getattr(kind, name), "__isabstractmethod__", False)]


class Silent(NumericKind, frozen=True, tag="silent"):
    """A kind that says neither its bounds nor how it is judged, and is treated by nobody."""

    @staticmethod
    def form() -> str:
        return "silent"

    @classmethod
    def parsed(cls, settings: str | None) -> "Silent":
        return cls()

    def unfitted(self) -> "Silent":
        return self


def test_every_kind_is_whole_and_a_silent_one_is_caught() -> None:
    assert not {kind.__name__: lacking(kind) for kind in get_args(ActionKind) if lacking(kind)}
    assert lacking(Silent) == ["bounds", "judged_as"]


FORGETFUL: tuple[Callable[[Any], object], ...] = (
    lambda action: inspect.unwrap(modelled)(action.kind),
    lambda action: inspect.unwrap(read_as)(action.kind),
)


@pytest.mark.parametrize("part", FORGETFUL)
def test_a_kind_that_a_part_does_not_know_is_an_error(part: Callable[[Any], object]) -> None:
    with pytest.raises(AssertionError, match="unreachable"):
        part(Action("x", Silent()))  # type: ignore[arg-type]


# Counts beside a model


def check_scores_of_counts(one: Example) -> None:
    """A head's outputs become scores and outputs again, and what is counted means the same by a score."""
    kind = modelled(fitted(one).kind)
    out_MC = torch.randn(50, kind.num_of_state + kind.num_constant, generator=torch.manual_seed(0))
    scores, of_counts = kind.scores_of(out_MC), counted(fitted(one).kind)
    torch.testing.assert_close(kind.expected(kind.outputs_of(scores)), kind.expected(out_MC))
    means = [
        part.scale.mean_of(score_MK.double().numpy())
        for part, score_MK in zip(of_counts.parts, scores, strict=True)
    ]
    np.testing.assert_allclose(of_counts.answer(*means), kind.expected(out_MC), rtol=1e-4, atol=1e-6)


@every_kind
def test_counts_mean_by_a_score_what_a_head_does(one: Example) -> None:
    check_scores_of_counts(one)


def test_scores_of_another_scale_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_kinds.ZeroInflatedAmount, "scores_of", lambda self, out_MC: out_MC.split(1, 1))
    (spent,) = (one for one in EXAMPLES if one.action.name == "spent")
    assert_caught(check_scores_of_counts, spent)
