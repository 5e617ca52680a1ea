"""How text files are read: the options that a user gives, and what is found where none is given."""

import codecs
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:  # options are known before a log is read
    import polars

from plait.wording import setting

Quoting = Literal["none", "rfc4180"]
SEPARATOR_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


class Explode(msgspec.Struct, frozen=True):
    """A column of text that holds several events a row, such as the impressions `N1-0 N2-1`.

    Each part between separators becomes a row of its own, with the row's other columns. Where `within` is given,
    a part is cut once more, from its end, into the columns `names`.

    >>> Explode.parse("impressions: :-:news,clicked")
    Explode(column='impressions', separator=' ', within='-', names=('news', 'clicked'))
    """

    column: str
    separator: str
    within: str | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _force(self, "separator", separator_of(self.separator))
        if not self.column or self.within == "" or "" in self.names:
            raise ValueError(f"{self}: the column, its separators and the names cannot be empty")
        if (self.within is None) != (not self.names) or len(self.names) == 1:
            raise ValueError(f"{self}: what is cut within a part needs a separator and two names or more")

    @classmethod
    def parse(cls, text: str) -> "Explode":
        """From COLUMN:SEPARATOR or COLUMN:SEPARATOR:WITHIN:NAME,NAME."""
        match text.split(":"):
            case [column, separator]:
                return cls(column, separator)
            case [column, separator, within, names]:
                return cls(column, separator, within, tuple(names.split(",")))
            case _:
                raise ValueError(
                    f"explode: found {text!r}, expected COLUMN:SEPARATOR or COLUMN:SEPARATOR:WITHIN:NAME,NAME, such "
                    "as 'items: ' or 'impressions: :-:item,clicked'"
                )


class TextFormat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the text files of a log and of its feature tables are read. What is not given is found.

    Attributes:
        separator: between fields; else `,`, `;`, tab, `|` or `::`, by the first lines.
        quoting: "rfc4180": a field that begins with `"` ends with the next single one; "none": `"` is a character
            like others. By default none for tabs and for separators of several characters, else rfc4180.
        encoding: a name that Python knows, such as "latin-1"; else UTF-8, or what a byte order mark says.
        columns: the log's columns, where its files have no header line.
        item_columns, user_columns: likewise of the feature tables.
        decimal_comma: `3,5` is 3.5.
        explode: columns of text that hold several events a row.

    >>> TextFormat(separator="tab").separator
    '\\t'
    """

    separator: str | None = None
    quoting: Quoting | None = None
    encoding: str | None = None
    columns: tuple[str, ...] = ()
    item_columns: tuple[str, ...] = ()
    user_columns: tuple[str, ...] = ()
    decimal_comma: bool = False
    explode: tuple[Explode, ...] = ()

    def __post_init__(self) -> None:
        for name in ("columns", "item_columns", "user_columns", "explode"):
            _force(self, name, _tuple(getattr(self, name), name))
            _check_unique(getattr(self, name), name)
        if self.separator is not None:
            _force(self, "separator", separator_of(self.separator))
        if self.encoding is not None:
            _check_encoding(self.encoding)
        if self.quoting == "rfc4180" and self.separator is not None and len(self.separator) > 1:
            raise ValueError(f"quoting 'rfc4180' needs a separator of one character, not {self.separator!r}")


def separator_of(text: str) -> str:
    """A separator by its name, or as it is.

    >>> separator_of("tab"), separator_of("::")
    ('\\t', '::')
    """
    separator = SEPARATOR_NAMES.get(text, text)
    if not separator or "\n" in separator or "\r" in separator or '"' in separator:
        raise ValueError(f"separator: found {text!r}, expected characters such as ';', '::' or 'tab'")
    if len(separator) == 1 and not separator.isascii():
        raise ValueError(f"separator: found {text!r}, expected a character of ASCII")
    return separator


def decimal_hint(value: Any) -> str:
    """What to do about a number with a comma; empty for all else.

    >>> decimal_hint("3,5")
    '; where a comma is the decimal sign, pass text=plait.TextFormat(decimal_comma=True)'
    >>> decimal_hint("n/a")
    ''
    """
    if isinstance(value, str) and DECIMAL_COMMA.fullmatch(value):
        return f"; where a comma is the decimal sign, pass {setting('text.decimal_comma', True)}"
    return ""


def with_decimal_points(
    frame: "polars.LazyFrame", numbers: Iterable[str], text: TextFormat
) -> "polars.LazyFrame":
    """The frame with numbers that are still text spelt with a point, where a decimal comma was given."""
    if not text.decimal_comma:
        return frame
    import polars as pl

    schema = frame.collect_schema()
    spelt = [name for name in dict.fromkeys(numbers) if schema.get(name) == pl.String]
    return frame.with_columns(pl.col(name).str.replace(",", ".", literal=True) for name in spelt)


def _force(struct: msgspec.Struct, name: str, value: object) -> None:
    msgspec.structs.force_setattr(struct, name, value)


def _tuple(given: Any, name: str) -> tuple[Any, ...]:
    if isinstance(given, str):
        raise ValueError(f"{name}: found the text {given!r}, expected a list of names")
    return tuple(given)


def _check_unique(given: tuple[Any, ...], name: str) -> None:
    for one in given:
        if given.count(one) > 1 or one == "":
            raise ValueError(f"{name}: found {one!r} {given.count(one)} times; each needs a name of its own")


def _check_encoding(encoding: str) -> None:
    try:
        codecs.lookup(encoding)
        "".encode(encoding)
    except LookupError:
        raise ValueError(
            f"encoding: found {encoding!r}, expected one that Python knows, such as 'latin-1', 'cp1252' or 'utf-16'"
        ) from None


AS_FOUND = TextFormat()  # nothing is given
