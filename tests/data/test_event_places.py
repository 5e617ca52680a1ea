"""Where events stand in the order of the log is the same, and refused alike, be they read alone or as histories."""

from functools import partial

import polars as pl
import pytest
from msgspec.structs import replace
from tiny import assert_caught

from plait.data import history
from plait.data.history import Columns, event_places, read_history
from plait.data.vocabulary import Vocabulary
from plait.schema import Action, Feature, Number, Regression

ITEMS = Vocabulary.of_items(pl.Series(["i1"]))
EVENTS = {
    "user": ["a", "b", "c", "d"],
    "item": ["i1", "i2", "i1", "i3"],
    "when": [1_600_000_003, 1_600_000_001, 1_600_000_002, 1_600_000_001],
    "text": ["2020-09-13 12:26:43", "2020-09-13", "2020-09-13T12:26", "2020-09-13 12:26:41.5"],
    "nth": [7, 5, 6, 8],
    "visit": ["v1", "v2", "v3", "v4"],
    "rating": [1.0, None, 3.0, 5.0],
}
COLUMNS = {
    "seconds": Columns(user="user", item="item", time="when", time_unit="s"),
    "text": Columns(user="user", item="item", time="text", time_unit="s"),
    "ties": Columns(user="user", item="item", time="when", time_unit="s", order="nth"),
    "requests": Columns(user="user", item="item", time="when", time_unit="s", request="visit"),
    "no times": Columns(user="user", item="item", time=None, time_unit="s"),
    "no times, in order": Columns(user="user", item="item", time=None, time_unit="s", order="nth"),
}
RATING = (Action("rating", Regression(1, 5)),)


def read_alone(frame: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """The columns that the log has, so that none is strange."""
    named = {columns.item, columns.time, columns.order, columns.request, "rating"}
    return frame.select(name for name in frame.columns if name in named)


def check_places(columns: Columns) -> None:
    """Users in the order of their ids have one event each, so their places are those of the events."""
    frame = pl.DataFrame(EVENTS)
    alone = read_alone(frame, columns)
    read = read_history(alone.with_columns(frame["user"]), columns, RATING, ITEMS)
    found = event_places(alone, columns, RATING)
    assert found == list(read.place_U)
    ways = (columns.time is not None) + (columns.order is not None)
    assert {len(place) for place in found} == {ways}
    assert not ways or len(set(found)) > 2, "places tell events apart"


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_places_are_those_of_histories(columns: Columns):
    check_places(columns)


def test_places_in_another_order_are_caught(monkeypatch: pytest.MonkeyPatch):
    right = history._read_rows

    def backwards(*asked):
        read = right(*asked)
        return history.replace(read, values=read.values.reverse())

    frame = pl.DataFrame(EVENTS)
    alone, columns = read_alone(frame, COLUMNS["ties"]), COLUMNS["ties"]
    expected = event_places(alone, columns, RATING)

    def check() -> None:
        assert event_places(alone, columns, RATING) == expected

    check()
    monkeypatch.setattr(history, "_read_rows", backwards)
    assert_caught(check)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"item": None}, "item is missing"),
        ({"rating": 9.0}, "rating"),
        ({"when": -5}, "when"),
        ({"nth": None}, "nth is missing"),
        ({"rating": "much"}, "rating"),
    ],
)
def test_what_a_history_refuses_an_event_alone_is_refused_for(change: dict, why: str):
    (name, value), columns = *change.items(), COLUMNS["ties"]
    frame = read_alone(pl.DataFrame(EVENTS), columns).head(1).with_columns(pl.lit(value).alias(name))
    with pytest.raises(ValueError, match=why) as one:
        event_places(frame, columns, RATING)
    with pytest.raises(ValueError, match=why) as other:
        read_history(frame, columns, RATING, ITEMS)
    assert str(one.value) == str(other.value)


def test_a_context_that_no_history_may_hold_is_refused():
    columns = replace(COLUMNS["seconds"], context=(Feature("hour", Number(edges=(6.0, 12.0))),))
    event = read_alone(pl.DataFrame(EVENTS), columns).head(1).with_columns(hour=pl.lit("noon"))
    for read in (event_places, partial(read_history, items=ITEMS)):
        with pytest.raises(ValueError, match="'noon', which is no finite number"):
            read(event, columns, RATING)
