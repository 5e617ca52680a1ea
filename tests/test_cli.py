"""The command line as people meet it: what works, what is said when it does not, and what is left behind."""

import importlib.metadata
import inspect
import io
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from cyclopts import App, CycloptsError
from rich.console import Console
from tiny import random_log

from plait.cli import answering, main, settings, verbs
from plait.data import Dataset
from plait.training import loop
from plait.training.run import load_answers, load_result

SMALL = (
    "--model.trunk.dim", 12, "--model.trunk.num-layers", 1, "--protocol.max-epochs", 2, "--protocol.max-events", 11,
)  # fmt: skip
COLUMNS = ("--user", "user", "--item", "item", "--time", "time")
ACTIONS = ("--action", "rating:regression:1:5", "--action", "liked:binary")
Capture = pytest.CaptureFixture[str]


def plait(*words: object) -> int:
    return main([str(word) for word in words])


def complaint(capsys: Capture, code: int, *words: object) -> str:
    """What a command that fails with `code` says: one message on stderr, no traceback."""
    capsys.readouterr()
    found = plait(*words)
    said = capsys.readouterr().err
    assert found == code, said
    assert re.match(r"plait: \S", said) and said.count("plait: ") == 1 and "Traceback" not in said, said
    return said


def said_by(capsys: Capture, *words: object) -> str:
    """What a command that works prints."""
    capsys.readouterr()
    code = plait(*words)
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


def prepared_by(log: pl.DataFrame, out: Path, *more: object, suffix: str = "parquet") -> int:
    file = out.with_name(f"{out.name}-log.{suffix}")
    getattr(log, f"write_{suffix}")(file)
    return plait("data", "prepare", file, *COLUMNS, *ACTIONS, "--min-item-events", 1, "--out", out, *more)


def train(dataset: Path | Dataset, out: Path, *more: object) -> tuple[object, ...]:
    folder = dataset.folder if isinstance(dataset, Dataset) else dataset
    return ("train", folder, "--layout", "lac", "--out", out, *SMALL, *more)


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `lac`; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "lac"
    assert plait(*train(dataset, out)) == 0
    return out


# --- the surface ---------------------------------------------------------------------------------------------


def commands(app: App = verbs.app, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    for name in app:
        if not name.startswith("-"):
            yield (*path, name), app[name]
            yield from commands(app[name], (*path, name))


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
    command, _, _ = verbs.app.parse_args(example_of(VERBS[verb]), exit_on_error=False, print_error=False)
    assert command is VERBS[verb].default_command


def test_an_example_that_does_not_parse_is_seen() -> None:
    assert len(VERBS) >= 10
    words = [word.replace("--layout", "--layuot") for word in example_of(VERBS["train"])]
    with pytest.raises(CycloptsError):
        verbs.app.parse_args(words, exit_on_error=False, print_error=False)


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
        (("data", "get", "ml-10m"), "did you mean 'ml-1"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--optim.schedule", "cosin"), '"cosine"'),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.max-epoch", "3"), "mean --protocol.max-"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.max-epochs", "2.5"), "whole number"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.max-epochs", "0"), "above 0"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--protocol.select", "ndgc@"), "METRIC"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--model.trunk.num-heads", "3"), "equal heads"),
        (("train", "{data}", "--layout", "lac", "--out", "{out}", "--model.action-weights.ratin", "2"), "'ratin'"),
        (("train", "{data}", "--layout", "lac"), "--out"),
        (("compare", "{data}", "--layouts", "item,item", "--out", "{out}"), "twice"),
        (("compare", "{data}", "--layouts", "item", "--seeds", "0", "--out", "{out}"), "at least 1"),
        (("evaluate", "{out}"), "no finished run"),
        (("recommend", "{out}", "--user", "u00"), "no finished run"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_and_leaves_nothing(
    words: tuple[str, ...], message: str, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert message in complaint(capsys, 2, *(word.format(data=dataset.folder, out=out) for word in words))
    assert not (out / "result.json").exists() and not (out / "runs").exists()


# --- settings from a file ------------------------------------------------------------------------------------


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


# --- logs that are not as they should be ---------------------------------------------------------------------


def changed(column: str, value: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """The tiny log with one value of the column's third row changed."""

    def change(log: pl.DataFrame) -> pl.DataFrame:
        values = log[column].to_list()
        values[2] = value
        return log.with_columns(pl.Series(column, values, strict=False))

    return change


def numbered(log: pl.DataFrame) -> pl.DataFrame:
    return log.with_columns(pl.col("user").str.slice(1).cast(pl.Int64))


BAD_LOGS: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "missing column": (lambda log: log.rename({"item": "itm"}), "did you mean 'itm'"),
    "wrong type": (lambda log: log.with_columns(pl.col("time").cast(pl.String) + "?"), "time is not a time"),
    "wrong type of an action": (lambda log: log.with_columns(pl.lit("x").alias("rating")), "not a number"),
    "ids of a wrong type": (lambda log: log.with_columns(pl.lit([1]).alias("user")), "column 'user' holds"),
    "null user": (changed("user", None), "user is missing: 1 rows, e.g. row 3"),
    "null item": (changed("item", None), "item is missing: 1 rows, e.g. row 3"),
    "negative user": (lambda log: changed("user", -4)(numbered(log)), "user is negative: 1 rows, e.g. row 3"),
    "NaN time": (
        lambda log: changed("time", float("nan"))(log.with_columns(pl.col("time").cast(pl.Float64))),
        "time is missing",
    ),
    "future time": (changed("time", 4_000_000_000), "time is in the future"),
    "milliseconds as seconds": (lambda log: log.with_columns(pl.col("time") + 1_500_000_000_000), "'ms'"),
    "rating out of range": (changed("rating", 11.0), "rating is outside 1 to 5: 1 rows, e.g. row 3"),
    "binary that is neither": (changed("liked", 0.5), "liked is neither 0 nor 1"),
    "no rows": (lambda log: log.head(0), "no rows"),
    "one event each": (lambda log: log.unique("user", keep="first"), "no events left"),
}


@pytest.mark.parametrize("bad", BAD_LOGS)
def test_a_bad_log_stops_with_the_reason_and_no_folder(bad: str, tmp_path: Path, capsys: Capture) -> None:
    change, message = BAD_LOGS[bad]
    change(random_log()).write_parquet(tmp_path / "log.parquet")
    words = ("data", "prepare", tmp_path / "log.parquet", *COLUMNS, *ACTIONS, "--out", tmp_path / "out")
    assert message in complaint(capsys, 2, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["log.parquet"], "something half-made was left"


def test_the_log_itself_is_good(tmp_path: Path) -> None:
    """Without the one change, every case above would pass."""
    assert prepared_by(random_log(), tmp_path / "out") == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.parquet", b"", "is empty"),
        ("log.csv", b"", "is empty"),
        ("log.csv", b"user,item,time,rating,liked\n", "no rows"),
        ("log.parquet", None, "cannot be read"),  # a whole one, cut
        ("log.xlsx", b"x", "expected a file ending in"),
    ],
)
def test_a_file_that_is_no_log(
    name: str, content: bytes | None, message: str, tmp_path: Path, capsys: Capture
) -> None:
    if content is None:
        random_log().write_parquet(tmp_path / "whole")
        content = (tmp_path / "whole").read_bytes()[:-200]
        (tmp_path / "whole").unlink()
    (tmp_path / name).write_bytes(content)
    words = ("data", "prepare", tmp_path / name, *COLUMNS, *ACTIONS, "--out", tmp_path / "out")
    assert message in complaint(capsys, 2, *words)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--action", "rating:regresion:1:5"), "did you mean 'regression'"),
        (("--action", "rating:regression:5:1"), "low must be below high"),
        (("--action", "rating:binary", "--action", "rating:amount"), "more than once"),
        (("--temporal", "0.6", "0.5"), "leave something to train on"),
        (("--time-unit", "us"), '"ms"'),
    ],
)
def test_settings_of_preparation_that_do_not_fit(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: Capture
) -> None:
    random_log().write_parquet(tmp_path / "log.parquet")
    command = ("data", "prepare", tmp_path / "log.parquet", *COLUMNS, "--out", tmp_path / "out", *words)
    assert message in complaint(capsys, 2, *command)
    assert not (tmp_path / "out").exists()


def test_bad_rows_can_be_set_aside(tmp_path: Path, capsys: Capture) -> None:
    bad = changed("rating", 11.0)(random_log())
    assert prepared_by(bad, tmp_path / "out", "--on-bad-row", "reject") == 0
    assert "1 rating is outside 1 to 5" in capsys.readouterr().out
    rejects = pl.read_parquet(tmp_path / "out" / "rejects.parquet")
    assert rejects["rating"].to_list() == [11.0] and rejects["reject_row"].to_list() == [3]


def test_users_with_one_event_and_duplicates_are_counted(tmp_path: Path, capsys: Capture) -> None:
    log = random_log()
    alone = log.head(1).with_columns(user=pl.lit("alone"))
    log = pl.concat([log, log.slice(4, 1), alone])
    assert prepared_by(log, tmp_path / "kept") == 0
    said = capsys.readouterr().out
    assert f"{len(log)} rows read, left out: 1 of users with a single event\n" in said
    assert "1 rows repeat a user's item and time and were kept" in said
    assert prepared_by(log, tmp_path / "dropped", "--deduplicate") == 0
    said = capsys.readouterr().out
    assert (
        "1 repeat a user's item and time; 1 of users with a single event" in said and "were kept" not in said
    )
    kept, dropped = (Dataset.open(tmp_path / name).manifest.counts.events for name in ("kept", "dropped"))
    assert kept == dropped + 1


@pytest.mark.parametrize("temporal", [False, True])
def test_an_item_that_training_never_saw_is_ranked(temporal: bool, tmp_path: Path, capsys: Capture) -> None:
    log = random_log()
    last = log["time"] == log["time"].max()
    log = log.with_columns(item=pl.when(last).then(pl.lit("cold")).otherwise("item"))
    split = ("--temporal", 0.1, 0.2) if temporal else ()
    assert prepared_by(log, tmp_path / "data", *split) == 0
    data = Dataset.open(tmp_path / "data")
    (cold,) = data.item_index(["cold"])
    assert data.train_item_counts()[cold] == 0, "the item is not cold, so this proves nothing"
    assert "hr@10" in said_by(capsys, *train(data, tmp_path / "run"))
    answers = load_answers(tmp_path / "run", data.actions)
    assert answers.rank_Q is not None
    assert 1 <= int(answers.rank_Q[answers.item_Q == cold].item()) <= data.num_items


def test_datasets_that_are_not_whole(dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    def copy() -> Path:
        folder = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for file in dataset.folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    other = copy()
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"format_version": 999}))
    cut = copy()
    (cut / "item.npy").write_bytes((dataset.folder / "item.npy").read_bytes()[:-8])
    gone = copy()
    (gone / "users.parquet").unlink()
    garbled = copy()
    (garbled / "manifest.json").write_text("{")
    log = tmp_path / "log.csv"
    random_log().write_csv(log)
    for folder, message in (
        (other, "format version 999"),
        (cut, "bytes instead of"),
        (gone, "users.parquet is missing"),
        (garbled, "damaged"),
        (log, "not a prepared dataset"),
    ):
        assert message in complaint(capsys, 2, *train(folder, tmp_path / "out"))
        assert not (tmp_path / "out").exists()
    assert plait(*train(copy(), tmp_path / "out")) == 0, "a whole copy must work"


# --- recommend and score -------------------------------------------------------------------------------------


def table_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()][1:]


def test_a_finished_run_recommends_and_scores(run: Path, dataset: Dataset, capsys: Capture) -> None:
    rows = table_of(said_by(capsys, "recommend", run, "--user", "u03", "-k", 4))
    items = [item for item, _, _ in rows]
    history = dataset.history(dataset.user_index("u03"))
    seen = set(dataset.item_ids().gather(history.item_E - 1))
    assert len(set(items)) == 4 and not seen & set(items)
    assert [rank for _, rank, _ in rows] == ["1", "2", "3", "4"]
    rows = table_of(said_by(capsys, "score", run, "--user", "u03", "--items", "i05, i02"))
    assert [row[0] for row in rows] == ["i05", "i02"]
    assert all(1 <= float(rating) <= 5 and 0 <= float(liked) <= 1 for _, rating, liked in rows)
    assert "hr@10" in said_by(capsys, "evaluate", run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recommend", "--user", "u99"), "no user 'u99'"),
        (("recommend", "--user", "u00", "-k", "99"), "k = 99"),
        (("score", "--user", "u00", "--items", "i05,i99"), "'i99'"),
        (("recommend", "--user", "u00", "--dataset", "none"), "'none' is no folder"),
    ],
)
def test_questions_without_an_answer(
    words: tuple[str, ...], message: str, run: Path, capsys: Capture
) -> None:
    verb, *rest = words
    assert message in complaint(capsys, 2, verb, run, *rest)


def renumbered(tmp_path: Path) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """Recommendations from the trained dataset and from one that holds the same history of u05, but numbers users
    and items otherwise; both without items that only the second knows."""
    assert prepared_by(random_log(), tmp_path / "data") == 0
    more = pl.DataFrame({"user": ["a"] * 6, "item": [f"a{n}" for n in range(6)], "time": range(6)})
    more = more.with_columns(rating=pl.lit(3.0, pl.Float32), liked=pl.lit(1.0, pl.Float32))
    assert prepared_by(pl.concat([random_log(), more]), tmp_path / "more") == 0
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
    monkeypatch.setattr(answering, "_in_items_of", lambda model, data, events: events)  # the mutant
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
    assert "whole numbers" in complaint(capsys, 2, "recommend", tmp_path / "run", "--user", "u05")
    assert said_by(capsys, "recommend", tmp_path / "run", "--user", 5, "-k", 3)


# --- trouble on the way --------------------------------------------------------------------------------------


def outcome(run: Path) -> tuple[Any, ...]:
    """What a run found, without what it cost: equal for equal trainings, bit for bit."""
    result = load_result(run)
    answers = load_answers(run, result.actions)
    assert answers.rank_Q is not None
    losses = [row["loss"] for row in result.curve]
    predicted = {name: value.tobytes() for name, value in answers.predicted.items()}
    return result.settings, result.epochs, result.best_epoch, losses, answers.rank_Q.tobytes(), predicted


def failing(call: Callable[..., Any], nth: int) -> Callable[..., Any]:
    """`call`, but the nth time there is no space left on the device."""
    count = iter(range(1, 1000))

    def fail(*arguments: Any) -> Any:
        if next(count) == nth:
            raise OSError(28, "No space left on device")
        return call(*arguments)

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_at_any_write_loses_nothing(
    call: str, run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = 0
    for nth in range(1, 30):
        out = tmp_path / f"run{nth}"
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(getattr(os, call), nth))
            code = plait(*train(dataset, out))
        said = capsys.readouterr().err
        if code:
            failures += 1
            assert code == 1 and "No space left on device" in said and "Traceback" not in said
            assert not list(out.rglob("*.tmp"))
            assert "no finished run" in complaint(capsys, 2, "evaluate", out)
            assert plait(*train(dataset, out)) == 0
        assert outcome(out) == outcome(run)
        if not code:
            break
    assert failures >= 5, "the full disk was met too seldom to prove anything"


def test_a_disk_that_takes_no_large_file(
    run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    """Real failing writes: of torch's checkpoint, of safetensors, of polars."""
    sizes = {path.name: path.stat().st_size for path in run.rglob("*") if path.is_file()}
    weights = sizes["model.safetensors"]
    assert weights > 5000
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limited(limit: int, *words: object) -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            return complaint(capsys, 1, *words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    assert "checkpoint.pt" in limited(weights + 100, *train(dataset, tmp_path / "run"))
    assert plait(*train(dataset, tmp_path / "run")) == 0
    assert outcome(tmp_path / "run") == outcome(run)
    random_log().write_parquet(tmp_path / "log.parquet")
    words = ("data", "prepare", tmp_path / "log.parquet", *COLUMNS, *ACTIONS, "--out", tmp_path / "data")
    assert "nothing of it was kept" in limited(600, *words)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "log.parquet"}
    assert plait(*words) == 0


def test_weights_that_cannot_be_written(run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    (out / "model" / "model.safetensors").mkdir(parents=True)  # where the file should go
    assert "model.safetensors" in complaint(capsys, 1, *train(dataset, out))
    (out / "model" / "model.safetensors").rmdir()
    assert plait(*train(dataset, out)) == 0
    assert outcome(out) == outcome(run)


KILLED = """
import os, signal, sys
from plait.cli import main
from plait.training import loop

loop.CHECKPOINT_EVERY_S = 0.0
save = loop._Run.save

def save_and_die(run):
    save(run)
    if run.progress.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)

loop._Run.save = save_and_die
main(sys.argv[1:])
"""


def test_a_killed_training_goes_on(run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    words = [str(word) for word in train(dataset, tmp_path / "run")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "resumed from epoch 1" in said_by(capsys, *words)
    assert outcome(tmp_path / "run") == outcome(run)


def test_an_interrupted_training_goes_on(
    run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = loop._Run._validate

    def interrupted(self: Any) -> None:
        validate(self)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_validate", interrupted)
        assert "interrupted" in complaint(capsys, 130, *train(dataset, tmp_path / "run"))
    assert plait(*train(dataset, tmp_path / "run")) == 0
    assert outcome(tmp_path / "run") == outcome(run)


def test_a_training_that_diverges_names_the_batch(dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    words = train(dataset, tmp_path / "run", "--optim.learning-rate", "1e9", "--optim.warmup-steps", 1)
    said = complaint(capsys, 1, *words)
    assert re.search(r"epoch \d+, step 1 of 1, dense users \[\d+", said) and "optim.learning_rate" in said
    assert "no finished run" in complaint(capsys, 2, "evaluate", tmp_path / "run")


def test_a_folder_with_a_run_of_other_settings(run: Path, dataset: Dataset, capsys: Capture) -> None:
    before = outcome(run)
    assert "of other settings" in complaint(capsys, 2, *train(dataset, run, "--optim.learning-rate", 0.5))
    assert outcome(run) == before


# --- compare -------------------------------------------------------------------------------------------------

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
    said = said_by(capsys, *comparing(dataset, tmp_path / "out"))
    assert said.count("epoch   1 ") == 2, "a finished run was trained again"
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    rows = rows_of(tmp_path / "out")
    assert [(row["layout"], row["seed"]) for row in rows] == [
        (name, seed) for seed in (3, 4) for name in NAMES
    ]
    assert said_by(capsys, *comparing(dataset, tmp_path / "whole"))
    assert [row["metrics"] for row in rows] == [row["metrics"] for row in rows_of(tmp_path / "whole")]
    assert_self_contained((tmp_path / "out" / "report.html").read_text())
    assert "NDCG@10" in said and f"page: {tmp_path / 'out' / 'report.html'}" in said


def loads_elsewhere(page: str) -> list[str]:
    """What a browser would fetch for a page."""
    place = r"(?:\bsrc|\bsrcset|<link\b[^>]*\bhref|\bxlink:href|\bdata|@import|url\()"
    urls = place + r"""\s*=?\s*['"(]?\s*(?:url\()?((?:https?:)?//[^'")\s>]+)"""
    return re.findall(urls, page)


def assert_self_contained(page: str) -> None:
    assert loads_elsewhere(page) == [] and "<script" not in page
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


# --- the terminal --------------------------------------------------------------------------------------------


def test_a_terminal_shows_a_bar_with_speed_and_time_left(
    dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(verbs, "console", lambda: terminal)
    assert plait(*train(dataset, tmp_path / "run", "--optim.users-per-step", 3)) == 0
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "\x1b" in shown
    assert re.search(r"training \S+ [\d,]+ tokens/s, at most \S+ left", plain)
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
    said = said_by(capsys, *train(dataset, tmp_path / "run"))
    said += said_by(capsys, "layouts") + said_by(capsys, "evaluate", run)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)
    assert "epoch   2  loss" in said
