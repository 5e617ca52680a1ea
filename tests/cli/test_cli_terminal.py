"""Terminals of every width, pipes, consoles without colour and of old encodings; answers for programs."""

import importlib
import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from cyclopts import App
from cyclopts.completion.detect import ShellDetectionError
from tiny import assert_caught, prepared, random_log
from words import SMALL, Capture, commands, complaint, heard_of, plait, said_by, told_by, train

from plait.cli import command_line, completion
from plait.data import Dataset

LAYOUTS = "item,lac,i[t] -> (i[t+1], a[t])"
SHOWING = ("layouts", "data list", "study", "evaluate", "recommend", "score", "compare")
ESCAPE = re.compile(r"\x1b\[([0-9;?]*)[A-Za-z]")


@pytest.fixture(scope="module")
def compared(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison; not to be changed."""
    out = tmp_path_factory.mktemp("compared") / "out"
    assert plait(*comparing(dataset, out)) == 0
    return out


def comparing(dataset: Dataset, out: Path) -> tuple[object, ...]:
    return ("compare", dataset.folder, "--layouts", LAYOUTS, "--seeds", 1, "--out", out, *SMALL)


@pytest.fixture
def words_of(run: Path, dataset: Dataset, compared: Path) -> Callable[[str], tuple[object, ...]]:
    """A whole command of each verb that shows a table."""
    asked = ("--user", "u03")
    more = {
        "evaluate": (run,),
        "recommend": (run, *asked, "-k", 4),
        "score": (run, *asked, "--items", "i05,i02"),
        "compare": comparing(dataset, compared)[1:],
    }
    return lambda verb: (*verb.split(), *more.get(verb, ()))


def on_terminal(width: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture, *words: object) -> str:
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "xterm-256color")
        patch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        return said_by(capsys, *words)


def check_fits(shown: str, piped: str, width: int) -> None:
    """No line is longer than the terminal unless a pipe has it too, or a word of it leaves no room for others; no word
    is broken, and nothing is lost."""
    plain = re.sub(r"On the page only:.+?(?=Protocol: )", "", ESCAPE.sub("", shown), flags=re.DOTALL)
    as_piped = {line.strip() for line in piped.splitlines()}
    lines = [line.rstrip() for line in plain.splitlines() if line.strip() not in as_piped]
    longest = max((len(word) for line in lines for word in line.split()), default=0)
    allowed = width if longest <= width / 2 else width + longest  # an address leaves no room, and stays whole
    assert max(map(len, lines), default=0) <= allowed, lines
    assert set(piped.split()) >= set(plain.split()), set(plain.split()) - set(piped.split())


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("verb", SHOWING)
def test_tables_fit_every_terminal(
    verb: str,
    width: int,
    words_of: Callable[[str], tuple[object, ...]],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    piped = said_by(capsys, *words_of(verb))
    assert not ESCAPE.search(piped)
    check_fits(on_terminal(width, monkeypatch, capsys, *words_of(verb)), piped, width)


def test_a_broken_word_and_a_long_line_are_caught() -> None:
    check_fits("a word\nof two or so", "a word of two or so", 12)
    assert_caught(check_fits, "a wo\nrd", "a word", 12)
    assert_caught(check_fits, "a word of two or so", "a word\nof two or so", 12)


def test_a_comparison_shows_every_task_on_80_columns(
    dataset: Dataset, compared: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = ESCAPE.sub("", on_terminal(80, monkeypatch, capsys, *comparing(dataset, compared)))
    table = shown.partition("Best bold")[0]
    for heading in ("HR@10", "NDCG@10", "RMSE", "rating", "AUC", "liked", "cost", "s/epoch"):
        assert table.split().count(heading) == 1, heading
    assert len(re.findall(r"^lac", table, re.MULTILINE)) == 2, "two blocks"
    piped = said_by(capsys, *comparing(dataset, compared))
    (headings,) = (line for line in piped.splitlines() if line.startswith("layout "))
    assert "HR@10" in headings and "score" in headings, "one line in a pipe"
    assert len([line for line in piped.splitlines() if re.match(r"lac\W.*±", line)]) == 1


@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_without_colour_nothing_is_coloured(
    verb: str,
    words_of: Callable[[str], tuple[object, ...]],
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shown = on_terminal(80, monkeypatch, capsys, *words_of(verb))
    codes = {int(code) for found in ESCAPE.findall(shown) for code in found.split(";") if code.isdigit()}
    assert codes <= {0, 1, 2, 3, 4, 7, 22, 23, 24}, "bold, dim, italic, underline, and their ends"


def printed_in(encoding: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """What a command prints on a console that knows only this encoding."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        assert plait(*words) == 0
    for stream in streams:
        stream.flush()
    out, _ = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
    return out


def check_old_console(encoding: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    assert len(printed_in(encoding, monkeypatch, *words)) > 100


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
@pytest.mark.parametrize("verb", ["layouts show lac", "compare", "--help"])
def test_old_consoles_show_what_they_can(
    verb: str,
    encoding: str,
    words_of: Callable[[str], tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_old_console(encoding, monkeypatch, *words_of(verb))


def test_a_console_that_is_left_as_it_was_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "encode_all", lambda streams: None)
    assert_caught(check_old_console, "ascii", monkeypatch, "layouts", "show", "lac")


def answer(capsys: Capture, *words: object) -> Any:
    """The one document on stdout."""
    return json.loads(said_by(capsys, *words, "--json"))


def test_every_verb_that_answers_does_so_in_json(
    run: Path, words_of: Callable[[str], tuple[object, ...]], capsys: Capture
) -> None:
    lists = {verb: answer(capsys, *verb.split()) for verb in ("layouts", "data list", "study")}
    for verb, rows in lists.items():
        shown = said_by(capsys, *verb.split())
        assert len(rows) > 5 and all(next(iter(row.values())) in shown for row in rows), verb
    assert answer(capsys, "layouts", "show", "lac")["audit"]["can_score"] == "early"
    found = answer(capsys, *words_of("evaluate"))
    assert found["metrics"]["gauc:liked"]["value"] is None and found["result"]["best_epoch"] in (1, 2)
    assert f"{found['metrics']['hr@10']['value']:.4f}" in said_by(capsys, *words_of("evaluate"))
    items = answer(capsys, *words_of("recommend"))
    assert [row["rank"] for row in items] == [1, 2, 3, 4] and set(items[0]) >= {"item", "score", "liked"}
    assert [row["item"] for row in answer(capsys, *words_of("score"))] == ["i05", "i02"]


def test_json_stays_json_on_an_old_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = random_log().with_columns(pl.col("item").replace("i05", "Amélie"))
    data = prepared(log, tmp_path / "data")
    assert plait(*train(data, tmp_path / "run")) == 0
    words = ("score", tmp_path / "run", "--user", "u03", "--items", "Amélie", "--json")
    for encoding in ("ascii", "utf-8"):
        assert json.loads(printed_in(encoding, monkeypatch, *words))[0]["item"] == "Amélie"


def test_progress_is_no_part_of_the_answer_and_can_be_left_out(
    dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    said, told = heard_of(capsys, *train(dataset, tmp_path / "told"))
    assert "epoch   2" in told and "epoch   2  loss" not in said and "ndcg@10" in said
    assert told_by(capsys, *train(dataset, tmp_path / "quiet", "-q")) == ""
    quiet = said_by(capsys, *train(dataset, tmp_path / "quiet", "-q"))
    figures = re.findall(r"^hr@10 .+$", said, re.MULTILINE)
    assert figures and figures == re.findall(r"^hr@10 .+$", quiet, re.MULTILINE)


def takes_quiet(command: App) -> bool:
    takes = command.assemble_argument_collection() if command.default_command else ()
    return any("--quiet" in argument.names for argument in takes)


def test_every_verb_that_can_be_quiet_is(
    dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", tmp_path / "out")
    words = {
        "train": (dataset.folder, *out),
        "compare": (dataset.folder, "--layouts", "item", *out),
        "study": (),
        "rank train": (dataset.folder, "--ranker", "din", *out),
        "lum pretrain": (dataset.folder, *out),
        "bench serve": ("http://127.0.0.1:9",),
    }
    assert words.keys() == {" ".join(path) for path, command in commands() if takes_quiet(command)}

    def stopped(*, quiet: bool = False) -> None:
        raise ValueError(f"quiet is {quiet}")

    for verb, more in words.items():
        module = importlib.import_module(f"plait.cli.{verb.replace(' ', '.')}")
        monkeypatch.setattr(module, "progress_console", stopped)
        for quiet, given in ((False, ()), (True, ("--quiet",))):
            assert f"quiet is {quiet}" in complaint(capsys, 2, *verb.split(), *more, *given), verb


def check_goes_on(said: str, model: Path) -> None:
    assert re.search(rf"^model: {re.escape(str(model))}, trained in \d", said, re.MULTILINE)
    (command,) = re.findall(r"^next: plait (.+)$", said, re.MULTILINE)
    assert plait(*shlex.split(command)) == 0, command


@pytest.mark.parametrize("layout", ["lac", "action_out"])
def test_a_training_ends_with_its_model_and_what_comes_next(
    layout: str, tmp_path: Path, capsys: Capture
) -> None:
    log = random_log().with_columns(pl.col("user").replace("u00", "-first, of all"))
    data = prepared(log.with_columns(pl.col("item").replace("i00", ' "a" film, 1999')), tmp_path / "data")
    words = (*train(data, tmp_path / "run"), "--layout", layout)
    words = tuple(word for at, word in enumerate(words) if at not in (2, 3))
    check_goes_on(said_by(capsys, *words), tmp_path / "run/model")
    said, told = heard_of(capsys, *words)
    assert told == f"{tmp_path / 'run'} holds this run, finished; nothing is trained\n"
    check_goes_on(said, tmp_path / "run/model")


def test_recommendations_name_titles_and_what_to_expect(run: Path, tmp_path: Path, capsys: Capture) -> None:
    titles = {f"i{n:02d}": f"Film {n}, 1999" for n in range(17) if n != 5}
    pl.DataFrame({"item": list(titles), "title": list(titles.values())}).write_csv(tmp_path / "items.csv")
    words = (
        "recommend",
        run,
        "--user",
        "u03",
        "-k",
        5,
        "--no-filter-seen",
        "--titles",
        tmp_path / "items.csv",
    )
    rows = answer(capsys, *words)
    assert [row["title"] for row in rows] == [titles.get(row["item"]) for row in rows]
    items = ",".join(row["item"] for row in rows)
    scores = answer(capsys, "score", run, "--user", "u03", "--items", items)
    assert [(row["rating"], row["liked"]) for row in rows] == [
        (row["rating"], row["liked"]) for row in scores
    ]
    assert "Film" in said_by(capsys, *words)
    said = complaint(capsys, 2, *words, "--title-column", "name")
    assert "'name'" in said and "the titles" in said


def test_completion_knows_every_verb_and_option(tmp_path: Path, capsys: Capture) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = tmp_path / shell
        assert str(script) in said_by(capsys, "--install-completion", "--shell", shell, "--output", script)
        text = script.read_text()
        for path, command in commands():
            takes = command.assemble_argument_collection() if command.default_command else ()
            takes = [argument for argument in takes if argument.parameter.parse is not False]
            options = {name[2:] for argument in takes for name in argument.names if name.startswith("--")}
            assert path[-1] in text and all(name in text for name in options), (shell, path)


def test_a_shell_that_is_not_known_is_asked_for(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(**options: object) -> None:
        raise ShellDetectionError("no shell was found")

    monkeypatch.setattr(completion, "app", SimpleNamespace(install_completion=nowhere))
    assert "no shell was found; say which with --shell" in complaint(capsys, 2, "--install-completion")


def test_verbs_stand_in_the_order_of_work_and_groups_after_what_is_common(capsys: Capture) -> None:
    shown = said_by(capsys, "--help")
    order = [
        "data",
        "simulate",
        "layouts",
        "compare",
        "train",
        "rank",
        "evaluate",
        "recommend",
        "score",
        "similar",
        "index",
        "check",
        "export",
        "lum",
        "serve",
        "bench",
        "new-key",
        "study",
    ]
    found = re.findall(r"^│ (\w[\w-]*) ", shown, re.MULTILINE)
    assert found == order
    shown = said_by(capsys, "train", "--help")
    panels = re.findall(r"╭─ ([\w ]+?) ─", shown)
    assert panels == ["Arguments", "Parameters", "Model", "Training", "Protocol", "Every command"]
    common = shown.partition("╭─ Model")[0]
    assert "--layout" in common and "--out" in common and "--model.trunk.dim" not in common
