import math

import pytest
import torch

from plait.nn.actions import scaled
from plait.nn.heads import ActionHeads, Coupler
from plait.schema import Action, Amount, Binary, Categorical, Regression

NAN = torch.nan
LIKE, RATING = Action("like", Binary()), Action("rating", Regression(1.0, 5.0))
HUBER, SECONDS = Action("huber", Regression(0.0, 10.0, "huber")), Action("seconds", Amount(log1p_scale=4.0))
SPENT = Action("spent", Amount(zero_inflated=True, log1p_scale=2.0))
DEVICE = Action("device", Categorical(("phone", "tablet", "tv")))
ALL = (LIKE, RATING, HUBER, SECONDS, SPENT, DEVICE)
D = 7


def heads_saying(action: Action, *outputs: float) -> ActionHeads:
    """A head whose raw outputs are the same for every hidden state."""
    heads = ActionHeads((action,), D, "linear")
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


def test_categories_get_probabilities():
    predicted = heads_saying(DEVICE, 0.0, math.log(2.0), 0.0).predict(torch.randn(2, D))
    torch.testing.assert_close(predicted["device"], torch.tensor([[0.25, 0.5, 0.25]] * 2))


def labels() -> torch.Tensor:
    return torch.tensor(
        [[1.0, 4.0, 2.0, 30.0, 0.0, 2.0], [0.0, 1.0, 9.0, 0.0, 5.0, 0.0], [1.0, 2.5, 0.0, 7.0, 1.0, 1.0]]
    )


@pytest.mark.parametrize("tower", ("linear", "mlp"))
def test_a_missing_label_counts_for_nothing(tower):
    """Each action's loss is the mean over the events that have it, whatever the others lack."""
    torch.manual_seed(0)
    heads, hidden, raw = ActionHeads(ALL, D, tower), torch.randn(3, D), labels()
    with_gaps = raw.clone()
    with_gaps[1, ::2] = NAN
    losses = heads.losses(hidden, with_gaps)
    full, two = heads.losses(hidden, raw), heads.losses(hidden[[0, 2]], raw[[0, 2]])
    for column, action in enumerate(ALL):
        expected = two if column % 2 == 0 else full
        torch.testing.assert_close(losses[action.name], expected[action.name])
        assert losses[action.name] > 0
    imputed = heads.losses(hidden, with_gaps.nan_to_num(0.0).clamp(min=1.0))
    assert not torch.isclose(imputed["like"], losses["like"]), "imputing would have been noticed"


def test_an_action_without_any_label_is_exactly_zero_and_moves_nothing():
    torch.manual_seed(0)
    heads, hidden, raw = ActionHeads(ALL, D), torch.randn(3, D, requires_grad=True), labels()
    raw[:, 3:] = NAN
    losses = heads.losses(hidden, raw)
    assert [losses[action.name].item() for action in ALL[3:]] == [0.0] * 3
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in (hidden, *heads.parameters()))
    moved = heads.bias_K.grad != 0
    assert moved.tolist() == [True] * 3 + [False] * (1 + 2 + 3)


def test_no_events_no_loss():
    heads = ActionHeads(ALL, D)
    losses = heads.losses(torch.empty(0, D), torch.empty(0, len(ALL)))
    assert [loss.item() for loss in losses.values()] == [0.0] * len(ALL)


def test_no_actions_no_heads():
    heads = ActionHeads((), D)
    assert heads.losses(torch.randn(3, D), torch.empty(3, 0)) == heads.predict(torch.randn(3, D)) == {}


def test_under_autocast_results_stay_fp32():
    heads = ActionHeads(ALL, D)
    with torch.autocast("cpu", torch.bfloat16):
        losses, predicted = heads.losses(torch.randn(3, D), labels()), heads.predict(torch.randn(3, D))
    assert {x.dtype for x in (*losses.values(), *predicted.values())} == {torch.float32}


@pytest.mark.parametrize("tower", ("linear", "mlp"))
def test_heads_learn_what_the_labels_say(tower):
    """A few steps on three states bring the predictions to the labels."""
    torch.manual_seed(0)
    heads, hidden = ActionHeads((LIKE, RATING), D, tower), torch.randn(3, D)
    raw = labels()[:, :2]
    optimiser = torch.optim.Adam(heads.parameters(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        sum(heads.losses(hidden, raw).values()).backward()
        optimiser.step()
    predicted = heads.predict(hidden)
    assert torch.equal((predicted["like"] > 0.5).float(), raw[:, 0])
    torch.testing.assert_close(predicted["rating"].detach(), raw[:, 1], rtol=0, atol=0.2)


def test_a_label_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="action 'rating': event 0 of the batch holds 6"):
        ActionHeads((RATING,), D).losses(torch.randn(1, D), torch.tensor([[6.0]]))


def test_the_coupler_lets_the_fact_in():
    torch.manual_seed(0)
    coupler, hidden = Coupler(D), torch.randn(3, D)
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
