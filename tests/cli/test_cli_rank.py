"""`plait rank train`, and the verbs that read what it leaves."""

from pathlib import Path

import msgspec
import pytest
from words import Capture, complaint, plait, said_by

from plait.data import Dataset
from plait.evaluation.run_files import SETTINGS, RunSettings

TINY = ("--model.trunk.dim", 12, "--model.ranker.hidden", 8, "--protocol.max-epochs", 1)


@pytest.fixture(scope="module")
def ranked(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    out = tmp_path_factory.mktemp("ranked") / "sim"
    assert plait("rank", "train", dataset.folder, "--ranker", "sim", "--out", out, *TINY) == 0
    return out


def test_its_defaults_are_those_of_rankers(ranked: Path) -> None:
    settings = msgspec.json.decode((ranked / SETTINGS).read_bytes(), type=RunSettings)
    assert settings.model.ranker.kind == "sim" and settings.model.tower.kind == "linear"
    assert settings.model.counts == "auto"
    assert settings.protocol.max_events == 1_000 < settings.protocol.candidate_requests


def test_other_verbs_read_its_run(ranked: Path, capsys: Capture) -> None:
    shown = said_by(capsys, "evaluate", ranked)
    assert "sim on tiny" in shown and "auc:liked" in shown and "against counting: " in shown
    assert "liked" in said_by(
        capsys, "score", ranked, "--user", "u03", "--items", "i05,i02", "--at", 2_000_000
    )
    said = complaint(capsys, 2, "score", ranked, "--user", "u03", "--items", "i05")
    assert "ranker sim knows when" in said and "--at" in said
    assert "cannot retrieve" in complaint(capsys, 2, "recommend", ranked, "--user", "u03", "--at", 2_000_000)


def test_a_finished_run_is_not_trained_again(ranked: Path, dataset: Dataset, capsys: Capture) -> None:
    words = ("rank", "train", dataset.folder, "--out", ranked, *TINY)
    assert "sim on tiny" in said_by(capsys, *words, "--ranker", "sim")
    assert "model.ranker.kind: found 'sim', asked 'twin'" in complaint(capsys, 2, *words, "--ranker", "twin")


def test_it_reads_a_settings_file(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[protocol]\nmax_epochs = 1\n[model]\ncounts = "none"\n')
    out = tmp_path / "run"
    words = ("rank", "train", dataset.folder, "--ranker", "din", "--out", out, *TINY[:4])
    assert plait(*words, "--history", "items", "--config", tmp_path / "settings.toml") == 0
    settings = msgspec.json.decode((out / SETTINGS).read_bytes(), type=RunSettings)
    assert (settings.model.counts, settings.protocol.max_epochs) == ("none", 1)
    assert settings.layout == "i[t] -> () / i[t] -> a[t]"


def test_what_no_ranker_reads_is_refused(dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    words = ("rank", "train", dataset.folder, "--ranker", "din", "--out", tmp_path / "run")
    assert "is read by sim or twin (--model.ranker.kind) alone" in complaint(
        capsys, 2, *words, "--model.ranker.top-k", 7
    )
    assert "--model.ranker.kind none alone" in complaint(capsys, 2, *words, "--model.trunk.num-layers", 1)


def test_it_goes_on_from_a_deployed_ranker(
    ranked: Path, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "later"
    words = ("rank", "train", dataset.folder, "--from", ranked, "--out", out, "--quiet")
    assert plait(*words, "--ranker", "sim", "--model.late.windows", 3) == 0
    settings = msgspec.json.decode((out / SETTINGS).read_bytes(), type=RunSettings)
    assert settings.goes_on_from and settings.model.late.windows == (3,)
    assert (settings.model.trunk.dim, settings.model.ranker.hidden, settings.protocol.max_epochs) == (
        12,
        (8,),
        1,
    )
    said = complaint(capsys, 2, *words[:-2], tmp_path / "other", "--ranker", "din")
    assert "cannot go on from" in said and "model.ranker.kind" in said
    assert "ebr is none" in complaint(capsys, 2, *words[:-2], tmp_path / "other", "--ranker", "ebr")
