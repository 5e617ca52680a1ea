"""One rule for what is missing, whatever a column is for, however it is typed, wherever it is read.

In a column of values, null, NaN and text of nothing but blanks are missing; where every event needs a value, its row is
set aside. So role x dtype x spelling of missing gives one dataset, and one history to answer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny import assert_not_vacuous

from plait.data import Dataset, prepare
from plait.data.columns import rules
from plait.data.history import History, columns_read, read_history
from plait.schema import MISSING_VALUE, Action, Amount, Binary, Categorical, Feature, Regression

NUM_USERS, NUM_EVENTS, NUM_ITEMS = 4, 8, 6
MISSING = (1, 4)  # of a table's rows, and of every user's events

ACTIONS = {
    "liked": Action("liked", Binary()),
    "rating": Action("rating", Regression(1, 5)),
    "watched": Action("watched", Amount()),
    "shelf": Action("shelf", Categorical(("1", "2", "3"))),
}
CONTEXT = tuple(map(Feature.parse, ("device:category", "hour:number:3")))
OF_ITEMS = tuple(map(Feature.parse, ("brand:category", "year:number:3", "genres:categories:|")))
OF_USERS = tuple(map(Feature.parse, ("plan:category", "age:number:3")))

NUMBERS = {"rating", "watched", "hour", "year", "age"}
CODES = {"device", "brand", "plan"}
NAMES = CODES | {"shelf", "genres"}
EVERY = NUMBERS | NAMES | {"liked"}


@dataclass(frozen=True)
class Spelling:
    """How the values of some columns are typed, and what stands where there is none."""

    dtype: Any
    missing: object
    columns: set[str]

    def column(self, name: str, values: list[int]) -> pl.Series:
        written = list(map(str, values)) if self.dtype in (pl.String, pl.Categorical) else values
        given = [self.missing if n % NUM_EVENTS in MISSING else value for n, value in enumerate(written)]
        return pl.Series(name, given, dtype=self.dtype, strict=False)


SPELLINGS = {
    "a null of numbers": Spelling(pl.Int64, None, EVERY - {"genres"}),
    "a null of fractions": Spelling(pl.Float64, None, NUMBERS | CODES | {"liked"}),
    "a null of text": Spelling(pl.String, None, EVERY),
    "a null of truths": Spelling(pl.Boolean, None, {"liked"}),
    "a null of categories": Spelling(pl.Categorical, None, NAMES),
    "NaN": Spelling(pl.Float64, math.nan, NUMBERS | CODES | {"liked"}),
    "NaN of 32 bits": Spelling(pl.Float32, math.nan, NUMBERS | CODES | {"liked"}),
    "NaN as text": Spelling(pl.String, "NaN", NUMBERS | {"liked"}),
    "no text": Spelling(pl.String, "", EVERY),
    "a blank": Spelling(pl.String, " ", EVERY),
    "a tab between blanks": Spelling(pl.String, " \t ", EVERY),
    "a category without a name": Spelling(pl.Categorical, "", NAMES),
    "a category of blanks": Spelling(pl.Categorical, "  ", NAMES),
}
PLAIN = Spelling(pl.String, None, EVERY)


def tables(spelling: Spelling) -> dict[str, pl.DataFrame]:
    """The log and the tables of items and users."""

    def column(name: str, rows: int) -> pl.Series:
        values = [n % 2 if name == "liked" else 1 + n % 3 for n in range(rows)]
        return (spelling if name in spelling.columns else PLAIN).column(name, values)

    rows = NUM_USERS * NUM_EVENTS
    log = {
        "user": np.repeat(np.arange(NUM_USERS), NUM_EVENTS),
        "item": np.arange(rows) % NUM_ITEMS,
        "time": 1_000 + 10 * np.arange(rows),
    }
    return {
        "log": pl.DataFrame(log).with_columns(column(n, rows) for n in (*ACTIONS, "device", "hour")),
        "items": pl.DataFrame({"item": np.arange(NUM_ITEMS)}).with_columns(
            column(feature.name, NUM_ITEMS) for feature in OF_ITEMS
        ),
        "users": pl.DataFrame({"user": np.arange(NUM_USERS)}).with_columns(
            column(feature.name, NUM_USERS) for feature in OF_USERS
        ),
    }


def made(log: Any, items: Any, users: Any, out: Path, **more: Any) -> Dataset:
    return prepare(
        log,
        user="user",
        item="item",
        time="time",
        actions=tuple(ACTIONS.values()),
        context=CONTEXT,
        items=items,
        item_features=OF_ITEMS,
        users=users,
        user_features=OF_USERS,
        min_user_events=1,
        min_item_events=1,
        out=out,
        **more,
    )


def values_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """Every column's values as models read them."""
    history = [dataset.history(user) for user in range(dataset.num_users)]
    action_EA = np.concatenate([its.action_EA for its in history])
    context_EF = np.concatenate([its.context_EF for its in history])
    user_UK = np.concatenate([its.user_code_UK for its in history])
    found = {name: action_EA[:, n] for n, name in enumerate(ACTIONS)}
    found |= {feature.name: context_EF[:, n] for n, feature in enumerate(CONTEXT)}
    found |= {feature.name: user_UK[:, n] for n, feature in enumerate(OF_USERS)}
    return found | {feature.name: dataset.item_features.code_NK[:, n] for n, feature in enumerate(OF_ITEMS)}


def served(dataset: Dataset, given: Mapping[str, pl.DataFrame]) -> History:
    return read_history(
        given["log"], columns_read(dataset), dataset.actions, dataset.items, users=given["users"]
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """With nulls alone."""
    return made(**tables(PLAIN), out=tmp_path_factory.mktemp("missing") / "plain")


def forms(log: pl.DataFrame, folder: Path) -> dict[str, Any]:
    """As it is, as pandas holds it and, where all of it is text, as a file holds it."""
    found = {"polars": log, "pandas": log.to_pandas()}
    if set(log.select(*ACTIONS, "device", "hour").dtypes) == {pl.String}:
        log.write_csv(folder / "log.csv")
        found["csv"] = folder / "log.csv"
    return found


def check_spelling(spelling: Spelling, plain: Dataset, folder: Path) -> None:
    given = tables(spelling)
    for form, log in forms(given["log"], folder).items():
        found = made(log, given["items"], given["users"], folder / form)
        for (name, values), expected in zip(values_of(found).items(), values_of(plain).values(), strict=True):
            np.testing.assert_array_equal(values, expected, f"{form}, {name}")
        assert found.manifest.content_hash == plain.manifest.content_hash
    events, expected = served(plain, given).events, served(plain, tables(PLAIN)).events
    for part in ("action_EA", "context_EF", "user_code_UK"):
        np.testing.assert_array_equal(getattr(events, part), getattr(expected, part), f"serving, {part}")


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_however_missing_is_spelt_it_is_one_dataset(
    spelling: Spelling, plain: Dataset, tmp_path: Path
) -> None:
    check_spelling(spelling, plain, tmp_path)


def test_every_column_lacks_some_values_and_has_others(plain: Dataset) -> None:
    for name, values in values_of(plain).items():
        is_missing = np.isnan(values) if name in ACTIONS else values == MISSING_VALUE
        assert_not_vacuous(
            {f"missing {name}": int(is_missing.sum()), "others": len(set(values[~is_missing])) - 1}
        )
    assert {column for spelling in SPELLINGS.values() for column in spelling.columns} == set(values_of(plain))


def test_a_blank_that_counts_as_a_value_is_caught(
    plain: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "written", lambda text: text.replace("", None))
    with pytest.raises((AssertionError, ValueError)):
        check_spelling(SPELLINGS["a blank"], plain, tmp_path)


EVENTS = {  # what every event needs, the rule that a row without it breaks, and how that is spelt
    "user": (
        "user is missing",
        [(pl.Int64, None), (pl.Float64, math.nan), (pl.String, None), (pl.String, "")],
    ),
    "item": (
        "item is missing",
        [(pl.Int64, None), (pl.Float64, math.nan), (pl.String, None), (pl.String, "")],
    ),
    "time": (
        "time is ",
        [(pl.Int64, None), (pl.Float64, math.nan), *((pl.String, t) for t in (None, "", " "))],
    ),
    "order": (
        "order is missing",
        [(pl.Int64, None), (pl.Float64, math.nan), (pl.String, None), (pl.String, "")],
    ),
}


@pytest.mark.parametrize("role", EVENTS)
def test_an_event_that_lacks_what_it_needs_is_set_aside_however_that_is_spelt(
    role: str, tmp_path: Path
) -> None:
    rule, spelt = EVENTS[role]
    given = tables(PLAIN)
    log = given["log"].with_columns(order=pl.int_range(pl.len()))
    is_whole = pl.int_range(pl.len()) % NUM_EVENTS != MISSING[0]
    for n, (dtype, missing) in enumerate(spelt):
        typed = pl.col(role).cast(dtype)
        lacking = log.with_columns(
            pl.when(is_whole).then(typed).otherwise(pl.lit(missing, dtype)).alias(role)
        )
        more = {"order": "order", "on_bad_row": "reject"}
        found = made(lacking, given["items"], given["users"], tmp_path / f"{n}", **more)
        alone = made(
            lacking.filter(is_whole), given["items"], given["users"], tmp_path / f"{n} alone", **more
        )
        [(said, rows)] = found.manifest.counts.rejected.items()
        assert said.startswith(rule) and rows == NUM_USERS, (dtype, missing, said)
        assert found.manifest.counts.events == alone.manifest.counts.events == NUM_USERS * (NUM_EVENTS - 1)
        for values, expected in zip(values_of(found).values(), values_of(alone).values(), strict=True):
            np.testing.assert_array_equal(values, expected)
