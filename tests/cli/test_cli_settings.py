"""Settings from a file: read, overridden, and refused where they mean nothing."""

import inspect
from pathlib import Path

import pytest
from words import Capture, commands, complaint, plait, train

from plait.cli import settings, verbs
from plait.data import Dataset
from plait.training.run import load_result


def config(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_no_section_is_named_like_a_command() -> None:
    """cyclopts drops a section with a command's name without a word."""
    names = {name for path, _ in commands() for name in path}
    assert names >= {"train", "compare", "data"}
    assert not names & set(settings.SECTIONS)
    parameters = inspect.signature(verbs.train).parameters
    assert set(settings.SECTIONS) <= set(parameters)


@pytest.mark.parametrize("name", ["train", "compare", "data"])
def test_a_section_named_like_a_command_is_not_dropped(
    name: str, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    path = config(tmp_path, f"[{name}]\nlearning_rate = 0.1\n")
    assert f"'{name}' is not one of its sections" in complaint(
        capsys, 2, *train(dataset, tmp_path / "out", "--config", path)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optm]\nlearning_rate = 1.0", "did you mean 'optim'"),
        ("[optim]\nlearning_rat = 1.0", "Did you mean --optim.learning-rate"),
        ("[model.trunk]\ndimm = 8", "Did you mean --model.trunk.dim"),
        ('[optim]\nlearning_rate = "fast"', '"fast"'),
        ("[protocol]\nmax_epochs = 2.5", "[protocol][max_epochs] 2.5: expected a whole number"),
        ("optim = 3", "expected a section [optim]"),
        ('layout = "pc"', "command line"),
        ("[optim\n", "not TOML"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    text: str, message: str, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    words = ("train", dataset.folder, "--layout", "lac", "--config", config(tmp_path, text))
    words = (*words, "--out", tmp_path / "out")
    assert message in complaint(capsys, 2, *words)
    assert not (tmp_path / "out").exists()


def test_a_settings_file_that_is_not_there(dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    said = complaint(capsys, 2, *train(dataset, tmp_path / "out", "--config", tmp_path / "none.toml"))
    assert "No such file" in said


def test_settings_of_verbs_without_settings_are_refused(tmp_path: Path, capsys: Capture) -> None:
    path = config(tmp_path, "[optim]\nlearning_rate = 0.5\n")
    assert "Unknown option" in complaint(capsys, 2, "data", "list", "--config", path)


def test_a_settings_file_is_read_overridden_and_forgotten(dataset: Dataset, tmp_path: Path) -> None:
    text = (
        "[model.trunk]\ndim = 8\n[optim]\nlearning_rate = 0.5\nwarmup_steps = 7\n[protocol]\nmax_epochs = 1\n"
    )
    words = ("train", dataset.folder, "--layout", "item", "--config", config(tmp_path, text))
    assert plait(*words, "--optim.warmup-steps", 3, "--out", tmp_path / "first") == 0
    used = load_result(tmp_path / "first").settings
    assert (used.model.trunk.dim, used.optim.learning_rate, used.optim.warmup_steps) == (8, 0.5, 3)
    assert plait(*train(dataset, tmp_path / "second")) == 0
    assert load_result(tmp_path / "second").settings.optim.learning_rate == 1e-3
