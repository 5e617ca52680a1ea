"""Folders that earlier versions prepared still open, and hold the events that the log has.

`prepared_before/` has a log with its feature table, and what two versions made of them: one from before folders had
hashes and facts, one with both.
"""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny import assert_caught

import plait
from plait.data import Dataset
from plait.data.manifest import FORMAT_VERSION
from plait.files import HASHES

BEFORE = Path(__file__).parent / "prepared_before"
FOLDERS = ("without_hashes", "with_hashes")


def prepared_again(out: Path) -> Dataset:
    return plait.prepare(
        BEFORE / "log.csv",
        user="user",
        item="item",
        time="time",
        order="place",
        actions={
            "rating": plait.Regression(0.5, 5),
            "watch_s": plait.Amount(zero_inflated=True),
            "device": plait.Categorical(("phone", "tv")),
        },
        items=BEFORE / "films.csv",
        item_features={"genre": plait.Categories("|"), "year": plait.Number(4)},
        context={"scene": plait.Category()},
        keep_unseen_items=True,
        min_user_events=4,
        min_item_events=3,
        split=plait.Temporal(validation=0.15, test=0.2),
        name="before",
        note="made up",
        out=out,
    )


def opened(folder: Path) -> Dataset:
    """One without hashes says so."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = Dataset.open(folder)
        data.check_content()
    assert all(f"has no {HASHES}" in str(each.message) for each in said)
    assert bool(said) == (folder.name == "without_hashes")
    return data


def check_events(data: Dataset) -> None:
    """Against the log itself: of every user whom the filters leave, all events in order."""
    log = pl.read_csv(BEFORE / "log.csv").sort("user", "time", "place")
    log = log.filter(pl.len().over("user") >= 4)
    users = log["user"].unique().sort().to_list()
    assert data.user_ids().to_list() == users and len(users) == 5
    item_id = [None, *data.items.ids.to_list()]
    for number, user in enumerate(users):
        rows, events = log.filter(pl.col("user") == user), data.history(number)
        assert [item_id[item] for item in events.item_E] == rows["item"].to_list()
        assert events.time_s_E.tolist() == rows["time"].to_list()
        device = rows["device"].replace_strict(["phone", "tv"], [0.0, 1.0]).to_list()
        for column, expected in enumerate((rows["rating"].to_list(), rows["watch_s"].to_list(), device)):
            np.testing.assert_array_equal(events.action_EA[:, column], np.array(expected, np.float32))
        scene = data.context[0].kind.values
        assert [("", "?", *scene)[code] for code in events.context_EF[:, 0]] == rows["scene"].fill_null(
            ""
        ).to_list()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_before_holds_the_events_of_its_log(name):
    check_events(opened(BEFORE / name))


@pytest.mark.parametrize("name", FOLDERS)
def test_the_log_is_prepared_today_as_it_was_then(name, tmp_path):
    before, now = opened(BEFORE / name), prepared_again(tmp_path / "now")
    assert now.manifest.content_hash == before.manifest.content_hash
    assert now.manifest.settings_hash == before.manifest.settings_hash
    assert now.manifest.counts == before.manifest.counts
    arrays = sorted(BEFORE.glob(f"{name}/*.npy"))
    assert len(arrays) == 9
    for path in arrays:
        assert (now.folder / path.name).read_bytes() == path.read_bytes(), path.name
    for part in ("validation", "test"):
        asked = before.targets(part), now.targets(part)
        assert len(asked[0]) and all((a == b).all() for a, b in zip(*map(_arrays, asked), strict=True))


def _arrays(targets) -> list[np.ndarray]:
    return [targets.user_Q, targets.event_Q, targets.history_end_Q]


def test_other_events_are_caught(tmp_path):
    shutil.copytree(BEFORE / "without_hashes", tmp_path / "without_hashes")
    path = tmp_path / "without_hashes" / "item.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes([whole[-4] % 5 + 1]) + whole[-3:])
    with pytest.warns(UserWarning, match=f"no {HASHES}"):
        data = Dataset.open(tmp_path / "without_hashes")
    assert_caught(check_events, data)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_format_that_cannot_be_read_is_refused_with_what_to_do(name, tmp_path):
    shutil.copytree(BEFORE / name, tmp_path / name)
    path = tmp_path / name / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format_version": FORMAT_VERSION - 1}
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        ValueError, match=f"format version {FORMAT_VERSION - 1}, this plait reads .*; prepare again"
    ):
        Dataset.open(tmp_path / name)
