"""Values that stand for none, by column, and names as they are written."""

import math

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest

from plait.data import prepare
from plait.data.columns.features import new_items
from plait.data.columns.missing import parse_missing
from plait.data.history import Columns, read_history
from plait.schema import MISSING_VALUE, Action, Amount, Categorical, Feature, Regression

COLUMNS = {"user": "user", "item": "item", "time": "time"}
ALL = COLUMNS | {"min_user_events": 1, "min_item_events": 1}
RATING = {"rating": Regression(1, 5)}


def log_of(**more) -> pl.DataFrame:
    """One user, four items, and columns of four values."""
    values = {"user": [1] * 4, "item": list("abcd"), "time": [*range(10**9, 10**9 + 4)]}
    return pl.DataFrame(values | more, strict=False)


def actions_of(frame, folder, actions, **options) -> list[float]:
    """The first action as preparation reads it from a frame and from a file, and as a history does."""
    frame.write_csv(folder / "log.csv")
    found = []
    for number, source in enumerate((frame, folder / "log.csv")):
        data = prepare(source, actions=actions, out=folder / str(number), **(ALL | options))
        found.append(np.load(data.folder / "action.npy")[:, 0].tolist())
    read = read_history(frame, Columns(**COLUMNS, time_unit="s"), data.actions, data.items)
    found.append(read.events.action_EA[:, 0].tolist())
    np.testing.assert_equal(found[1:], found[:1] * 2)
    return found[0]


@pytest.mark.parametrize("missing", [[0], 0, ["0"], [0.0], (0, "?")])
@pytest.mark.parametrize("values", [[0, 5, 0, 3], [0.0, 5, 0, 3], ["0", "5", "0.0", "3"]])
def test_a_value_that_means_missing_is_missing_everywhere(tmp_path, values, missing):
    found = actions_of(log_of(rating=values), tmp_path, RATING, missing={"rating": missing})
    np.testing.assert_equal(found, [math.nan, 5, math.nan, 3])
    with pytest.raises(ValueError, match="rating is outside 1 to 5: 2 rows"):
        prepare(log_of(rating=values), actions=RATING, out=tmp_path / "out", **ALL)


def test_missing_texts_of_actions(tmp_path):
    found = actions_of(
        log_of(rating=["n/a", "5", "-", "3"]), tmp_path, RATING, missing={"rating": ["n/a", "-"]}
    )
    np.testing.assert_equal(found, [math.nan, 5, math.nan, 3])
    device = {"device": Categorical(("tv", "phone"))}
    found = actions_of(log_of(device=["?", "tv", "phone", "?"]), tmp_path / "..", device, missing={"device": ["?"]},
                       overwrite=True)  # fmt: skip
    np.testing.assert_equal(found, [math.nan, 0, 1, math.nan])


def test_missing_values_of_features_and_context(tmp_path):
    """A name is missing as it is spelt: "00" is not "0"."""
    tables = {
        "items": pl.DataFrame(
            {"item": list("abcd"), "brand": ["x", "none!", "00", "0"], "tags": ["p|?", "?", "q", "p"]}
        ),
        "item_features": [Feature.parse("brand:category"), Feature.parse("tags:categories:|")],
        "users": pl.DataFrame({"user": [1], "age": [-1]}),
        "user_features": [Feature.parse("age:number:2")],
        "context": [Feature.parse("device:category"), Feature.parse("hour:number:2")],
    }
    missing = {"brand": ["none!", 0], "tags": ["?"], "age": -1, "device": ["?"], "hour": [99]}
    frame = log_of(device=["?", "tv", "tv", "?"], hour=[1, 99, 2, 99])
    data = prepare(frame, actions={}, out=tmp_path / "out", missing=missing, **tables, **ALL)
    code = data.item_features.code_NK[1:]
    assert (code[:, 0] == MISSING_VALUE).tolist() == [False, True, False, True]
    assert (code[:, 1] == MISSING_VALUE).tolist() == [False, True, False, False] and code.shape[1] == 2
    assert data.user_features.code_NK.tolist() == [[MISSING_VALUE]]
    context = data.history(0).context_EF
    assert (context == MISSING_VALUE).tolist() == [[True, False], [False, True], [False, False], [True, True]]
    columns = Columns(
        **COLUMNS, time_unit="s", context=data.context, user_features=data.manifest.user_features
    )
    read = read_history(frame, columns, (), data.items, tables["users"]).events
    np.testing.assert_array_equal(read.context_EF, context)
    assert read.user_code_UK.tolist() == [[MISSING_VALUE]]
    more = pl.DataFrame({"item": ["e"], "brand": ["none!"], "tags": ["?"]})
    _, table = new_items(more, "item", data.manifest.item_features, data.items)
    assert table.code_NK[0, :2].tolist() == [MISSING_VALUE] * 2


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"ratng": [0]}, "'ratng', which is no action, .*did you mean 'rating'"),
        ({"item": [0]}, "names the column 'item', .*those are rating"),
        ({"rating": [None]}, r"missing of 'rating': found \[None\]"),
    ],
)
def test_a_missing_value_of_no_column_is_refused(tmp_path, missing, message):
    with pytest.raises(ValueError, match=message):
        prepare(log_of(rating=[1] * 4), actions=RATING, out=tmp_path / "out", missing=missing, **ALL)


def test_a_missing_value_that_does_not_parse():
    assert parse_missing(["a=0", "b=x=y", "a="]) == {"a": ["0", ""], "b": ["x=y"]}
    for text in ("rating", "=0"):
        with pytest.raises(ValueError, match=f"missing = '{text}': expected COLUMN=VALUE"):
            parse_missing([text])


def test_categories_of_pandas_floats(tmp_path):
    """Whole numbers with a gap are floats to pandas."""
    frame = pd.DataFrame(log_of(stars=[1, 2, 1, 2]).to_dict(as_series=False))
    frame["stars"] = [1.0, 2.0, None, 1.0]
    stars = {"stars": Categorical([1, 2])}
    data = prepare(frame, actions=stars, out=tmp_path / "out", **ALL)
    np.testing.assert_equal(np.load(data.folder / "action.npy")[:, 0], np.float32([0, 1, math.nan, 0]))
    halves = {"stars": Categorical(["0.5", "1"])}
    frame["stars"] = [0.5, 1.0, None, 0.5]
    data = prepare(frame, actions=halves, out=tmp_path / "halves", **ALL)
    np.testing.assert_equal(np.load(data.folder / "action.npy")[:, 0], np.float32([0, 1, math.nan, 0]))
    with pytest.raises(ValueError, match="stars is none of 1, 2: 2 rows"):
        prepare(frame, actions=stars, out=tmp_path / "bad", **ALL)


def test_categories_of_text_files_are_their_spelling(tmp_path):
    kinds = {"kind": Categorical(["007", "7"])}
    assert actions_of(log_of(kind=["007", "7", "007", "7"]), tmp_path, kinds) == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a,b", ("a", "b")),
        (" a , b ", ("a", "b")),
        ('"a,b",c', ("a,b", "c")),
        ("9:00,18:30", ("9:00", "18:30")),
        ('" a","5"" pipe"', (" a", '5" pipe')),
        ('"", x', ("", "x")),
        ('5" pipe,6" pipe', ('5" pipe', '6" pipe')),
    ],
)
def test_values_of_a_category_on_the_command_line(text, values):
    assert Action.parse(f"kind:categorical:{text}") == Action("kind", Categorical(values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('kind:categorical:"a,b', "a quote has no end"),
        ('kind:categorical:"a"b,c', "its value goes on after it"),
        ("kind:categorical:a", "at least two values, all different; found 'a'$"),
        ("kind:categorical:a,b,a", "found 'a', 'b', 'a', with 'a' more than once"),
        ("kind:categorical:", "all different; found ''$"),
        ("kind:categorical", "expected NAME:binary"),
        ("kind:amount:5", "expected NAME:binary"),
        ("kind:regression:1", "expected NAME:binary"),
    ],
)
def test_an_action_that_does_not_parse_says_how(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        Action.parse(text)
    assert str(caught.value).startswith(f"action {text!r}: ") and "Categorical(" not in str(caught.value)


def test_values_of_a_category_in_python():
    assert Categorical(["b", "a"]) == Categorical(("b", "a")) == Action.parse("x:categorical:b,a").kind
    for values in ("ab", [1.5, 2], [True, False], None, []):
        with pytest.raises(ValueError, match="takes a list of its values, texts; found"):
            Categorical(values)
    with pytest.raises(
        ValueError, match=r"'0', '1', '2', '3', '4', \.\.\. \(101 in all\), with '5' more than once"
    ):
        Categorical([*range(100), 5])


def test_actions_of_before_are_what_they_were():
    """A missing value changes the settings' hash, and none does not."""

    assert msgspec.json.encode(Action("a", Amount())) == (
        b'{"name":"a","kind":{"type":"amount","zero_inflated":false,"log1p_scale":1.0}}'
    )
    assert b"missing" in msgspec.json.encode(Action("a", Amount(), ("0",)))
