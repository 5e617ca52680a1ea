"""What a command loads, and what it does without."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny import assert_caught

import plait
from plait import data
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
NAMES_ONLY = ("--help", "--version", "trian", "data --help", "data lits")
HEAVY = ("torch", "polars", "pyarrow")  # a second or two of processor time together
NUMERIC = ("numpy", "jaxtyping")  # a tenth of one
ANSWERING = (
    "plait.recommender",
    "plait.cli.recommend",
    "plait.cli.score",
    "plait.cli.similar",
    "plait.cli.evaluate",
    "plait.cli.serve",
    "plait.service.running",
)
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


def check_light(words: str, before: str = "") -> None:
    loaded = loaded_by(f"{before}\nfrom plait.cli import main\nmain({words.split()!r})")
    too_much = HEAVY + NUMERIC if words in NAMES_ONLY else HEAVY
    assert "plait.cli.app" in loaded and not set(too_much) & set(loaded), words


@pytest.mark.parametrize("words", LIGHT)
def test_a_command_that_computes_nothing_loads_nothing_that_computes(words: str) -> None:
    check_light(words)


@pytest.mark.parametrize(
    ("words", "before"),
    [
        ("trian", "from plait.cli import command_line\ncommand_line.with_names_only = lambda error: error"),
        ("data list", "import plait.data.sources.prepared"),
    ],
    ids=["a verb is loaded to be listed", "a source is opened to be listed"],
)
def test_a_command_that_loads_too_much_is_caught(words: str, before: str) -> None:
    assert_caught(check_light, words, before)


def test_what_is_heavy_stands_behind_the_verbs() -> None:
    assert set(HEAVY + NUMERIC) <= set(loaded_by("import plait.cli.train"))


def check_answers_alone(module: str, before: str = "") -> None:
    loaded = loaded_by(f"{before}\nimport {module}")
    assert module in loaded and not [one for one in loaded if one.startswith(TRAINING)], module


@pytest.mark.parametrize("module", ANSWERING)
def test_answering_loads_no_training(module: str) -> None:
    check_answers_alone(module)


def test_answering_that_trains_is_caught() -> None:
    assert_caught(check_answers_alone, "plait.recommender", "import plait.training.run")


@pytest.mark.parametrize("package", [plait, data], ids=lambda package: package.__name__)
def test_names_of_a_package_are_where_checkers_look(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    told = {alias.name: str(node.module) for node in imports for alias in node.names}
    found = {
        name: home
        for name, home in told.items()
        if home.startswith(f"{package.__name__}.") and name != "lazy_names"
    }
    assert found == package.HOMES and set(package.HOMES) <= set(dir(package))
    assert set(package.__all__) - {"sources"} == set(package.HOMES)
    for name in package.HOMES:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_every_verb_stands_in_the_file_of_its_name() -> None:
    verbs = {(name,): app[name] for name in app} | {("data", name): app["data"][name] for name in app["data"]}
    verbs = {path: verb for path, verb in verbs.items() if not path[-1].startswith("-")}
    assert {("train",), ("data", "prepare")} <= set(verbs)
    for path, verb in verbs.items():
        command = verb.default_command
        place = ".".join(("plait.cli", *path)).replace("-", "_")
        assert command is None or command.__module__ == place
