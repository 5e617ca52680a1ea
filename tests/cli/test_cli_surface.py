"""The verbs, their help and their mistakes; what a terminal shows and a log does not."""

import importlib.metadata
import inspect
import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from cyclopts import App, CycloptsError
from rich.console import Console
from tiny import prepared, random_log
from words import COLUMNS, Capture, commands, complaint, heard_of, plait, said_by, train

from plait.cli import train as train_verb
from plait.cli.app import app
from plait.data import Dataset

VERBS = {" ".join(path): command for path, command in commands() if command.default_command}


def example_of(command: App) -> list[str]:
    text = inspect.getdoc(command.default_command) or ""
    found = re.search(r"^Example: plait (.+?)(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"no example: {text}"
    return shlex.split(found[1].replace("\n", " "))


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_that_parses(verb: str, capsys: Capture) -> None:
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", said_by(capsys, *verb.split(), "--help")).split())
    assert f"Example: plait {verb}" in shown
    command, _, _ = app.parse_args(example_of(VERBS[verb]), exit_on_error=False, print_error=False)
    assert command is VERBS[verb].default_command


WRITING = {
    "data prepare": lambda data: (data.parent / "log.parquet", *COLUMNS),
    "data shown": lambda data: ("answers", "--run", "run"),
    "simulate": lambda data: ("--toy",),
    "train": lambda data: (data, "--layout", "item"),
    "rank train": lambda data: (data, "--ranker", "din"),
    "compare": lambda data: (data, "--layouts", "item"),
    "study": lambda data: ("lac-table-1", "--quick"),
    "recommend": lambda data: ("run", "--users", "all"),
    "score": lambda data: ("run", "--pairs", "pairs.csv"),
    "bench serve": lambda data: ("run",),
    "export": lambda data: ("run",),
    "lum pretrain": lambda data: (data,),
    "lum query": lambda data: ("run", "--condition", "scenario=home"),
}


def test_every_verb_that_writes_is_tried_below() -> None:
    takes_out = {
        verb
        for verb, command in VERBS.items()
        if "out" in inspect.signature(command.default_command).parameters
    }
    assert takes_out == set(WRITING)


@pytest.mark.parametrize("verb", WRITING)
def test_a_prepared_datasets_folder_is_no_place_for_anything_else(
    verb: str, tmp_path: Path, capsys: Capture
) -> None:
    random_log().write_parquet(tmp_path / "log.parquet")
    data = prepared(random_log(), tmp_path / "data").folder
    before = {file.name: file.read_bytes() for file in data.iterdir()}
    said = complaint(capsys, 2, *verb.split(), *WRITING[verb](data), "--out", data)
    assert f"{data} holds a prepared dataset" in said
    assert {file.name: file.read_bytes() for file in data.iterdir()} == before
    assert {file.name for file in tmp_path.iterdir()} == {"log.parquet", "data"}


def test_an_example_that_does_not_parse_is_seen() -> None:
    assert len(VERBS) >= 10
    words = [word.replace("--layout", "--layuot") for word in example_of(VERBS["train"])]
    with pytest.raises(CycloptsError):
        app.parse_args(words, exit_on_error=False, print_error=False)


def test_version_and_the_bare_command(capsys: Capture) -> None:
    assert said_by(capsys, "--version").strip() == importlib.metadata.version("plait")
    assert "compare" in said_by(capsys)


def test_layouts_are_listed_and_explained(capsys: Capture) -> None:
    table = said_by(capsys, "layouts")
    assert "(i[t], a[t-1]) -> (i[t+1], a[t])" in table and "lac_patched" in table
    shown = said_by(capsys, "layouts", "show", "i[t] -> a[t]; a[t] -> i[t+1]")
    assert "interleaved: i[t] -> a[t]; a[t] -> i[t+1]" in shown and "■" in shown


def test_datasets_are_listed(capsys: Capture) -> None:
    assert {"ml-100k", "complete-journey"} <= {
        line.split()[0] for line in said_by(capsys, "data", "list").splitlines()
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), 'Did you mean "train"'),
        (("train", "{data}", "--layuot", "lac", "--out", "{out}"), "Did you mean --layout"),
        (("train", "{data}", "--layout", "lca", "--out", "{out}"), "did you mean 'lac'"),
        (("compare", "{data}", "--layouts", "item,interleavd", "--out", "{out}"), "did you mean 'interleaved'"),
        (("layouts", "show", "iten"), "did you mean 'item'"),
        (("layouts", "show", "i[t] => i[t+1]"), "expected"),
        (("layouts", "show", "i[t] -> i[t]"), "leaks"),
        (("train", "ml-100", "--layout", "lac", "--out", "{out}"), "did you mean 'ml-100k'"),
        (("train", "{data}x", "--layout", "lac", "--out", "{out}"), "did you mean the folder '{data}'"),
        (("train", "nothing", "--layout", "lac", "--out", "{out}"), "`plait data list` shows those there are"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--device", "gpu"), '"cuda"'),
        (("data", "get", "ml-10m"), "did you mean 'ml-1"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--optim.schedule", "cosin"), '"cosine"'),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.max-epoch", "3"), "mean --protocol.max-"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.max-epochs", "2.5"), "whole number"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.negatives", "2.5"), "whole number"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.max-epochs", "0"), "from 1 to"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.seed", "-1"), "from 0"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.select", "ndgc@"), "METRIC"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--model.trunk.num-heads", "3"), "num-heads 3"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--model.action-weights.ratin", "2"), "'ratin'"),
        (("train", "{data}", "--layout", "lac"), "--out"),
        (("compare", "{data}", "--layouts", "item,item", "--out", "{out}"), "twice"),
        (("compare", "{data}", "--layouts", "item,", "--out", "{out}"), "--layouts 'item,': one of 2 layouts is empty"),
        (("compare", "{data}", "--layouts", "", "--out", "{out}"), "one of 1 layouts is empty"),
        (("recommend", "{out}", "--user", "-x1", "-k", "3"), "If it is to be -x1, write --user=-x1"),
        (("score", "{out}", "--user", "u00", "--items", "-a,b"), "If it is to be -a,b, write --items=-a,b"),
        (("train", "{data}", "--layout", "lac", "--out", "{data}"), "holds a prepared dataset; name another folder"),
        (("compare", "{data}", "--layouts", "lac", "--out", "{data}"), "holds a prepared dataset; name another folder"),
        (("train", "{data}", "--layout", "lac", "--out", "{data}/manifest.json"), "manifest.json is a file; name a"),
        (("compare", "{data}", "--layouts", "lac", "--out", "{data}/manifest.json/new"), "manifest.json is a file"),
        (("compare", "{data}", "--layouts", "item", "--seeds", "0", "--out", "{out}"), "--seeds 0: expected a number"),
        (("evaluate", "{out}"), "no finished run"),
        (("recommend", "{out}", "--user", "u00"), "no finished run"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_and_leaves_nothing(
    words: tuple[str, ...], message: str, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    message = message.replace("{data}", str(dataset.folder))
    assert message in complaint(capsys, 2, *(word.format(data=dataset.folder, out=out) for word in words))
    for folder in (out, dataset.folder):
        assert not (folder / "result.json").exists() and not (folder / "runs").exists()


def test_a_terminal_shows_a_bar_with_speed_and_time_left(
    dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(train_verb, "progress_console", lambda quiet: terminal)
    assert plait(*train(dataset, tmp_path / "run", "--optim.users-per-step", 3)) == 0
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "\x1b" in shown
    assert re.search(r"training \S+ 100 % of the cap, [\d,]+ tokens/s, 0:\d\d:\d\d elapsed", plain)
    assert "epoch   2" in plain


def test_the_watch_is_told_the_share_of_the_cap(dataset: Dataset, tmp_path: Path) -> None:
    import plait as library

    told: list[tuple[float, float]] = []
    library.fit(
        dataset,
        "item",
        protocol=library.Protocol(max_epochs=2, max_events=11),
        optim=library.Optim(users_per_step=6),
        out=tmp_path,
        report=lambda line: None,
        watch=lambda share, speed: told.append((share, speed)),
    )
    shares = np.array([share for share, _ in told])
    np.testing.assert_allclose(shares, np.arange(1, len(told) + 1) / len(told))
    assert len(told) == 8 and all(speed > 0 for _, speed in told)


def test_elsewhere_lines_are_plain(run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    said = "".join(heard_of(capsys, *train(dataset, tmp_path / "run")))
    said += said_by(capsys, "layouts") + said_by(capsys, "evaluate", run)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)
    assert "epoch   2  loss" in said
