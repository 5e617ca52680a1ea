"""Prints docs/reference/settings.md from the fields' own docstrings: `make docs`."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from plait.cli.app import app
from plait.evaluation.settings import Optim, Protocol
from plait.models.generative import ModelSettings

SECTIONS = {"model": ModelSettings, "optim": Optim, "protocol": Protocol}

HEAD = """# Settings

Every setting of a training, with its default. `make docs` makes this page from the fields of `plait.ModelSettings`,
`plait.Optim` and `plait.Protocol`.

- On the command line: `--protocol.max-epochs 20`. A switch is turned off with `no-`: `--protocol.no-filter-seen`.
- In a TOML file (`--config`): `max_epochs = 20` under `[protocol]`.
- In Python: `plait.Protocol(max_epochs=20)`.

Every number has a range. A value outside of it is refused, with the reason.
"""
KINDS = {
    str(int): "whole number",
    "int": "whole number",
    str(float): "number",
    "float": "number",
    str(bool): "yes or no",
    "bool": "yes or no",
    "str": "text",
    str(str): "text",
    "tuple[int, ...]": "whole numbers",
    "tuple[float, float]": "two numbers",
    "dict[str, float]": "a number by name",
}


def page() -> str:
    arguments = app["train"].assemble_argument_collection(parse_docstring=True)
    settings = {
        each.name.removeprefix("--").replace("-", "_"): each for each in arguments if "." in each.name
    }
    expected = {path for name, section in SECTIONS.items() for path in _paths(name, section)}
    assert expected <= set(settings), expected - set(settings)
    lines = [HEAD]
    by_section: dict[str, list[str]] = {}
    for path in (path for path in settings if path in expected):
        by_section.setdefault(path.rpartition(".")[0], []).append(path)
    for section, paths in by_section.items():
        lines += [f"## {section}", "", "| setting | values | default | meaning |", "|---|---|---|---|"]
        lines += [*(_row(path, settings[path]) for path in paths), ""]
    return "\n".join(lines)


def _paths(at: str, section: Any) -> Iterator[str]:
    """The settings of a section and of the sections in it."""
    for field in fields(section):
        path = f"{at}.{field.name}"
        if is_dataclass(field.type):
            yield from _paths(path, field.type)
        else:
            yield path


def _row(path: str, argument: Any) -> str:
    meaning = " ".join((argument.parameter.help or "").split())
    assert meaning, f"{path} has no docstring"
    meaning = re.sub(r"([|*])", r"\\\1", meaning)
    values = ", ".join(f"`{value}`" for value in argument.get_choices() or ()) or _kind(argument.hint)
    cells = (f"`{path.rpartition('.')[2]}`", values, _default(argument.field_info.default), meaning)
    return f"| {' | '.join(cells)} |"


def _kind(hint: Any) -> str:
    return KINDS[str(hint).removesuffix(" | None")]


def _default(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case () | {}:
            return "none"
        case _:
            return f"`{value}`"


if __name__ == "__main__":
    print(page(), end="")
