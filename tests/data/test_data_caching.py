"""Prepared datasets without a folder of their own: made once, and again when anything changed."""

import os
from pathlib import Path

import polars as pl
import pytest
from tiny import random_log

from plait.data import Dataset, Temporal, prepare
from plait.data.logs import tables
from plait.data.preparation import pipeline
from plait.data.storage import caches
from plait.schema import Regression

OPTIONS = {"user": "user", "item": "item", "time": "time", "actions": {"rating": Regression(1, 5)}}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLAIT_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made_at(data: Dataset) -> int:
    return (data.folder / "manifest.json").stat().st_mtime_ns


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("PLAIT_DATA", raising=False)
    assert caches.cache_home() == Path("/somewhere/plait")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert caches.cache_home() == Path.home() / ".cache" / "plait"
    monkeypatch.setenv("PLAIT_DATA", "~/data")
    assert caches.cache_home() == Path.home() / "data"


CHANGES = {
    "settings": lambda log: (log, {"min_user_events": 6}),
    "split": lambda log: (log, {"split": Temporal(validation=0.1, test=0.1)}),
    "name": lambda log: (log, {"name": "films"}),
    "a value": lambda log: (log.with_columns(rating=pl.lit(3.0, pl.Float32)), {}),
    "a row": lambda log: (log[:-1], {}),
    "the order of rows": lambda log: (log.reverse(), {}),
    "a column's name": lambda log: (log.rename({"user": "who"}), {"user": "who"}),
}


def check_made_again(change: str, cache: Path) -> None:
    log, options = CHANGES[change](random_log())
    before = prepare(random_log(), **OPTIONS)
    after = prepare(log, **(OPTIONS | options))
    assert after.folder != before.folder
    assert {before.folder.parent, after.folder.parent} == {cache}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_prepared_again(change: str, cache: Path) -> None:
    check_made_again(change, cache)


def test_a_key_that_forgets_the_content_is_caught(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "fingerprint", lambda source: ("log",))
    with pytest.raises(AssertionError):
        check_made_again("a value", cache)


@pytest.mark.parametrize(
    "again",
    [
        lambda log: log.clone(),
        lambda log: pl.concat([log[:7], log[7:]]),
        lambda log: log.lazy(),
        lambda log: log.to_arrow(),
    ],
    ids=["copy", "chunks", "lazy", "arrow"],
)
def test_what_is_the_same_is_used_again(again, cache: Path) -> None:
    first = prepare(random_log(), **OPTIONS)
    second = prepare(again(random_log()), **OPTIONS)
    assert second.folder == first.folder and made_at(second) == made_at(first)
    assert list(cache.iterdir()) == [first.folder]


def test_a_file_is_known_by_its_size_and_time(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "my log.csv"
    random_log().write_csv(path)
    first = prepare(path, **OPTIONS)
    assert first.folder.name.startswith("my_log-") and first.manifest.name == "my log"
    assert made_at(prepare(path, **OPTIONS)) == made_at(first)
    os.utime(path, ns=(1, 1))
    assert prepare(path, **OPTIONS).folder != first.folder


def test_a_folder_that_is_not_whole_is_made_again(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = prepare(random_log(), **OPTIONS)
    (first.folder / "item.npy").write_bytes(b"")
    again = prepare(random_log(), **OPTIONS)
    assert again.folder == first.folder and len(again.history(0).item_E)
    assert "item.npy has 0 bytes" in capsys.readouterr().err


def test_told_to_overwrite_it_prepares_again(cache: Path) -> None:
    first = prepare(random_log(), **OPTIONS)
    made = made_at(first)
    assert made_at(prepare(random_log(), **OPTIONS, overwrite=True)) != made


def test_what_fails_leaves_nothing(cache: Path) -> None:
    with pytest.raises(ValueError, match="no column 'item'"):
        prepare(random_log().rename({"item": "film"}), **OPTIONS)
    assert not cache.exists() or not list(cache.iterdir())


def test_columns_that_cannot_be_hashed_do_not_stand_in_the_way() -> None:
    log = random_log()
    odd = log.with_columns(pl.Series("o", [object()] * len(log), dtype=pl.Object))
    assert tables.fingerprint(odd) == tables.fingerprint(log)
