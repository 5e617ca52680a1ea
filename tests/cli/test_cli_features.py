"""Features, late features and the time of a request, as people type them."""

import json
from pathlib import Path

import polars as pl
import pytest
from described import COLD, described_log, items_table, users_table
from tiny import prepared
from words import ACTIONS, COLUMNS, SMALL, Capture, complaint, plait, said_by, table_of

from plait.compare.examples import item_names
from plait.data import Dataset

FEATURES = (
    *("--item-feature", "genre:categories:|", "--item-feature", "year:number:3"),
    *("--user-feature", "plan:category", "--context", "device:category", "--context", "hour:number:3"),
)
LATE = ("--model.late.windows", 2, "--model.late.windows", 4, "--model.late.similar", "genre")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """A command that prepares the described log, but for --out."""
    folder = tmp_path_factory.mktemp("described")
    described_log().write_parquet(folder / "log.parquet")
    titled = items_table().drop("text").with_columns(headline="The " + pl.col("item"))
    titled.write_csv(folder / "items.csv")
    users_table().write_parquet(folder / "users.parquet")
    tables = ("--items", folder / "items.csv", "--users", folder / "users.parquet")
    return ("data", "prepare", folder / "log.parquet", *COLUMNS, *ACTIONS, "--min-item-events", 1, *tables)


STEEP = ("--optim.learning-rate", 0.03)  # so that in a few steps a context tells in the printed digits


@pytest.fixture(scope="module")
def trained(words: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    more = ("--item-title", "headline", "--keep-unseen-items")
    assert plait(*words, *FEATURES, *more, "--out", folder / "data") == 0
    assert (
        plait("train", folder / "data", "--layout", "lac", "--out", folder / "run", *SMALL, *LATE, *STEEP)
        == 0
    )
    return folder


def test_a_described_log_is_prepared_trained_and_asked(trained: Path, capsys: Capture) -> None:
    data = Dataset.open(trained / "data")
    assert [f.name for f in data.manifest.item_features] == ["genre", "year"]
    assert data.manifest.counts.unseen_items == 2
    assert data.history(0).context_EF.shape[1] == 2
    run = trained / "run"
    ask = ("score", run, "--user", "u03", "--items", f"i05,{COLD},z-later")
    (warm, cold, later) = table_of(said_by(capsys, *ask))
    assert (warm[0], cold[0], later[0]) == ("i05", COLD, "z-later") and cold[1:] == later[1:]
    assert said_by(capsys, *ask, "--context", "device=tv", "--context", "hour=3") != said_by(capsys, *ask)
    everything = said_by(capsys, "recommend", run, "--user", "u03", "-k", 10)
    assert COLD in everything
    assert said_by(capsys, "recommend", run, "--user", "u03", "-k", 10, "--at", "2030-01-31") == everything


def test_titles_that_were_prepared_are_shown(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    run, shown = trained / "run", 0
    ask = ("recommend", run, "--user", "u03", "-k", 8)
    for words in (
        ask,
        (*ask, "--baseline", "popularity"),
        ("similar", run, "--item", "i05", "-k", 8),
    ):
        rows = json.loads(said_by(capsys, *words, "--json"))
        assert list(rows[0])[:2] == ["item", "title"]
        known = [row for row in rows if row["title"] is not None]
        assert all(row["title"] == f"The {row['item']}" for row in known)
        shown += len(known)
    assert shown > 12
    (tmp_path / "mine.csv").write_text("item,title\ni05,Mine\n")
    rows = json.loads(said_by(capsys, *ask, "--no-filter-seen", "--titles", tmp_path / "mine.csv", "--json"))
    assert {row["title"] for row in rows} <= {"Mine", None}
    files, names = trained / "data", Dataset.open(trained / "data")
    assert names.item_titles() is not None and item_names(names)[1].startswith("The ")
    moved = files.rename(files.with_name("moved"))
    try:
        said = said_by(capsys, "similar", run, "--item", "i05", "-k", 3)
        assert "title" not in said, "the dataset is gone, and the model answers all the same"
    finally:
        moved.rename(files)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--item-feature", "genre:categorie"), "expected NAME:category"),
        (
            ("--item-feature", "genre:categories:|", "--context", "rating:number"),
            "as --action and as --context",
        ),
        (("--item-feature", "colour:category", "--user-feature", "plan:category"), "has no column 'colour'"),
        (("--item-feature", "genre:categories:|"), "users are given, but no user_features: name their"),
        (("--item-feature", "genre:categories:|"), "columns and kinds, --user-feature"),
        (("--item-feature", "gnre:category", "--user-feature", "plan:category"), "did you mean 'genre'?"),
    ],
)
def test_features_that_do_not_fit(
    more: tuple[object, ...], message: str, words: tuple[object, ...], tmp_path: Path, capsys: Capture
) -> None:
    assert message in complaint(capsys, 2, *words, *more, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_questions_that_the_model_cannot_read(
    trained: Path, words: tuple[object, ...], tmp_path: Path, capsys: Capture
) -> None:
    ask = ("score", trained / "run", "--user", "u03", "--items", "i05")
    assert "'devise' was not there in training" in complaint(capsys, 2, *ask, "--context", "devise=tv")
    twice = ("--context", "device=tv", "--context", "device=phone")
    assert "--context: 'device' given more than once" in complaint(capsys, 2, *ask, *twice)
    assert "expected NAME=VALUE" in complaint(capsys, 2, *ask, "--context", "device")
    other = prepared(described_log(), tmp_path / "plain")
    assert "codes the context or the users otherwise" in complaint(capsys, 2, *ask, "--dataset", other.folder)
    train = ("train", trained / "data", "--layout", "lac", "--out", tmp_path / "run", *SMALL)
    assert "expected an item feature" in complaint(capsys, 2, *train, "--model.late.similar", "plan")
    assert "looks at 11 events" in complaint(capsys, 2, *train, "--model.late.windows", 12)
    assert not (tmp_path / "run").exists()


def test_a_model_that_knows_the_time_is_asked_with_one(
    dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    clock = ("--model.trunk.positions", "rab", "--model.exposure.time-anchor", "next")
    assert plait("train", dataset.folder, "--layout", "interleaved", "--out", run, *SMALL, *clock) == 0
    ask = ("recommend", run, "--user", "u03", "-k", 3)
    assert "say when, with --at" in complaint(capsys, 2, *ask)
    assert len(table_of(said_by(capsys, *ask, "--at", "1002000000"))) == 3
    assert "lies before the last event" in complaint(capsys, 2, *ask, "--at", "1970-01-02")
    assert "--at" in said_by(capsys, "score", "--help")
