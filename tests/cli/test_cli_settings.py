"""Settings from a file: read, overridden, and refused where they mean nothing."""

import inspect
from pathlib import Path
from typing import get_args

import pytest
from tiny import random_log
from words import COLUMNS, Capture, commands, complaint, plait, train

from plait.cli import train as train_verb
from plait.cli.data.prepare import prepare
from plait.cli.sections import SECTIONS
from plait.cli.verb_settings import VerbModelSettings, model_of_verb
from plait.data import Dataset, Temporal
from plait.evaluation.run_files import load_result
from plait.nn.config import TrunkConfig, TrunkKind, trunk_of_size


def config(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_no_section_is_named_like_a_command() -> None:
    """cyclopts drops a section with a command's name without a word."""
    names = {name for path, _ in commands() for name in path}
    assert names >= {"train", "compare", "data"}
    assert not names & set(SECTIONS)
    keys = inspect.signature(prepare).parameters
    assert not names & set(keys), "keys of [dataset] are options of the verb, and dropped likewise"
    assert set(SECTIONS) - {"dataset"} <= set(inspect.signature(train_verb.train).parameters)


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
        ("[optim]\nlearning_rat = 1.0", "[optim] has no key 'learning_rat'; did you mean 'learning_rate'"),
        ("[model.trunk]\ndimm = 8", "[model.trunk] has no key 'dimm'; did you mean 'dim'"),
        ('[optim]\nlearning_rate = "fast"', '"fast"'),
        ("[protocol]\nmax_epochs = 2.5", "[protocol][max_epochs] 2.5: expected a whole number"),
        ("optim = 3", "expected a section [optim]"),
        ('layout = "pc"', "command line"),
        ('[dataset]\nusr = "user"', "[dataset] has no key 'usr'; did you mean 'user'"),
        ("[dataset]\ntrain = 1", "[dataset] has no key 'train'; its keys are user, item, time"),
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
    said = complaint(capsys, 2, "data", "list", "--config", path)
    assert "`plait data list` reads no settings from a file" in said
    said = complaint(capsys, 2, "recommend", tmp_path, "--user", "u00", "--config", path)
    assert "`plait recommend` reads no settings from a file" in said


@pytest.mark.parametrize(
    ("layout", "option", "value"),
    [
        ("attn_mvp", "model.trunk.ride-weight", "nan"),
        ("attn_mvp", "model.trunk.ride-weight", "-1"),
        ("lac", "optim.weight-decay", "-0.1"),
        ("lac", "optim.warmup-steps", "-3"),
        ("lac", "optim.learning-rate", "inf"),
        ("lac", "model.retrieval-weight", "-1"),
        ("lac", "model.action-weights.liked", "nan"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    layout: str, option: str, value: str, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    words = ("train", dataset.folder, "--layout", layout, "--out", tmp_path / "out", f"--{option}={value}")
    said = complaint(capsys, 2, *words)
    assert said.startswith(f"plait: --{option} ") and "expected a number" in said
    assert not (tmp_path / "out").exists()


WHOLE = """
[dataset]
user = "user"
item = "item"
time = "time"
action = ["rating:regression:1:5", "liked:binary"]
min_item_events = 2
temporal = [0.1, 0.2]
[model.trunk]
dim = 8
[optim]
warmup_steps = 7
[protocol]
max_epochs = 1
"""


def test_one_file_serves_preparing_training_and_comparing(tmp_path: Path) -> None:
    random_log().write_parquet(tmp_path / "log.parquet")
    path = config(tmp_path, WHOLE)
    words = ("data", "prepare", tmp_path / "log.parquet", "--out", tmp_path / "data", "--config", path)
    assert plait(*words, "--min-item-events", 1) == 0
    used = Dataset.open(tmp_path / "data").manifest.settings
    assert (used.min_item_events, used.split) == (1, Temporal(validation=0.1, test=0.2))
    assert [action.name for action in used.actions] == ["rating", "liked"]
    words = ("train", tmp_path / "data", "--layout", "item", "--out", tmp_path / "run", "--config", path)
    assert plait(*words) == 0
    found = load_result(tmp_path / "run").settings
    assert (found.model.trunk.dim, found.optim.warmup_steps, found.protocol.max_epochs) == (8, 7, 1)


def test_the_trunk_has_a_short_name(dataset: Dataset, tmp_path: Path) -> None:
    path = config(tmp_path, '[model.trunk]\nkind = "gpt"\ndim = 8')
    words = ("train", dataset.folder, "--layout", "item", "--protocol.max-epochs", 1, "--config", path)
    for kind in get_args(TrunkKind):
        assert plait(*words, "--trunk", kind, "--out", tmp_path / kind) == 0
        used = load_result(tmp_path / kind).settings.model.trunk
        assert (used.kind, used.dim) == (kind, 8)


def test_a_size_with_a_name(dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    words = (
        "train",
        dataset.folder,
        "--layout",
        "item",
        "--protocol.max-epochs",
        1,
        "--out",
        tmp_path / "run",
    )
    told = complaint(capsys, 2, *words, "--size", "85m", "--model.trunk.dim", 8)
    assert "--size 85m decides width, blocks and heads" in told and "--model.trunk.dim 8" in told
    assert not (tmp_path / "run").exists()
    assert plait(*words, "--size", "tiny") == 0
    assert load_result(tmp_path / "run").settings.model.trunk == TrunkConfig()
    assert model_of_verb(VerbModelSettings(), "hstu", "300m").trunk == trunk_of_size(
        TrunkConfig(kind="hstu"), "300m"
    )


@pytest.mark.parametrize("text", ["[optim]\nlearning_rat = 1.0", "[model.trunk]\ndimm = 8", "[optm]\nx = 1"])
def test_keys_of_sections_that_a_verb_does_not_read_are_checked(
    text: str, tmp_path: Path, capsys: Capture
) -> None:
    random_log().write_parquet(tmp_path / "log.parquet")
    path = config(tmp_path, text)
    words = (
        "data",
        "prepare",
        tmp_path / "log.parquet",
        *COLUMNS,
        "--out",
        tmp_path / "out",
        "--config",
        path,
    )
    assert "did you mean" in complaint(capsys, 2, *words)
    assert not (tmp_path / "out").exists()
    path.write_text("[optim]\nlearning_rate = 1.0")
    assert plait(*words) == 0


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
