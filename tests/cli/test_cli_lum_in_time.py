"""A large user model, cut in time: no interest is better in a ranker's training than in service, and rankers with and
without interests are rows of one comparison.

Shape letters: R rows of a table, W width of an interest, V items.
"""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from tiny import assert_caught, assert_not_vacuous
from words import Capture, complaint, plait, said_by, told_by

from plait.cli.lum import query, tables
from plait.data import Dataset
from plait.evaluation.run_files import load_result
from plait.rankers.interests import Interests

WORLD = ("--num-users", 40, "--num-events", 14, "--num-items", 24, "--num-categories", 4, "--queries", 0.5,
         "--condition", "scenario", "--condition", "query")  # fmt: skip
EARLY, LATE = (0.1, 0.4), (0.2, 0.2)  # shares of validation and test
OVERFIT = ("--protocol.max-epochs", 15, "--protocol.validate-every", 15, "--model.trunk.dropout", 0,
           "--optim.learning-rate", 0.01, "--model.trunk.dim", 16, "--model.interest-dim", 8)  # fmt: skip
SHORT = ("--model.trunk.dim", 12, "--model.ranker.hidden", 8, "--protocol.max-epochs", 1, "--seeds", 1)
SLACK = 0.1  # of a similarity, by which chance parts the events of two parts


@dataclass(frozen=True)
class Cut:
    """One log cut twice, and the model that was trained before the first cut."""

    early: Dataset
    late: Dataset
    lum: Path


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Cut:
    folder = tmp_path_factory.mktemp("cut")
    for name, shares in (("early", EARLY), ("late", LATE)):
        assert plait("simulate", "--out", folder / name, *WORLD, "--temporal", *shares) == 0
    words = (
        "lum",
        "pretrain",
        folder / "early",
        "--out",
        folder / "lum",
        "--protocol.no-filter-seen",
        "--quiet",
    )
    assert plait(*words, *OVERFIT) == 0
    return Cut(Dataset.open(folder / "early"), Dataset.open(folder / "late"), folder / "lum")


@pytest.fixture(scope="module")
def told(cut: Cut, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Interests for the rankers; not to be changed."""
    folder = tmp_path_factory.mktemp("told")
    files = {part: folder / f"{part}.parquet" for part in ("train", "validation", "test", "items")}
    for part in ("train", "validation", "test"):
        words = ("lum", "query", cut.lum, "--dataset", cut.late.folder, "--of", "events", "--part", part)
        assert plait(*words, "--out", files[part]) == 0
    assert plait("lum", "query", cut.lum, "--of", "items", "--out", files["items"]) == 0
    return files


def check_later(table: Path, cut: Cut) -> None:
    """Interests are of events from the model's cut on, and of nothing that it was trained on."""
    time_R, cut_s = pl.read_parquet(table)["time"].to_numpy(), cut.early.manifest.split.cut_validation_s
    later = cut.late.target_times(cut.late.moments("train")) >= cut_s
    assert_not_vacuous({"later": int(later.sum()), "earlier": int((~later).sum()), "asked": len(time_R)})
    assert (time_R >= cut_s).all() and len(time_R) == later.sum()


def test_events_that_the_model_was_trained_on_are_left_out(
    cut: Cut, told: dict[str, Path], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_later(told["train"], cut)
    out = tmp_path / "anew.parquet"
    words = ("lum", "query", cut.lum, "--dataset", cut.late.folder, "--of", "events", "--out", out)
    assert "of before the end of its training left out" in said_by(capsys, *words)
    monkeypatch.setattr(query, "trained_until", lambda *_: (None, ""))
    assert plait(*words[:-1], tmp_path / "mutant.parquet") == 0
    assert_caught(check_later, tmp_path / "mutant.parquet", cut)


def lead_of_answers(table: Path, items: Path, data: Dataset) -> np.ndarray:
    """By how much more an interest is like the item that came than like the mean item, event by event."""
    found, known = pl.read_parquet(table), pl.read_parquet(items)
    item_VW = known["interest"].to_numpy().astype(np.float32)
    place = {item: n for n, item in enumerate(known["item"].to_list())}
    came = {}
    for user, id in enumerate(data.user_ids().to_list()):
        item_E = data.history(user).item_E
        came |= {(id, n): place[data.item_ids()[int(item) - 1]] for n, item in enumerate(item_E)}
    similarity_RV = found["interest"].to_numpy().astype(np.float32) @ item_VW.T
    answer_R = [came[key] for key in found.select("user", "event").iter_rows()]
    return similarity_RV[np.arange(len(found)), answer_R] - similarity_RV.mean(1)


def check_no_better_in_training(training: Path, service: Path, items: Path, data: Dataset) -> None:
    leads = [lead_of_answers(table, items, data) for table in (training, service)]
    assert_not_vacuous({"training": len(leads[0]), "service": len(leads[1])}, above=40)
    assert leads[0].mean() < leads[1].mean() + SLACK


def test_no_interest_is_better_in_training_than_in_service(
    cut: Cut, told: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    rest = told["test"], told["items"], cut.late
    check_no_better_in_training(told["train"], *rest)
    in_sample = tmp_path / "in-sample.parquet"
    words = ("lum", "query", cut.lum, "--of", "events", "--part", "train", "--out", in_sample)
    assert "trusts it too much" in told_by(capsys, *words)
    assert_caught(check_no_better_in_training, in_sample, *rest)


def test_where_nobody_can_tell_it_is_said(cut: Cut, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other"
    assert plait("simulate", "--out", other, *WORLD) == 0
    whole = tmp_path / "whole"
    assert (
        plait("lum", "pretrain", other, "--out", whole, "--quiet", *OVERFIT[4:], "--protocol.max-epochs", 1)
        == 0
    )
    words = (
        "lum",
        "query",
        whole,
        "--dataset",
        cut.late.folder,
        "--of",
        "events",
        "--out",
        tmp_path / "x.parquet",
    )
    assert "cannot be told, since its data is not cut in time (--temporal)" in told_by(capsys, *words)
    assert tables.TRAINED_ON.replace("_", " ") not in said_by(capsys, *words[:-1], tmp_path / "y.parquet")


def interests_of(folder: Path) -> dict[str, str]:
    return {
        run.parent.name: load_result(run.parent).settings.interests
        for run in folder.glob("runs/*/result.json")
    }


def check_told(found: dict[str, str], expected: str) -> None:
    assert found == {
        "din-seed0": "",
        "din+lum-seed0": expected,
        "din+match-seed0": expected,
        "item-seed0": "",
    }


def test_rankers_with_and_without_interests_are_rows_beside_layouts(
    cut: Cut, told: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    parts = "train", "validation", "test"
    given = [word for part in parts for word in ("--interests", told[part])]
    words = ("compare", cut.late.folder, "--layouts", "item", "--rankers", "din,din+lum,din+match", *given,
             "--item-interests", told["items"], "--out", tmp_path / "out", *SHORT)  # fmt: skip
    shown = said_by(capsys, *words)
    assert "din+match cannot retrieve: it predicts no item" in shown and "count: item and user" in shown
    interests = Interests.read([told[part] for part in parts], told["items"], cut.late)
    check_told(interests_of(tmp_path / "out"), interests.sha256)
    assert_caught(check_told, interests_of(tmp_path / "out"), "other")
    rows = [msgspec.json.decode(line) for line in (tmp_path / "out" / "rows.jsonl").read_bytes().splitlines()]
    scores = {row["layout"]: row["metrics"].get("auc:click", {}).get("value") for row in rows}
    assert scores["item"] is None and scores["din"] != scores["din+lum"] != scores["din+match"]
    both = load_result(tmp_path / "out" / "runs" / "din+match-seed0").settings.model.ranker.interests
    assert (both.user, both.match, both.item, both.width) == (False, True, False, 8)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--rankers", "din+lum"), "din+lum is told interests of a user model, and none are given"),
        (("--rankers", "gru"), "--rankers names 'gru'; expected din, dien, sim, twin"),
        (("--rankers", "din,"), "one of 2 rankers is empty"),
        (("--rankers", "din", "--model.trunk.num-layers", 1), "--model.trunk.num-layers 1 is read by no row"),
        (("--rankers", "din", "--model.ranker.top-k", 3), "--model.ranker.top-k 3 is read by no row"),
        ((), "--layouts is missing"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    cut: Cut, tmp_path: Path, capsys: Capture, words: tuple[str, ...], why: str
) -> None:
    said = complaint(capsys, 2, "compare", cut.late.folder, *words, "--out", tmp_path / "out", *SHORT)
    assert why in said and not (tmp_path / "out").exists()
