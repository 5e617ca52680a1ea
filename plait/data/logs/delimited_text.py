"""Delimited text of any dialect as a lazy polars table: the separator is found or given, records are counted.

Polars reads what is plain: UTF-8, a separator of one byte, quotes as RFC 4180 has them or none. All else is
rewritten so in memory first.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import polars as pl

from plait.data.logs.containers import Content
from plait.data.logs.record_counts import BLOCK_BYTES, QUOTE, count_even, survey_quoted
from plait.data.logs.text import Quoting, TextFormat
from plait.wording import setting

SEPARATORS = ("\t", "::", ",", ";", "|")  # those that are found; the first ones win
UNLIKELY_IN_TEXT = SEPARATORS[:2]
SAMPLE_BYTES = 1 << 16
SAMPLE_LINES = 100
TYPED_ROWS = 1000  # that polars guesses types from
STAND_INS = "\x1f\x1e\x1d\x1c\x01\x02"  # for a separator of several characters
TYPED_HEADER = re.compile(r"(.+):(?:token|token_seq|float|float_seq)")  # RecBole's
_CSV: dict[str, Literal[0, 3]] = {"rfc4180": csv.QUOTE_MINIMAL, "none": csv.QUOTE_NONE}
SHOWN = 80  # characters of a line in a message


@dataclass(frozen=True)
class Dialect:
    """How one text is read."""

    separator: str
    quoting: Quoting
    columns: tuple[str, ...]
    has_header: bool

    def __str__(self) -> str:
        quoting = "quoted by RFC 4180" if self.quoting == "rfc4180" else "without quoting"
        header = "" if self.has_header else ", without a header"
        return f"text, separator {_called(self.separator)}, {quoting}{header}"


@dataclass(frozen=True)
class Delimited:
    """A text that polars reads as it is."""

    content: Content
    dialect: Dialect
    mark: str  # the one byte that stands for the separator
    rows: int
    has_quotes: bool
    decimal_comma: bool

    def scan(self, as_text: Sequence[str]) -> pl.LazyFrame:
        """The columns; those of `as_text` as they are spelt, the others with the types that their first rows have."""
        if self.rows == 0:
            return pl.LazyFrame(schema=dict.fromkeys(self.dialect.columns, pl.String))
        return pl.scan_csv(
            self.content.held,
            glob=False,
            separator=self.mark,
            quote_char='"' if self.has_quotes else None,
            has_header=False,
            skip_rows=int(self.dialect.has_header),
            new_columns=list(self.dialect.columns),
            schema_overrides={name: pl.String for name in as_text if name in self.dialect.columns},
            infer_schema_length=TYPED_ROWS,
            decimal_comma=self.decimal_comma and self.mark != ",",
        )


def read_delimited(content: Content, text: TextFormat, columns: Sequence[str] = ()) -> Delimited | None:
    """What a text in UTF-8 holds; None where all its lines are blank.

    Args:
        columns: of a text without a header.

    Raises:
        ValueError: no separator is found, a line has other fields than the first, or a quoted field does not end.
    """
    content = _with_newlines(content)
    sample = _sample(content)
    if not sample:
        return None
    separator = text.separator or find_separator(sample, text.quoting, content.name)
    quoting = text.quoting or _usual_quoting(separator)
    if len(separator) > 1 and quoting == "rfc4180":
        raise ValueError(
            f"{content.name}: quoting 'rfc4180' needs a separator of one character, not {separator!r}"
        )
    first = _split(sample, separator, quoting)[0]
    if len(first) < 2:
        raise ValueError(
            f"{content.name}: the separator {_called(separator)} is not in its first line ({_shown(sample[0])})"
        )
    dialect = Dialect(separator, quoting, _names(first, columns, content.name), has_header=not columns)
    content, mark = _one_byte(content, separator)
    plain, records, has_quotes = _plain(content, dialect, mark)
    return Delimited(plain, dialect, mark, records - dialect.has_header, has_quotes, text.decimal_comma)


def find_separator(lines: Sequence[str], quoting: Quoting | None, name: str) -> str:
    """The separator that parts all lines into equally many fields.

    >>> find_separator(["user;rating", "1;3,5", "2;4,0"], None, "log.csv")
    ';'

    Raises:
        ValueError: the first line holds none of those that are looked for.
    """
    rows_of = {sep: _split(lines, sep, quoting or _usual_quoting(sep)) for sep in SEPARATORS}
    even = [sep for sep, rows in rows_of.items() if len({len(row) for row in rows}) == 1 < len(rows[0])]
    if even and even[0] in UNLIKELY_IN_TEXT:
        return even[0]

    def likeness(separator: str) -> tuple[bool, int]:
        lone_quotes = any('"' in field for row in rows_of[separator] for field in row)
        return not lone_quotes, len(rows_of[separator][0])

    found = max(even or SEPARATORS, key=likeness)
    if len(rows_of[found][0]) < 2:
        raise ValueError(
            f"{name}: none of the separators , ; tab | :: is in its first line ({_shown(lines[0])}); pass the one that "
            f"it has: {setting('text.separator')}"
        )
    return found


def _usual_quoting(separator: str) -> Quoting:
    return "none" if separator == "\t" or len(separator) > 1 else "rfc4180"


def _with_newlines(content: Content) -> Content:
    """With LF where lines end with CR alone."""
    head = content.data[:SAMPLE_BYTES].tobytes()
    if b"\n" in head or b"\r" not in head:
        return content
    return content.replaced(content.data.tobytes().replace(b"\r", b"\n"))


def _sample(content: Content) -> list[str]:
    """The first lines that are not blank, whole ones."""
    size = SAMPLE_BYTES
    while True:
        head = content.data[:size].tobytes()
        is_all = len(head) == len(content.data)
        lines = head.decode("utf-8", "ignore").split("\n")
        lines = [line.removesuffix("\r") for line in (lines if is_all else lines[:-1])]
        if is_all or any(lines):
            return [line for line in lines if line][:SAMPLE_LINES]
        size *= 2


def _split(lines: Sequence[str], separator: str, quoting: Quoting) -> list[list[str]]:
    """The fields of a sample; what is wrong with it is said where all records are counted."""
    plain = [line.split(separator) for line in lines]
    if len(separator) > 1:
        return plain
    try:
        return list(csv.reader((line + "\n" for line in lines), delimiter=separator, quoting=_CSV[quoting]))
    except csv.Error:  # a CR within a line, or a field of more than 128 KiB
        return plain


def _names(first: Sequence[str], columns: Sequence[str], name: str) -> tuple[str, ...]:
    if not columns:
        typed = [TYPED_HEADER.fullmatch(field) for field in first]
        names = [match[1] for match in typed if match]
        return _unique(names if len(names) == len(first) else first)
    if len(columns) != len(first):
        raise ValueError(
            f"{name} has {len(first)} columns ({_shown(', '.join(first))}), and the names of {len(columns)} are given: "
            f"{', '.join(columns)} ({setting('text.columns')})"
        )
    if list(columns) == list(first):
        raise ValueError(
            f"{name}: its first line is a header, {', '.join(first)}; leave its names out: "
            f"{setting('text.columns')}"
        )
    return tuple(columns)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """As polars names columns that are called alike."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        unique.append(f"{name}_duplicated_{seen[name] - 1}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return tuple(unique)


def _one_byte(content: Content, separator: str) -> tuple[Content, str]:
    """The content with one byte for each separator, and that byte."""
    if len(separator) == 1:
        return content, separator
    data = content.data.tobytes()
    free = [mark for mark in STAND_INS if mark.encode() not in data]
    if not free:
        raise ValueError(f"{content.name} is hardly text: it holds all of {STAND_INS!r}")
    return content.replaced(data.replace(separator.encode(), free[0].encode())), free[0]


def _plain(content: Content, dialect: Dialect, mark: str) -> tuple[Content, int, bool]:
    """Without blank lines, and with quotes where RFC 4180 has them alone; its records; and whether it has quotes.

    Raises:
        ValueError: a line has fewer or more fields than there are columns, or a quoted field does not end.
    """
    fields, quoting = len(dialect.columns), dialect.quoting == "rfc4180"
    even = count_even(content.blocks(BLOCK_BYTES), mark, fields, quoting)
    if even is not None:
        return content, even, False
    if quoting and QUOTE in content.data:
        found = survey_quoted(content.data, mark, fields)
        if not (found.is_strict and found.is_even):
            content = content.replaced(_requoted(content, dialect, mark))
            found = survey_quoted(content.data, mark, fields)
        assert found.is_strict and found.is_even, "not rewritten as it should be"
        return content, found.records, True
    whole = content.replaced(_without_blank_lines(content.data.tobytes()))
    even = count_even(whole.blocks(BLOCK_BYTES), mark, fields, quoting)
    if even is None:
        deque(_records(content, dialect, mark), maxlen=0)  # raises at the line that is uneven
    assert even is not None, "no line is uneven"
    return whole, even, False


def _without_blank_lines(data: bytes) -> bytes:
    while b"\r\n" in data:
        data = data.replace(b"\r\n", b"\n")
    while b"\n\n" in data:
        data = data.replace(b"\n\n", b"\n")
    return data.strip(b"\r\n") + b"\n"


def _requoted(content: Content, dialect: Dialect, mark: str) -> bytes:
    """As RFC 4180 writes them; with CR LF, so that a field with a CR is quoted."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=mark, lineterminator="\r\n").writerows(_records(content, dialect, mark))
    return out.getvalue().encode()


def _records(content: Content, dialect: Dialect, mark: str) -> Iterator[list[str]]:
    """The records of a text, blank lines left out. A quote in a field that does not begin with one is a character.

    Raises:
        ValueError: one has fewer or more fields than there are columns, or a quoted field does not end.
    """
    with io.TextIOWrapper(content.open(), encoding="utf-8", newline="\n") as lines:
        reader = csv.reader(lines, delimiter=mark, quoting=_CSV[dialect.quoting], strict=True)
        line = 1
        try:
            for record in reader:
                if record and len(record) != len(dialect.columns):
                    columns = _shown(", ".join(dialect.columns))
                    found = f"{len(record)} fields, expected {len(dialect.columns)} ({columns})"
                    raise ValueError(_broken_message(content, line, found, dialect, mark))
                if record:
                    yield record
                line = reader.line_num + 1
        except csv.Error as error:
            found = f"it cannot be parted into fields ({error})"
            raise ValueError(_broken_message(content, line, found, dialect, mark)) from None


def _broken_message(content: Content, line: int, found: str, dialect: Dialect, mark: str) -> str:
    with content.open() as file:
        bytes_of_line = next(islice(file, line - 1, None), b"")
    shown = _shown(bytes_of_line.decode("utf-8", "replace").rstrip("\r\n").replace(mark, dialect.separator))
    lone_quote = (
        f"; where quotes are characters like others, pass {setting('text.quoting', 'none')}"
        if dialect.quoting == "rfc4180" and '"' in shown
        else ""
    )
    return (
        f"{content.name}, line {line}: {found}, read with separator {_called(dialect.separator)}: {shown}. "
        f"Correct the line, or pass another separator, {setting('text.separator')}{lone_quote}"
    )


def _called(separator: str) -> str:
    return {"\t": "tab", " ": "space"}.get(separator, repr(separator))


def _shown(text: str) -> str:
    """
    >>> len(_shown("x" * 500))
    80
    """
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
