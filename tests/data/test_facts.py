"""What preparation says at its end, counted again by plain loops."""

import math
from collections import Counter

import msgspec
import numpy as np
import polars as pl
import pytest
from plain_preparing import plain_prepare, random_rows
from tiny import assert_caught, assert_not_vacuous

from plait.data import Dataset, LeaveOneOut, Temporal, prepare, queries
from plait.data.facts import lines_of_met, share, summary_lines
from plait.data.manifest import Manifest
from plait.schema import Action, Amount, Binary, Categorical, Feature, Regression

COLUMNS = {"user": "user", "item": "item", "time": "time", "min_user_events": 1, "min_item_events": 1}


def met_by_loops(data: Dataset, part: str) -> list[bool]:
    """Whether each answer's item is in its history, query by query."""
    targets, found = data.targets(part), []
    for row in range(len(targets)):
        one = targets[row : row + 1]
        _, seen_S = data.seen_items(one)
        found.append(int(data.target_batch(one, 1, 0).item_E[-1]) in seen_S)
    return found


def check_met(folder, split) -> Counter[str]:
    met: Counter[str] = Counter()
    for seed in range(4):
        rows = pl.DataFrame(random_rows(np.random.default_rng(seed), 97, text_ids=seed % 2 == 1))
        rows = rows.with_columns(time=10**9 + pl.int_range(97))
        data = prepare(rows, actions={}, out=folder / f"{seed}", overwrite=True, split=split, **COLUMNS)
        for part in ("validation", "test"):
            expected = met_by_loops(data, part)
            assert data.met_before(data.targets(part)).tolist() == expected
            assert data.manifest.facts.met_before[part] == sum(expected)
            met.update("met" if one else "new" for one in expected)
    return met


@pytest.mark.parametrize("split", [LeaveOneOut(), Temporal(validation=0.2, test=0.3)], ids=str)
@pytest.mark.parametrize("block", [3, queries.BLOCK])
@pytest.mark.parametrize("looks", [0, 10**9])
def test_answers_that_were_met_before_are_counted(tmp_path, split, block, looks, monkeypatch):
    """Whether histories are looked through, or pairs of user and item are looked up."""
    monkeypatch.setattr(queries, "BLOCK", block)
    monkeypatch.setattr(queries, "MOST_LOOKS", looks)
    assert_not_vacuous(check_met(tmp_path, split), above=5)


def test_an_answer_that_counts_as_its_own_history_is_caught(tmp_path, monkeypatch):
    right = queries.met_before
    monkeypatch.setattr(
        "plait.data.dataset.met_before",
        lambda start, item, user, event, end: right(start, item, user, event, event + 1),
    )
    assert_caught(check_met, tmp_path, LeaveOneOut())


@pytest.mark.parametrize("order", [None, "place"])
def test_repeats_ties_and_shares_are_those_of_the_events_kept(tmp_path, order):
    met = {"repeats": 0, "fewer repeats": 0, "fewer ties": 0}
    for seed in range(6):
        rows = random_rows(np.random.default_rng(seed), 97, text_ids=True)
        data = prepare(
            pl.DataFrame(rows),
            actions={"rating": Regression(1, 5)},
            out=tmp_path / f"{seed}",
            order=order,
            **COLUMNS | {"min_user_events": 5, "min_item_events": 4},
        )
        by_user, removed = plain_prepare(rows, order=order, min_user=5, min_item=4)
        events = [row for user in by_user.values() for row in user]
        facts = data.manifest.facts
        same = Counter((row["user"], row["item"], row["time"]) for row in events)
        assert facts.repeats == sum(count - 1 for count in same.values())
        tied = Counter((row["user"], row["time"], row["place"] if order else 0) for row in events)
        assert facts.tied_in_order == sum(count for count in tied.values() if count > 1)
        met["repeats"] += facts.repeats
        met["fewer repeats"] += removed["duplicates"] - facts.repeats
        met["fewer ties"] += round(data.manifest.tied_share * len(events)) - facts.tied_in_order
        users, items = (Counter(row[column] for row in events) for column in ("user", "item"))
        assert (facts.largest_user.events, facts.largest_item.events) == (
            max(users.values()),
            max(items.values()),
        )
        assert users[facts.largest_user.id] == facts.largest_user.events
        assert items[facts.largest_item.id] == facts.largest_item.events
        times = [row["time"] for row in events]
        assert (facts.first_s, facts.last_s) == (min(times), max(times))
        ratings = [row["rating"] for row in events if row["rating"] is not None]
        of = facts.actions["rating"]
        assert (of.known, of.low, of.high) == (len(ratings), min(ratings), max(ratings))
        assert of.mean == pytest.approx(sum(ratings) / len(ratings))
    assert met["repeats"] > 5 and met["fewer repeats"] > 3
    assert (met["fewer ties"] > 5) == (order is not None)


def test_every_kind_of_action_is_told(tmp_path):
    rows = 8
    log = pl.DataFrame(
        {
            "user": [row % 2 for row in range(rows)],
            "item": list(range(rows)),
            "time": [86_400 * 20_000 + row for row in range(rows)],
            "clicked": [1, 0, None, 1, 1, 0, 0, 0],
            "device": ["tv", "tv", "tv", "phone", None, None, "tv", "tv"],
            "seconds": [0.0, 10.0, None, None, 2.0, 4.0, 4.0, 4.0],
            "never": [None] * rows,
        }
    )
    kinds = (Binary(), Categorical(("phone", "tv")), Amount(), Regression(1, 5))
    actions = [Action(name, kind) for name, kind in zip(log.columns[3:], kinds, strict=True)]
    data = prepare(log, actions=actions, out=tmp_path / "out", **COLUMNS)
    lines = list(summary_lines(data.manifest))
    for line in (
        "times from 2024-10-04 to 2024-10-04 00:00:07",
        "clicked: 1 42.9%; missing in 12.5% of the events",
        "device: phone 16.7%, tv 83.3%; missing in 25.0% of the events",
        "seconds: 0 to 10, mean 4; missing in 25.0% of the events",
        "never: no value; missing in 100.0% of the events",
        "largest: user 0 with 50.0% of the events, item 0 with 12.5%",
    ):
        assert line in lines, lines


def test_the_coverage_of_feature_tables_is_told(tmp_path):
    log = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2], "item": [7, 8, 9] * 2, "time": list(range(6))})
    pl.DataFrame({"item": [7, 9, 11], "genre": ["a", "b", "c"]}).write_csv(tmp_path / "items.csv")
    users = pl.DataFrame({"user": [2], "plan": ["x"]})
    data = prepare(
        log,
        actions={},
        items=tmp_path / "items.csv",
        item_features=[Feature.parse("genre:category")],
        users=users,
        user_features=[Feature.parse("plan:category")],
        out=tmp_path / "out",
        **COLUMNS,
    )
    lines = list(summary_lines(data.manifest))
    assert "2 of 3 items have a row in items.csv" in lines
    assert "1 of 2 users have a row in the data frame" in lines


def test_a_log_in_which_everything_comes_again(tmp_path):
    """Each of six users meets the same three items twice over."""
    rows = [(user, step % 3, 1_600_000_000 + 1000 * user + step) for user in range(6) for step in range(6)]
    log = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    lines = list(summary_lines(prepare(log, actions={}, out=tmp_path / "out", **COLUMNS).manifest))
    said = (
        "100 % of the test answers (6 of 6) were met before; under the default filter each is a certain miss: "
        "protocol.filter_seen = False"
    )
    assert any(line.startswith(said) for line in lines), lines
    fresh = log.with_columns(item=pl.int_range(pl.len()))
    data = prepare(fresh, actions={}, out=tmp_path / "fresh", **COLUMNS)
    assert not any("met before" in line for line in summary_lines(data.manifest))


def test_shares_are_not_rounded_to_all_or_nothing():
    assert [share(1, 1000), share(999, 1000), share(94, 100), share(5, 5)] == [
        "0.1 %",
        "99.9 %",
        "94 %",
        "100 %",
    ]
    assert list(lines_of_met({"test": (0, 5)})) == []


def test_a_folder_of_before_opens_and_tells_what_it_knows(tmp_path):
    log = pl.DataFrame({"user": [1] * 4, "item": [1, 2, 3, 4], "time": [1, 2, 3, 4]})
    data = prepare(log, actions={}, out=tmp_path / "out", **COLUMNS)
    raw = msgspec.json.decode((data.folder / "manifest.json").read_bytes())
    del raw["facts"]
    old = msgspec.json.decode(msgspec.json.encode(raw), type=Manifest)
    assert old.facts is None
    assert len(list(summary_lines(old))) == 2 < len(list(summary_lines(data.manifest)))
    assert not math.isnan(old.tied_share)
