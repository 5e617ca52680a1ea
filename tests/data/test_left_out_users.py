"""Users that the filters removed are told so, with the filter."""

import polars as pl
import pytest
from tiny import assert_not_vacuous

from plait.data import prepare


def log(text: bool) -> pl.DataFrame:
    """Users 1 to 6 of six common items; 50 has one event, 60 three, and 70 six of items of its own."""
    rows = [(user, item) for user in range(1, 7) for item in range(6)]
    rows += [(50, 1), *((60, item) for item in range(3)), *((70, 100 + item) for item in range(6))]
    frame = pl.DataFrame(rows, schema=["user", "item"], orient="row").with_columns(
        time=pl.int_range(pl.len())
    )
    return frame.with_columns(pl.format("u{}", "user").alias("user")) if text else frame


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("min_user_events", [1, 5])
def test_a_user_that_was_left_out_is_told_why(text, min_user_events, tmp_path):
    data = prepare(
        log(text),
        user="user",
        item="item",
        time="time",
        actions={},
        out=tmp_path / "data",
        min_user_events=min_user_events,
    )
    reasons = {
        50: "a single event",
        60: "has 3 events, below min_user_events = 5",
        70: "items that are too rare",
    }
    met = dict.fromkeys((*reasons.values(), "kept"), 0)
    for user, reason in reasons.items():
        id = f"u{user}" if text else user
        if id in data.user_ids():
            assert min_user_events == 1 and user == 60
            continue
        with pytest.raises(
            ValueError, match=f"user {id!r} is in the log of data, and preparation left it out: .*{reason}"
        ):
            data.user_index(id)
        met[reason] += 1
    for user in (1, 6):
        assert data.user_ids()[data.user_index(f"u{user}" if text else user)] in (user, f"u{user}")
        met["kept"] += 1
    unknown = "u99" if text else 99
    with pytest.raises(ValueError, match=f"no user {unknown!r}"):
        data.user_index(unknown)
    if min_user_events == 5:
        assert_not_vacuous(met)
    assert data.manifest.facts.users_left_out == sum(met.values()) - met["kept"]


def test_the_list_of_left_out_users_is_not_of_the_content(tmp_path):
    """Two folders with one hash hold the same events, whoever else was in the log."""
    columns = {"user": "user", "item": "item", "time": "time", "actions": {}}
    every = prepare(log(False), out=tmp_path / "every", **columns)
    core = prepare(log(False).filter(pl.col("user") < 50), out=tmp_path / "core", **columns)
    assert every.manifest.content_hash == core.manifest.content_hash
    assert set(every.manifest.files) - set(core.manifest.files) == {"users_left_out.parquet"}
    every.check_content()
