"""A paper's table from the command line."""

from dataclasses import replace
from pathlib import Path

import pytest
from words import Capture, complaint, said_by

from plait.cli import study as study_verb
from plait.papers import STUDIES, lac, logs
from plait.papers.speed import Race
from plait.papers.study import Study


def test_studies_are_listed(capsys: Capture) -> None:
    said = said_by(capsys, "study")
    assert all(study.name in said for study in STUDIES) and "LAC paper, table 1" in said


def test_a_quick_study_shows_its_table_and_records_nothing(tmp_path: Path, capsys: Capture) -> None:
    said = said_by(capsys, "study", "lac-figure-2", "--quick", "--out", tmp_path)
    assert (
        "the paper" in said
        and "the last query looks at an item more than" in said
        and "nothing was recorded" in said
    )
    assert f"page: {tmp_path / 'lac-figure-2-quick/ratings/attention.svg'}" in said
    assert not list(tmp_path.glob("*.json"))


def test_an_unknown_study_is_named(tmp_path: Path, capsys: Capture) -> None:
    assert "did you mean 'lac-table-3'" in complaint(capsys, 2, "study", "lac-tabel-3", "--out", tmp_path)
    assert "`plait study` lists" in complaint(capsys, 2, "study", "xyz", "--out", tmp_path)


def test_a_part_runs_alone_and_records_nothing(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    [race] = lac.table_5.parts
    assert isinstance(race, Race)
    one = replace(race, racers=race.racers[:1]).quick()
    two = replace(lac.table_5, name="two", parts=(one, *lac.figure_2.parts))
    monkeypatch.setattr(study_verb, "STUDIES", (two,))
    said = said_by(capsys, "study", "two", "--part", "world", "--out", tmp_path)
    assert "not all parts: nothing was recorded" in said and "attention.svg" not in said
    assert not list(tmp_path.glob("*.json")) and (tmp_path / "two/world").is_dir()


def test_an_unknown_part_is_named(tmp_path: Path, capsys: Capture) -> None:
    said = complaint(capsys, 2, "study", "lac-table-1", "--part", "films", "--out", tmp_path)
    assert "no part 'films'" in said and "ratings, play-time" in said


def test_a_folder_of_logs_that_is_not_there_is_named(tmp_path: Path, capsys: Capture) -> None:
    words = ("study", "lac-table-1", "--quick", "--out", tmp_path / "out", "--data", tmp_path / "nodir")
    assert "nodir: there is no such folder" in complaint(capsys, 2, *words)
    assert not list(tmp_path.iterdir())


def test_what_lacks_its_log_is_no_success(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings, play_time = lac.table_1.parts
    monkeypatch.setattr(logs.Public, "open", lambda self, kept, given: self.quick().open(kept, given))
    part = replace(ratings.quick(), log=logs.ML_100K)  # type: ignore[type-var]
    study: Study = replace(lac.table_1, parts=(part, play_time))
    monkeypatch.setattr(study_verb, "STUDIES", (study,))
    said = complaint(capsys, 1, "study", "lac-table-1", "--out", tmp_path)
    assert "not whole" in said and "kuairand.parquet" in said and "--data" in said
    assert (tmp_path / "lac-table-1.json").is_file()
