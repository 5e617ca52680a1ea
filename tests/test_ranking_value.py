"""Values beside the actions that a recommender expects."""

import numpy as np
import polars as pl
import pytest
from answering import ITEMS, USERS, state_of, untrained

from plait.recommender import Recommender
from plait.schema import Action, Amount, Binary, Categorical, Category, Feature, Number, Ordinal

ACTIONS = (
    Action("like", Binary()),
    Action("watch time", Amount()),
    Action("device", Categorical(("phone", "tv"))),
    Action("stars", Ordinal(("1", "2", "3"))),
    Action("value", Binary()),
)
CONTEXT = (
    Feature("hour", Number(edges=(12.0,))),
    Feature("page", Category(values=("home", "shop"))),
)
ASKED = ["i03", "i01", "i07"]
PRICES = pl.DataFrame({"item": ITEMS, "price": np.arange(len(ITEMS)) + 0.5, "like": 100.0})


@pytest.fixture(scope="module")
def model() -> Recommender:
    return untrained(actions=ACTIONS, context=CONTEXT)


def test_a_value_is_the_formula_over_the_other_columns(model: Recommender) -> None:
    state = state_of(model)
    formula = "0.7 * like + 0.3 * log1p('watch time') * price - 'device=tv' / stars + hour * value"
    value = model.value(formula, item_numbers=PRICES)
    found = model.score(state, ASKED, context={"hour": 7}, value=value)
    assert found.columns[:3] == ["user", "item", "like"] and found.columns[-1] == "value"
    assert found["item"].to_list() == ASKED * len(USERS), "rows stay in the order of the items"
    like, watch, tv, stars, ours = (
        found[name].to_numpy().astype(np.float64)
        for name in ("like", "watch time", "device=tv", "stars", "action:value")
    )
    price = np.array([3.5, 1.5, 7.5] * len(USERS))
    expected = 0.7 * like + 0.3 * np.log1p(watch) * price - tv / stars + 7 * ours
    np.testing.assert_array_equal(found["value"].to_numpy(), expected)
    without = model.score(state, ASKED, context={"hour": 7})
    assert "value" in without.columns and without.rows() == found.drop("value").rows(), (
        "an action of that name"
    )


def test_a_text_will_do_where_no_table_is_needed(model: Recommender) -> None:
    found = model.score(state_of(model), ASKED, value="2 * like")
    np.testing.assert_array_equal(found["value"], 2 * found["like"].to_numpy().astype(np.float64))


def test_lists_of_ones_own_are_scored_as_each_alone(model: Recommender) -> None:
    state, lists = state_of(model), [["i03"], [], ["i05", "i03", "i05"]]
    found = model.score_lists(state, lists, context={"hour": 7}, value="like * hour")
    assert found.select("user", "item").rows() == [("u0", "i03"), ("u2", "i05"), ("u2", "i03"), ("u2", "i05")]
    every = model.score(state, ["i03", "i05"], context={"hour": 7}, value="like * hour")
    expected = found.select("user", "item").join(
        every, on=["user", "item"], how="left", maintain_order="left"
    )
    assert expected.columns == found.columns
    for name in found.columns[2:]:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, err_msg=name)
    for wrong in (lists[:2], ["i03", "i05", "i07"], [["i03"], ["i99"], []], [[], [], []]):
        with pytest.raises(
            ValueError, match=r"expected a list of item ids for each|'i99'|no candidates to score"
        ):
            model.score_lists(state, wrong)


@pytest.mark.parametrize(
    ("formula", "table", "message"),
    [
        ("0.7 * lke", None, "no number is called 'lke'; did you mean 'like'?"),
        ("like * prce", PRICES, "no number is called 'prce'; did you mean 'price'?"),
        ("like * device", None, 'name the chance of one, such as "device=phone", in quotes'),
        ("like * page", None, "the context 'page' is a category, which is no number"),
        ("2 * price", PRICES, "names no action"),
        ("like * price", pl.DataFrame({"item": ITEMS, "price": ["dear"] * len(ITEMS)}), "is no finite number"),
        ("like * price", pl.DataFrame({"sku": ITEMS, "price": 1.0}), "has no column 'item' (of the formula)"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_value_is_refused(
    model: Recommender, formula: str, table: pl.DataFrame | None, message: str
) -> None:
    with pytest.raises(ValueError) as refused:
        model.value(formula, item_numbers=table)
    assert message in str(refused.value)


def test_a_value_that_is_missing_is_told_with_user_and_item(model: Recommender) -> None:
    state = state_of(model)
    with pytest.raises(ValueError, match="price is missing for user 'u0', item 'i07'; fill it in, or leave"):
        model.score(state, ASKED, value=model.value("price * like", PRICES.filter(pl.col("item") != "i07")))
    with pytest.raises(ValueError, match="hour is missing for user 'u0', item 'i03'"):
        model.score(state, ASKED, value="hour * like")
    with pytest.raises(ValueError, match=r"like / \(hour - 5\) is -?inf for user 'u0', item 'i03' \(like = "):
        model.score(state, ASKED, value="like / (hour - 5)", context={"hour": 5})
