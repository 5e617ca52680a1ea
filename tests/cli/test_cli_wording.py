"""The library names arguments and the command line options: each message says what its reader can type."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import assert_caught
from words import commands

import plait
from plait import Protocol
from plait.wording import asked_in_shell, setting

PACKAGE = Path(plait.__file__).parent
SHELL_ROOMS = ("cli", "papers")  # they are asked from a shell alone
OF_OTHER_PROGRAMS = {"downloading.py", "provenance.py"}  # pip's and git's
WITH_A_COMMAND = {"keys.py", "presentation.py", "own_service.py"}  # that readers of a page may run as it is
OPTION = re.compile(r"(?<![\w-])--[a-z]")


def library() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in (*SHELL_ROOMS, "wording.py"):
            yield path, ast.parse(path.read_text())


def options_named(tree: ast.Module) -> list[str]:
    """Texts, other than docstrings, that name an option."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [
        node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return [node.value for node in texts if OPTION.search(node.value) and id(node) not in docstrings]


def settings_named(tree: ast.Module) -> list[str]:
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    named = [node.args[0] for node in calls if node.func.id == "setting" and node.args]  # type: ignore[attr-defined]
    return [name.value for name in named if isinstance(name, ast.Constant)]


def options() -> set[str]:
    """Of all verbs."""
    return {
        name
        for _, command in commands()
        if command.default_command
        for argument in command.assemble_argument_collection()
        for name in argument.names
    }


def check_known(name: str, known: set[str]) -> None:
    with asked_in_shell():
        assert setting(name) in known, name


def test_the_library_names_no_option() -> None:
    read = 0
    for path, tree in library():
        assert path.name in OF_OTHER_PROGRAMS | WITH_A_COMMAND or not options_named(tree), path
        read += 1
    assert read > 80
    function = 'def f():\n    """--doc"""\n    raise ValueError("pass --order")'
    assert options_named(ast.parse(function)) == ["pass --order"]


def test_every_setting_that_a_message_names_is_an_option() -> None:
    known = options()
    named = {name for _, tree in library() for name in settings_named(tree)}
    assert len(named) > 25, named
    for name in named:
        check_known(name, known)
    assert_caught(check_known, "protocol.max_epoch", known)


def test_one_mistake_is_told_in_two_languages() -> None:
    with pytest.raises(ValueError, match=r"^protocol\.max_epochs = 0: expected a number"):
        Protocol(max_epochs=0)
    with asked_in_shell(), pytest.raises(ValueError, match=r"^--protocol\.max-epochs 0: expected a number"):
        Protocol(max_epochs=0)
    assert setting("protocol.max_epochs", 0) == "protocol.max_epochs = 0", "and never after it"
