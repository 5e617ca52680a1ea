"""What a command loads, and what it does without."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import assert_caught

import plait
from plait.cli.app import app

LIGHT = (
    "--help",
    "--version",
    "trian",
    "layouts",
    "layouts show lac",
    "data list",
    "data lits",
    "data --help",
)
ANSWERING = ("plait.recommender", "plait.cli.recommend", "plait.cli.score", "plait.cli.evaluate")
TRAINING = ("plait.training", "plait.fitting", "plait.compare", "plait.papers")


def loaded_by(code: str) -> list[str]:
    """The modules that a process has after some code."""
    told = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('\\n' + ' '.join(sys.modules))"],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines()[-1].split()


def check_no_torch(words: str, before: str = "") -> None:
    loaded = loaded_by(f"{before}\nfrom plait.cli import main\nmain({words.split()!r})")
    assert "plait.cli.app" in loaded and "torch" not in loaded, words


@pytest.mark.parametrize("words", LIGHT)
def test_a_command_that_computes_nothing_loads_no_torch(words: str) -> None:
    check_no_torch(words)


def test_a_verb_that_is_loaded_to_be_listed_is_caught() -> None:
    unchanged = "from plait.cli import command_line\ncommand_line.with_names_only = lambda error: error"
    assert_caught(check_no_torch, "trian", unchanged)


def check_answers_alone(module: str, before: str = "") -> None:
    loaded = loaded_by(f"{before}\nimport {module}")
    assert module in loaded and not [one for one in loaded if one.startswith(TRAINING)], module


@pytest.mark.parametrize("module", ANSWERING)
def test_answering_loads_no_training(module: str) -> None:
    check_answers_alone(module)


def test_answering_that_trains_is_caught() -> None:
    assert_caught(check_answers_alone, "plait.recommender", "import plait.training.run")


def test_names_of_the_package_are_where_checkers_look() -> None:
    tree = ast.parse(Path(plait.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    told = {alias.name: str(node.module) for node in imports for alias in node.names}
    assert {name: home for name, home in told.items() if home.startswith("plait.")} == plait.HOMES
    assert sorted(plait.__all__) == sorted(plait.HOMES) and set(plait.HOMES) <= set(dir(plait))
    for name in plait.HOMES:
        assert getattr(plait, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        plait.nothing  # noqa: B018


def test_every_verb_stands_in_the_file_of_its_name() -> None:
    for name in [name for name in app if not name.startswith("-")]:
        command = app[name].default_command
        assert command is None or command.__module__ == f"plait.cli.{name}"
