"""Commands as people type them, and what they say."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cyclopts import App

from plait.cli import main
from plait.cli.app import app
from plait.data import Dataset
from plait.evaluation.run_files import load_answers, load_result

SHORT = (
    "--model.trunk.dim", 12, "--model.trunk.num-layers", 1, "--protocol.max-epochs", 2, "--protocol.max-events", 11,
)  # fmt: skip
SMALL = (*SHORT, "--model.counts", "none", "--model.retrieval.item-bias", "none")  # the defaults of Python
COLUMNS = ("--user", "user", "--item", "item", "--time", "time")
ACTIONS = ("--action", "rating:regression:1:5", "--action", "liked:binary")
Capture = pytest.CaptureFixture[str]


def plait(*words: object) -> int:
    return main([str(word) for word in words])


def complaint(capsys: Capture, code: int, *words: object) -> str:
    """What a command that fails with `code` says: one message on stderr, after what was told before, no traceback."""
    capsys.readouterr()
    found = plait(*words)
    said = capsys.readouterr().err
    assert found == code, said
    _, mark, message = said.partition("plait: ")
    assert re.match(r"\S", message) and mark not in message and "Traceback" not in said, said
    return mark + message


def said_by(capsys: Capture, *words: object) -> str:
    """The answer of a command that works."""
    return heard_of(capsys, *words)[0]


def told_by(capsys: Capture, *words: object) -> str:
    """What a command that works tells on the way to its answer."""
    return heard_of(capsys, *words)[1]


def heard_of(capsys: Capture, *words: object) -> tuple[str, str]:
    """The answer of a command that works, and what was told on the way to it."""
    capsys.readouterr()
    code = plait(*words)
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out, said.err


def prepared_by(log: pl.DataFrame, out: Path, *more: object, suffix: str = "parquet") -> int:
    file = out.with_name(f"{out.name}-log.{suffix}")
    getattr(log, f"write_{suffix}")(file)
    return plait("data", "prepare", file, *COLUMNS, *ACTIONS, "--min-item-events", 1, "--out", out, *more)


def train(dataset: Path | Dataset, out: Path, *more: object) -> tuple[object, ...]:
    folder = dataset.folder if isinstance(dataset, Dataset) else dataset
    return ("train", folder, "--layout", "lac", "--out", out, *SMALL, *more)


def table_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()][1:]


def numbered(log: pl.DataFrame) -> pl.DataFrame:
    return log.with_columns(pl.col("user").str.slice(1).cast(pl.Int64))


def outcome(run: Path) -> tuple[Any, ...]:
    """What a run found, without what it cost: equal for equal trainings, bit for bit."""
    result = load_result(run)
    answers = load_answers(run, result.actions)
    assert answers.rank_Q is not None
    losses = [row["loss"] for row in result.curve]
    predicted = {name: value.tobytes() for name, value in answers.predicted.items()}
    return result.settings, result.epochs, result.best_epoch, losses, answers.rank_Q.tobytes(), predicted


def commands(app: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command with the words that lead to it."""
    for name in app:
        if not name.startswith("-"):
            yield (*path, name), app[name]
            yield from commands(app[name], (*path, name))
