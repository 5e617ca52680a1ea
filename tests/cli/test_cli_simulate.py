"""Worlds from the command line, and comparisons on them: the oracle's row, and what every layout lacks to it."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import msgspec
import numpy as np
import pytest
from words import SMALL, Capture, complaint, plait, said_by, table_of

from plait.cli.simulate import WorldChanges
from plait.data import Dataset, Temporal
from plait.data.simulator import World

TINY = ("--num-users", 53, "--num-events", 7, "--num-items", 13, "--num-categories", 3)
ONLY_FROM_PYTHON = {"responses", "tastes"}


def test_a_world_is_made_as_asked_and_its_limits_are_told(tmp_path: Path, capsys: Capture) -> None:
    said = said_by(capsys, "simulate", "--out", tmp_path / "world", *TINY, "--seed", 5, "--follow", 0)
    expected = World(num_users=53, num_events=7, num_items=13, num_categories=3, seed=5, follow=0.0)
    assert World.open(tmp_path / "world") == expected != World(num_users=53, num_events=7, seed=5)
    assert "53 users, 13 items, actions click, watch_s, like, purchase; seed 5" in said
    numbers = {row[0]: row[1:] for row in table_of(said) if len(row) == 3}
    assert {"hr@10", "auc:click", "rmse_scaled:purchase"} <= set(numbers)
    assert numbers["auc:like"][0] != numbers["auc:like"][1], "who knows the truth says something else"


def test_other_worlds_splits_and_features(tmp_path: Path, capsys: Capture) -> None:
    words = ("--toy", "--num-users", 101, "--temporal", 0.2, 0.1, "--shows-scenario")
    assert said_by(capsys, "simulate", "--out", tmp_path / "toy", *words)
    toy = Dataset.open(tmp_path / "toy")
    assert World.open(toy.folder) == World.toy(num_users=101)
    assert toy.manifest.settings.split == Temporal(validation=0.2, test=0.1)
    assert [feature.name for feature in toy.context] == ["scenario"]
    assert said_by(capsys, "simulate", "--out", toy.folder, "--overwrite", "--tasks", 2, "--num-users", 59)
    assert World.open(toy.folder) == msgspec.structs.replace(World.of_tasks(2), num_users=59)


def test_every_field_of_a_world_is_an_option_and_tells_its_default(capsys: Capture) -> None:
    of_world = {field.name: field for field in msgspec.structs.fields(World)}
    types = get_type_hints(World)
    assert {field.name for field in fields(WorldChanges)} == set(of_world) - ONLY_FROM_PYTHON
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", said_by(capsys, "simulate", "--help")).split())
    for field in fields(WorldChanges):
        assert str(field.type) == f"{types[field.name].__name__} | None"
        told = re.search(rf"--{field.name.replace('_', '-')} [A-Z]+ [^\[]*\[([^\]]*)\]", shown)
        assert told and told[1] == str(of_world[field.name].default), field.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--toy", "--tasks", 3), "different worlds; give one"),
        (("--tasks", 0), "--tasks 0: expected a number from 1"),
        (("--tasks", -2), "--tasks -2: expected a number from 1"),
        (("--taste", -1), "--taste -1.0: expected a number from 0"),
        (("--num-users", 2.5), "whole number"),
        (("--num-items", 3), "--num-items 3: expected at least 8"),
        (("--steer", "watch_s"), "--steer watch_s is no binary response"),
        (("--toy", "--num-types", 3), "tastes has rows"),
        (("--popularty", 1), "Did you mean --popularity"),
    ],
)
def test_worlds_that_cannot_be(
    words: tuple[object, ...], message: str, tmp_path: Path, capsys: Capture
) -> None:
    assert message in complaint(capsys, 2, "simulate", "--out", tmp_path / "world", *words)
    assert not (tmp_path / "world").exists()


def test_a_folder_that_is_taken_stays(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    complaint(capsys, 2, "simulate", "--out", tmp_path / "mine", *TINY)
    complaint(capsys, 2, "simulate", "--out", tmp_path / "mine", *TINY, "--overwrite")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "letter"]


def test_a_comparison_on_a_world_shows_the_oracle_and_the_distance(tmp_path: Path, capsys: Capture) -> None:
    assert plait("simulate", "--out", tmp_path / "world", *TINY) == 0
    out = tmp_path / "out"
    words = ("compare", tmp_path / "world", "--layouts", "item,lac", "--seeds", 2, "--out", out, *SMALL)
    said = said_by(capsys, *words, "--protocol.no-filter-seen")
    (oracle,) = (line.split() for line in said.splitlines() if line.startswith("oracle "))
    assert len(oracle) >= 3 and re.search(r"lac†.* \([+−][\d.]+\)", said)
    found = msgspec.json.decode((out / "summary.json").read_bytes())
    met = set()
    for summary in found["summaries"]:
        for name, measured in summary["metrics"].items():
            value, regret = measured["estimate"]["value"], measured["regret"]
            if regret is None:
                assert value is None or name.partition(":")[0] in ("mae", "mae_scaled", "ece")
                continue
            best = found["oracle"][name]["value"]
            gap = best - value if measured["estimate"]["better"] == "higher" else value - best
            np.testing.assert_allclose(regret["value"], gap / (best if regret["unit"] == "share" else 1))
            met.add((regret["unit"], name.partition(":")[0].partition("@")[0]))
    assert met == {("share", name) for name in ("ne", "log_loss", "rmse", "rmse_scaled")} | {
        ("points", name) for name in ("hr", "ndcg", "mrr", "auc")
    }
    rows = [msgspec.json.decode(line) for line in (out / "rows.jsonl").read_bytes().splitlines()]
    assert len(rows) == 4 and all(row["regret"]["ndcg@10"]["unit"] == "points" for row in rows)
    page = (out / "report.html").read_text()
    assert '<th scope="row">oracle</th>' in page and re.search(r"<small>\(\+[^;<]+; .[^;<]+ to ", page)


def test_the_oracle_ranks_sampled_items_too(tmp_path: Path, capsys: Capture) -> None:
    assert plait("simulate", "--out", tmp_path / "world", *TINY) == 0
    words = (
        "compare",
        tmp_path / "world",
        "--seeds",
        1,
        "--protocol.negatives",
        3,
        *SMALL,
        "--layouts",
        "lac",
    )
    for name, more in (("kept", ("--protocol.no-filter-seen",)), ("filtered", ())):
        assert re.search(r"^oracle ", said_by(capsys, *words, *more, "--out", tmp_path / name), re.MULTILINE)
        found = msgspec.json.decode((tmp_path / name / "comparison.json").read_bytes())
        assert "ndcg@10" in found["retrieval"] and set(found["retrieval"]) <= set(found["oracle"])
