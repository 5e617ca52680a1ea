"""The recommender's own rules: what it refuses, how tasks add up, how long a history may be."""

import pytest
import torch
from tiny import (
    ACTIONS,
    EVERY_LAYOUT,
    EVERY_POSITION,
    MAX_EVENTS,
    asked_in_training,
    batch_of,
    before_the_next,
    model_of,
    part_of,
    trunk_of,
)

from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.models.inputs import query_inputs
from plait.models.questions import Exposure
from plait.nn.losses import RetrievalLoss
from plait.nn.sampling import uniform
from plait.schema import Action, Binary


@pytest.mark.parametrize(
    ("notation", "reason"),
    [
        ("i[t] -> a[t]; a[t] -> () {pool}", "late fusion take one token per event"),
        ("i[t] -> a[t] {values, helix}", "not both"),
        ("i[t] -> (c[t+1], i[t+1])", "predicts a condition; this model is asked under conditions"),
        ("(i[t], i[t-1]) -> i[t+1]", "shows two facts of one field"),
        ("i[t] -> (i[t+1], i[t+2])", "predicts two facts of one field; this model has one head for each"),
    ],
)
def test_a_layout_that_needs_more_than_the_model_has_is_refused(notation, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        model_of(notation)
    assert f"layout '{notation}'" in str(refused.value)


def test_a_layout_with_conditions_needs_data_with_conditions():
    with pytest.raises(
        ValueError, match="shows conditions, and the data has none: name what is known before the item"
    ):
        model_of("c[t] -> i[t]; i[t] -> ()", conditions=())


def test_a_layout_with_actions_needs_data_with_actions():
    with pytest.raises(ValueError, match="uses actions, and the data has none: name an action column"):
        model_of(resolve("lac"), actions=())
    model = model_of(resolve("item"), actions=())
    assert set(model.losses(asked_in_training(model.layout, batch_of([3])))) == {"retrieval"}


def test_a_weight_for_an_unknown_action_is_refused():
    settings = ModelSettings(action_weights={"ratings": 2.0})
    with pytest.raises(ValueError, match=r"names 'ratings'; the data's actions are rating, liked"):
        model_of(resolve("lac"), settings=settings)


@pytest.mark.parametrize("name", ["retrieval", "actions"])
def test_an_action_with_the_name_of_a_task_is_refused(name):
    """Its loss would stand where another is reported, and one of the two would vanish without a word."""
    with pytest.raises(ValueError, match=f"action {name!r}.*rename the column"):
        model_of(resolve("lac"), actions=(Action(name, Binary()),))


def test_the_total_is_the_weighted_sum_of_the_tasks():
    weights = {"retrieval": 0.25, "rating": 3.0, "liked": 0.0}
    settings = ModelSettings(
        trunk=trunk_of(), retrieval_weight=0.25, action_weights={"rating": 3.0, "liked": 0.0}
    )
    model, plain = model_of(resolve("lac"), settings=settings), model_of(resolve("lac"))
    losses = model.losses(asked_in_training(model.layout, batch_of((5, 3))))
    assert set(losses) == set(weights) and all(loss > 0 for loss in losses.values())
    torch.testing.assert_close(
        model.total(losses), sum(weights[task] * loss for task, loss in losses.items())
    )
    torch.testing.assert_close(plain.total(losses), sum(losses.values()))


NOTHING = {"retrieval_weight": 0.0, "action_weights": {"rating": 0.0, "liked": 0.0}}


@pytest.mark.parametrize("layout", ["item", "action_out", "lac"])
def test_a_layout_that_is_trained_for_nothing_is_refused(layout):
    named = "action_weights" if layout == "action_out" else "retrieval_weight"
    with pytest.raises(ValueError, match=rf"is trained for nothing: .* raise model\.{named}, or leave"):
        model_of(resolve(layout), settings=ModelSettings(trunk=trunk_of(), **NOTHING))
    for name in NOTHING if layout == "lac" else [named]:
        rest = {other: value for other, value in NOTHING.items() if other != name}
        model_of(resolve(layout), settings=ModelSettings(trunk=trunk_of(), **rest))


@pytest.mark.parametrize(
    "retrieval",
    [
        RetrievalLoss(kind="sampled"),
        RetrievalLoss(kind="info_nce"),
        RetrievalLoss(l2_norm=True, temperature=0.1),
    ],
)
def test_every_retrieval_loss_trains_the_items(retrieval):
    model = model_of(resolve("lac"), settings=ModelSettings(trunk=trunk_of(), retrieval=retrieval))
    model.sampler = uniform(17, torch.Generator().manual_seed(0))
    losses = model.losses(asked_in_training(model.layout, batch_of((5, 3))))
    losses["retrieval"].backward()
    assert losses["retrieval"] > 0
    assert model.items.embedding.weight.grad.abs().sum() > 0


def test_the_unknown_item_is_never_recommended():
    model = model_of(resolve("lac"))
    (state_MD,) = model(query_inputs(model.plan, before_the_next(batch_of((4, 2))), ("i",)))
    score_MV = model.item_scores(state_MD)
    assert (score_MV[:, 0] == -torch.inf).all() and score_MV[:, 1:].isfinite().all()


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_learned_positions_reach_a_full_window_and_its_candidate(layout):
    model = model_of(layout)
    model(asked_in_training(layout, batch_of([MAX_EVENTS])))
    model(query_inputs(model.plan, batch_of([MAX_EVENTS + 1]), ("i", "a")))
    with pytest.raises(ValueError, match="learned positions for"):
        model(asked_in_training(layout, batch_of([MAX_EVENTS + 2])))


@pytest.mark.parametrize("positions", EVERY_POSITION)
def test_dropout_is_off_in_evaluation_and_on_in_training(positions):
    settings = ModelSettings(trunk=trunk_of(positions, dropout=0.5))
    model = model_of(resolve("lac"), settings=settings)
    inputs = asked_in_training(model.layout, batch_of((5, 3)))
    assert torch.equal(model(inputs)[0], model(inputs)[0])
    model.train()
    assert not torch.equal(model(inputs)[0], model(inputs)[0])


def test_actions_stand_in_the_order_of_the_data():
    model = model_of(resolve("lac"))
    (state_MD,) = model(query_inputs(model.plan, batch_of((4, 2)), ("a",)))
    predicted = model.heads.predict(state_MD)
    assert list(predicted) == [action.name for action in ACTIONS]
    assert (predicted["rating"] > 1).all() and (predicted["liked"] < 1).all()


def test_the_first_event_starts_from_a_learned_fact_which_is_not_a_missing_action():
    model = model_of(resolve("lac"))
    start = batch_of([2])
    after_missing = part_of(batch_of([3]), 0, lead=1)
    after_missing.item_E[1:], after_missing.action_EA[1:] = start.item_E, start.action_EA
    after_missing.action_EA[0] = float("nan")
    states = {}
    for name, batch in (("start", start), ("missing", after_missing)):
        inputs = asked_in_training(model.layout, batch)
        (of_actions,) = (n for n, asked in enumerate(inputs.questions) if asked.target.fact.field == "a")
        states[name] = model(inputs)[of_actions][0]
    assert (states["start"] - states["missing"]).abs().max() > 0.01
    states["start"].square().sum().backward()
    start_D, mask_D = model.specials["a"].grad
    assert start_D.abs().sum() > 0 and not mask_D.any(), "START is learned, and nothing here shows a mask"


NEXT = Exposure(time_anchor="next")


@pytest.mark.parametrize("layout", ["action_out", "genrank"])
def test_a_time_that_no_token_reads_is_refused(layout):
    settings = ModelSettings(trunk=trunk_of("rab"), exposure=NEXT)
    with pytest.raises(
        ValueError, match="is read by tokens that predict the next event, and this layout has"
    ):
        model_of(resolve(layout), settings=settings)
    assert model_of(resolve("next_action_out"), settings=settings).config.settings.exposure == NEXT
