"""A feature's column becomes the same codes in preparation and in serving, whatever its kind and however it is written:
in the log and in a history, in a table of users and in one at serving, in a table of items and in one of new items."""

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.data import Dataset, history, prepare
from plait.data.columns import features
from plait.data.history import columns_read, read_history
from plait.schema import MISSING_VALUE, UNSEEN_VALUE, Category, Feature, Number, Vector

NUM_USERS, NUM_EVENTS = 8, 4
SEPARATOR = "|"
A_DAY, LATER = dt.datetime(2020, 1, 2, 3), dt.datetime(2021, 5, 6, 7)


@dataclass(frozen=True)
class Written:
    """A column of a feature: its kind, how it is typed, values to draw from, and words of its own for none."""

    kind: str
    dtype: Any
    pool: Sequence[Any]
    missing: tuple[str, ...] = ()

    def feature(self, name: str) -> Feature:
        return Feature.parse(f"{name}:{self.kind}")

    def column(self, name: str, rows: int, rng: np.random.Generator) -> pl.Series:
        drawn = rng.permutation(np.arange(rows) % len(self.pool))
        return pl.Series(name, [self.pool[place] for place in drawn], dtype=self.dtype)


LISTS, NAMES = "categories", f"categories:{SEPARATOR}"
WRITTEN = {
    "number, whole": Written("number:4", pl.Int64, [1, 2, 3, 5, None, 0], ("0",)),
    "number, of 8 bits": Written("number:4", pl.Int8, [1, 2, 3, -5, None]),
    "number, fractions": Written("number:4", pl.Float64, [0.5, 1.5, math.nan, None, 9.0], ("9",)),
    "number, of 32 bits": Written("number:4", pl.Float32, [0.1, 0.2, 0.3, math.nan, 0.7], ("0.7",)),
    "number, text": Written("number:4", pl.String, [" 1", "2.50", "", " ", "NaN", "1e1", "?", "0.0"], ("?", "0")),
    "number, truth": Written("number:2", pl.Boolean, [True, False, None]),
    "number, day": Written("number:2", pl.Date, [A_DAY.date(), LATER.date(), None]),
    "number, time": Written("number:2", pl.Datetime("us"), [A_DAY, LATER, None]),
    "number, time of a zone": Written("number:2", pl.Datetime("ms", "Europe/Rome"), [A_DAY, LATER, None]),
    "number, day that means none": Written("number:2", pl.Date, [A_DAY.date(), LATER.date()], ("2020-01-02",)),
    "number, none at all": Written("number:2", pl.Null, [None]),
    "category, text": Written("category", pl.String, ["a", " a", "b", "", " ", None, "?", "n/a"], ("?", "n/a")),
    "category, coded": Written("category", pl.Categorical, ["a", "b", "", None, "?"], ("?",)),
    "category, whole": Written("category", pl.Int64, [7, 8, None, -1], ("-1",)),
    "category, floats": Written("category", pl.Float64, [7.0, 8.0, math.nan, None, -1.0], ("-1",)),
    "category, large floats": Written("category", pl.Float64, [7.0, 1e300, -0.0]),
    "category, truth": Written("category", pl.Boolean, [True, False, None]),
    "lists, text": Written(LISTS, pl.List(pl.String), [["a", "b"], ["b", "?", " "], [], None, ["?"]], ("?",)),
    "lists, whole": Written(LISTS, pl.List(pl.Int64), [[1, 2], [2, None], [0], None], ("0",)),
    "lists, arrays": Written(LISTS, pl.Array(pl.String, 2), [["a", "a"], ["b", ""], None]),
    "lists, separated": Written(NAMES, pl.String, ["a|b", "b| a |b", "|", "", "?|a", "-", None], ("?", "-")),
    "lists, one name": Written(NAMES, pl.Int64, [1, 2, None, 0], ("0",)),
    "lists, one name of floats": Written(NAMES, pl.Float64, [1.0, 2.0, math.nan, 0.0], ("0",)),
    "vector": Written("vector", pl.List(pl.Float64), [[1.0, 2.0], [0.0, 3.0], None]),
}  # fmt: skip
OF_CONTEXT = {name: each for name, each in WRITTEN.items() if name.startswith(("number", "category"))}
OF_USERS = {name: each for name, each in WRITTEN.items() if each.kind != "vector"}


def columns(of: dict[str, Written], rows: int, rng: np.random.Generator) -> list[pl.Series]:
    return [each.column(name, rows, rng) for name, each in of.items()]


def tables(seed: int) -> dict[str, pl.DataFrame]:
    """A log, and tables of its users and items, with every way to write a column."""
    rng, rows = np.random.default_rng(seed), NUM_USERS * NUM_EVENTS
    user_N, number = np.repeat(np.arange(NUM_USERS), NUM_EVENTS), np.arange(rows)
    log = pl.DataFrame({"user": user_N, "item": number % NUM_USERS, "time": 10**9 + number})
    return {
        "log": log.with_columns(columns(OF_CONTEXT, rows, rng)),
        "users": pl.DataFrame({"user": np.arange(NUM_USERS)}).with_columns(columns(OF_USERS, NUM_USERS, rng)),
        "items": pl.DataFrame({"item": np.arange(NUM_USERS)}).with_columns(columns(WRITTEN, NUM_USERS, rng)),
    }


def made(given: dict[str, pl.DataFrame], folder: Path) -> Dataset:
    def declared(of: dict[str, Written]) -> tuple[Feature, ...]:
        return tuple(each.feature(name) for name, each in of.items())

    return prepare(
        given["log"],
        user="user",
        item="item",
        time="time",
        actions={},
        context=declared(OF_CONTEXT),
        items=given["items"],
        item_features=declared(WRITTEN),
        users=given["users"],
        user_features=declared(OF_USERS),
        missing={name: each.missing for name, each in WRITTEN.items() if each.missing},
        min_user_events=1,
        min_item_events=1,
        out=folder,
    )


def check_read_alike(folder: Path, seeds: Sequence[int] = range(6)) -> None:
    met = dict.fromkeys(WRITTEN, 0) | {"missing": 0, "unseen": 0, "known": 0}
    for seed in seeds:
        given = tables(seed)
        data = made(given, folder / str(seed))
        read = read_history(
            given["log"], columns_read(data), data.actions, data.items, users=given["users"]
        ).events
        prepared_EF = np.concatenate([data.history(user).context_EF for user in range(NUM_USERS)])
        np.testing.assert_array_equal(read.context_EF, prepared_EF)
        np.testing.assert_array_equal(read.user_code_UK, data.user_features.code_NK)
        new = given["items"].with_columns(pl.col("item") + 100)
        _, table = features.new_items(new, "item", data.manifest.item_features, data.items)
        np.testing.assert_array_equal(table.code_NK, data.item_features.code_NK[1:])
        np.testing.assert_array_equal(table.vector_NW, data.item_features.vector_NW[1:])
        for code in (prepared_EF, table.code_NK, read.user_code_UK):
            met["missing"] += int((code == MISSING_VALUE).sum())
            met["unseen"] += int((code == UNSEEN_VALUE).sum())
            met["known"] += int((code > UNSEEN_VALUE).sum())
        for feature in data.manifest.item_features:
            match feature.kind:
                case Vector():
                    met[feature.name] += feature.width
                case Number(edges=edges):
                    met[feature.name] += len(edges) + ("none at all" in feature.name)
                case _:
                    met[feature.name] += len(feature.kind.values)
    assert_not_vacuous(met)


def test_preparation_and_serving_read_a_column_alike(tmp_path: Path) -> None:
    check_read_alike(tmp_path)


def test_a_missing_word_and_a_name_are_what_they_say(tmp_path: Path) -> None:
    """Of the column as the context, users and items have it: what the words stand for, by hand."""
    given = tables(0)
    data = made(given, tmp_path / "out")
    for name, nones in (
        ("number, day that means none", [A_DAY.date()]),
        ("number, text", ["", " ", "NaN", "?", "0.0"]),
        ("category, text", ["", " ", None, "?", "n/a"]),
        ("category, large floats", []),
    ):
        place = [feature.name for feature in data.context].index(name)
        code_E = np.concatenate([data.history(user).context_EF[:, place] for user in range(NUM_USERS)])
        is_none = [value in nones for value in given["log"][name]]
        assert (code_E == MISSING_VALUE).tolist() == is_none
    (large,) = (feature for feature in data.context if feature.name == "category, large floats")
    assert isinstance(large.kind, Category) and set(large.kind.values) == {"7", "0", "1e+300"}


def told_of_nothing(declared: Sequence[Feature]) -> list[Feature]:
    """Without the words for none, but of numbers, which would not be any."""
    return [
        feature if isinstance(feature.kind, Number) else msgspec.structs.replace(feature, missing=())
        for feature in declared
    ]


MUTANTS: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "context": (history, "code_context", lambda whole: lambda of, *rest: whole(told_of_nothing(of), *rest)),
    "users": (
        history,
        "user_features_of",
        lambda whole: lambda table, id, of, *rest: whole(table, id, told_of_nothing(of), *rest),
    ),
    "new items": (
        features,
        "new_items",
        lambda whole: lambda table, id, of, *rest: whole(table, id, told_of_nothing(of), *rest),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_serving_without_the_words_for_none_is_caught(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name, broken = MUTANTS[mutant]
    monkeypatch.setattr(module, name, broken(getattr(module, name)))
    assert_caught(check_read_alike, tmp_path, range(1))
