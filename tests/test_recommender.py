"""The face: histories and items as the log spells them, answers likewise."""

import copy
import inspect
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from described import COLD, LATE, described, described_log, items_table, users_table
from polars.testing import assert_frame_equal
from tiny import ACTIONS, assert_caught, assert_not_vacuous, model_of, prepared, random_log, trunk_of
from tolerance import SAME_SUM, assert_alike

import plait
from plait.data import Dataset, prepare
from plait.data import history as data_history
from plait.data.history import Columns, columns_read
from plait.data.vocabulary import Vocabulary
from plait.engine.state import State
from plait.evaluation.run_files import MODEL
from plait.evaluation.settings import Optim, Protocol
from plait.files import HASHES
from plait.fitting import fit
from plait.layouts import resolve
from plait.models import saving
from plait.models.generative import ModelSettings
from plait.models.questions import Exposure
from plait.nn.encoders import ItemEncoding
from plait.recommender import Recommender
from plait.schema import UNKNOWN_ITEM, Action, Binary, Categorical, EventBatch, Regression
from plait.training import loop

DEVICE = Action("device", Categorical(("phone", "tablet", "watch")))
ANSWERED = ["rating", "liked", "device=phone", "device=tablet", "device=watch"]
WINDOW = 6


def quick(
    data: Dataset | str | Path, layout: str, model: ModelSettings | None = None, **more: object
) -> Recommender:
    return fit(
        data,
        layout,
        model=model or ModelSettings(trunk=trunk_of(dropout=0.1)),
        optim=Optim(learning_rate=1e-2, users_per_step=8, precision="fp32"),
        protocol=Protocol(max_events=WINDOW, max_epochs=2),
        report=lambda line: None,
        **more,
    )


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    """The random log with a device per event, some missing."""
    log = random_log().drop("scenario")
    device = np.random.default_rng(1).choice(["phone", "tablet", "watch", None], len(log))
    return log.with_columns(pl.Series("device", device.tolist()), pl.col("rating", "liked").fill_nan(None))


@pytest.fixture(scope="module")
def data(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(log, tmp_path_factory.mktemp("log") / "data", (*ACTIONS, DEVICE))


@pytest.fixture(scope="module")
def recommender(data: Dataset) -> Recommender:
    return quick(data, "lac_patched")


def of_users(log: pl.DataFrame, *users: str) -> pl.DataFrame:
    return log.filter(pl.col("user").is_in(users))


def answers(recommender: Recommender, state: State) -> pl.DataFrame:
    """All that can be asked of a state, the number of the user apart."""
    asked = (recommender.score(state, ["i03", "i11"]), recommender.retrieve(state, 4))
    return pl.concat([frame.drop("user") for frame in asked], how="diagonal")


def assert_same_events(found: EventBatch, expected: EventBatch, *but: str) -> None:
    for one in fields(EventBatch):
        if one.name not in but:
            np.testing.assert_array_equal(getattr(found, one.name), getattr(expected, one.name), one.name)


def test_the_package_says_what_the_face_is():
    assert plait.fit is fit and plait.Recommender is Recommender


@pytest.mark.parametrize(
    "convert",
    [
        pl.DataFrame.to_pandas,
        pl.DataFrame.to_arrow,
        lambda frame: frame.to_dict(as_series=False),
        lambda frame: frame.to_dict(as_series=True),
        lambda frame: {name: column.to_numpy() for name, column in frame.to_dict().items()},
        lambda frame: {name: tuple(column) for name, column in frame.to_dict().items()},
        lambda frame: {name: pd.Series(column.to_list()) for name, column in frame.to_dict().items()},
    ],
    ids=["pandas", "arrow", "lists", "series", "arrays", "tuples", "pandas-series"],
)
@pytest.mark.parametrize("users", [("u03",), ("u03", "u11", "u20")])
def test_every_kind_of_frame_gives_the_same_state(recommender, log, convert, users):
    history = of_users(log, *users)
    expected = recommender.encode(history)
    assert expected.events.num_users == len(users)
    assert_same_events(recommender.encode(convert(history)).events, expected.events)


def test_one_event_may_be_a_mapping_of_single_values(recommender):
    event = {"item": "i03", "time": 5_000, "rating": 4.0, "liked": None, "device": "tablet"}
    found = recommender.encode(event).events
    assert found.num_events_U.tolist() == [1]
    assert found.time_s_E.tolist() == [5_000]
    np.testing.assert_array_equal(found.action_EA, [[4.0, np.nan, 1.0]])


@pytest.mark.parametrize("user", [0, 7, 22])
def test_a_frame_of_a_user_is_that_user_of_the_dataset(recommender, data, log, user):
    from_data = recommender.encode(data.history(user))
    from_frame = recommender.encode(of_users(log, data.user_ids()[user]).drop("user"))
    assert_same_events(from_frame.events, from_data.events, "user_U", "request_E")
    assert answers(recommender, from_frame).equals(answers(recommender, from_data))
    num_events = len(data.history(user).item_E)
    kept = min(num_events, WINDOW + 1 + 1)
    assert from_data.events.num_events_U[0] == kept, "a window, what the lag needs, and the last request"


def test_users_do_not_share_a_state(recommender, log):
    users = ("u03", "u11", "u20")
    together = recommender.encode(of_users(log, *users))
    scores = recommender.score(together, ["i03", "i11"])
    for user in users:
        alone = recommender.score(recommender.encode(of_users(log, user)), ["i03", "i11"])
        of_user = scores.filter(pl.col("user") == user)
        np.testing.assert_allclose(of_user[ANSWERED].to_numpy(), alone[ANSWERED].to_numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    "write",
    [
        lambda time: time,
        lambda time: time.cast(pl.Float64),
        lambda time: pl.from_epoch(time, time_unit="s"),
        lambda time: pl.from_epoch(time, time_unit="s").dt.to_string("iso"),
        lambda time: (time - 1_000_000).cast(pl.String),  # as text, "120" stands before "60"
    ],
    ids=["whole", "float", "datetime", "iso", "text"],
)
def test_events_are_put_in_the_order_of_time(recommender, log, write):
    history = of_users(log, "u00", "u11").with_columns(write(pl.col("time")))
    mixed = history.sample(fraction=1.0, shuffle=True, seed=0)
    assert mixed["item"].to_list() != history["item"].to_list()
    found, expected = recommender.encode(mixed).events, recommender.encode(history).events
    assert_same_events(found, expected)
    assert (np.diff(found.time_s_E[: found.start_U1[1]]) > 0).all()


def test_events_of_one_time_keep_their_order(recommender, log):
    history = of_users(log, "u03").with_columns(time=pl.lit(1_000))
    items = recommender.encode(history).events.item_E.tolist()
    assert [recommender.items[item - 1] for item in items] == history["item"].to_list()[-len(items) :]


def test_items_the_model_never_saw_are_kept_as_unknown(recommender, log):
    history = of_users(log, "u03").with_columns(
        item=pl.when(pl.int_range(pl.len()) == pl.len() - 1).then(pl.lit("new")).otherwise("item")
    )
    state = recommender.encode(history)  # without a warning: the model knows most of them
    assert state.unknown_items == ("new",)
    assert state.events.item_E[-1] == UNKNOWN_ITEM
    assert (state.events.item_E[:-1] != UNKNOWN_ITEM).all()
    assert recommender.retrieve(state, 4)["item"].is_in(recommender.items.to_list()).all()
    assert recommender.score(state, ["i03"])["rating"].is_finite().all()


def test_a_model_that_knows_none_of_the_items_says_so(recommender, log):
    history = of_users(log, "u03").with_columns(item="film " + pl.col("item"))
    with pytest.warns(UserWarning, match=r"knows no item of these events, such as 'film i\d\d'.* like 'i00'"):
        state = recommender.encode(history)
    assert set(state.unknown_items) == set(history["item"])
    state = recommender.encode(of_users(log, "u03"))
    assert state.unknown_items == ()
    with pytest.warns(UserWarning, match="knows no item of these events, such as 'i99'"):
        after = recommender.append(state, {"item": "i99", "time": 2_000_000})
    assert after.unknown_items == ("i99",)
    assert recommender.append(after, {"item": "i03", "time": 2_000_001}).unknown_items == ("i99",)


@pytest.mark.parametrize("absent", [["rating"], ["liked", "device"], ["rating", "liked", "device"]])
def test_an_action_without_a_column_is_missing_in_every_event(recommender, log, absent):
    history = of_users(log, "u03", "u11")
    assert history[absent].null_count().sum_horizontal().item() < len(history), "nothing would be left out"
    empty = history.with_columns(pl.lit(None).alias(name) for name in absent)
    left_out = recommender.encode(history.drop(absent))
    assert_same_events(left_out.events, recommender.encode(empty).events)
    event = {"item": ["i05", "i06"], "time": [2_000_000] * 2, "user": ["u03", "u11"], "rating": [2, 3]}
    kept = {name: values for name, values in event.items() if name not in absent}
    after = recommender.append(left_out, kept).events
    last = after.action_EA[after.start_U1[1:] - 1]
    assert np.isnan(last[:, 1:]).all() and np.isnan(last[:, 0]).all() == ("rating" in absent)


def test_a_stored_state_answers_as_it_did(recommender, log, tmp_path):
    state = recommender.encode(of_users(log, "u03", "u11"))
    recommender.save_state(state, tmp_path / "state.safetensors")
    found = recommender.load_state(tmp_path / "state.safetensors")
    assert found.nbytes == state.nbytes > 0
    assert answers(recommender, found).equals(answers(recommender, state))


def test_columns_that_the_model_does_not_know_change_nothing(recommender, reader, log):
    """A log has more columns than a model reads; but see below where one of the model's own is missing."""
    more = {"page": pl.lit("home"), "position": pl.int_range(pl.len()), "embedding": pl.lit([1.0, 2.0])}
    history = of_users(log, "u03", "u11")
    plain, wide = recommender.encode(history), recommender.encode(history.with_columns(**more))
    assert_same_events(wide.events, plain.events)
    event = {"item": ["i05", "i06"], "time": [2_000_000] * 2, "user": ["u03", "u11"]}
    event |= {"rating": [2, 3], "liked": [1, 0], "device": ["phone", None]}
    after = recommender.append(plain, event)
    after_wide = recommender.append(wide, event | {"page": ["home", "shop"]})
    assert_same_events(after_wide.events, after.events)
    assert answers(recommender, after_wide).equals(answers(recommender, after))
    described, users = of_users(described_log(), "u03"), users_table()
    wide = reader.encode(described.with_columns(**more), users=users.with_columns(city=pl.lit("x")))
    assert_same_events(wide.events, reader.encode(described, users=users).events)
    items = later_items()
    grown, grown_wide = (reader.add_items(t) for t in (items, items.with_columns(colour=pl.lit("red"))))
    assert answers(grown_wide, wide).equals(answers(grown, wide))


def first_without(column: str, value: str | None) -> list[pl.Expr]:
    return [
        pl.exclude(column),
        pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(value)).otherwise(column).alias(column),
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            pl.all().name.replace("rating", "ratng"),
            "the history has no column 'rating', .* none that is called 'ratng'; did you mean 'rating' by 'ratng'",
        ),
        (
            [pl.exclude("rating", "liked"), pl.lit(3).alias("stars")],
            r"has no column 'rating', .* none that is called 'stars'\. Leave such columns out",
        ),
        (
            pl.all().name.replace("user", "usr"),
            "no column 'user', so all .* would be of one user, .* did you mean 'user' by 'usr'",
        ),
        (pl.exclude("time"), r"has no column 'time'\. It has: user, item"),
        (
            pl.all().name.replace("item", "itm"),
            r"has no column 'item', did you mean 'itm'\? It has: user, itm",
        ),
        (
            [pl.exclude("rating"), pl.lit(7.0).alias("rating")],
            "breaks a rule: rating is outside 1 to 5, in the event .*'rating': 7.0",
        ),
        ([pl.exclude("liked"), pl.lit(0.5).alias("liked")], "liked is neither 0 nor 1"),
        ([pl.exclude("device"), pl.lit("radio").alias("device")], "device is none of phone, tablet, watch"),
        ([pl.exclude("time"), pl.lit("noon").alias("time")], "time is not a time"),
        ([pl.exclude("time"), pl.lit(None, pl.Int64).alias("time")], "time is missing"),
        ([pl.exclude("time"), pl.lit(9_000_000_000).alias("time")], "time is in the future, read as s"),
        (
            [pl.exclude("rating"), pl.lit([1.0]).alias("rating")],
            "column 'rating' holds List.*; expected numbers",
        ),
        ([pl.exclude("user"), pl.lit(None, pl.String).alias("user")], "user is missing"),
        ([pl.exclude("user"), pl.lit(float("nan")).alias("user")], "user is missing"),
        (first_without("user", ""), "user is missing, in the event"),
        (first_without("item", None), "item is missing, in the event .*'item': None"),
        (first_without("item", ""), "item is missing, in the event .*'item': ''"),
    ],
)
def test_a_history_that_breaks_a_rule_is_refused(recommender, log, change, reason):
    with pytest.raises(ValueError, match=reason):
        recommender.encode(of_users(log, "u03").select(change))


@pytest.mark.parametrize("path", ["log.csv", Path("log.csv")])
def test_a_path_is_no_history(recommender, path):
    with pytest.raises(ValueError, match=r"the history is the path 'log.csv'; .* read the file first"):
        recommender.encode(path)


@pytest.mark.parametrize("item", [None, ""])
def test_an_event_without_an_item_is_not_appended(recommender, log, item):
    state = recommender.encode(of_users(log, "u03"))
    with pytest.raises(ValueError, match="item is missing, in the event"):
        recommender.append(state, {"item": item, "time": 2_000_000})


@pytest.mark.parametrize("as_history", [lambda frame: frame, lambda frame: frame.drop("user")])
def test_a_history_without_events_is_refused(recommender, log, as_history):
    with pytest.raises(ValueError, match="history has no events; recommend popular items to users without"):
        recommender.encode(as_history(log.head(0)))


def test_appending_equals_encoding_the_longer_history(recommender, log):
    users = ("u03", "u11")
    history = of_users(log, *users).sort("user", "time", maintain_order=True)
    last = history.group_by("user", maintain_order=True).tail(2)
    state = recommender.encode(history.join(last, on=["user", "time"], how="anti"))
    for step in range(2):
        state = recommender.append(
            state,
            last.group_by("user", maintain_order=True).agg(pl.all().gather(step)).explode(pl.exclude("user")),
        )
    assert_same_events(state.events, recommender.encode(history).events, "request_E")
    assert_alike(answers(recommender, state), answers(recommender, recommender.encode(history)))


def test_appending_one_event_changes_the_answers(recommender, log):
    state = recommender.encode(of_users(log, "u03"))
    event = {"item": "i05", "time": 2_000_000, "rating": 2, "liked": 0, "device": None}
    after = recommender.append(state, event)
    assert after.events.item_E[-1] == recommender.items.to_list().index("i05") + 1
    assert not answers(recommender, after).equals(answers(recommender, state))
    assert "i05" not in recommender.retrieve(after, 4)["item"].to_list()
    with pytest.raises(ValueError, match="the event of user 'u03' lies before the last of its history"):
        recommender.append(after, event | {"time": 1_000})
    with pytest.raises(ValueError, match=r"events of the users \('u11',\), and the state is of \('u03',\)"):
        recommender.append(after, event | {"user": "u11"})


def of_log(columns: Columns) -> Recommender:
    return Recommender(
        model_of(resolve("lac")),
        Vocabulary.of_items(pl.Series([f"i{item:02d}" for item in range(17)])),
        columns,
    )


COLUMNS = Columns(user="user", item="item", time="time", time_unit="ms")
IN_ORDER = msgspec.structs.replace(COLUMNS, order="place")


def check_order(columns: Columns, by_text: bool = False) -> None:
    """Events of one second in any order: each is appended as encoding the longer history puts it, or refused."""
    model, rng, met = of_log(columns), np.random.default_rng(2), {"appended": 0, "refused": 0}
    for _ in range(12):
        place = rng.permutation(6)
        log = pl.DataFrame(
            {
                "item": [f"i{item:02d}" for item in rng.permutation(17)[:6]],
                "time": (10_000 + 400 * rng.integers(0, 3, 6)).tolist(),
                "place": [f"p{at}" for at in place] if by_text else place.tolist(),
            }
        )
        log = log if columns.order else log.drop("place")
        state = model.encode(log[:3])
        for row in log[3:].iter_rows(named=True):
            try:
                state = model.append(state, row)
            except ValueError as error:
                assert "lies before the last of its history" in str(error)
                met["refused"] += 1
                break
            longer = log[: 1 + log["item"].to_list().index(row["item"])]
            assert_same_events(state.events, model.encode(longer).events)
            met["appended"] += 1
    assert_not_vacuous(met, above=2)


@pytest.mark.parametrize(("columns", "by_text"), [(COLUMNS, False), (IN_ORDER, False), (IN_ORDER, True)])
def test_events_of_one_second_are_appended_in_the_order_of_the_log_or_refused(columns, by_text):
    check_order(columns, by_text)


@pytest.mark.parametrize("columns", [COLUMNS, IN_ORDER])
def test_an_order_by_whole_seconds_is_caught(columns, monkeypatch):
    right = Recommender._read
    by_seconds = lambda model, *tables: replace(right(model, *tables), place_U=None)  # noqa: E731
    monkeypatch.setattr(Recommender, "_read", by_seconds)
    assert_caught(check_order, columns)


def test_what_breaks_ties_must_be_there_and_comparable():
    model, log = of_log(IN_ORDER), {"item": ["i01", "i02"], "time": [10_000, 10_000], "place": [2, 1]}
    state = model.encode(log)
    assert state.events.item_E.tolist() == [3, 2]
    event = {"item": "i03", "time": 10_000}
    assert model.append(state, event | {"place": 2}).events.item_E.tolist() == [3, 2, 4]
    with pytest.raises(ValueError, match=r"\(10000000, 1 < 10000000, 2, by place in the log\)"):
        model.append(state, event | {"place": 1})
    with pytest.raises(
        ValueError, match=r"cannot be put in order with the last .*'2'\) and .*; write both in one"
    ):
        model.append(state, event | {"place": "2"})
    with pytest.raises(ValueError, match="the history breaks a rule: place is missing, in the event"):
        model.append(state, event | {"place": None})
    with pytest.raises(ValueError, match="the history breaks a rule: place is missing, in the event"):
        model.encode(log | {"place": [None, 1]})


def test_scores_are_in_the_units_of_the_log(recommender, log):
    state = recommender.encode(of_users(log, "u03", "u11"))
    found = recommender.score(state, ["i03", "i11", "i16"])
    assert found.columns == ["user", "item", *ANSWERED]
    assert found.select("user", "item").rows() == list(
        itertools.product(("u03", "u11"), ("i03", "i11", "i16"))
    )
    assert found["rating"].is_between(1, 5).all() and found["liked"].is_between(0, 1).all()
    np.testing.assert_allclose(found.select(ANSWERED[2:]).sum_horizontal(), 1, rtol=1e-5)
    assert found[ANSWERED].n_unique() == 6
    assert found["rating"].dtype == pl.Float32


def test_unknown_candidates_are_refused(recommender, log):
    state = recommender.encode(of_users(log, "u03"))
    with pytest.raises(ValueError, match="2 of 3 items are not among the model's 17, such as 'i99'"):
        recommender.score(state, ["i03", "i99", 5])
    with pytest.raises(ValueError, match="no candidates"):
        recommender.score(state, [])


@pytest.mark.parametrize(
    "items", [3, None, "i03", b"i03", [["i03"]], [["i03"], ["i04", "i05"]], [{"item": "i03"}], [{3}]]
)
def test_what_is_no_list_of_items_is_refused(recommender, log, items):
    """As by a caller whose types nobody checks."""
    state, score = recommender.encode(of_users(log, "u03")), inspect.unwrap(Recommender.score)
    with pytest.raises(ValueError, match=r"items = .*: expected a list of item ids"):
        score(recommender, state, items)
    for listed in (["i03"], ("i03",), np.array(["i03"]), pl.Series(["i03"]), pd.Series(["i03"])):
        assert score(recommender, state, listed).equals(recommender.score(state, ["i03"]))


@pytest.mark.parametrize("k", [2.0, True, "3", None])
def test_what_is_no_number_of_items_is_refused(recommender, log, k):
    state, retrieve = recommender.encode(of_users(log, "u03")), inspect.unwrap(Recommender.retrieve)
    with pytest.raises(ValueError, match=rf"k = {k!r}: expected a whole number"):
        retrieve(recommender, state, k)
    assert retrieve(recommender, state, np.int64(2)).equals(recommender.retrieve(state, 2))


def test_recommendations_are_ranked_and_new(recommender, log):
    users = ("u03", "u11")
    state = recommender.encode(of_users(log, *users))
    found = recommender.retrieve(state, 5)
    assert found.columns == ["user", "item", "rank", "score"]
    assert found.select("user", "rank").rows() == list(itertools.product(users, range(1, 6)))
    for user in users:
        of_user = found.filter(pl.col("user") == user)
        assert of_user["score"].is_sorted(descending=True)
        assert not set(of_user["item"]) & set(of_users(log, user)["item"])
    everything = recommender.retrieve(state, 17, filter_seen=False)
    assert set(everything["item"]) == set(recommender.items)
    seen = {user: of_users(log, user)["item"].n_unique() for user in users}
    user = max(users, key=seen.__getitem__)
    assert seen[users[0]] != seen[users[1]]
    with pytest.raises(
        ValueError, match=f"k = 17: expected 1 to {17 - seen[user]}, .* user '{user}' has not seen"
    ):
        recommender.retrieve(state, 17)


def test_a_saved_recommender_comes_back(recommender, log, tmp_path):
    recommender.save_pretrained(tmp_path / "new" / "folder")
    found = Recommender.from_pretrained(str(tmp_path / "new" / "folder"))
    state = recommender.encode(of_users(log, "u03", "u11"))
    assert answers(found, found.encode(of_users(log, "u03", "u11"))).equals(answers(recommender, state))
    assert found.actions == recommender.actions == (*ACTIONS, DEVICE)


def test_a_model_goes_to_the_device_that_is_asked_for(recommender, data, tmp_path, monkeypatch):
    recommender.save_pretrained(tmp_path)
    for device in ("cpu", "auto"):
        found = Recommender.from_pretrained(tmp_path, device)
        assert {weights.device.type for weights in found.model.parameters()} == {"cpu"}
    with pytest.raises(ValueError, match="cuda"):
        Recommender.from_pretrained(tmp_path, "cuda")
    with pytest.raises(ValueError, match="cuda"):
        quick(data, "lac", device="cuda", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("plait.recommender.resolve_device", lambda device: "meta")  # stands for a GPU
    found = Recommender.from_pretrained(tmp_path)
    assert {weights.device.type for weights in found.model.parameters()} == {"meta"}


FILES = ("recommender.json", "items.parquet", "config.json", "model.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_that_is_not_whole_is_refused(recommender, name, tmp_path):
    recommender.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, HASHES])
    path: Path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{tmp_path}.*{name} is damaged .*save the model there again"):
        Recommender.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} is no saved .*: it has no {name}"):
        Recommender.from_pretrained(tmp_path)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def check_kills(
    first: Recommender, second: Recommender, ask: Callable[[Recommender], pl.DataFrame], folder: Path
) -> None:
    """Killed before any step of writing over another, a folder holds the one or the other, or nothing that loads."""
    expected, met = [ask(first), ask(second)], {"first": 0, "second": 0, "refused": 0}
    assert not expected[0].equals(expected[1])
    steps = [(os, "replace"), (Path, "unlink"), (saving, "save_file")]
    while not met["second"]:
        first.save_pretrained(folder)
        left = itertools.count(met["first"] + met["refused"], -1)

        def before(right: Callable[..., object], left: Iterator[int] = left) -> Callable[..., object]:
            def step(*arguments: object, **more: object) -> object:
                if next(left) == 0:
                    raise Killed
                return right(*arguments, **more)

            return step

        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            for place, name in steps:
                patch.setattr(place, name, before(getattr(place, name)))
            second.save_pretrained(folder)
        try:
            found = ask(Recommender.from_pretrained(folder, "cpu"))
        except ValueError:
            met["refused"] += 1
            continue
        assert any(found.equals(one) for one in expected), "the weights of one and the ids of the other"
        met["second" if found.equals(expected[1]) else "first"] += 1
    assert_not_vacuous(met)


@pytest.fixture(scope="module")
def other(recommender: Recommender) -> Recommender:
    """As many items under other numbers, and other weights of the same shapes."""
    model = copy.deepcopy(recommender.model)
    with torch.no_grad():
        model.items.embedding.weight.neg_()
    return Recommender(model, Vocabulary.of_items(recommender.items.reverse()), recommender.columns)


def asked_of(log: pl.DataFrame) -> Callable[[Recommender], pl.DataFrame]:
    return lambda model: answers(model, model.encode(of_users(log, "u03")))


def test_a_folder_that_was_half_written_over_is_refused(recommender, other, log, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    check_kills(recommender, other, asked_of(log), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, HASHES, "README.md"])


def test_files_replaced_under_a_configuration_are_caught(recommender, other, log, tmp_path, monkeypatch):
    def one_by_one(draft: Path, folder: Path) -> None:
        """The items last, and the configuration not forgotten: the hashes alone tell."""
        for path in sorted(draft.iterdir(), key=lambda path: path.name == data_history.ITEMS):
            path.replace(folder / path.name)

    monkeypatch.setattr("plait.recommender.put_in_place", one_by_one)
    check_kills(recommender, other, asked_of(log), tmp_path)
    monkeypatch.setattr("plait.files.check_hashes", lambda *arguments: None)  # the mutant
    assert_caught(check_kills, recommender, other, asked_of(log), tmp_path)


def test_a_model_is_forgotten_before_its_weights_are_replaced(tmp_path, monkeypatch):
    """As a run's folder is written: two models of equal shapes and other settings."""
    saving.save_model(model_of(resolve("lac")), tmp_path)

    def killed(weights: object, path: object) -> None:
        raise Killed

    monkeypatch.setattr(saving, "save_file", killed)
    with pytest.raises(Killed):
        saving.save_model(model_of(resolve("both_out")), tmp_path)
    with pytest.raises(ValueError, match=r"is no saved model: it has no config\.json"):
        saving.load_model(tmp_path)


def test_a_vocabulary_of_another_size_is_refused(recommender, tmp_path):
    recommender.save_pretrained(tmp_path)
    data_history.save_vocabulary(
        tmp_path, Vocabulary.of_items(recommender.items.head(16)), recommender.columns
    )
    with pytest.raises(
        ValueError, match=rf"{tmp_path} .*items.parquet holds 16 items, and config.json .* of 17\. Exp"
    ):
        Recommender.from_pretrained(tmp_path, "cpu")


def test_a_fitted_run_keeps_its_folder_and_gives_the_same_recommender(data, log, tmp_path):
    fitted = quick(data, "lac", out=tmp_path / "run")
    loaded = Recommender.from_pretrained(tmp_path / "run" / MODEL)
    state = fitted.encode(of_users(log, "u03"))
    assert answers(loaded, loaded.encode(of_users(log, "u03"))).equals(answers(fitted, state))
    again = quick(
        data, "(i[t], a[t-1]) -> (i[t+1], a[t])", out=tmp_path / "run"
    )  # finished: read, not trained
    assert answers(again, state).equals(answers(fitted, state))
    with pytest.raises(ValueError, match="finished run of other settings"):
        quick(data, "pc", out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"no layout is named 'lack'; did you mean 'lac'?"):
        quick(data, "lack")


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_folder_is_fitted_as_its_dataset(data, log, tmp_path, as_path):
    models = [quick(given, "lac") for given in (data, as_path(data.folder))]
    found, expected = (answers(model, model.encode(of_users(log, "u03"))) for model in models)
    assert found.equals(expected)
    with pytest.raises(ValueError, match="is not a prepared dataset"):
        quick(as_path(tmp_path), "lac")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("data", 3, "a prepared plait.Dataset, or its folder"),
        ("model", {"trunk": {}}, r"a plait\.ModelSettings\("),
        ("optim", None, r"a plait\.Optim\("),
        ("protocol", {"max_epochs": 1}, r"a plait\.Protocol\("),
        ("protocol", Protocol, r"a plait\.Protocol\("),
    ],
)
def test_settings_of_the_wrong_type_are_refused(data, name, given, expected):
    """As by a caller whose types nobody checks."""
    with pytest.raises(ValueError, match=f"^fit: {name} = .*: expected {expected}"):
        inspect.unwrap(fit)(**{"data": data, name: given})


def test_a_log_of_numbers_and_no_actions(tmp_path):
    """Whole numbers as ids, and text that spells them."""
    log = random_log().select(
        user=pl.col("user").str.slice(1).cast(pl.Int64),
        item=pl.col("item").str.slice(1).cast(pl.Int64) + 100,
        time="time",
    )
    found = quick(prepared(log, tmp_path / "data", ()), "item")
    frame = pl.DataFrame({"item": [100, 101, 102, 7], "time": [1, 2, 3, 4]})
    known = {100: 1, 101: 2, 102: 3, 7: UNKNOWN_ITEM}
    assert found.encode(frame).events.item_E.tolist() == list(known.values())
    assert found.encode(frame.with_columns(pl.col("item").cast(pl.String))).events.item_E.tolist() == list(
        known.values()
    )
    assert found.retrieve(found.encode(frame), 3)["item"].dtype == pl.Int64
    with pytest.raises(ValueError, match="cannot score a given item: it predicts no action"):
        found.score(found.encode(frame), [100])


def test_actions_never_take_the_place_of_user_and_item(tmp_path):
    """Whatever an action is called, its answer has a column of its own."""
    log = random_log().rename({"user": "who", "item": "what", "rating": "item", "liked": "user"})
    log = log.with_columns(score=pl.lit("1"))
    kinds = {"item": Regression(1, 5), "user": Binary(), "score": Categorical(("1", "2"))}
    data = plait.prepare(
        log, user="who", item="what", time="time", actions=kinds, out=tmp_path / "data", min_item_events=1
    )
    model = quick(data, "lac")
    state = model.encode(log.filter(pl.col("who").is_in(["u03", "u11"])))
    found = model.score(state, ["i03", "i11"])
    assert found.columns == ["user", "item", "action:item", "action:user", "score=1", "score=2"]
    assert found.select("user", "item").rows() == list(itertools.product(("u03", "u11"), ("i03", "i11")))
    assert found["action:item"].is_between(1, 5).all() and found["action:user"].is_between(0, 1).all()


def test_an_id_means_the_same_however_it_is_given(tmp_path):
    """Users and items are hashes of 64 bits, with and without a sign; the log has no times."""
    large = 2**63
    log = random_log().select(
        user=-(2**40) - pl.col("user").str.slice(1).cast(pl.Int64),
        item=pl.col("item").str.slice(1).cast(pl.UInt64) + pl.lit(large, pl.UInt64),
        rating="rating",
    )
    data = plait.prepare(
        log,
        user="user",
        item="item",
        time=None,
        actions=ACTIONS[:1],
        out=tmp_path / "data",
        min_item_events=1,
    )
    quick(data, "lac").save_pretrained(tmp_path / "model")
    model = Recommender.from_pretrained(tmp_path / "model")
    history = log.filter(pl.col("user") == log["user"][0])
    spelt = history.with_columns(pl.col("user", "item").cast(pl.String))
    state = model.encode(history)
    assert state.id_U == (log["user"][0],) and (state.events.item_E != UNKNOWN_ITEM).all()
    for same in (spelt, history.to_pandas(), spelt.to_dict(as_series=False)):
        assert_same_events(model.encode(same).events, state.events)
        assert model.encode(same).id_U == state.id_U
    before = model.encode(history[:-1])
    for last in (history[-1:], spelt[-1:]):
        after = model.append(before, last)
        np.testing.assert_array_equal(after.events.item_E, state.events.item_E)
        np.testing.assert_array_equal(after.events.request_E, state.events.request_E)
    assert model.score(state, [large + 3, str(large + 4)])["item"].to_list() == [large + 3, large + 4]
    assert set(model.retrieve(state, 3)["item"]) <= set(data.item_ids())
    with pytest.raises(ValueError, match="at = 5: the log that the model was trained on has no times"):
        model.retrieve(state, 3, at=5)


def test_ties_are_broken_at_serving_as_in_preparation(tmp_path):
    """One request of six items, the last row shown first: the log's own order column says so in both places."""
    rows = [(user, item, 1_000 + user, 6 - item) for user in range(12) for item in range(6)]
    log = pl.DataFrame(rows, schema=["user", "item", "time", "place"], orient="row")
    data = plait.prepare(
        log, user="user", item="item", time="time", order="place", actions={}, out=tmp_path / "data"
    )
    protocol = Protocol(max_events=6, max_epochs=1)
    model = plait.fit(data, layout="item", protocol=protocol, report=lambda line: None)
    prepared = model.encode(data.history(3)).events.item_E.tolist()
    assert prepared == [6, 5, 4, 3, 2, 1]
    history = log.filter(pl.col("user") == 3)
    assert model.encode(history).events.item_E.tolist() == prepared
    with pytest.raises(ValueError, match="the history has no column 'place'"):
        model.encode(history.drop("place"))


READS_ALL = ModelSettings(trunk=trunk_of(dropout=0.1), late=LATE, items=ItemEncoding(id_dropout=0.3))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return described(tmp_path_factory.mktemp("described") / "data")


@pytest.fixture(scope="module")
def reader(known: Dataset) -> Recommender:
    return quick(known, "lac", READS_ALL)


def encoded(model: Recommender, *users: str, **more: object) -> State:
    return model.encode(of_users(described_log(), *users), users=users_table(), **more)


def check_cold_items(model: Recommender) -> None:
    """Two items that the log lacks, with equal features: they answer alike, by their features and not otherwise."""
    state = encoded(model, "u03", "u11")
    scores = model.score(state, [COLD, "z-later", "i05"])
    of = {item: rows[["rating", "liked"]].rows() for (item,), rows in scores.group_by("item")}
    assert of[COLD] == of["z-later"] != of["i05"]
    found = model.retrieve(state, 19, filter_seen=False)
    assert found.filter(pl.col("item") == COLD)["score"].is_finite().all() and found["item"].n_unique() == 19
    weights = model.model.items
    assert weights.is_new_V[-2:].all() and not weights.is_new_V[1:-2].all()
    codes = weights.code_VC[-2].clone()
    weights.code_VC[-2] = weights.code_VC[1 if not torch.equal(weights.code_VC[1], codes) else 2]
    changed = model.score(state, [COLD])
    weights.code_VC[-2] = codes
    assert changed[["rating", "liked"]].rows() != of[COLD], "the features of a cold item are not read"


def test_an_item_without_events_is_scored_and_retrieved_by_its_features(known, reader, tmp_path):
    assert known.train_item_counts()[known.item_index([COLD, "z-later"])].tolist() == [0, 0]
    check_cold_items(reader)
    reader.save_pretrained(tmp_path)
    loaded = Recommender.from_pretrained(tmp_path, "cpu")
    check_cold_items(loaded)
    assert loaded.score(encoded(loaded, "u03"), [COLD]).equals(reader.score(encoded(reader, "u03"), [COLD]))


def test_items_that_are_never_described_are_caught(known, reader, tmp_path, monkeypatch):
    monkeypatch.setattr("plait.nn.encoders.ItemEncoder.describe", lambda self, table, counts: None)
    assert_caught(check_cold_items, quick(known, "lac", READS_ALL))


def later_items() -> pl.DataFrame:
    """Items that come after training: a twin of the cold one, one whose values no training row had, and one that is
    known already."""
    twin = items_table().filter(pl.col("item") == COLD).with_columns(item=pl.lit("zz-twin"))
    odd = twin.with_columns(item=pl.lit("zz-odd"), genre=pl.lit("unheard|of"), year=None)
    return pl.concat([odd, twin, items_table().head(1)], how="vertical_relaxed")


def test_items_added_after_training_are_scored_and_retrieved(reader, tmp_path):
    state = encoded(reader, "u03", "u11")
    grown = reader.add_items(later_items())
    assert len(reader.items) == 19 and grown.items.to_list() == [*reader.items, "zz-odd", "zz-twin"]
    before, after = (model.score(state, ["i03", COLD]) for model in (reader, grown))
    assert_frame_equal(after, before, rel_tol=SAME_SUM)  # what was known answers as before
    found = grown.score(state, [COLD, "zz-twin", "zz-odd"])
    of = {item: rows[["rating", "liked"]].rows() for (item,), rows in found.group_by("item")}
    assert of["zz-twin"] == of[COLD] != of["zz-odd"]
    assert set(grown.retrieve(state, 21, filter_seen=False)["item"]) == set(grown.items)
    assert (
        grown.append(
            state, {"user": ["u03", "u11"], "item": ["zz-twin"] * 2, "time": [2_000_000] * 2}
        ).unknown_items
        == ()
    )
    grown.save_pretrained(tmp_path)
    again = Recommender.from_pretrained(tmp_path, "cpu")
    assert again.score(state, ["zz-twin", "zz-odd"]).equals(grown.score(state, ["zz-twin", "zz-odd"]))
    assert len(grown.add_items(later_items()).items) == len(grown.items), "nothing is new"


def test_a_frame_with_context_and_users_is_the_dataset(known, reader):
    from_frame, from_data = encoded(reader, "u11"), reader.encode(known.history(known.user_index("u11")))
    assert_same_events(from_frame.events, from_data.events, "user_U", "request_E")
    assert from_frame.events.context_EF.any() and from_frame.events.user_code_UK.all()
    unknown = reader.encode(of_users(described_log(), "u11"))
    assert not unknown.events.user_code_UK.any()
    assert not reader.score(unknown, ["i03"]).equals(reader.score(from_frame, ["i03"]))


def test_features_of_users_are_never_those_of_the_stand_in(known, reader):
    """A history without users, beside a table that describes user 0 and all others."""
    history = of_users(described_log(), "u11").drop("user")
    with pytest.raises(
        ValueError, match=r"no column 'user', so .* no row of users can be told to be this user's"
    ):
        reader.encode(history, users=users_table())
    assert not reader.encode(history).events.user_code_UK.any(), "nothing is known of nobody"


def test_the_context_of_a_moment_is_read(reader):
    state = encoded(reader, "u03")
    missing, phone, tv = (
        reader.score(state, ["i03", COLD], context=context)["rating"].to_list()
        for context in (None, {"device": "phone", "hour": 7}, {"device": "tv"})
    )
    assert missing != phone != tv != missing
    assert reader.score(state, ["i03", COLD], context={"device": None})["rating"].to_list() == missing


def test_an_unseen_value_of_the_context_is_said(reader):
    state = encoded(reader, "u11")
    with pytest.warns(UserWarning, match="context 'device' = 'fridge' is unseen: .* 'phone', 'tablet', 'tv'"):
        unseen = reader.score(state, ["i03"], context={"device": "fridge"})
    assert not unseen.equals(reader.score(state, ["i03"], context={"device": None}))


def test_what_the_model_was_not_trained_with_is_refused_in_words(recommender, reader, known, log):
    state = recommender.encode(of_users(log, "u03"))
    with pytest.raises(ValueError, match="trained without user features: leave them out"):
        recommender.encode(of_users(log, "u03"), users=users_table())
    with pytest.raises(
        ValueError, match="trained without item features, so it cannot know items that came later"
    ):
        recommender.add_items(later_items())
    with pytest.raises(
        ValueError, match=r"context .device. was not there in training.*; it reads no context"
    ):
        recommender.score(state, ["i03"], context={"device": "phone"})
    with pytest.raises(ValueError, match="it reads device, hour; did you mean 'device'"):
        reader.score(encoded(reader, "u03"), ["i03"], context={"devise": "phone"})
    with pytest.raises(ValueError, match="beside an EventBatch, which holds their codes already"):
        reader.encode(known.history(0), users=users_table())
    with pytest.raises(ValueError, match=r"has no column .genre. .of item_features"):
        reader.add_items(later_items().drop("genre"))


def test_a_killed_run_of_all_features_ends_in_the_same_model(known, reader, tmp_path, monkeypatch):
    """A model that goes on is neither described nor started anew."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    started = []
    right, step = loop._Run.start, loop._Run._step
    monkeypatch.setattr(loop._Run, "start", lambda self: (started.append(None), right(self)))

    def killed(self, users_U, inputs):
        if self.progress.spent.steps == 4:
            raise InterruptedError("stands for a kill")
        step(self, users_U, inputs)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(loop._Run, "_step", killed)
        quick(known, "lac", READS_ALL, out=tmp_path)
    resumed = quick(known, "lac", READS_ALL, out=tmp_path)
    assert len(started) == 1
    expected = reader.model.state_dict()
    for name, weights in resumed.model.state_dict().items():
        assert torch.equal(weights, expected[name]), name


def test_a_new_model_starts_at_the_means_of_the_training_actions(known, tmp_path, monkeypatch):
    class Seen(Exception):
        """Carries the model before its first step."""

    def epoch(self, arrived):
        raise Seen(self.model)

    monkeypatch.setattr(loop._Run, "epoch", epoch)
    with pytest.raises(Seen) as seen:
        quick(known, "lac", READS_ALL, out=tmp_path)
    (model,) = seen.value.args
    low, high = 1, 5
    rating, liked = model.heads.bias_K.tolist()
    rows = [known.train_batch(np.array([user]), WINDOW + 1, 1) for user in range(known.num_users)]
    labels = np.concatenate([batch.action_EA[int(batch.lead_U[0]) :] for batch in rows])
    assert low + rating * (high - low) == pytest.approx(np.nanmean(labels[:, 0]), rel=1e-4)
    assert 1 / (1 + np.exp(-liked)) == pytest.approx(np.nanmean(labels[:, 1]), rel=1e-3)
    assert not model.heads.weight_KD.any()
    assert model.heads.late.mean_F.all(), "the scale of late features is that of training"


@pytest.fixture(scope="module")
def timed(data: Dataset) -> Recommender:
    exposure = Exposure(time_anchor="next")
    return quick(data, "interleaved", ModelSettings(trunk=trunk_of("rab"), exposure=exposure))


def test_a_model_that_knows_the_time_is_asked_with_one(timed, recommender, log):
    state = timed.encode(of_users(log, "u03"))
    last_s = int(of_users(log, "u03")["time"].max())
    with pytest.raises(ValueError, match=r"say when, with at$"):
        timed.retrieve(state, 3)
    answers = [
        timed.retrieve(state, 3, at=at)["score"].to_list()
        for at in (last_s + 90_000, str(last_s + 90_000), datetime.fromtimestamp(last_s + 90_000, UTC))
    ]
    assert answers[0] == answers[1] == answers[2] != timed.retrieve(state, 3, at=last_s)["score"].to_list()
    assert timed.score(state, ["i03"], at="2031-05-04").height == 1
    for at, reason in (("noon", "at is not a time"), (last_s * 10**6, "at is in the future, read as s")):
        with pytest.raises(ValueError, match=f"at = .*: {reason}"):
            timed.score(state, ["i03"], at=at)
    with pytest.raises(ValueError, match="7 lies before the last event of user 'u03'"):
        timed.score(state, ["i03"], at=7)
    state = recommender.encode(of_users(log, "u03"))
    assert recommender.retrieve(state, 3, at=7).equals(recommender.retrieve(state, 3))


READERS_OF_REQUESTS = {
    "blind": {"layout": resolve("lac"), "settings": ModelSettings(exposure=Exposure(same_request="blind"))},
    "by choice": {"layout": resolve("lac"), "asked_as_candidates": True},
    "by layout": {"layout": resolve("genrank")},
}


@pytest.mark.parametrize("reader", READERS_OF_REQUESTS)
def test_requests_of_a_column_are_those_of_the_dataset(reader, tmp_path):
    """Sessions of three events, minutes apart: by time alone each would be a request."""
    log = random_log().with_columns((pl.int_range(pl.len()).over("user") // 3).alias("session"))
    data = prepare(
        log,
        user="user",
        item="item",
        time="time",
        actions=list(ACTIONS),
        request="session",
        out=tmp_path / "data",
        min_item_events=1,
    )
    model = model_of(**READERS_OF_REQUESTS[reader])
    recommender = Recommender(model, data.items, columns_read(data))
    frame = of_users(log, data.user_ids()[4]).drop("user")
    found = recommender.encode(frame).events
    expected = recommender.encode(data.history(4)).events
    assert np.diff(found.request_E).tolist() == np.diff(expected.request_E).tolist()
    assert 0 in np.diff(found.request_E) and 1 in np.diff(found.request_E)
    with pytest.raises(ValueError, match="no column 'session', and the model was trained to tell by it"):
        recommender.encode(frame.drop("session"))
    with pytest.raises(ValueError, match="encoded from an EventBatch, which does not name its last request"):
        recommender.append(recommender.encode(data.history(4)), frame.tail(1))
    free = Recommender(model_of(resolve("lac")), data.items, columns_read(data))
    assert len(free.encode(frame.drop("session")).events.item_E), "nothing reads requests"
