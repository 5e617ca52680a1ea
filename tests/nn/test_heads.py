import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import started
from tolerance import SAME_SUM

from plait.nn.actions import scaled
from plait.nn.heads import ActionHeads, Coupler
from plait.nn.initialising import initialised
from plait.nn.linear import linear
from plait.nn.towers import TowerConfig
from plait.schema import Action, Amount, Binary, Categorical, Ordinal, Regression

NAN = torch.nan
LIKE, RATING = Action("like", Binary()), Action("rating", Regression(1.0, 5.0))
HUBER, SECONDS = Action("huber", Regression(0.0, 10.0, "huber")), Action("seconds", Amount(log1p_scale=4.0))
SPENT = Action("spent", Amount(zero_inflated=True, log1p_scale=2.0))
DEVICE = Action("device", Categorical(("phone", "tablet", "tv")))
STARS, PASSED = Action("stars", Ordinal([1, 2, 3, 5])), Action("passed", Ordinal(("no", "yes")))
ALL = (LIKE, RATING, HUBER, SECONDS, SPENT, DEVICE)
D, LATE = 7, 2
TWELVE = tuple(Action(f"task {i}", Binary()) for i in range(12))
KINDS = ("linear", "mlp", "mmoe", "ple")
TOWERS = tuple(
    pytest.param(TowerConfig(kind=kind, gate=gate), id=f"{kind}-{gate}")
    for kind in KINDS
    for gate in ("none", "ppnet")
)


def heads_saying(action: Action, *outputs: float) -> ActionHeads:
    """A head whose raw outputs are the same for every hidden state."""
    heads = started(ActionHeads((action,), D, TowerConfig(kind="linear")))
    torch.nn.init.zeros_(heads.weight_KD)
    heads.bias_K.data = torch.tensor(outputs)
    return heads


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("action", "outputs", "label", "expected"),
    (
        (LIKE, (0.7,), 1.0, softplus(-0.7)),
        (LIKE, (0.7,), 0.0, softplus(0.7)),
        (RATING, (0.9,), 4.0, 12 * 0.15**2),
        (HUBER, (0.45,), 5.0, 12 * 0.05**2 / 2),
        (HUBER, (0.9,), 5.0, 12 * 0.1 * (0.4 - 0.1 / 2)),
        (SECONDS, (0.75,), math.e**2 - 1, 12 * 0.25**2),
        (SPENT, (0.3, 0.75), 0.0, softplus(0.3)),
        (SPENT, (0.3, 0.75), math.e - 1, softplus(-0.3) + 12 * 0.25**2),
        (DEVICE, (1.0, 2.0, 0.5), 1.0, math.log(math.e**1 + math.e**2 + math.e**0.5) - 2.0),
    ),
)
def test_losses_by_hand(action, outputs, label, expected):
    losses = heads_saying(action, *outputs).losses(torch.randn(2, D), torch.tensor([[label], [NAN]]))
    assert losses[action.name].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("action", "outputs", "expected"),
    (
        (LIKE, (0.7,), 1 / (1 + math.exp(-0.7))),
        (RATING, (0.75,), 4.0),
        (RATING, (1.4,), 5.0),
        (RATING, (-0.2,), 1.0),
        (SECONDS, (0.5,), math.e**2 - 1),
        (SECONDS, (-0.5,), 0.0),
        (SPENT, (0.0, 0.5), (math.e - 1) / 2),
    ),
)
def test_predictions_by_hand(action, outputs, expected):
    predicted = heads_saying(action, *outputs).predict(torch.randn(3, D))
    assert predicted[action.name].tolist() == pytest.approx([expected] * 3, rel=1e-5)


@pytest.mark.parametrize("size", (1.0, 30.0, 1e4, 1e30, 3e38))
@pytest.mark.parametrize("zero_inflated", (False, True))
@pytest.mark.parametrize("log1p_scale", (4.0, math.log1p(torch.finfo(torch.float32).max)))
def test_predictions_are_finite_whatever_the_outputs(size, zero_inflated, log1p_scale):
    """And an amount is none that training did not see, as a bounded number is none out of its range."""
    spent = Action("spent", Amount(zero_inflated=zero_inflated, log1p_scale=log1p_scale))
    actions = (LIKE, RATING, HUBER, spent, DEVICE)
    heads = ActionHeads(actions, D, TowerConfig(kind="linear"))
    torch.nn.init.zeros_(heads.weight_KD)
    largest = torch.tensor(log1p_scale).expm1().clamp(max=torch.finfo(torch.float32).max)
    met = 0
    for signs in ((1.0,), (-1.0,), (1.0, -1.0)):
        heads.bias_K.data = torch.tensor([size * signs[k % len(signs)] for k in range(len(heads.bias_K))])
        predicted = heads.predict(torch.randn(2, D))
        assert all(value.isfinite().all() for value in predicted.values())
        assert (predicted["spent"] >= 0).all() and (predicted["spent"] <= largest).all()
        met += int((predicted["spent"] == largest).all())
    assert met or size == 1.0, "no output reached the bound"


def test_the_bound_of_a_prediction_leaves_the_loss_as_it_is():
    """An amount beyond training still teaches, from either side of the bound."""
    label, beyond = 1000.0, math.log1p(1000.0) / 4.0
    assert beyond > 1
    for output in (0.5, 1.2, 5.0):
        heads = heads_saying(SECONDS, output)
        loss = heads.losses(torch.randn(1, D), torch.tensor([[label]]))["seconds"]
        assert loss.item() == pytest.approx(12 * (output - beyond) ** 2, rel=1e-5)
        loss.backward()
        assert heads.bias_K.grad.item() == pytest.approx(24 * (output - beyond), rel=1e-5)


def test_categories_get_probabilities():
    predicted = heads_saying(DEVICE, 0.0, math.log(2.0), 0.0).predict(torch.randn(2, D))
    torch.testing.assert_close(predicted["device"], torch.tensor([[0.25, 0.5, 0.25]] * 2))


def labels() -> torch.Tensor:
    return torch.tensor(
        [[1.0, 4.0, 2.0, 30.0, 0.0, 2.0], [0.0, 1.0, 9.0, 0.0, 5.0, 0.0], [1.0, 2.5, 0.0, 7.0, 1.0, 1.0]]
    )


def heads_of(tower: TowerConfig, actions: tuple[Action, ...] = ALL) -> ActionHeads:
    torch.manual_seed(0)
    return started(ActionHeads(actions, D, tower, LATE))


def late_features(num: int) -> torch.Tensor:
    late = torch.randn(num, LATE, generator=torch.Generator().manual_seed(3))
    late[0, 1] = NAN
    return late


@pytest.mark.parametrize("tower", TOWERS)
def test_a_missing_label_counts_for_nothing(tower):
    """Each action's loss is the mean over the events that have it, whatever the others lack."""
    heads, late = heads_of(tower), late_features(3)
    hidden, raw = torch.randn(3, D), labels()
    with_gaps = raw.clone()
    with_gaps[1, ::2] = NAN
    losses = heads.losses(hidden, with_gaps, late)
    full, two = heads.losses(hidden, raw, late), heads.losses(hidden[[0, 2]], raw[[0, 2]], late[[0, 2]])
    for column, action in enumerate(ALL):
        expected = two if column % 2 == 0 else full
        torch.testing.assert_close(losses[action.name], expected[action.name])
        assert losses[action.name] > 0
    imputed = heads.losses(hidden, with_gaps.nan_to_num(0.0).clamp(min=1.0), late)
    assert not torch.isclose(imputed["like"], losses["like"]), "imputing would have been noticed"


def test_an_action_without_any_label_is_exactly_zero_and_moves_nothing():
    torch.manual_seed(0)
    heads, hidden, raw = started(ActionHeads(ALL, D)), torch.randn(3, D, requires_grad=True), labels()
    raw[:, 3:] = NAN
    losses = heads.losses(hidden, raw)
    assert [losses[action.name].item() for action in ALL[3:]] == [0.0] * 3
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in (hidden, *heads.parameters()))
    moved = heads.bias_K.grad != 0
    assert moved.tolist() == [True] * 3 + [False] * (1 + 2 + 3)


def test_no_events_no_loss():
    heads = started(ActionHeads(ALL, D))
    losses = heads.losses(torch.empty(0, D), torch.empty(0, len(ALL)))
    assert [loss.item() for loss in losses.values()] == [0.0] * len(ALL)


def test_no_actions_no_heads():
    heads = started(ActionHeads((), D))
    assert heads.losses(torch.randn(3, D), torch.empty(3, 0)) == heads.predict(torch.randn(3, D)) == {}


def test_under_autocast_results_stay_fp32():
    heads = started(ActionHeads(ALL, D))
    with torch.autocast("cpu", torch.bfloat16):
        losses, predicted = heads.losses(torch.randn(3, D), labels()), heads.predict(torch.randn(3, D))
    assert {x.dtype for x in (*losses.values(), *predicted.values())} == {torch.float32}


def test_without_experts_or_late_features_heads_are_one_layer_after_another():
    """To the last bit, weights' draws included."""
    hidden = torch.randn(5, D)
    for kind in ("linear", "mlp"):
        heads, draws = started(ActionHeads(ALL, D, TowerConfig(kind=kind))), torch.Generator().manual_seed(0)
        weight_KD = 0.02 * torch.randn(sum(heads.widths), D, generator=draws)
        read = F.gelu(initialised(linear(D, D), draws)(hidden)) if kind == "mlp" else hidden
        out = F.linear(read, weight_KD, torch.zeros(len(weight_KD)))
        torch.testing.assert_close(torch.cat(heads(hidden), dim=1), out, rtol=SAME_SUM, atol=SAME_SUM)


@pytest.mark.parametrize("tower", TOWERS[1::2])
def test_heads_learn_what_the_labels_say(tower):
    """A few steps on three states bring the predictions to the labels."""
    heads, hidden, late = heads_of(tower, (LIKE, RATING)), torch.randn(3, D), late_features(3)
    raw = labels()[:, :2]
    learn(heads, hidden, raw, late)
    predicted = heads.predict(hidden, late)
    assert torch.equal((predicted["like"] > 0.5).float(), raw[:, 0])
    torch.testing.assert_close(predicted["rating"].detach(), raw[:, 1], rtol=0, atol=0.2)


@pytest.mark.parametrize("tower", TOWERS[::2])
def test_twelve_tasks_learn_at_once(tower):
    """Twelve binary actions, each known of its own two thirds of the events."""
    heads, hidden, late = heads_of(tower, TWELVE), torch.randn(6, D), late_features(6)
    raw = torch.randint(0, 2, (6, 12)).float()
    before = heads.losses(hidden, raw, late)
    with_gaps = raw.clone()
    for task in range(12):
        with_gaps[task % 3 :: 3, task] = NAN
    learn(heads, hidden, with_gaps, late)
    after = heads.losses(hidden, with_gaps, late)
    assert list(after) == [action.name for action in TWELVE]
    for task, action in enumerate(TWELVE):
        known = ~with_gaps[:, task].isnan()
        assert known.sum() == 4 and after[action.name] < 0.1 < before[action.name]
        assert torch.equal((heads.predict(hidden, late)[action.name] > 0.5)[known].float(), raw[known, task])


@pytest.mark.parametrize("kind", ("mmoe", "ple"))
def test_an_action_reads_its_own_tasks_layer(kind):
    heads, hidden, late = heads_of(TowerConfig(kind=kind)), torch.randn(3, D), late_features(3)
    for task, out in enumerate(heads(hidden, late)):
        heads.zero_grad()
        out.square().sum().backward(retain_graph=True)
        moved = [part.any().item() for part in heads.tower.hidden.weight.grad.chunk(len(ALL))]
        assert moved == [other == task for other in range(len(ALL))]


def learn(heads: ActionHeads, hidden: torch.Tensor, raw: torch.Tensor, late: torch.Tensor) -> None:
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        sum(heads.losses(hidden, raw, late).values()).backward()
        optimiser.step()


@pytest.mark.parametrize("tower", TOWERS)
def test_late_features_reach_every_action(tower):
    heads, hidden, late = heads_of(tower), torch.randn(3, D), late_features(3)
    before, after = heads(hidden, late), heads(hidden, late + torch.tensor([1.0, 0.0]))
    for out, moved, action in zip(before, after, ALL, strict=True):
        assert (out != moved).all(), action.name
    without = started(ActionHeads(ALL, D, TowerConfig(kind=tower.kind)))
    assert sum(w.numel() for w in heads.parameters()) > sum(w.numel() for w in without.parameters())


@pytest.mark.parametrize(
    ("num_late", "given", "message"),
    (
        (
            2,
            None,
            r"found 0 late features \(feature columns that appear at scoring time only\), expected 2, .*give one",
        ),
        (2, 3, "found 3 late features .*, expected 2, which the heads were built for: give one row of them"),
        (0, 3, "found 3 late features .*, expected 0, which the heads were built for: leave them out"),
    ),
)
def test_late_features_must_be_those_that_were_announced(num_late, given, message):
    heads, hidden = started(ActionHeads(ALL, D, num_late=num_late)), torch.randn(3, D)
    late = None if given is None else torch.randn(3, given)
    for call in (
        lambda: heads.predict(hidden, late),
        lambda: heads.losses(hidden, labels(), late),
        lambda: heads.start_at(labels(), late),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def raw_labels() -> st.SearchStrategy[torch.Tensor]:
    """Rows of labels of every kind, with gaps; each action has one at least."""
    values = (
        st.sampled_from((0.0, 1.0)),
        st.floats(1, 5, width=32),
        st.floats(0, 10, width=32),
        st.floats(0, 50, width=32),
        st.sampled_from((0.0, 0.5, 6.0)),
        st.sampled_from((0.0, 1.0, 2.0)),
    )
    rows = st.lists(st.tuples(*(st.one_of(kind, st.just(NAN)) for kind in values)), max_size=20)
    whole = st.tuples(*values)
    return st.builds(lambda first, rest: torch.tensor([first, *rest]), whole, rows)


def means(raw: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is expected where only the labels are known; 0 stands for half a label where an outcome lacks."""

    def share(times: float, of: float) -> float:
        yes, no = max(times, 0.5), max(of - times, 0.5)
        return yes / (yes + no)

    known = {
        action.name: column[~column.isnan()].double()
        for action, column in zip(ALL, raw.unbind(1), strict=True)
    }
    like, seconds, spent, device = (known[name] for name in ("like", "seconds", "spent", "device"))
    positive = spent[spent > 0]
    amount = positive.log1p().mean().expm1() if len(positive) else 0.0
    times = torch.tensor([max((device == c).sum().item(), 0.5) for c in range(3)])
    return {
        "like": share(like.sum().item(), len(like)),
        "rating": known["rating"].mean(),
        "huber": known["huber"].mean(),
        "seconds": seconds.log1p().mean().expm1(),
        "spent": share(len(positive), len(spent)) * amount,
        "device": times / times.sum(),
    }


@settings(max_examples=50)
@given(raw_labels(), st.sampled_from(KINDS), st.sampled_from(("none", "ppnet")))
def test_training_starts_at_the_means(raw, kind, gate):
    heads, hidden, late = heads_of(TowerConfig(kind=kind, gate=gate)), torch.randn(2, D), late_features(2)
    before = heads.predict(hidden, late)
    heads.start_at(raw, torch.randn(len(raw), LATE))
    predicted, expected = heads.predict(hidden, late), means(raw)
    assert predicted.keys() == expected.keys() == before.keys()
    for name, value in expected.items():
        wanted = torch.as_tensor(value, dtype=torch.float32).expand_as(predicted[name])
        torch.testing.assert_close(predicted[name], wanted, rtol=1e-4, atol=1e-4)
    assert (before["like"][0] != before["like"][1]).all(), "else the states would say nothing to begin with"


def test_a_start_at_the_means_costs_their_entropy_and_everything_learns_from_there():
    torch.manual_seed(0)
    heads, hidden = started(ActionHeads((LIKE, DEVICE), D)), torch.randn(400, D)
    raw = torch.stack([(torch.rand(400) < 0.03).float(), torch.randint(0, 9, (400,)).div(4).floor()], dim=1)
    from_half = heads.losses(hidden, raw)
    heads.start_at(raw)
    losses = heads.losses(hidden, raw)
    like, share = raw[:, 0].mean(), raw[:, 1].long().bincount() / 400
    entropy = -(like * like.log() + (1 - like) * (1 - like).log())
    torch.testing.assert_close(losses["like"], entropy)
    torch.testing.assert_close(losses["device"], -(share * share.log()).sum())
    assert losses["like"] < 0.3 < from_half["like"]
    sum(losses.values()).backward()
    torch.testing.assert_close(
        heads.bias_K.grad, torch.zeros(4), rtol=0, atol=1e-6
    )  # nothing left to learn here
    assert heads.weight_KD.grad.any(dim=1).all()


def test_labels_of_fewer_actions_than_there_are_heads_are_no_labels():
    heads = started(ActionHeads(ALL, D))
    with pytest.raises(AssertionError, match=rf"1 columns of labels, .* {len(ALL)} actions"):
        heads.losses(torch.randn(3, D), torch.full((3, 1), torch.nan))


def test_an_action_without_labels_starts_at_zero():
    heads, raw = started(ActionHeads(ALL, D)), labels()
    raw[:, 1::2] = NAN
    heads.start_at(raw)
    assert [bias.any().item() for bias in heads.bias_K.split(heads.widths)] == [True, False] * 3
    heads.start_at(raw[:0])
    assert not heads.bias_K.any()


def test_the_start_sets_the_scale_of_late_features():
    """So that the same numbers in another unit lead to the same predictions, before and after learning."""
    late = late_features(3)
    predictions = []
    for unit in (1.0, 1000.0):
        heads, hidden = heads_of(TowerConfig(), (LIKE, RATING)), torch.ones(3, D)
        heads.start_at(labels()[:, :2], late * unit)
        learn(heads, hidden, labels()[:, :2], late * unit)
        predictions.append(heads.predict(hidden, late * unit))
        doubled = heads.predict(hidden, late * unit * 2)
    for name in ("like", "rating"):
        torch.testing.assert_close(predictions[0][name], predictions[1][name], rtol=1e-2, atol=1e-2)
        assert not torch.allclose(doubled[name], predictions[1][name], atol=0.05), "a unit would be noticed"


def test_a_label_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="action 'rating': event 0 of the batch holds 6"):
        started(ActionHeads((RATING,), D)).losses(torch.randn(1, D), torch.tensor([[6.0]]))


def test_the_coupler_lets_the_fact_in():
    torch.manual_seed(0)
    coupler, hidden = started(Coupler(D)), torch.randn(3, D)
    small = 0.02 * torch.randn(2, 3, D)  # as embeddings start
    out = coupler(hidden, small[0])
    assert out.shape == (3, D)
    assert (out - coupler(hidden, small[1])).abs().max() > 1e-4
    torch.testing.assert_close(out, hidden, rtol=0, atol=0.1)  # the residual: it starts close to the state
    torch.nn.init.zeros_(coupler.outer.weight)
    assert torch.equal(coupler(hidden, small[0]), hidden)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 0.1), (0.1, 0.7), (1.0, 5.0)])
def test_a_prediction_never_leaves_its_range_by_rounding(low, high):
    """fp32 rounds low + 1 * (high - low) past high for some bounds; the metrics would then refuse it."""
    action = Action("bounded", Regression(low, high))
    predicted = heads_saying(action, 9.0).predict(torch.randn(2, D))["bounded"]
    assert scaled((action,), predicted[:, None]).max() <= 1 + 1e-6


def ordinal_saying(action: Action, score: float, *steps: float) -> ActionHeads:
    heads = heads_saying(action, score)
    if steps:
        heads.constant_L = torch.nn.Parameter(torch.tensor(steps))
    return heads


def test_levels_lie_between_thresholds_that_ascend():
    """P(level > v) is the sigmoid of the score less the v-th threshold: 0, then a softplus more each."""
    score, steps = 1.3, (-0.5, 2.0)
    threshold_V = [0.0, softplus(-0.5), softplus(-0.5) + softplus(2.0)]
    above = [1.0, *(1 / (1 + math.exp(threshold - score)) for threshold in threshold_V), 0.0]
    chance_V = [upper - lower for upper, lower in itertools.pairwise(above)]
    heads = ordinal_saying(STARS, score, *steps)
    found = heads.predict(torch.randn(2, D))["stars"]
    torch.testing.assert_close(found, torch.tensor([chance_V] * 2))
    for level, chance in enumerate(chance_V):
        losses = heads.losses(torch.randn(2, D), torch.tensor([[float(level)], [NAN]]))
        assert losses["stars"].item() == pytest.approx(-math.log(chance), rel=1e-5)


def test_the_state_moves_the_score_and_no_threshold():
    """Proportional odds: between two states all cumulative logits differ by the same."""
    heads = started(ActionHeads((STARS,), D, TowerConfig(kind="linear")))
    torch.nn.init.normal_(heads.weight_KD)
    assert heads.weight_KD.shape == (1, D) and heads.constant_L.shape == (2,)
    chance_MV = heads.predict(torch.randn(5, D))["stars"].double()
    above_MV = chance_MV.flip(1).cumsum(1).flip(1)[:, 1:].logit()
    moved_MV = above_MV - above_MV[0]
    torch.testing.assert_close(moved_MV, moved_MV[:, :1].expand_as(moved_MV), rtol=1e-3, atol=1e-3)
    assert moved_MV.abs().max() > 0.1


def test_two_levels_are_a_binary_action():
    torch.manual_seed(0)
    state_MD, label_MA = torch.randn(9, D), torch.randint(0, 2, (9, 1)).float()
    two, one = (started(ActionHeads((action,), D)) for action in (PASSED, LIKE))
    assert two.constant_L is None
    torch.testing.assert_close(
        two.losses(state_MD, label_MA)["passed"], one.losses(state_MD, label_MA)["like"]
    )
    torch.testing.assert_close(two.predict(state_MD)["passed"][:, 1], one.predict(state_MD)["like"])


@pytest.mark.parametrize("size", (1.0, 30.0, 1e4, 1e30, 3e38))
def test_levels_are_finite_whatever_the_outputs(size):
    for signs in itertools.product((-1, 1), repeat=3):
        heads = ordinal_saying(STARS, *(sign * size for sign in signs))
        chance_MV = heads.predict(torch.randn(2, D))["stars"]
        assert chance_MV.isfinite().all()
        torch.testing.assert_close(chance_MV.sum(1), torch.ones(2))


@pytest.mark.parametrize("label", range(4))
def test_a_level_that_is_far_off_costs_and_teaches(label):
    """Where a difference of sigmoids is 0 in fp32, the loss is still the distance, and it has a slope."""
    for score in (-80.0, 80.0):
        heads = ordinal_saying(STARS, score, 0.5, -40.0)
        loss = heads.losses(torch.randn(1, D), torch.tensor([[float(label)]]))["stars"]
        loss.backward()
        assert loss.isfinite() and all(
            p.grad.isfinite().all() for p in heads.parameters() if p.grad is not None
        )
        if label == (0 if score > 0 else 3):
            assert loss.item() == pytest.approx(80, rel=0.02)
            assert abs(heads.bias_K.grad.item()) == pytest.approx(1, rel=1e-3)


def test_levels_that_never_came_count_as_half_a_label():
    heads = started(ActionHeads((STARS, LIKE), D))
    heads.start_at(torch.tensor([[0.0, 1.0], [0.0, NAN], [2.0, 0.0], [NAN, NAN]]))
    found = heads.predict(torch.randn(2, D))
    torch.testing.assert_close(found["stars"], torch.tensor([[2.0, 0.5, 1.0, 0.5]] * 2) / 4)
    torch.testing.assert_close(found["like"], torch.full((2,), 0.5))
