"""Settings from a TOML file, and what cyclopts would let pass in silence."""

import difflib
import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import cyclopts
from cyclopts import App, ArgumentCollection

Sections = Mapping[str, Callable[..., Any]]  # section -> what takes its keys, as keyword parameters


def settings_file(
    path: Path, sections: Sections, verb: Callable[..., Any] | None, words: str
) -> cyclopts.config.Dict:
    """The sections of a file that a verb reads, for cyclopts. Those of other verbs may stand there, too.

    A verb reads a section's keys as its own options, or the whole section as a parameter.

    Args:
        words: what people type for the verb.

    Raises:
        ValueError: the verb reads no section; the file cannot be read, is no TOML, or holds anything but the sections
            and their keys.
    """
    taken = list(get_type_hints(verb).values()) if verb else []  # without the groups of --help
    own = [name for name, takes in sections.items() if takes is verb]
    read = own or [name for name, takes in sections.items() if any(_is_one(hint, takes) for hint in taken)]
    if not read:
        raise ValueError(f"--config {path}: `{words}` reads no settings from a file; see `{words} --help`")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--config {path} is not TOML: {error}") from None
    _check_sections(path, content, sections)
    content = {name: content[name] for name in read if name in content}
    return cyclopts.config.Dict(content, root_keys=own, source=str(path), use_commands_as_keys=False)


def _is_one(hint: object, section: Callable[..., Any]) -> bool:
    """Whether a parameter takes a section: its class, or one with other defaults."""
    if isinstance(hint, type) and isinstance(section, type):
        return issubclass(hint, section)
    return hint is section


def _check_sections(path: Path, content: dict[str, Any], sections: Sections) -> None:
    """Here and not by cyclopts, which looks only at what the verb reads, and drops keys that are named like verbs."""
    for name, section in content.items():
        if name not in sections:
            near = difflib.get_close_matches(name, sections, n=1)
            raise ValueError(
                f"--config {path}: {name!r} is not one of its sections, {', '.join(sections)}"
                + (f"; did you mean {near[0]!r}?" if near else "; anything else belongs on the command line")
            )
        if not isinstance(section, dict):
            raise ValueError(f"--config {path}: expected a section [{name}], found {name} = {section!r}")
        _check_keys(path, name, section, sections[name])


def _check_keys(path: Path, section: str, content: dict[str, Any], takes: Callable[..., Any]) -> None:
    parameters = inspect.signature(takes).parameters
    keys = [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    for key, value in content.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            raise ValueError(
                f"--config {path}: [{section}] has no key {key!r}; "
                + (f"did you mean {near[0]!r}?" if near else f"its keys are {', '.join(keys)}")
            )
        inner = parameters[key].annotation
        if isinstance(inner, type) and is_dataclass(inner) and isinstance(value, dict):
            _check_keys(path, f"{section}.{key}", value, inner)


def check_whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuses 2.5 where a whole number belongs: cyclopts would round it.

    Raises:
        ValueError: an argument that takes whole numbers only was given another.
    """
    for argument in arguments:
        if argument.hint in (int, int | None):
            for token in argument.tokens:
                if _is_fraction(token.value):
                    raise ValueError(
                        f"{token.keyword or argument.name} {token.value}: expected a whole number"
                    )


def _is_fraction(text: str) -> bool:
    try:
        return not float(text).is_integer()
    except ValueError:
        return False  # not a number at all, which cyclopts says itself
