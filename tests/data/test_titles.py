"""What people call an item: kept by preparation beside the ids, and read by no model."""

import numpy as np
import polars as pl
import pytest
from tiny import assert_caught

from plait import Regression, prepare
from plait.compare.examples import UNKNOWN, item_names
from plait.data import Dataset
from plait.data.columns import features
from plait.data.sources import prepared
from plait.schema import Category, Feature

ITEMS = [30, 10, 20]
TITLES = pl.DataFrame(
    {"item": [99, 20, 10], "name": ["Nobody", "Twelve, Monkeys", "Alien"], "kind": ["x", "y", "y"]}
)


def log() -> pl.DataFrame:
    rows = [(user, ITEMS[n % 3], n, 1 + n % 5) for user in range(4) for n in range(6)]
    return pl.DataFrame(rows, schema=["user", "item", "time", "rating"], orient="row")


def dataset(folder, **changes) -> Dataset:
    columns = {"user": "user", "item": "item", "time": "time", "actions": {"rating": Regression(1, 5)}}
    about = {"items": TITLES, "item_title": "name"} | changes
    return prepare(log(), out=folder, **columns, **about)


def check_titles(folder) -> None:
    data = dataset(folder)
    assert data.item_ids().to_list() == [10, 20, 30]
    assert data.item_titles().to_list() == ["Alien", "Twelve, Monkeys", None]
    assert Dataset.open(folder).item_titles().to_list() == ["Alien", "Twelve, Monkeys", None]


def test_titles_stand_beside_their_items(tmp_path):
    check_titles(tmp_path / "data")


def test_titles_in_the_order_of_their_table_are_caught(tmp_path, monkeypatch):
    def as_given(about, ids):
        return pl.Series("title", [*about["item"].values["name"]][: len(ids)])

    monkeypatch.setattr(features, "titles_of", as_given)
    assert_caught(check_titles, tmp_path / "data")


def test_no_model_reads_a_title_and_it_may_stand_beside_features(tmp_path):
    titles = dataset(tmp_path / "titles")
    assert titles.item_features.features == () and "items_without_features" not in str(titles.manifest.facts)
    both = dataset(tmp_path / "both", item_features=[Feature("kind", Category())])
    assert [feature.name for feature in both.item_features.features] == ["kind"]
    assert both.item_titles().to_list() == titles.item_titles().to_list()
    plain = dataset(tmp_path / "plain", items=None, item_title=None)
    assert plain.item_titles() is None and "item_title" not in (plain.folder / "manifest.json").read_text()
    for name in ("item", "action", "start"):
        assert np.array_equal(np.load(plain.folder / f"{name}.npy"), np.load(titles.folder / f"{name}.npy"))


def test_titles_without_a_table_or_column_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'name' is a column .* give that table"):
        dataset(tmp_path / "data", items=None)
    with pytest.raises(ValueError, match="headline"):
        dataset(tmp_path / "data", item_title="headline")


def test_one_title_of_two_items_keeps_their_ids(tmp_path):
    twice = TITLES.with_columns(name=pl.Series(["Nobody", "Alien", "Alien"]))
    assert item_names(dataset(tmp_path / "data", items=twice)) == [UNKNOWN, "Alien (10)", "Alien (20)", "30"]
    plain = dataset(tmp_path / "plain", items=None, item_title=None)
    assert item_names(plain) == [UNKNOWN, "10", "20", "30"]


OWNERS = {
    "ml-100k": {
        "u.data": "{0}\t{1}\t{3}\t{2}\n",
        "u.item": "{1}|Caf\xe9 {1}, The (1995)|01-Jan-1995||http://x" + "|0" * 19 + "\n",
    },
    "ml-1m": {
        "ratings.dat": "{0}::{1}::{3}::{2}\n",
        "movies.dat": "{1}::Caf\xe9 {1}, The (1995)::Drama|Comedy\n",
    },
    "ml-20m": {
        "ratings.csv": "{0},{1},{3},{2}\n",
        "movies.csv": '{1},"Caf\xe9 {1}, The (1995)",Drama\n',
    },
}
HEADERS = {"ratings.csv": "userId,movieId,rating,timestamp\n", "movies.csv": "movieId,title,genres\n"}


@pytest.mark.parametrize("name", OWNERS)
def test_the_owner_s_titles_are_read_where_their_file_is_there(name, tmp_path):
    events, items = OWNERS[name]
    for file, line in OWNERS[name].items():
        rows = log().rows() if file == events else [(0, item, 0, 0) for item in ITEMS]
        text = HEADERS.get(file, "") + "".join(line.format(*row) for row in rows)
        (tmp_path / file).write_bytes(text.encode("utf-8" if file.endswith(".csv") else "latin-1"))
    for files in (tmp_path, tmp_path / events):
        data = prepared.get(name, cache=tmp_path / f"cache {files.name}", from_files=files)
        assert data.item_titles().to_list() == [f"Caf\xe9 {item}, The (1995)" for item in sorted(ITEMS)]
    (tmp_path / items).unlink()
    assert prepared.get(name, cache=tmp_path / "none", from_files=tmp_path).item_titles() is None
