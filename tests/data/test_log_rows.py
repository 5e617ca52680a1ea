"""A prepared log that is spelled again is read as what it was prepared to."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import plait
from plait.data import Dataset
from plait.data.history import columns_read, read_history
from plait.data.log_rows import log_rows
from plait.schema import Action, Categorical, Category, Feature, Number, Ordinal, Regression

ACTIONS = [
    Action("rating", Regression(1, 5)),
    Action("device", Categorical(("phone", "tv"))),
    Action("stars", Ordinal(("1", "2.5", "5"))),
    Action("grade", Ordinal(("poor", "good"))),
]
CONTEXT = [Feature("hour", Number(buckets=4)), Feature("place", Category())]
CONDITIONS = [Feature("scenario", Category()), Feature("slot", Number(buckets=3))]
FORMAT = "%d.%m.%Y %H:%M:%S%.6f"


def rich_log(unit: str) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    count = 120

    def drawn(values: list[Any]) -> list[Any]:
        return [values[index] for index in rng.integers(0, len(values), count)]

    # Some at one time, some within one second, some a day apart.
    time_us = 1_500_000_000_000_000 + np.cumsum(rng.choice([0, 1_000, 400_000, 10**9], count))
    time = pl.Series(time_us)
    times = {
        "s": time // 1_000_000,
        "float s": time / 1_000_000,
        "ms": time // 1_000,
        "us": time,
        "format": pl.from_epoch(time, time_unit="us").dt.strftime(FORMAT),
    }
    return pl.DataFrame(
        {
            "user": np.repeat(["u1", "u2", "u3"], count // 3),
            "item": rng.integers(0, 9, count),
            "time": times[unit],
            "session": rng.integers(0, 40, count) // 10,
            "rating": drawn([1.0, 2.5, None]),
            "device": drawn(["phone", "tv", None]),
            "stars": drawn(["1", "2.5", "5"]),
            "grade": drawn(["good", "poor", None]),
            "hour": drawn([*map(float, range(24)), None]),
            "place": drawn(["home", "away", None]),
            "scenario": drawn(["feed", "search", None]),
            "slot": drawn([1.0, 2.0, 7.0, None]),
        }
    )


def prepared_rich(folder: Path, unit: str, **more: Any) -> Dataset:
    settings: dict[str, Any] = {"time_unit": unit.removeprefix("float ")}
    if unit == "format":
        settings = {"time_format": FORMAT}
    return plait.prepare(
        rich_log(unit), user="user", item="item", time="time", actions=ACTIONS, context=CONTEXT,
        conditions=CONDITIONS, min_item_events=1, out=folder / "rich", **settings, **more,
    )  # fmt: skip


def check_reads_back(data: Dataset, spoilt: str | None = None) -> int:
    columns, rows_read = columns_read(data), 0
    for user in range(data.num_users):
        table = pl.DataFrame(log_rows(data, columns, user), infer_schema_length=None, strict=False)
        if spoilt is not None:
            table = table.with_columns(pl.col(spoilt).reverse())
        read = read_history(table, columns, data.actions, data.items).events
        expected = data.history(user)
        for field in fields(expected):
            if field.name in ("user_U", "request_E", "user_code_UK"):
                continue
            found, right = getattr(read, field.name), getattr(expected, field.name)
            np.testing.assert_array_equal(found, right, err_msg=field.name)
        assert ((np.diff(read.request_E) != 0) == (np.diff(expected.request_E) != 0)).all()
        rows_read += len(table)
    return rows_read


@pytest.mark.parametrize("unit", ["s", "float s", "ms", "us", "format"])
def test_rows_read_back_as_they_were_prepared(unit: str, tmp_path: Path) -> None:
    assert check_reads_back(prepared_rich(tmp_path, unit)) > 90


def test_requests_that_are_named_read_back(tmp_path: Path) -> None:
    assert check_reads_back(prepared_rich(tmp_path, "ms", request="session")) > 90


@pytest.mark.parametrize("spoilt", ["item", "rating", "device", "hour", "scenario", "slot"])
def test_rows_that_are_spelled_otherwise_are_caught(spoilt: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        check_reads_back(prepared_rich(tmp_path, "s"), spoilt)


def test_what_is_not_kept_is_refused(tmp_path: Path) -> None:
    data = prepared_rich(tmp_path, "s", order="session")
    with pytest.raises(ValueError, match="does not keep the log's column 'session'"):
        log_rows(data, columns_read(data), 0)
