"""Recommendations and scores of a finished run."""

import json
import re
import shutil
from dataclasses import astuple, replace
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from tiny import random_log
from words import COLUMNS, Capture, complaint, numbered, plait, prepared_by, said_by, table_of, train

from plait.cli import check, output, user_state
from plait.data import Dataset
from plait.engine import agreement_ways, recorded
from plait.evaluation.answers import measure
from plait.evaluation.run_files import load_answers, load_result
from plait.layouts.draw import catalogue_rows
from plait.recommender import Recommender


def test_a_finished_run_recommends_and_scores(run: Path, dataset: Dataset, capsys: Capture) -> None:
    rows = table_of(said_by(capsys, "recommend", run, "--user", "u03", "-k", 4))
    items = [item for item, *_ in rows]
    history = dataset.history(dataset.user_index("u03"))
    seen = set(dataset.item_ids().gather(history.item_E - 1))
    assert len(set(items)) == 4 and not seen & set(items)
    assert [rank for _, rank, *_ in rows] == ["1", "2", "3", "4"]
    rows = table_of(said_by(capsys, "score", run, "--user", "u03", "--items", "i05, i02"))
    assert [row[0] for row in rows] == ["i05", "i02"]
    assert all(1 <= float(rating) <= 5 and 0 <= float(liked) <= 1 for _, rating, liked in rows)
    assert "hr@10" in said_by(capsys, "evaluate", run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("recommend", "--user", "u99"),
            "no user 'u99' in tiny; its 23 user ids are text from 'u00' to 'u22'",
        ),
        (("recommend", "--user", "U003"), "no user 'U003' in tiny; did you mean 'u03'"),
        (("recommend", "--user", "u00", "-k", "99"), "-k 99"),
        (("score", "--user", "u00", "--items", "i05,i99"), "'i99'"),
        (("recommend", "--user", "u00", "--dataset", "none"), "'none' is no folder"),
    ],
)
def test_questions_without_an_answer(
    words: tuple[str, ...], message: str, run: Path, capsys: Capture
) -> None:
    verb, *rest = words
    assert message in complaint(capsys, 2, verb, run, *rest)


def test_an_id_of_a_page_is_shortened_on_a_terminal_alone(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("x" * 5_000 + "end", 0.5), ("Heat, 1995", 0.25)]
    output.show_table(("item", "score"), rows)
    assert capsys.readouterr().out.count("x") == 5_000
    terminal = Console(width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "console", lambda: terminal)
    output.show_table(("item", "score"), rows)
    said = capsys.readouterr().out
    assert (
        said.count("x") == output.LONGEST_CELL - 4
        and "x…x" in said
        and "xend" in said
        and "Heat, 1995" in said
    )
    longest = max(len(str(cell)) for row in catalogue_rows() for cell in astuple(row))
    assert longest < output.LONGEST_CELL, "a notation would be cut"


WIDE = [f"an action with a long name {n}" for n in range(9)] + [f"device=kind{n:02d}" for n in range(12)]


def shown_wide(width: int | None, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table of many columns, on a terminal of this width or, without one, in a pipe."""
    headings = ["item", *(name.replace(" ", "_") for name in WIDE)]
    rows = [(f"i{row:02d}", *(row + column / 100 for column in range(len(WIDE)))) for row in range(3)]
    with monkeypatch.context() as patch:
        if width:
            terminal = Console(width=width, force_terminal=True, color_system=None)
            patch.setattr(output, "console", lambda: terminal)
        output.show_table(headings, rows, "a caption")
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 80, 200, None])
def test_a_table_of_many_columns_can_be_read(
    width: int | None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = shown_wide(width, capsys, monkeypatch)
    lines = [line.rstrip() for line in said.splitlines()]
    for name in WIDE:
        assert said.count(name.replace(" ", "_")) == 1, "a heading is whole, on one line"
    assert said.count("a caption") == 1
    blocks = lines.count("") + 1
    assert (blocks == 1) == (width is None), "in a pipe each row is one line"
    assert said.count("i01") == blocks
    for row in range(3):
        found = [cell for line in lines if line.startswith(f"i{row:02d}") for cell in line.split()[1:]]
        assert [float(cell) for cell in found] == pytest.approx(
            [row + column / 100 for column in range(len(WIDE))]
        )
    assert width is None or max(map(len, lines)) <= width


def test_a_user_who_has_met_every_item(tmp_path: Path, capsys: Capture) -> None:
    everything = pl.DataFrame({"user": ["all"] * 17, "item": [f"i{n:02d}" for n in range(17)]})
    everything = everything.with_columns(
        time=1_000_000 + pl.int_range(17), rating=pl.lit(3.0, pl.Float32), liked=pl.lit(1.0, pl.Float32)
    )
    assert prepared_by(pl.concat([random_log(), everything], how="diagonal"), tmp_path / "data") == 0
    assert plait(*train(tmp_path / "data", tmp_path / "run")) == 0
    said = complaint(capsys, 2, "recommend", tmp_path / "run", "--user", "all", "-k", 3)
    assert "has seen all 17 items of the catalogue" in said and "--no-filter-seen" in said
    assert "1 to 0" not in said
    assert said_by(capsys, "recommend", tmp_path / "run", "--user", "all", "-k", 3, "--no-filter-seen")


def test_a_user_that_the_filters_left_out_is_told_so(tmp_path: Path, capsys: Capture) -> None:
    once = random_log().head(1).with_columns(user=pl.lit("once"))
    assert prepared_by(pl.concat([random_log(), once]), tmp_path / "data") == 0
    assert plait(*train(tmp_path / "data", tmp_path / "run")) == 0
    said = complaint(capsys, 2, "recommend", tmp_path / "run", "--user", "once")
    assert "user 'once' is in the log of data-log, and preparation left it out: it has a single event" in said


def met(said: str, dataset: Dataset, user: str) -> tuple[int, int]:
    """How many items were recommended, and how many of them the user has in the history."""
    items = {item for item, *_ in table_of(said)}
    history = dataset.history(dataset.user_index(user))
    return len(items), len(items & set(dataset.item_ids().gather(history.item_E - 1)))


def test_recommendations_leave_out_what_the_run_was_judged_to_leave_out(
    run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    assert plait(*train(dataset, tmp_path / "kept", "--protocol.no-filter-seen")) == 0
    least = dataset.num_items - len(dataset.history(dataset.user_index("u03")).item_E)
    for folder, usual in ((run, "--filter-seen"), (tmp_path / "kept", "--no-filter-seen")):
        words = ("recommend", folder, "--user", "u03", "-k")
        found = {flag: said_by(capsys, *words, least, flag) for flag in ("--filter-seen", "--no-filter-seen")}
        assert said_by(capsys, *words, least) == found[usual]
        assert met(found["--filter-seen"], dataset, "u03") == (least, 0)
        every = said_by(capsys, *words, dataset.num_items, "--no-filter-seen")
        assert met(every, dataset, "u03")[0] == dataset.num_items and met(every, dataset, "u03")[1] > 0
    assert met(said_by(capsys, *words, dataset.num_items), dataset, "u03")[0] == dataset.num_items


def test_ids_that_hold_commas_or_begin_with_a_hyphen(tmp_path: Path, capsys: Capture) -> None:
    log = random_log().with_columns(pl.col("item").replace("i05", "Heat, 1995"))
    log = log.with_columns(pl.col("user").replace("u03", "-x1"))
    assert prepared_by(log, tmp_path / "data") == 0
    assert plait(*train(tmp_path / "data", tmp_path / "run")) == 0
    words = ("score", tmp_path / "run", "--user=-x1", "--items")
    rows = table_of(said_by(capsys, *words, 'i02, "Heat, 1995",i07'))
    assert [row[0] for row in rows] == ["i02", "Heat,", "i07"]
    assert "'Heat'" in complaint(capsys, 2, *words, "Heat, 1995")
    assert '--items "Heat' in complaint(capsys, 2, *words, '"Heat, 1995')
    assert "such as ''" in complaint(capsys, 2, *words, "")


def test_users_and_items_are_called_as_in_the_log(tmp_path: Path, capsys: Capture) -> None:
    """Spellings of numbers that are no numbers, blanks, and an action that is called like an item."""
    spelt = {"u03": "007", "u04": "7", "i05": "1E2", "i02": " 100", "i07": "100"}
    log = (
        random_log()
        .with_columns(pl.col("user", "item").replace(spelt))
        .rename({"item": "sku", "liked": "item"})
    )
    log.write_csv(tmp_path / "log.csv")
    words = ("data", "prepare", tmp_path / "log.csv", "--user", "user", "--item", "sku", "--time", "time")
    words += (
        "--action",
        "item:binary",
        "--missing",
        "item=nan",
        "--min-item-events",
        1,
        "--min-user-events",
        2,
    )
    assert plait(*words, "--out", tmp_path / "data") == 0
    assert plait(*train(tmp_path / "data", tmp_path / "run")) == 0
    ask = ("--user", "007", "--items", '1E2," 100",100')
    header, *rows = said_by(capsys, "score", tmp_path / "run", *ask).splitlines()
    assert header.split() == ["item", "action:item"] and [row.split()[0] for row in rows] == [
        "1E2",
        "100",
        "100",
    ]
    assert "such as '1e2'" in complaint(capsys, 2, "score", tmp_path / "run", "--user", "7", "--items", "1e2")
    assert "no user '07'" in complaint(capsys, 2, "recommend", tmp_path / "run", "--user", "07")
    assert "that user '007' has not seen" in complaint(
        capsys, 2, "recommend", tmp_path / "run", "--user", "007", "-k", 99
    )


def test_a_log_without_times_is_prepared_trained_and_asked(tmp_path: Path, capsys: Capture) -> None:
    random_log().drop("time").write_csv(tmp_path / "log.csv")
    words = (
        "data",
        "prepare",
        tmp_path / "log.csv",
        "--user",
        "user",
        "--item",
        "item",
        "--out",
        tmp_path / "data",
    )
    words += ("--action", "rating:regression:1:5", "--missing", "rating=NaN", "--min-item-events", 1)
    assert "say that there is none and that the rows are in order (--no-time)" in complaint(capsys, 2, *words)
    assert "--time item and --no-time: give one" in complaint(
        capsys, 2, *words, "--no-time", "--time", "item"
    )
    assert plait(*words, "--no-time") == 0
    assert "1971" not in capsys.readouterr().out
    assert plait(*train(tmp_path / "data", tmp_path / "run")) == 0
    assert said_by(capsys, "recommend", tmp_path / "run", "--user", "u05", "-k", 3)
    for more in (
        ("--model.trunk.positions", "genrank"),
        ("--model.trunk.kind", "hstu", "--model.trunk.positions", "rab"),
    ):
        said = complaint(capsys, 2, *train(tmp_path / "data", tmp_path / "other", *more))
        assert "read when events happened, and the log has no times" in said
    assert not (tmp_path / "other").exists()


def renumbered(tmp_path: Path) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """Recommendations from the trained dataset and from one that holds the same history of u05, but numbers users
    and items otherwise; both without items that only the second knows."""
    assert prepared_by(random_log(), tmp_path / "data") == 0
    more = pl.DataFrame({"user": ["a"] * 6, "item": [f"a{n}" for n in range(6)], "time": range(6)})
    more = more.with_columns(rating=pl.lit(3.0, pl.Float32), liked=pl.lit(1.0, pl.Float32))
    assert prepared_by(pl.concat([random_log(), more], how="diagonal"), tmp_path / "more") == 0
    first, second = (Dataset.open(tmp_path / name) for name in ("data", "more"))
    assert first.item_index(["i00"]) != second.item_index(["i00"]), "the same numbers prove nothing"
    assert plait(*train(first, tmp_path / "run")) == 0
    words = ("recommend", tmp_path / "run", "--user", "u05", "-k", 5)
    return words, (*words, "--dataset", second.folder)


def test_another_dataset_is_said_and_read_in_the_models_items(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, elsewhere = renumbered(tmp_path)
    expected = said_by(capsys, *words)
    assert plait(*elsewhere) == 0
    found = capsys.readouterr()
    assert found.out == expected
    assert "does not hold the events" in found.err
    monkeypatch.setattr(user_state, "in_items_of", lambda model, data, events: events)  # the mutant
    with pytest.raises((AssertionError, IndexError)):
        assert said_by(capsys, *elsewhere) == expected


def test_a_dataset_that_is_gone_or_of_other_actions(tmp_path: Path, capsys: Capture) -> None:
    assert prepared_by(random_log(), tmp_path / "data") == 0
    assert plait(*train(tmp_path / "data", tmp_path / "run")) == 0
    (tmp_path / "data").rename(tmp_path / "moved")
    words = ("recommend", tmp_path / "run", "--user", "u05", "-k", 3)
    assert "no longer there" in complaint(capsys, 2, *words)
    assert said_by(capsys, *words, "--dataset", tmp_path / "moved")
    log = tmp_path / "data-log.parquet"
    assert (
        plait("data", "prepare", log, *COLUMNS, "--out", tmp_path / "other", "--action", "liked:binary") == 0
    )
    assert "prepare it likewise" in complaint(capsys, 2, *words, "--dataset", tmp_path / "other")


def test_a_user_id_of_another_kind(tmp_path: Path, capsys: Capture) -> None:
    assert prepared_by(numbered(random_log()), tmp_path / "data") == 0
    assert plait(*train(tmp_path / "data", tmp_path / "run")) == 0
    for user in ("u05", "05", "+5", "5.0"):
        assert "whole numbers" in complaint(capsys, 2, "recommend", tmp_path / "run", "--user", user)
    assert said_by(capsys, "recommend", tmp_path / "run", "--user", 5, "-k", 3)


def test_a_run_answers_by_its_deployed_model_or_by_the_one_that_is_named(
    run: Path, dataset: Dataset, capsys: Capture
) -> None:
    asked = ("--user", "u03", "--items", "i05,i02")
    of_run, deployed, beside = (
        said_by(capsys, "score", run / name, *asked) for name in ("", "model", "model-actions")
    )
    assert of_run == deployed
    named = Recommender.from_pretrained(run / "model-actions")
    history = named.encode(dataset.history(dataset.user_index("u03")))
    expected = named.score(history, ["i05", "i02"])["rating"].to_list()
    assert [float(rating) for _, rating, _ in table_of(beside)] == pytest.approx(expected, rel=1e-3)
    words = ("--user", "u03", "-k", 4)
    assert said_by(capsys, "recommend", run, *words) == said_by(capsys, "recommend", run / "model", *words)


def test_evaluate_tells_what_the_deployed_model_has_beside_what_is_measured(
    run: Path, capsys: Capture
) -> None:
    said, result = said_by(capsys, "evaluate", run), load_result(run)
    assert re.search(r"carried by +model/", said)
    values = measure(load_answers(run, result.actions))["auc:liked"].value
    assert re.search(rf"^auc:liked .* {values:.4f} *$", said, re.MULTILINE)
    assert "model-actions/: epoch " in said and "chosen by validation normalised_error:actions" in said


ALONE = "--exported", "none"  # in the engine's ways alone


def test_a_run_is_checked(run: Path, capsys: Capture) -> None:
    heads, *rows = said_by(capsys, "check", run, "--seed", 3, *ALONE).splitlines()
    assert heads.split() == ["asked", "logits", "users", "compared", "difference", "allowed", "agrees"]
    told = [row for row in rows if row.startswith(("one pass", "in small", "appended", "st"))]
    assert len(told) == 18 and all(row.split()[-1] == "yes" for row in told)
    assert rows[-1] == "seed: 3"
    assert any("not compared: in the arithmetic of its training: it is that of all" in row for row in rows)
    found = json.loads(said_by(capsys, "check", run, "--json", "--exported", "torch"))
    assert found["agrees"] and found["seed"] == 0 and len(found["compared"]) in (21, 24)
    assert sum(each["way"].startswith("exported to torch") for each in found["compared"]) == 3
    assert all(each["difference"] <= each["allowed"] for each in found["compared"])


def test_a_run_that_disagrees_ends_with_1(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_ways, "EXACT", agreement_ways.Allowance(-1.0))
    assert re.search(
        r"(18 of 18|21 of 21) comparisons lie too far apart: one pass",
        complaint(capsys, 1, "check", run, *ALONE),
    )


def test_a_run_without_its_data_is_checked_by_what_was_kept_of_it(
    dataset: Dataset, run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(load_result(run), dataset_folder=str(dataset.folder / "gone"))
    monkeypatch.setattr(check, "finished_run", lambda folder: gone)
    said = said_by(capsys, "check", run, *ALONE)
    assert re.search(r"histories: \d+ that were kept beside the model, since .*gone is no longer there", said)
    monkeypatch.setattr(recorded, "RECORDED", "none.safetensors")
    assert "has no none.safetensors: it was trained before" in complaint(capsys, 2, "check", run)
    assert "seed: 0" in said_by(capsys, "check", run, "--dataset", dataset.folder, *ALONE)


def test_a_run_is_exported(run: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "exported"
    words = "export", run, "--format", "torch", "--out", out, "--json"
    found = json.loads(said_by(capsys, *words))
    assert {each["logits"] for each in found["compared"]} == {"next item", "rating", "liked"}
    assert all(each["difference"] <= each["allowed"] for each in found["compared"])
    assert (out / "score.pt2").is_file() and "# An exported recommender" in (out / "README.md").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    assert "holds something that is no exported model" in complaint(
        capsys, 2, "export", run, "--out", tmp_path / "mine"
    )


def test_an_index_is_built_and_asked(run: Path, capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra [ann] is part of [test]")
    mine = shutil.copytree(run, tmp_path / "run")
    asked = ("recommend", mine, "--user", "u03", "-k", 4, "--json")
    assert "build an index with `plait index`" in complaint(capsys, 2, *asked, "--index")
    found = json.loads(said_by(capsys, "index", mine, "--kind", "ivf", "--num-probes", 1, "-k", 5, "--json"))
    assert found["recall"] == 1.0 and found["recall_k"] == 5 and found["num_lists"] == 1
    exact, by_index = (json.loads(said_by(capsys, *asked, *more)) for more in ((), ("--index",)))
    assert [row["item"] for row in by_index] == [row["item"] for row in exact]
    assert "recall@" in said_by(capsys, "index", mine)
    assert "lists of --users are exact" in complaint(
        capsys, 2, "recommend", mine, "--users", "all", "--out", tmp_path / "o.parquet", "--index"
    )
