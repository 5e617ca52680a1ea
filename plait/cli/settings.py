"""Settings from a TOML file, and what cyclopts would let pass in silence."""

import difflib
import tomllib
from pathlib import Path

import cyclopts
from cyclopts import App, ArgumentCollection

SECTIONS = (
    "model",
    "optim",
    "protocol",
)  # never a command's name: cyclopts drops such a section without a word


def settings_file(path: Path) -> cyclopts.config.Dict:
    """The sections of a file, for cyclopts, which knows their keys.

    Raises:
        ValueError: the file cannot be read, is no TOML, or holds anything but the sections.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--config {path} is not TOML: {error}") from None
    for name, section in content.items():
        if name not in SECTIONS:
            near = difflib.get_close_matches(name, SECTIONS, n=1)
            raise ValueError(
                f"--config {path}: {name!r} is not one of its sections, {', '.join(SECTIONS)}"
                + (f"; did you mean {near[0]!r}?" if near else "; anything else belongs on the command line")
            )
        if not isinstance(section, dict):
            raise ValueError(f"--config {path}: expected a section [{name}], found {name} = {section!r}")
    return cyclopts.config.Dict(content, source=str(path), use_commands_as_keys=False)


def whole_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuses 2.5 where a whole number belongs: cyclopts would round it.

    Raises:
        ValueError: an argument that takes whole numbers only was given another.
    """
    for argument in arguments:
        if argument.hint is int:
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


def split_layouts(text: str) -> list[str]:
    """Names or notations between commas; the commas inside a notation's brackets are its own.

    >>> split_layouts("item, (i[t], a[t-1]) -> (i[t+1], a[t]),pc")
    ['item', '(i[t], a[t-1]) -> (i[t+1], a[t])', 'pc']
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]
