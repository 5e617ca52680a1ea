import pytest
import torch

from plait.nn.encoders import ActionEncoder, ItemEncoder
from plait.schema import Action, Amount, Binary, Categorical, Regression

NAN = torch.nan
RATING, LIKE = Action("rating", Regression(1.0, 5.0)), Action("like", Binary())
SECONDS = Action("seconds", Amount(zero_inflated=True, log1p_scale=2.0))
DEVICE = Action("device", Categorical(("phone", "tablet", "tv")))
ALL = (RATING, LIKE, SECONDS, DEVICE)
D = 7


def vectors(actions, raw) -> torch.Tensor:
    torch.manual_seed(0)
    return ActionEncoder(actions, D)(torch.tensor(raw))


def test_every_rating_and_every_category_has_a_vector_of_its_own():
    encoder = ActionEncoder(ALL, D)
    raw = torch.full((5 + 2 + 1 + 3, 4), NAN)
    raw[:5, 0] = torch.arange(1, 6)
    raw[5:7, 1] = torch.arange(2)
    raw[7, 2] = 0.0
    raw[8:, 3] = torch.arange(3)
    weights = encoder.weights(raw)
    assert set(weights.unique().tolist()) == {0.0, 1.0}, "on a knot nothing is mixed"
    assert len(weights.unique(dim=0)) == len(raw)
    assert weights.sum(1).tolist() == [4.0] * len(raw), "one vector from every action, missing ones included"
    assert weights.shape[1] == (1 + 17) + (1 + 2) + (1 + 17) + (1 + 3)


def test_between_two_knots_lies_the_mean_of_their_vectors():
    below, between, above = vectors((RATING,), [[3.0], [3.125], [3.25]])  # knots are a quarter apart
    torch.testing.assert_close(between, (below + above) / 2)
    assert not torch.allclose(below, above)


def test_an_amount_beyond_training_has_the_last_knots_vector():
    largest, beyond, less = vectors((SECONDS,), [[torch.e**2 - 1], [1e5], [3.0]])
    torch.testing.assert_close(largest, beyond, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(largest, less)


def test_actions_add_up():
    torch.manual_seed(0)
    encoder = ActionEncoder(ALL, D)
    both, one, other, none = encoder(
        torch.tensor([[4.0, 1.0, NAN, NAN], [4.0, NAN, NAN, NAN], [NAN, 1.0, NAN, NAN], [NAN] * 4])
    )
    torch.testing.assert_close(both - none, (one - none) + (other - none))
    assert (one - none).norm() > 0


def test_a_missing_value_is_no_value():
    """Its vector differs from those of all values, zero included, and from another action's missing one."""
    encoder = ActionEncoder((LIKE, DEVICE), D)
    rows = torch.tensor([[NAN, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, NAN]])
    assert len(encoder(rows).unique(dim=0)) == 4
    used = torch.autograd.grad(encoder(rows[:1]).sum(), encoder.table.weight)[0].any(1)
    assert used.nonzero().flatten().tolist() == [0, 4], "the missing like, and the first device"


def test_without_actions_the_vector_is_zero():
    assert torch.equal(vectors((), torch.empty(3, 0).tolist()), torch.zeros(3, D))


def test_a_value_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="action 'device': event 0 of the batch holds 3, expected 0 to 2"):
        vectors((DEVICE,), [[3.0]])


def test_items_and_the_unknown_item_have_rows():
    encoder = ItemEncoder(5, D)
    assert encoder.table().shape == (6, D)
    assert torch.equal(encoder(torch.tensor([0, 5, 5])), encoder.table()[[0, 5, 5]])
    assert encoder.table() is encoder.embedding.weight, "the tied head must train the table"
    assert encoder.table().std().item() == pytest.approx(0.02, rel=0.5)
