"""Whose history a table is, and when it may be: indexes of pandas, rows, nobody, clocks."""

import time as clock
from collections.abc import Callable

import jaxtyping
import numpy as np
import pandas as pd
import polars as pl
import pytest
from tiny import model_of, prepared, random_log
from tolerance import assert_alike

import plait
from plait.data import Dataset, prepare
from plait.data.columns import rules
from plait.data.history import columns_read
from plait.engine.state import State
from plait.layouts import resolve
from plait.recommender import Recommender
from plait.schema import EventBatch


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return random_log().with_columns(pl.col("rating", "liked").fill_nan(None))


@pytest.fixture(scope="module")
def recommender(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Weights as they begin: nothing here depends on training."""
    data: Dataset = prepared(log, tmp_path_factory.mktemp("log") / "data")
    return Recommender(model_of(resolve("lac")), data.items, columns_read(data))


def of_users(log: pl.DataFrame, *users: str) -> pl.DataFrame:
    return log.filter(pl.col("user").is_in(users))


def answers(recommender: Recommender, state: State) -> pl.DataFrame:
    asked = (recommender.score(state, ["i03", "i11"]), recommender.retrieve(state, 4))
    return pl.concat([frame.drop("user") for frame in asked], how="diagonal")


def assert_same_events(found: EventBatch, expected: EventBatch) -> None:
    for name in ("start_U1", "item_E", "action_EA", "time_s_E", "request_E"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def indexed_by(*names: str | None) -> Callable[[pl.DataFrame], pd.DataFrame]:
    """The frame in pandas, with columns moved into an index of other names."""

    def index(frame: pl.DataFrame) -> pd.DataFrame:
        columns = ["user", "time"][: len(names)]
        return frame.to_pandas().set_index(columns).rename_axis(list(names))

    return index


@pytest.mark.parametrize(
    "convert", [indexed_by("user"), indexed_by("user", "time")], ids=["one", "two levels"]
)
def test_what_stands_in_a_named_index_is_a_column(recommender, log, convert):
    history = of_users(log, "u03", "u11", "u20")
    found, expected = recommender.encode(convert(history)), recommender.encode(history)
    assert found.id_U == expected.id_U == ("u03", "u11", "u20")
    assert_same_events(found.events, expected.events)


def test_a_log_and_a_table_of_items_may_be_indexed(log, tmp_path):
    """Preparation reads an index as histories do."""
    items = pd.DataFrame(
        {"kind": ["a", "b"] * 9}, index=pd.Index([f"i{n:02d}" for n in range(18)], name="item")
    )
    data = prepare(
        indexed_by("user")(log),
        user="user",
        item="item",
        time="time",
        actions={},
        out=tmp_path / "data",
        min_item_events=1,
        items=items,
        item_features={"kind": plait.Category()},
    )
    assert data.user_ids().to_list() == sorted(set(log["user"]))
    assert data.manifest.counts.items_without_features == 0


@pytest.mark.parametrize(
    ("convert", "reason"),
    [
        (
            indexed_by(None),
            r"an index without a name, such as 'u03'. Where that is the user, name it .*rename_axis",
        ),
        (indexed_by("usr"), "did you mean 'user' by 'usr'"),
        (lambda frame: frame.to_pandas().drop(columns="user").iloc[2:], "an index without a name, such as 2"),
    ],
)
def test_an_index_that_may_hold_users_is_refused(recommender, log, convert, reason):
    with pytest.raises(ValueError, match=reason):
        recommender.encode(convert(of_users(log, "u03", "u11")))


def test_an_index_that_says_nothing_is_left_alone(recommender, log):
    history = of_users(log, "u03")
    expected = recommender.encode(history.drop("user"))
    for frame in (
        history.drop("user").to_pandas(),
        history.to_pandas().drop(columns="user").rename_axis("row"),
        pd.concat([history.drop("user").to_pandas()[:2], history.drop("user").to_pandas()[2:]]),
    ):
        assert_same_events(recommender.encode(frame).events, expected.events)


@pytest.mark.parametrize(
    "row",
    [
        lambda frame: frame.to_pandas().iloc[-1],
        lambda frame: frame.to_pandas().tail(1),
        lambda frame: frame.row(-1, named=True),
        lambda frame: frame.to_pandas().iloc[-1].to_dict(),
        lambda frame: frame.tail(1),
        lambda frame: frame.tail(1).to_arrow(),
        lambda frame: frame.to_pandas().set_index("user").tail(1),
    ],
    ids=["pandas row", "pandas frame", "dict", "dict of numpy", "polars", "arrow", "indexed"],
)
def test_a_row_is_appended_in_any_form(recommender, log, row):
    history = of_users(log, "u03")
    state = recommender.encode(history[:-1])
    found, expected = recommender.append(state, row(history)), recommender.encode(history)
    assert_alike(answers(recommender, found), answers(recommender, expected))
    assert not answers(recommender, found).equals(answers(recommender, state))


@pytest.mark.parametrize(
    "column",
    [list, tuple, np.array, lambda values: np.array(values, dtype=object), pd.Series, pl.Series],
    ids=["list", "tuple", "numpy", "numpy of objects", "pandas", "polars"],
)
def test_a_mapping_holds_columns_of_any_kind(recommender, log, column):
    history = of_users(log, "u03", "u11").select("user", "item", "time")
    given = {name: column(values) for name, values in history.to_dict(as_series=False).items()}
    found, expected = recommender.encode(given), recommender.encode(history)
    assert found.id_U == expected.id_U == ("u03", "u11")
    assert_same_events(found.events, expected.events)


def test_a_history_without_users_is_nobodys(recommender, log):
    """Not that of a user 0, whom the log may have."""
    state = recommender.encode(of_users(log, "u03").drop("user"))
    assert state.id_U == (None,)
    found = recommender.retrieve(state, 3)
    assert found["user"].null_count() == 3 and found["item"].null_count() == 0
    assert recommender.score(state, ["i03"])["user"].to_list() == [None]
    with pytest.raises(ValueError, match=r"catalogue that the user has not seen"):
        recommender.retrieve(state, 99)


def test_the_clock_is_one_in_preparation_serving_and_append(recommender, log, tmp_path):
    """A day ahead passes, since clocks differ; more does not."""
    columns = {"user": "user", "item": "item", "time": "time", "actions": {}, "min_item_events": 1}
    history, now = of_users(log, "u03"), int(clock.time())

    def tried(ahead_s: int) -> list[bool]:
        last = history.tail(1).with_columns(time=pl.lit(now + ahead_s))
        later, passed = pl.concat([history[:-1], last], how="vertical_relaxed"), []
        for call in (
            lambda: prepare(later, out=tmp_path / str(ahead_s), **columns),
            lambda: recommender.encode(later),
            lambda: recommender.append(recommender.encode(history[:-1]), last),
        ):
            try:
                call()
            except ValueError as error:
                assert "time is in the future" in str(error), error
                passed.append(False)
            else:
                passed.append(True)
        return passed

    day = rules.CLOCK_SKEW_S
    assert [tried(ahead_s) for ahead_s in (600, day - 600, day + 600, 40 * day)] == [
        [True] * 3,
        [True] * 3,
        [False] * 3,
        [False] * 3,
    ]


@pytest.fixture(scope="module")
def anew(log: pl.DataFrame, recommender: Recommender) -> Recommender:
    """Its windows of 3 events begin anew every 3."""
    model = model_of(resolve("lac"), max_events=3, window_step=3)
    return Recommender(model, recommender.vocabulary, recommender.columns)


def scores(recommender: Recommender, state: State) -> list[float]:
    found = recommender.score(state, ["i03", "i11"]), recommender.retrieve(state, 4, filter_seen=False)
    return [*found[0]["rating"], *found[1]["score"]]


def test_a_history_that_was_cut_has_the_window_of_the_whole_one(anew, log):
    whole = of_users(log, "u03", "u11", "u20")
    length = dict(whole.group_by("user").len().iter_rows())
    cut = {user: (count - 5) // 3 * 3 - 1 for user, count in length.items() if count >= 9}
    assert cut, "windows that begin late, and an event before them for the lag"
    place = pl.int_range(pl.len()).over("user")
    kept = whole.filter(place >= pl.col("user").replace_strict(cut, default=0))
    assert len(kept) < len(whole)
    expected = scores(anew, anew.encode(whole))
    assert scores(anew, anew.encode(kept, before=cut)) == expected
    assert scores(anew, anew.encode(kept)) != expected, "what was cut counts"
    (user, count), *_ = cut.items()
    alone = anew.encode(of_users(kept, user).drop("user"), before=count)
    assert scores(anew, alone) == scores(anew, anew.encode(of_users(whole, user)))


@pytest.mark.parametrize(
    ("before", "found"),
    [
        (-1, "before = -1, of user 'u03': expected a whole number, how many events there were before"),
        (2.5, "before = 2.5, of user 'u03': expected a whole number"),
        (True, "before = True, of user 'u03'"),
        ({"u03": "7"}, "before = '7', of user 'u03'"),
        ({"u99": 3}, "before names user 'u99', of whom no history is given"),
        (
            7,
            "history of user 'u03' begins behind 7 earlier events, and what is asked is answered from all behind",
        ),
    ],
)
def test_a_wrong_number_of_earlier_events_is_refused(anew, log, before, found, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # nor does it look at users' calls
    with pytest.raises(ValueError, match=found):
        anew.encode(of_users(log, "u03").tail(2), before=before)
