"""Conditions in the prepared folder: columns of their own, read alike from histories; actions are none."""

from dataclasses import fields

import numpy as np
import polars as pl
import pytest
from tiny import ACTIONS, assert_caught, random_log

from plait.data import Dataset, prepare
from plait.data.facts import summary_lines
from plait.data.history import columns_read, read_history
from plait.data.preparation import events as events_module
from plait.schema import FIRST_VALUE, MISSING_VALUE, UNSEEN_VALUE, Category, EventBatch, Feature, Number

GENRES = pl.DataFrame(
    {
        "item": [f"i{item:02d}" for item in range(17)],
        "genre": ["x|y" if item % 3 else "z" for item in range(17)],
    }
)
MOMENT = (Feature("scenario", Category()), Feature("hour", Number(3)))


def a_log() -> pl.DataFrame:
    """A third of the scenarios missing; one that no training event has in a user's last event."""
    log = random_log()
    is_last = pl.int_range(pl.len()).over("user") == pl.len().over("user") - 1
    scenario = (
        pl.when(is_last & (pl.col("user") == "u00")).then(pl.lit("kiosk")).otherwise(pl.col("scenario"))
    )
    hour = pl.Series("hour", np.random.default_rng(3).integers(0, 24, len(log)))
    return log.with_columns(
        hour,
        scenario=pl.when(pl.int_range(pl.len()) % 3 == 1).then(None).otherwise(scenario),
        shown=pl.lit("page"),
    )


def prepared_with(out, log=None, **options) -> Dataset:
    given = {"conditions": MOMENT, "item_conditions": ("genre",)} | options
    return prepare(
        a_log() if log is None else log,
        user="user", item="item", time="time", actions=ACTIONS, out=out, min_item_events=1,
        context={"shown": Category()},
        items=GENRES, item_features=[Feature.parse("genre:categories:|")], **given,
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    return prepared_with(tmp_path_factory.mktemp("conditions") / "data")


def check_codes(data: Dataset) -> None:
    """Every event's codes are of what the log says of it, and of what its item is."""
    log = a_log().sort("user", "time", maintain_order=True)
    scenario, hour, genre = data.conditions
    assert (scenario.name, hour.name, genre.name) == ("scenario", "hour", "genre")
    assert scenario.kind.values == ("home", "search"), "kiosk has no training event"
    batch = data.histories(np.arange(data.num_users))
    known = {None: MISSING_VALUE, "kiosk": UNSEEN_VALUE, "home": FIRST_VALUE, "search": FIRST_VALUE + 1}
    assert batch.condition_EG[:, 0].tolist() == [known[value] for value in log["scenario"]]
    bucket_E = np.searchsorted(hour.kind.edges, log["hour"].to_numpy(), side="right") + FIRST_VALUE
    assert batch.condition_EG[:, 1].tolist() == bucket_E.tolist()
    np.testing.assert_array_equal(batch.condition_EG[:, 2:], data.item_features.code_NK[batch.item_E])
    assert batch.condition_EG.shape[1] == 2 + genre.num_columns == 4 and batch.context_EF.shape[1] == 1
    assert len(np.unique(batch.condition_EG[:, 2:], axis=0)) == 2, "the log has items of both kinds"


def test_every_event_has_its_own_conditions(data):
    check_codes(data)


def test_conditions_of_another_event_are_caught(tmp_path, monkeypatch):
    right = events_module._of_items
    monkeypatch.setattr(
        events_module, "_of_items", lambda names, known, item_E: right(names, known, np.roll(item_E, 1))
    )
    assert_caught(check_codes, prepared_with(tmp_path / "data"))


def test_a_reopened_folder_and_one_without_conditions(data, tmp_path):
    again = Dataset.open(data.folder)
    assert again.conditions == data.conditions and again.item_conditions == ("genre",)
    plain = prepared_with(tmp_path / "plain", conditions=(), item_conditions=())
    assert plain.conditions == () and "condition.npy" not in plain.manifest.files
    assert plain.histories(np.arange(3)).condition_EG.shape[1] == 0
    assert (
        b"conditions" not in (plain.folder / "manifest.json").read_bytes().partition(b'"settings_hash"')[0]
    ), "settings of before keep their hash"


def test_conditions_are_told(data, tmp_path):
    line = (
        "conditions: scenario (of the moment), hour (of the moment), genre (of the item: asked, never given)"
    )
    assert line in list(summary_lines(data.manifest))
    plain = prepared_with(tmp_path / "plain", conditions=(), item_conditions=())
    assert not any(line.startswith("conditions") for line in summary_lines(plain.manifest))


def test_a_history_is_coded_as_in_preparation(data):
    """Those of the moment; those of items follow from items, which the model knows."""
    columns = columns_read(data)
    read = read_history(a_log().sort("user", "time"), columns, data.actions, data.items)
    batch = data.histories(np.arange(data.num_users))
    np.testing.assert_array_equal(read.events.condition_EG, batch.condition_EG[:, :2])
    without = read_history(a_log().drop("scenario", "hour"), columns, data.actions, data.items)
    assert (without.events.condition_EG == MISSING_VALUE).all() and without.events.condition_EG.shape[1] == 2


REFUSED = {
    "condition 'rating' is an action, which is known only after its item": {
        "conditions": [Feature("rating", Number())]
    },
    "condition 'liked' is an action": {"item_conditions": ("liked",)},
    "condition 'year' of the item is none of its features, genre": {"item_conditions": ("year",)},
    "conditions: 'scenario' is a vector": {"conditions": [Feature.parse("scenario:vector")]},
    "column 'shown' is given more than once, as context and as conditions": {
        "conditions": [Feature("shown", Category())]
    },
    "has no column 'scenari', did you mean 'scenario'": {"conditions": [Feature("scenari", Category())]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_condition_is_refused(tmp_path, message):
    with pytest.raises(ValueError, match=message):
        prepared_with(tmp_path / "data", **REFUSED[message])
    assert not (tmp_path / "data").exists()


def test_values_that_stand_for_none(tmp_path):
    data = prepared_with(tmp_path / "data", missing={"scenario": ["home"]})
    assert data.conditions[0].kind.values == ("search",)


def test_a_batch_without_conditions_has_no_columns(data):
    batch = data.histories(np.arange(2))
    names = [field.name for field in fields(EventBatch) if field.name != "condition_EG"]
    assert EventBatch(**{name: getattr(batch, name) for name in names}).condition_EG.shape == (
        len(batch.item_E),
        0,
    )
