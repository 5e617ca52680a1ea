"""Of rows that break several rules at once, each is counted, shown and set aside under the first that it breaks."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.data import prepare
from plait.data.preparation import ingestion
from plait.schema import Action, Amount, Binary, Regression

ACTIONS = (Action("rating", Regression(1, 5)), Action("liked", Binary()), Action("watched", Amount()))
COLUMNS = ("user", "item", "time", *(action.name for action in ACTIONS))  # in the order of their rules
WRONG: dict[str, dict[Any, str]] = {  # a wrong value, and the rule that it breaks
    "user": {None: "user is missing"},
    "item": {None: "item is missing"},
    "time": {None: "time is missing", -5: "time is before 1970", 10**11: "time is in the future, read as s"},
    "rating": {
        0.5: "rating is outside 1 to 5",
        7.0: "rating is outside 1 to 5",
        np.inf: "rating is not finite",
    },
    "liked": {0.5: "liked is neither 0 nor 1"},
    "watched": {-1.0: "watched is negative"},
}
NUM_ROWS, SHARE = 150, 0.15


def dirty_rows(seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(NUM_ROWS):
        row = {"user": n % 4, "item": n % 7, "time": 1_000 + n, "rating": 3.0, "liked": 1.0, "watched": 2.5}
        for name, wrong in WRONG.items():
            if rng.random() < SHARE:
                row[name] = list(wrong)[rng.integers(len(wrong))]
        rows.append(row)
    return rows


def rule_of(row: dict[str, Any]) -> str | None:
    """The first that a row breaks, column by column."""
    broken = (WRONG[name].get(row[name]) for name in COLUMNS)
    return next((rule for rule in broken if rule is not None), None)


def written(rows: list[dict[str, Any]], folder: Path) -> Path:
    """In two files of different lengths."""
    folder.mkdir()
    frame = pl.DataFrame(rows, schema_overrides={"time": pl.Int64})
    frame[: NUM_ROWS // 3].write_parquet(folder / "a.parquet")
    frame[NUM_ROWS // 3 :].write_parquet(folder / "b.parquet")
    return folder


def prepared(log: Path, out: Path, **more: Any) -> Any:
    return prepare(
        log, user="user", item="item", time="time", actions=ACTIONS, out=out, min_item_events=1, **more
    )


def expected(rows: list[dict[str, Any]]) -> dict[str, list[tuple[str, int, Any]]]:
    """By rule: file, row in the file from 1, and the value that breaks it."""
    found = defaultdict(list)
    for n, row in enumerate(rows):
        rule = rule_of(row)
        if rule is not None:
            file, first = ("a.parquet", 0) if n < NUM_ROWS // 3 else ("b.parquet", NUM_ROWS // 3)
            found[rule].append((file, n - first + 1, row[rule.partition(" ")[0]]))
    return found


def check_message(seed: int, folder: Path) -> Counter[str]:
    rows = dirty_rows(seed)
    with pytest.raises(ValueError, match="rows break a rule") as refused:
        prepared(written(rows, folder / f"log{seed}"), folder / f"out{seed}")
    by_rule, message = expected(rows), str(refused.value)
    assert message.startswith(f"{sum(map(len, by_rule.values()))} of {NUM_ROWS} rows break a rule")
    said = {
        rule: (int(count), examples)
        for rule, count, examples in re.findall(r"^  (.+?): (\d+) rows, e\.g\. (.+)$", message, re.MULTILINE)
    }
    assert said.keys() == by_rule.keys()
    for rule, where in by_rule.items():
        count, examples = said[rule]
        shown = re.findall(r"row (\d+) of [^ ]*?([ab]\.parquet) \(([^)]*)\)", examples)
        assert count == len(where), rule
        assert shown == [(str(row), file, repr(value)) for file, row, value in where[: ingestion.EXAMPLES]], (
            rule
        )
    several = Counter({rule: len(where) > ingestion.EXAMPLES for rule, where in by_rule.items()})
    broken_twice = sum(sum(row[n] in WRONG[n] for n in COLUMNS) > 1 for row in rows)
    return several + Counter({"rows that break two rules": broken_twice})


def check_rejects(seed: int, folder: Path) -> None:
    rows = dirty_rows(seed)
    found = prepared(written(rows, folder / f"rejects{seed}"), folder / f"kept{seed}", on_bad_row="reject")
    table = pl.read_parquet(found.folder / "rejects.parquet")
    told = zip(table["reject_file"], table["reject_row"], table["reject_rule"], strict=True)
    wanted = [(file, row, rule) for rule, where in expected(rows).items() for file, row, _ in where]
    assert sorted(told) == sorted(wanted)
    assert found.manifest.counts.rejected == {rule: len(where) for rule, where in expected(rows).items()}
    for file, row, *values in table.select("reject_file", "reject_row", *COLUMNS).iter_rows():
        n = row - 1 + (NUM_ROWS // 3 if file == "b.parquet" else 0)
        assert values == [rows[n][name] for name in COLUMNS]


def test_examples_and_counts_are_of_the_rule_that_is_named(tmp_path: Path) -> None:
    met = sum((check_message(seed, tmp_path) for seed in range(5)), Counter[str]())
    rules = {rule for wrong in WRONG.values() for rule in wrong.values()}
    assert_not_vacuous({name: met[name] for name in ("rows that break two rules", *rules)})


def test_rejected_rows_stand_under_the_rule_that_they_break(tmp_path: Path) -> None:
    for seed in range(3):
        check_rejects(seed, tmp_path)


def any_rule(right: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Shows rows of whatever rule."""
    return lambda part, column, rows: right(part, column, pl.Series(range(len(rows))))


def test_examples_of_another_rule_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingestion, "_examples", any_rule(ingestion._examples))
    assert_caught(check_message, 0, tmp_path)
