"""Settings, selection, the learning rate and the optimiser's groups: small rules, each with its error."""

import math

import pytest
from tiny import model_of

from plait.evaluation.selection import Selection
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkConfig
from plait.training.optimiser import learning_rate, make_optimiser


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("ndcg@10", (("ndcg@10", 1.0),)),
        ("ndcg@10=1, rmse:rating=0.5", (("ndcg@10", 1.0), ("rmse:rating", 0.5))),
        ("auc:is liked=2e-1", (("auc:is liked", 0.2),)),
        ("loss:actions", (("loss:actions", 1.0),)),
    ],
)
def test_a_selection_is_parsed_and_printed(text, weights):
    found = Selection.parse(text)
    assert found.weights == weights
    assert Selection.parse(str(found)) == found


@pytest.mark.parametrize(
    "text", ["", "ndcg@10,", "ndcg@10=", "NDCG@10", "ndcg@10=x", "ndcg@10=1=2", "ndcg@10=1e", "ndcg@10=--1"]
)
def test_a_selection_that_does_not_parse_is_refused(text):
    with pytest.raises(
        ValueError, match=r"protocol.select = .* is not METRIC or METRIC=WEIGHT, such as 'ndcg@10'"
    ):
        Selection.parse(text)
    with pytest.raises(ValueError, match=r"protocol.select"):
        Protocol(select=text)


def test_a_selection_weighs_metrics_so_that_more_is_better():
    metrics = {"ndcg@10": 0.5, "rmse:rating": 2.0, "auc:liked": 0.25}
    assert Selection.parse("ndcg@10,rmse:rating=0.1,auc:liked=2").value(metrics) == pytest.approx(
        0.5 - 0.2 + 0.5
    )


@pytest.mark.parametrize(
    "name", ["loss", "rmse", "rmse_scaled", "mae", "mae_scaled", "ne", "log_loss", "ece"]
)
def test_errors_and_losses_count_downwards(name):
    assert Selection.parse(f"{name}:rating").value({f"{name}:rating": 3.0}) == -3.0


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("ndgc@10", "ndcg@10"),
        ("hr@7", "hr@5"),
        ("mrr@10", "mrr"),
        ("ndcg@10=1,rsme:rating=0.5", "rmse:rating"),
        ("auc", "auc:ACTION"),
        ("ndcg@10:liked", "ndcg@10"),
        ("auto=2", None),
    ],
)
def test_a_metric_that_does_not_exist_is_refused_with_the_nearest(text, near):
    words = f"did you mean '{near}'" if near else "There are hr@1, hr@5"
    with pytest.raises(ValueError, match=rf"protocol.select = '{text}': no metric is called .*{words}"):
        Protocol(select=text)


def test_a_metric_that_was_not_measured_is_named_with_those_that_were():
    with pytest.raises(ValueError, match=r"select names 'auc:liked', which .*; there are mrr, ndcg@10"):
        Selection.parse("ndcg@10,auc:liked").value({"ndcg@10": 0.5, "mrr": 0.1})


@pytest.mark.parametrize(
    ("layout", "weight", "expected"),
    [("lac", 1.0, "ndcg@10"), ("lac", 0.0, "loss:actions"), ("i[t] -> a[t]", 1.0, "loss:actions")],
)
def test_auto_selects_by_what_the_layout_can_do_and_is_trained_to(layout: str, weight: float, expected: str):
    assert str(Selection.parse("auto").resolve(resolve(layout), weight)) == expected
    chosen = Selection.parse("auc:liked")
    assert chosen.resolve(resolve(layout), weight) is chosen


def test_the_learning_rate_warms_up_and_then_stays_or_falls_to_a_tenth():
    steps = 100
    constant = Optim(learning_rate=2.0, warmup_steps=10)
    cosine = Optim(learning_rate=2.0, warmup_steps=10, schedule="cosine")
    for optim in (constant, cosine):
        warm = [learning_rate(optim, step, steps) for step in range(10)]
        assert warm == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert {learning_rate(constant, step, steps) for step in range(10, 150)} == {2.0}
    falling = [learning_rate(cosine, step, steps) for step in range(10, 150)]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] == 2.0
    assert falling[45] == pytest.approx(2.0 * 0.55)  # halfway
    assert falling[90:] == pytest.approx([0.2] * 50)  # and past the end


def test_no_warm_up_starts_at_the_full_rate():
    assert learning_rate(Optim(learning_rate=2.0, warmup_steps=0), 0, 10) == 2.0


def test_weight_decay_is_for_matrices_alone():
    model = model_of(resolve("lac_patched"))
    decayed, free = make_optimiser(model, Optim(weight_decay=0.5)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.5, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    free_names = {names[id(p)] for p in free["params"]}
    assert decayed_names | free_names == set(names.values()) and not decayed_names & free_names
    assert {"trunk.blocks.0.qkv.weight", "trunk.blocks.1.mlp_out.weight"} <= decayed_names
    assert {
        "items.embedding.weight",
        "trunk.positions.learned.table.weight",
        "trunk.norm.weight",
    } <= free_names
    assert {"specials.i", "specials.a", "heads.bias_K"} <= free_names
    assert "heads.weight_KD" in decayed_names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("clip_norm", -1.0),
        ("users_per_step", 0),
    ],
)
def test_optim_refuses_what_is_not_above_zero(name, value):
    with pytest.raises(ValueError, match=f"optim.{name} = {value}: expected a number (above 0|from 1) to"):
        Optim(**{name: value})


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("optim.weight_decay", lambda value: Optim(weight_decay=value)),
        ("model.retrieval_weight", lambda value: ModelSettings(retrieval_weight=value)),
        ("model.action_weights.liked", lambda value: ModelSettings(action_weights={"liked": value})),
        ("model.trunk.ride_weight", lambda value: TrunkConfig(ride_weight=value)),
    ],
)
def test_weights_and_steps_are_finite_numbers_from_zero(name, build, value):
    with pytest.raises(ValueError, match=f"{name} = {value}: expected a number from 0 to"):
        build(value)
    build(0.0)


def test_warm_up_takes_steps_from_zero():
    with pytest.raises(ValueError, match=r"optim.warmup_steps = -3: expected a number from 0 to"):
        Optim(warmup_steps=-3)
    Optim(warmup_steps=0)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1), (math.nan, 0.9)])
def test_betas_are_shares(betas):
    with pytest.raises(ValueError, match=r"optim.betas = .*expected a number from 0 to below 1"):
        Optim(betas=betas)


@pytest.mark.parametrize(
    "name", ["max_events", "patience", "validate_every", "max_epochs", "max_tokens", "max_flops", "negatives"]
)
def test_protocol_refuses_what_is_not_above_zero(name):
    value = 0.0 if name in ("max_tokens", "max_flops") else 0
    with pytest.raises(ValueError, match=f"protocol.{name} = {value}: expected a number (above 0|from 1) to"):
        Protocol(**{name: value})
