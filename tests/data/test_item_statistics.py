"""Features of items that are counted: on training rows alone, so that they tell nothing of the answers."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from answering import asked_under
from tiny import ACTIONS, assert_caught, random_log

from plait.data import Dataset, prepare
from plait.data.preparation import events as events_module
from plait.schema import FIRST_VALUE, MISSING_VALUE, Feature, Number, Statistic

STATISTICS = ("count", "rate:liked")
GENRES = pl.DataFrame({"item": [f"i{n:02d}" for n in range(17)], "year": list(range(17))})


def prepared_with(out, log: pl.DataFrame, **options) -> Dataset:
    given = {"item_statistics": STATISTICS} | options
    return prepare(
        log, user="user", item="item", time="time", actions=ACTIONS, min_item_events=1, min_user_events=4, out=out,
        items=GENRES, item_features=[Feature("year", Number(3))], **given,
    )  # fmt: skip


def with_other_answers() -> pl.DataFrame:
    """The log with other items and likes in everyone's last two events: those held out."""
    log = random_log().sort("user", "time")
    is_held_out = pl.int_range(pl.len()).over("user") >= pl.len().over("user") - 2
    return log.with_columns(
        item=pl.when(is_held_out).then(pl.lit("i03")).otherwise("item"),
        liked=pl.when(is_held_out).then(1.0).otherwise("liked"),
    )


def table_of(data: Dataset) -> dict[str, list[int]]:
    columns = data.item_features.code_NK[1:, 1:]
    return dict(zip(data.item_ids().to_list(), columns.tolist(), strict=True))


def check_answers_change_nothing(folder) -> None:
    before, after = random_log().sort("user", "time"), with_other_answers()
    assert (before["item"] != after["item"]).sum() > 30, "the answers are the same"
    first, second = prepared_with(folder / "a", before), prepared_with(folder / "b", after)
    assert first.manifest.item_features == second.manifest.item_features
    shared = table_of(first).keys() & table_of(second).keys()
    assert len(shared) > 10
    assert all(table_of(first)[item] == table_of(second)[item] for item in shared)


def test_what_is_held_out_changes_no_statistic(tmp_path):
    check_answers_change_nothing(tmp_path)


def test_counting_all_rows_is_caught(tmp_path, monkeypatch):
    right: Callable = events_module.with_statistics
    monkeypatch.setattr(
        events_module,
        "with_statistics",
        lambda known, settings, arrays, is_train_E, items: right(
            known, settings, arrays, np.ones_like(is_train_E), items
        ),
    )
    assert_caught(check_answers_change_nothing, tmp_path)


def test_the_numbers_are_those_of_the_log(tmp_path):
    data = prepared_with(tmp_path / "data", random_log())
    train = random_log().sort("user", "time").with_columns(pl.col("liked").cast(pl.Float64)).filter(
        pl.int_range(pl.len()).over("user") < pl.len().over("user") - 2
    )  # fmt: skip
    mean = train["liked"].fill_nan(None).mean()
    expected = train.group_by("item").agg(
        count=pl.len(),
        rate=(pl.col("liked").fill_nan(None).sum() + 10 * mean)
        / (pl.col("liked").fill_nan(None).count() + 10),
        known=pl.col("liked").fill_nan(None).count(),
    )
    _, count, rate = data.manifest.item_features
    assert isinstance(count.kind, Statistic) and len(count.kind.edges) > 2 and len(rate.kind.edges) > 2
    for item, events, liked, known in expected.iter_rows():
        bucket = int(np.searchsorted(count.kind.edges, events, side="right")) + FIRST_VALUE
        assert table_of(data)[item][0] == bucket
        near = [
            np.searchsorted(rate.kind.edges, liked + e, side="right") + FIRST_VALUE for e in (-1e-9, 1e-9)
        ]
        assert table_of(data)[item][1] in (near if known else [MISSING_VALUE])


def test_models_read_them_and_take_new_items(tmp_path):
    data = prepared_with(tmp_path / "data", random_log())
    model = asked_under(data, "item")
    grown = model.add_items(pl.DataFrame({"item": ["new"], "year": [3]}))
    code_K = grown.model.items.code_VC[-1]
    assert code_K.tolist()[1:] == [FIRST_VALUE, MISSING_VALUE]
    before = model.model.items.table().clone()
    model.model.items.code_VC[:, 1] = FIRST_VALUE
    assert (model.model.items.table() != before).any(), "the model does not read the count"


@pytest.mark.parametrize("name", ["rate:rating", "counts", "rate:click"])
def test_others_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"found '{name}', expected count or rate:liked; a rate"):
        prepared_with(tmp_path / "data", random_log(), item_statistics=[name])


def test_without_them_nothing_changes(tmp_path):
    plain = prepared_with(tmp_path / "data", random_log(), item_statistics=())
    assert plain.item_features.code_NK.shape[1] == 1
    manifest = (plain.folder / "manifest.json").read_bytes()
    assert b"item_statistics" not in manifest, "settings of before keep their hash"
