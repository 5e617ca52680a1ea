"""What the verbs say of counting."""

from dataclasses import replace
from pathlib import Path

import msgspec
import polars as pl
import pytest
from tiny import ACTIONS as TINY_ACTIONS
from tiny import random_log
from words import SMALL, Capture, complaint, heard_of, said_by

import plait
from plait.cli import evaluate
from plait.cli.runs import data_of
from plait.data import Dataset
from plait.evaluation import counting
from plait.evaluation.run_files import load_result
from plait.models.questions import Exposure


def line_of(said: str) -> str:
    (line,) = (line for line in said.splitlines() if line.startswith("against counting: "))
    return line


def test_evaluate_says_whether_counting_is_beaten(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = line_of(said_by(capsys, "evaluate", run))
    for metric in ("ndcg@10", "rmse:rating", "auc:liked"):
        assert metric in line
    assert line.count("beaten") + line.count("it is better") + line.count("not told apart") == 3
    monkeypatch.setattr(counting, "_counted_now", None)  # what is kept beside the run is only read
    assert line_of(said_by(capsys, "evaluate", run)) == line


def test_evaluate_tells_what_lists_hold_and_slices_on_request(run: Path, capsys: Capture) -> None:
    plain = said_by(capsys, "evaluate", run)
    more = said_by(capsys, "evaluate", run, "--beyond-accuracy")
    assert more.startswith(plain) and "coverage@10" not in plain
    for word in ("coverage@10", "novelty@10", "frequent@10", "user frequent", "training events"):
        assert word in more
    told = msgspec.json.decode(said_by(capsys, "evaluate", run, "--json"))["beyond_accuracy"]
    assert {"coverage@10", "novelty@10", "frequent@10"} == set(told["lists"])
    assert sum(its["slice"]["num_answers"] for its in told["slices"]) == 2 * 23, "by item, and by user"


def test_a_run_that_was_asked_without_its_request_is_counted_so(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    nth = pl.int_range(pl.len()).over("user")
    data = plait.prepare(
        random_log().with_columns(request=nth // 4),
        user="user",
        item="item",
        time="time",
        request="request",
        actions=list(TINY_ACTIONS),
        out=tmp_path / "data",
        min_item_events=1,
    )
    result = load_result(run)
    model = replace(result.settings.model, exposure=Exposure(same_request="blind"))
    asked = replace(result, settings=replace(result.settings, model=model))
    monkeypatch.setattr("plait.cli.counted.finished_run", lambda folder: asked)
    monkeypatch.setattr("plait.cli.counted.data_of", lambda result: data)
    protocol, found = replace(asked.settings.protocol, filter_seen=False), {}
    for kind in ("causal", "blind"):
        counts = plait.CountingRecommender.fit(data, "sequential rules", protocol=protocol, same_request=kind)
        scorer = plait.CountingScorer.fit(data, "item-and-user", same_request=kind)
        history = data.history(3)
        found[kind] = (
            counts.retrieve(counts.encode(history), 5, filter_seen=False)["score"].to_list(),
            scorer.score(scorer.encode(history), ["i01", "i02"])["rating"].to_list(),
        )
    assert found["causal"][0] != found["blind"][0] and found["causal"][1] != found["blind"][1]
    words = ("--user", "u03", "--json", "--baseline")
    listed = said_by(capsys, "recommend", run, *words, "sequential rules", "-k", 5, "--no-filter-seen")
    rated = said_by(capsys, "score", run, *words, "item-and-user", "--items", "i01,i02")
    assert [row["score"] for row in msgspec.json.decode(listed)] == pytest.approx(found["blind"][0])
    assert [row["rating"] for row in msgspec.json.decode(rated)] == pytest.approx(found["blind"][1])


def test_a_run_whose_data_is_gone_says_so(run: Path, tmp_path: Path) -> None:
    result = load_result(run)
    gone, others = replace(result, dataset_folder=str(tmp_path)), replace(result, content_hash="0")
    assert "its data cannot be opened" in str(data_of(gone))
    assert "other data than it was trained on" in str(data_of(others))


def test_a_comparison_without_baselines_counts_nothing(
    dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    words = ("compare", dataset.folder, "--layouts", "item", "--seeds", 1, *SMALL, "--out")
    with_them, without = tmp_path / "with", tmp_path / "without"
    said = "".join(heard_of(capsys, *words, with_them))
    silent = "".join(heard_of(capsys, *words, without, "--no-baselines", "--beyond-accuracy"))
    for words_of_counting in ("the best count is", "count: popularity", "ways of counting"):
        assert words_of_counting in said and words_of_counting not in silent
    assert "novelty@10" in silent and "novelty@10" not in said
    assert (with_them / "baselines" / "baselines.json").is_file() and not (without / "baselines").exists()
    read = msgspec.json.decode((with_them / "comparison.json").read_bytes())["floor"]
    assert [row["name"] for row in read["rows"]][:2] == ["popularity", "recent popularity"]
    assert msgspec.json.decode((without / "comparison.json").read_bytes())["floor"] is None


def test_the_verbs_ask_baselines_of_a_dataset_or_a_run(
    dataset: Dataset, run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--user", "u03", "--json")
    rules = ("--baseline", "sequential rules", "-k", 4)
    of_data, of_run = (said_by(capsys, "recommend", path, *asked, *rules) for path in (dataset.folder, run))
    assert of_data == of_run
    baseline = plait.CountingRecommender.fit(dataset, "sequential rules")
    expected = baseline.retrieve(baseline.encode(dataset.history(3)), 4)
    assert [row["item"] for row in msgspec.json.decode(of_data)] == expected["item"].to_list()
    kept = ("--baseline", "own-frequency", "--no-filter-seen", "-k", 3)
    seen = {row["item"] for row in msgspec.json.decode(said_by(capsys, "recommend", run, *asked, *kept))}
    assert seen <= set(dataset.item_ids().gather(dataset.history(3).item_E - 1))
    rated = said_by(capsys, "score", dataset.folder, *asked, "--items", "i01", "--baseline", "item-and-user")
    assert 1 <= msgspec.json.decode(rated)[0]["rating"] <= 5
    monkeypatch.setattr("plait.cli.counted.data_of", lambda result: "its data are gone")
    for words, message in (
        (("recommend", run, *asked, *rules), "its data are gone; name the dataset itself"),
        (("recommend", dataset.folder, *asked, *rules, "--at", "5"), "--at: no baseline reads that"),
        (
            ("score", dataset.folder, *asked, "--items", "i01", "--baseline", "EASE"),
            "There are mean, item mean",
        ),
        (("recommend", dataset.folder / "none", *asked, *rules), "is no folder"),
    ):
        assert message in complaint(capsys, 2, *words)


def test_a_run_whose_log_is_gone_says_what_is_not_known(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "data_of", lambda result: "its log is gone")
    said = said_by(capsys, "evaluate", run, "--beyond-accuracy")
    for what in ("against counting", "beyond accuracy"):
        assert f"{what}: not known, since its log is gone\n" in said
    for options in (("--json",), ("--json", "--beyond-accuracy")):
        answer, told = heard_of(capsys, "evaluate", run, *options)
        assert msgspec.json.decode(answer)["beyond_accuracy"] is None
        assert "plait: beyond accuracy: not known, since its log is gone\n" in told


def test_what_a_baseline_is_asked_about_is_named(
    run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").touch()
    of_baseline = (run, "--baseline", "popularity")
    for told, words in {
        "--user is missing: a baseline answers one user": ("recommend", *of_baseline),
        "give --user and --items: a baseline answers one user": ("score", run, "--baseline", "item and user"),
        "--layout is missing: give one, or --from RUN": ("train", dataset.folder, "--out", tmp_path / "run"),
        "the dataset is missing: a prepared folder": ("train", "--layout", "lac", "--out", tmp_path / "run"),
        "file is a file; name a folder that the answer": (
            "recommend", run, "--users", "all", "--out", tmp_path / "file" / "answer.parquet",
        ),
    }.items():  # fmt: skip
        assert told in complaint(capsys, 2, *words)
