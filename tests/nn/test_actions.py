import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plait.nn.action_kinds import modelled
from plait.nn.actions import scaled
from plait.schema import Action, Amount, Binary, Categorical, Regression

ACTIONS = (
    Action("like", Binary()),
    Action("rating", Regression(0.5, 5.0)),
    Action("seconds", Amount(log1p_scale=8.0)),
    Action("device", Categorical(("phone", "tablet", "tv"))),
)
VALUES = st.tuples(
    st.sampled_from((0.0, 1.0)), st.floats(0.5, 5.0), st.floats(0.0, 1e6), st.sampled_from((0.0, 1.0, 2.0))
)


@given(st.lists(VALUES, min_size=1, max_size=7))
def test_there_and_back(values):
    raw = torch.tensor(values)
    unit = scaled(ACTIONS, raw)
    back = torch.stack(
        [modelled(action.kind).from_unit(unit[:, a]) for a, action in enumerate(ACTIONS)], dim=1
    )
    torch.testing.assert_close(back, raw, rtol=1e-4, atol=1e-5)
    assert (unit[:, 1] >= 0).all() and (unit[:, 1] <= 1).all()


def test_scales_by_hand():
    unit = scaled(ACTIONS, torch.tensor([[1.0, 2.75, torch.e**4 - 1, 2.0], [0.0, 5.0, torch.e**16 - 1, 0.0]]))
    torch.testing.assert_close(unit, torch.tensor([[1.0, 0.5, 0.5, 2.0], [0.0, 1.0, 2.0, 0.0]]))


def test_missing_stays_missing_and_the_input_untouched():
    raw = torch.tensor([[torch.nan, 2.0, torch.nan, 1.0]])
    before = raw.clone()
    assert scaled(ACTIONS, raw).isnan().tolist() == [[True, False, True, False]]
    assert torch.equal(raw.nan_to_num(-1), before.nan_to_num(-1))


def test_no_actions_no_columns():
    assert scaled((), torch.empty(3, 0)).shape == (3, 0)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    (
        (0, 2.0, r"action 'like': event 1 of the batch holds 2, expected 0 to 1"),
        (1, 0.4, r"action 'rating': event 1 of the batch holds 0.4, expected 0.5 to 5"),
        (2, -3.0, r"action 'seconds': event 1 of the batch holds -3, expected 0 to inf"),
        (3, 3.0, r"action 'device': event 1 of the batch holds 3, expected 0 to 2"),
    ),
)
def test_a_value_outside_its_range_is_named(column, value, message):
    raw = torch.tensor([[1.0, 1.0, 1.0, 1.0], [torch.nan] * 4])
    scaled(ACTIONS, raw)
    raw[1, column] = value
    with pytest.raises(ValueError, match=message):
        scaled(ACTIONS, raw)
