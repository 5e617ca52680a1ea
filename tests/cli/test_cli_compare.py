"""Layouts compared from the command line, stopped and started again."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny import assert_caught
from words import SMALL, Capture, complaint, heard_of, plait, said_by, table_of, told_by, train

from plait.data import Dataset
from plait.files import HASHES
from plait.training import loop

LAYOUTS = "item,(i[t], a[t-1]) -> (i[t+1], a[t]),i[t] -> (i[t+1], a[t])"
NAMES = ["item", "lac", "both_out"]


def comparing(dataset: Dataset, out: Path) -> tuple[object, ...]:
    words = ("compare", dataset.folder, "--layouts", LAYOUTS, "--seeds", 2, "--protocol.seed", 3)
    return (*words, "--out", out, *SMALL)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in (out / "rows.jsonl").read_bytes().splitlines()]


def stopped_in(nth: int) -> Callable[..., Any]:
    """Validation that fails once: in the nth training's first epoch."""
    validate = loop._Run._validate
    trainings = iter(range(1, 1000))

    def stop(self: Any) -> None:
        if self.progress.epoch == 1 and next(trainings) == nth:
            raise KeyboardInterrupt
        validate(self)

    return stop


def test_compare_goes_on_where_it_was_stopped(
    dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_validate", stopped_in(5))
        assert plait(*comparing(dataset, tmp_path / "out")) == 130
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(finished) == 4 and not (tmp_path / "out" / "report.html").exists()
    said, told = heard_of(capsys, *comparing(dataset, tmp_path / "out"))
    assert told.count("epoch   1 ") == 2, "a finished run was trained again"
    assert told.count("holds this run, finished") == 4
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    rows = rows_of(tmp_path / "out")
    assert [(row["layout"], row["seed"]) for row in rows] == [
        (name, seed) for seed in (3, 4) for name in NAMES
    ]
    assert said_by(capsys, *comparing(dataset, tmp_path / "whole"))
    assert [row["metrics"] for row in rows] == [row["metrics"] for row in rows_of(tmp_path / "whole")]
    assert_self_contained((tmp_path / "out" / "report.html").read_text())
    assert "oracle" not in said, "nobody knows the truth of a real log"
    assert "NDCG@10" in said and f"page: {tmp_path / 'out' / 'report.html'}" in said


def loads_elsewhere(page: str) -> list[str]:
    """What a browser would fetch for a page."""
    place = r"(?:\bsrc|\bsrcset|<link\b[^>]*\bhref|\bxlink:href|\bdata|@import|url\()"
    urls = place + r"""\s*=?\s*['"(]?\s*(?:url\()?((?:https?:)?//[^'")\s>]+)"""
    return re.findall(urls, page)


def assert_self_contained(page: str) -> None:
    assert loads_elsewhere(page) == [] and page.count("<script") == page.count("<script>") == 1
    assert all(name in page for name in NAMES) and "<svg" in page
    assert "plait compare" in page and "--protocol.seed 3" in page  # the command that repeats it


def test_a_page_that_loads_something_is_seen() -> None:
    for text in (
        '<img src="https://a.b/c">',
        "<style>@import url(//a.b/c)</style>",
        '<link href="http://a.b/c">',
    ):
        assert loads_elsewhere(text), text
    assert not loads_elsewhere('<a href="https://a.b/c">text</a>')


def test_compared_runs_can_recommend(dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    words = ("compare", dataset.folder, "--layouts", "lac", "--seeds", 1, "--out", tmp_path / "out", *SMALL)
    assert plait(*words) == 0
    assert (
        len(table_of(said_by(capsys, "recommend", tmp_path / "out/runs/lac-seed0", "--user", "u01", "-k", 3)))
        == 3
    )


def test_the_runs_of_a_comparison_are_named(dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    words = ("compare", dataset.folder, "--layouts", "item,lac", "--seeds", 1, "--out", tmp_path / "out")
    assert plait(*words, *SMALL) == 0
    for verb in (("evaluate",), ("recommend", "--user", "u01")):
        said = complaint(capsys, 2, verb[0], tmp_path / "out", *verb[1:])
        assert "holds a comparison; name one of its runs: " in said
        assert str(tmp_path / "out/runs/item-seed0") in said and str(tmp_path / "out/runs/lac-seed0") in said


def test_a_comparison_with_a_failed_run_is_shown_but_is_no_success(
    dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = loop._Run._step

    def diverging(self: Any, *arguments: Any) -> None:
        if self.model.layout.fields == {"i"}:
            raise loop.Diverged("the loss is gone")
        step(self, *arguments)

    monkeypatch.setattr(loop._Run, "_step", diverging)
    words = (
        "compare",
        dataset.folder,
        "--layouts",
        "item,lac",
        "--seeds",
        1,
        "--out",
        tmp_path / "out",
        *SMALL,
    )
    assert plait(*words) == 1
    said = capsys.readouterr()
    assert "1 of 2 runs failed" in said.err and "item with seed 0: the loss is gone" in said.err
    assert "NDCG@10" in said.out and (tmp_path / "out" / "report.html").exists()


def test_a_page_that_cannot_be_made_is_known_before_training(
    dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "plait[report]" in complaint(capsys, 1, *comparing(dataset, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_settings_that_read_requests_tell_of_a_log_without(
    dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    note = "no request column: events of one time count as one request"
    words = ("train", dataset.folder, "--layout", "genrank", "--out", tmp_path / "run", *SMALL)
    said, told = heard_of(capsys, *words)
    assert told.startswith(f"{note}\n") and told.count(note) == 1, "before training"
    assert said.count(note) == 1, "in the protocol line"
    shown = said_by(capsys, "evaluate", tmp_path / "run")
    assert "protocol: split leave-one-out" in shown and "as candidates" in shown
    assert re.search(r"^by plait \S+, ", shown, re.MULTILINE)
    assert note not in "".join(heard_of(capsys, *train(dataset, tmp_path / "lac"))), (
        "lac asks where events stand"
    )


def test_a_comparison_tells_of_the_layouts_that_read_requests(
    dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    words = ("compare", dataset.folder, "--layouts", "genrank,action_out", "--seeds", 1)
    told = told_by(capsys, *words, "--out", tmp_path / "out", *SMALL)
    assert re.search(
        r"^genrank, seed 0 \(run 1 of 2\)\n  no request column: events of one time", told, re.MULTILINE
    )
    assert re.search(r"^action_out, seed 0 \(run 2 of 2, after .+, about .+ left\)$", told, re.MULTILINE)
    assert told.count("  no request column") == 1
    of_layout = {row["layout"]: row["protocol"] for row in rows_of(tmp_path / "out")}
    assert "no request column" in of_layout["genrank"]
    assert "no request column" not in of_layout["action_out"]


@pytest.mark.parametrize(
    ("layouts", "more", "reason"),
    [
        ("item,i[t] -> a[t] {values, helix, pool}", (), "not both"),
        ("item,lac", ("--model.trunk.hstu.bias",), "--model.trunk.kind hstu alone"),
        (
            "item,action_out",
            ("--protocol.select", "ndcg@10"),
            "'ndcg@10', and action_out predicts no next item",
        ),
        ("lac,item", ("--protocol.select", "mrr,auc:liked"), "'auc:liked', and item predicts no action"),
        ("lac,item", ("--protocol.select", "loss:actions"), "'loss:actions', and item predicts no action"),
        ("lac", ("--protocol.select", "auc:likd"), "the data has no action 'likd', only rating, liked"),
    ],
)
def test_every_layout_is_checked_before_the_first_run(
    layouts: str, more: tuple[str, ...], reason: str, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    words = ("compare", dataset.folder, "--layouts", layouts, "--out", tmp_path / "out", *SMALL, *more)
    assert reason in complaint(capsys, 2, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layouts", "select"), [("lac,action_out", "loss:actions,auc:liked=0.5"), ("lac,item", "ndcg@10")]
)
def test_a_metric_that_all_layouts_give_selects(
    layouts: str, select: str, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    words = ("compare", dataset.folder, "--layouts", layouts, "--seeds", 1, "--protocol.select", select)
    assert said_by(capsys, *words, "--out", tmp_path, *SMALL)


SHORT = ("--optim.users-per-step", 3, "--protocol.max-tokens", 1)  # one of the 8 steps of an epoch


def check_epochs(out: Path, expected: float) -> None:
    [row] = rows_of(out)
    assert (row["cost"]["epochs"], row["cost"]["best_epoch"]) == (expected, expected)
    assert [point["epoch"] for point in row["curve"]] == [expected]
    [summary] = msgspec.json.decode((out / "summary.json").read_bytes())["summaries"]
    assert summary["cost"]["epochs"] == expected


def test_a_cap_inside_an_epoch_counts_the_share_that_was_trained(
    dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("compare", dataset.folder, "--layouts", "lac", "--seeds", 1, *SMALL, *SHORT, "--out")
    assert "epoch 0.125  loss" in told_by(capsys, *words, tmp_path / "out")
    check_epochs(tmp_path / "out", 0.125)
    said = said_by(capsys, "evaluate", tmp_path / "out/runs/lac-seed0")
    assert "epoch 0.125 of 0.125, chosen by" in said and "cap of 1 tokens reached" in said
    monkeypatch.setattr(loop._Run, "epochs", property(lambda self: float(self.progress.epoch)))  # the mutant
    assert told_by(capsys, *words, tmp_path / "mutant")
    assert_caught(check_epochs, tmp_path / "mutant", 0.125)


def test_epochs_that_were_written_as_whole_numbers_are_read(
    dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    words = ("compare", dataset.folder, "--layouts", "lac", "--seeds", 1, "--out", tmp_path, *SMALL)
    assert said_by(capsys, *words)
    before, result = rows_of(tmp_path), tmp_path / "runs/lac-seed0/result.json"
    old, changed = re.subn(r'("(?:epochs|best_epoch|epoch)": \d+)\.0', r"\1", result.read_text())
    assert changed == 5, "epochs, the two best ones, and those of the curve"
    result.write_text(old)
    (result.parent / HASHES).unlink()
    with pytest.warns(UserWarning, match=HASHES):
        assert said_by(capsys, *words) and rows_of(tmp_path) == before
        assert re.search(r"^epoch [12] of 2, ", said_by(capsys, "evaluate", result.parent), re.MULTILINE)


@pytest.mark.parametrize("share", [0.0, 0.5, None, "an array"])
def test_answers_that_are_not_whole_are_named(
    share: float | str | None, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    words = ("compare", dataset.folder, "--layouts", "lac", "--seeds", 1, "--out", tmp_path, *SMALL)
    assert said_by(capsys, *words)
    answers = tmp_path / "runs/lac-seed0/answers.npz"
    whole = answers.read_bytes()
    answers.unlink()
    if isinstance(share, str):
        with answers.open("wb") as file:
            np.save(file, np.arange(7))
    elif share is not None:
        answers.write_bytes(whole[: int(share * len(whole))])
    for again in (words, ("evaluate", answers.parent)):
        said = complaint(capsys, 2, *again)
        assert (
            f"{answers} is {'missing' if share is None else 'damaged'}" in said and "train it again" in said
        )
