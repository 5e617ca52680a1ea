"""Logs and datasets that are not as they should be: the reason is said, and nothing half-made is left."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tiny import random_log
from words import ACTIONS, COLUMNS, SMALL, Capture, complaint, numbered, plait, prepared_by, said_by, train

from plait.data import Dataset
from plait.data.columns.rules import MEANT
from plait.evaluation.run_files import load_answers


def changed(column: str, value: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """The tiny log with one value of the column's third row changed."""

    def change(log: pl.DataFrame) -> pl.DataFrame:
        values = log[column].to_list()
        values[2] = value
        return log.with_columns(pl.Series(column, values, strict=False))

    return change


BAD_LOGS: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "missing column": (lambda log: log.rename({"item": "itm"}), "did you mean 'itm'"),
    "wrong type": (lambda log: log.with_columns(pl.col("time").cast(pl.String) + "?"), "time is not a time"),
    "wrong type of an action": (lambda log: log.with_columns(pl.lit("x").alias("rating")), "not a number"),
    "ids of a wrong type": (lambda log: log.with_columns(pl.lit([1]).alias("user")), "column 'user' holds"),
    "null user": (changed("user", None), "user is missing: 1 rows, e.g. row 3"),
    "null item": (changed("item", None), "item is missing: 1 rows, e.g. row 3"),
    "negative user among text": (changed("user", "-4"), f"user is negative; {MEANT}: 1 rows, e.g. row 3"),
    "negative user": (
        lambda log: changed("user", -4)(numbered(log)),
        f"user is negative; {MEANT}: 1 rows, e.g. row 3",
    ),
    "NaN time": (
        lambda log: changed("time", float("nan"))(log.with_columns(pl.col("time").cast(pl.Float64))),
        "time is missing",
    ),
    "future time": (changed("time", 4_000_000_000), "time is in the future"),
    "milliseconds as seconds": (
        lambda log: log.with_columns(pl.col("time") + 1_500_000_000_000),
        "--time-unit ms",
    ),
    "rating out of range": (changed("rating", 11.0), "rating is outside 1 to 5: 1 rows, e.g. row 3"),
    "binary that is neither": (changed("liked", 0.5), "liked is neither 0 nor 1"),
    "no rows": (lambda log: log.head(0), "no rows"),
    "one event each": (lambda log: log.unique("user", keep="first"), "no events left"),
}


@pytest.mark.parametrize("bad", BAD_LOGS)
def test_a_bad_log_stops_with_the_reason_and_no_folder(bad: str, tmp_path: Path, capsys: Capture) -> None:
    change, message = BAD_LOGS[bad]
    change(random_log()).write_parquet(tmp_path / "log.parquet")
    words = ("data", "prepare", tmp_path / "log.parquet", *COLUMNS, *ACTIONS, "--out", tmp_path / "out")
    assert message in complaint(capsys, 2, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"], "something half-made was left"


def test_the_log_itself_is_good(tmp_path: Path) -> None:
    """Without the one change, every case above would pass."""
    assert prepared_by(random_log(), tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.parquet", b"", "is empty"),
        ("log.csv", b"", "is empty"),
        ("log.csv", b"user,item,time,rating,liked\n", "no rows"),
        ("log.parquet", None, "cannot be read"),  # a whole one, cut
        ("log.xlsx", b"x", "none of the separators"),
    ],
)
def test_a_file_that_is_no_log(
    name: str, content: bytes | None, message: str, tmp_path: Path, capsys: Capture
) -> None:
    if content is None:
        random_log().write_parquet(tmp_path / "whole")
        content = (tmp_path / "whole").read_bytes()[:-200]
        (tmp_path / "whole").unlink()
    (tmp_path / name).write_bytes(content)
    words = ("data", "prepare", tmp_path / name, *COLUMNS, *ACTIONS, "--out", tmp_path / "out")
    assert message in complaint(capsys, 2, *words)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--action", "rating:regresion:1:5"), "did you mean 'regression'"),
        (("--action", "rating:regression:5:1"), "low must be below high"),
        (
            ("--action", "rating:binary", "--action", "rating:amount"),
            "more than once, as --action and as --action; each",
        ),
        (
            ("--action", "item:binary"),
            "column 'item' is given more than once, as --item and as --action; each",
        ),
        (
            ("--temporal", "0.6", "0.5"),
            "split with validation = 0.6, test = 0.5: give validation and test, both",
        ),
        (
            ("--temporal", "0.0001", "0.0001"),
            "split with validation = 0.0001, test = 0.0001: both cuts fall on time",
        ),
        (
            ("--min-user-events", "99"),
            "no events left of 202 rows; left out: 202 of users below 99 or items below 5",
        ),
        (("--time-unit", "min"), '"ms"'),
        (
            ("--min-user-events", "-3"),
            "--min-user-events: found -3, expected a whole number from 1 to",
        ),
        (("--order", "foo"), "has no column 'foo'. It has: user, item, time, rating, liked, scenario\n"),
        (("--item-feature", "genre:category"), "give the table that holds them, --items"),
    ],
)
def test_settings_of_preparation_that_do_not_fit(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: Capture
) -> None:
    random_log().write_parquet(tmp_path / "log.parquet")
    command = ("data", "prepare", tmp_path / "log.parquet", *COLUMNS, "--out", tmp_path / "out", *words)
    assert message in complaint(capsys, 2, *command)
    assert not (tmp_path / "out").exists()


def test_missing_values_are_told_and_the_name_is_kept(tmp_path: Path, capsys: Capture) -> None:
    log = random_log()
    assert prepared_by(log, tmp_path / "out", "--name", "films") == 0
    said = capsys.readouterr().out
    for name in ("rating", "liked"):
        share = f"{log[name].is_nan().mean():.1%}"
        assert share != "0.0%", "nothing is missing, so this proves nothing"
        assert re.search(rf"^{name}: .*; missing in {share} of the events$", said, re.MULTILINE)
    assert Dataset.open(tmp_path / "out").manifest.name == "films"


def test_times_in_the_wrong_unit_are_told(tmp_path: Path, capsys: Capture) -> None:
    log = random_log().with_columns(pl.col("time") + 1_500_000_000)
    told = "all times lie before 1971, the last at 1970-01-18 08:56:52, read in ms; where that is wrong, "
    assert prepared_by(log, tmp_path / "seconds") == 0
    assert "1971" not in capsys.readouterr().out
    assert prepared_by(log, tmp_path / "ms", "--time-unit", "ms") == 0
    assert told + "prepare again with another --time-unit\n" in capsys.readouterr().out


def test_answers_that_were_met_before_are_told_with_what_to_do(tmp_path: Path, capsys: Capture) -> None:
    rows = [(user, step % 3, 1_600_000_000 + 100 * user + step) for user in range(6) for step in range(6)]
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(tmp_path / "log.csv")
    said = said_by(capsys, "data", "prepare", tmp_path / "log.csv", *COLUMNS, "--out", tmp_path / "data")
    told = "100 % of the test answers (6 of 6) were met before; under the default filter each is a certain miss: "
    assert told + "--protocol.no-filter-seen lets them count\n" in said
    words = ("train", tmp_path / "data", "--layout", "item", "--out", tmp_path / "run", *SMALL)
    assert "ndcg@10 cannot change" in complaint(capsys, 2, *words)
    assert "--protocol.no-filter-seen" in complaint(capsys, 2, *words) and not (tmp_path / "run").exists()
    assert plait(*words, "--protocol.no-filter-seen") == 0


def test_a_column_of_the_log_may_split_it(tmp_path: Path, capsys: Capture) -> None:
    nth, last = pl.int_range(pl.len()).over("user"), pl.len().over("user") - 1
    part = (
        pl.when(nth == last).then(pl.lit("2")).when(nth == last - 1).then(pl.lit("1")).otherwise(pl.lit("0"))
    )
    log = random_log().with_columns(fold=part)
    assert prepared_by(log, tmp_path / "column", "--split-column", "fold:0:1:2") == 0
    assert prepared_by(log, tmp_path / "last") == 0
    column, last_two = (Dataset.open(tmp_path / name).manifest for name in ("column", "last"))
    assert column.content_hash == last_two.content_hash and column.split != last_two.split
    words = ("data", "prepare", tmp_path / "last-log.parquet", *COLUMNS, "--out", tmp_path / "both")
    both = ("--split-column", "fold:0:1:2", "--temporal", "0.1", "0.1")
    assert "--temporal and --split-column split the log in two ways" in complaint(capsys, 2, *words, *both)
    assert "fold is none of train, training" in complaint(capsys, 2, *words, "--split-column", "fold")


def test_files_of_a_known_dataset_that_are_none(tmp_path: Path, capsys: Capture) -> None:
    random_log().write_csv(tmp_path / "log.csv")
    get = ("data", "get", "ml-20m", "--cache", tmp_path / "cache", "--from-files")
    said = complaint(capsys, 2, *get, tmp_path / "log.csv")
    assert "log.csv has no column 'userId' (expected the owner's userId, movieId," in said
    assert "nodir does not exist" in complaint(capsys, 2, *get, tmp_path / "nodir")


NO_ACTIONS = "uses actions, and the data has none: name an action column when preparing"
NO_LABELS = "predicts action 'rating', which has 0 labels in the training events"


@pytest.mark.parametrize(
    ("actions", "layout", "message"),
    [
        ((), "lac", NO_ACTIONS),
        ((), "action_in", NO_ACTIONS),
        ((), "attn_mvp", NO_ACTIONS),
        (ACTIONS, "lac", NO_LABELS),
        (ACTIONS, "genrank", NO_LABELS),
    ],
)
def test_a_layout_with_actions_on_a_log_without(
    actions: tuple[str, ...], layout: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    empty = random_log().with_columns(rating=pl.lit(None, pl.Float64))
    empty.write_parquet(tmp_path / "log.parquet")
    words = ("data", "prepare", tmp_path / "log.parquet", *COLUMNS, *actions, "--min-item-events", 1)
    assert plait(*words, "--out", tmp_path / "data") == 0
    train_it = ("train", tmp_path / "data", "--out", tmp_path / "run", *SMALL)
    assert message in complaint(capsys, 2, *train_it, "--layout", layout)
    assert not (tmp_path / "run").exists()
    assert plait(*train_it, "--layout", "item") == 0, "a layout without actions can be trained"


def test_bad_rows_can_be_set_aside(tmp_path: Path, capsys: Capture) -> None:
    bad = changed("rating", 11.0)(random_log())
    assert prepared_by(bad, tmp_path / "out", "--on-bad-row", "reject") == 0
    assert "1 rating is outside 1 to 5" in capsys.readouterr().out
    rejects = pl.read_parquet(tmp_path / "out" / "rejects.parquet")
    assert rejects["rating"].to_list() == [11.0] and rejects["reject_row"].to_list() == [3]


def test_users_with_one_event_and_duplicates_are_counted(tmp_path: Path, capsys: Capture) -> None:
    log = random_log()
    alone = log.head(1).with_columns(user=pl.lit("alone"))
    log = pl.concat([log, log.slice(4, 1), alone])
    assert prepared_by(log, tmp_path / "kept") == 0
    said = capsys.readouterr().out
    assert f"{len(log)} rows read, left out: 1 of users with a single event\n" in said
    assert "1 events repeat a user's item and time and were kept" in said
    assert prepared_by(log, tmp_path / "dropped", "--deduplicate") == 0
    said = capsys.readouterr().out
    assert (
        "1 repeat a user's item and time; 1 of users with a single event" in said and "were kept" not in said
    )
    kept, dropped = (Dataset.open(tmp_path / name).manifest.counts.events for name in ("kept", "dropped"))
    assert kept == dropped + 1


@pytest.mark.parametrize("temporal", [False, True])
def test_an_item_that_training_never_saw_is_ranked(temporal: bool, tmp_path: Path, capsys: Capture) -> None:
    nth = pl.int_range(pl.len()).over("user")
    log = random_log().with_columns(time=1_000_000 + 60 * nth)
    last = pl.int_range(pl.len()) == log["time"].arg_max()
    log = log.with_columns(item=pl.when(last).then(pl.lit("cold")).otherwise("item"))
    split = ("--temporal", 0.1, 0.2) if temporal else ()
    assert prepared_by(log, tmp_path / "data", *split) == 0
    data = Dataset.open(tmp_path / "data")
    (cold,) = data.item_index(["cold"])
    assert data.train_item_counts()[cold] == 0, "the item is not cold, so this proves nothing"
    assert "hr@10" in said_by(capsys, *train(data, tmp_path / "run"))
    answers = load_answers(tmp_path / "run", data.actions)
    assert answers.rank_Q is not None
    assert 1 <= int(answers.rank_Q[answers.item_Q == cold].item()) <= data.num_items


def test_datasets_that_are_not_whole(dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    def copy() -> Path:
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for file in dataset.folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    other = copy()
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"format_version": 999}))
    cut = copy()
    (cut / "item.npy").write_bytes((dataset.folder / "item.npy").read_bytes()[:-8])
    gone = copy()
    (gone / "users.parquet").unlink()
    garbled = copy()
    (garbled / "manifest.json").write_text("{")
    log = tmp_path / "log.csv"
    random_log().write_csv(log)
    for folder, message in (
        (other, "format version 999"),
        (cut, "bytes instead of"),
        (gone, "users.parquet is missing"),
        (garbled, "damaged"),
        (log, "not a prepared dataset"),
    ):
        assert message in complaint(capsys, 2, *train(folder, tmp_path / "out"))
        assert not (tmp_path / "out").exists()
    assert plait(*train(copy(), tmp_path / "out")) == 0, "a whole copy must work"
