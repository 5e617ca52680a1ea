"""A log in any of the accepted forms, as lazy polars tables that nothing has read yet.

Paths are never patterns: every file is opened by its very name.
"""

import difflib
import hashlib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, assert_never

import polars as pl

from plait.data.logs.containers import Content, kind_of, open_content
from plait.data.logs.delimited_text import read_delimited
from plait.data.logs.encodings import to_utf8
from plait.data.logs.folders import File, files_of, whole_numbers, with_partition
from plait.data.logs.frames import as_frame
from plait.data.logs.nested_fields import Scan, flatten, is_json, read_json
from plait.data.logs.text import TextFormat
from plait.wording import setting

LONGEST_LIST = 300  # characters of a list of columns in a message


@dataclass(frozen=True)
class LogTable:
    """One file or data frame of a log."""

    name: str
    scan: Scan  # the columns named are read as text, where the file has no types
    schema: Mapping[str, Any]  # column -> polars data type
    path: Path | None = None  # of a file
    has_types: bool = (
        True  # Parquet, Arrow and data frames have types of their own; of text and JSON they are guessed
    )
    rows: int | None = None  # that are there, where they were counted apart from the reader
    read_as: str = ""  # how a text was read, in words

    def lazy(self, as_text: Sequence[str] = ()) -> pl.LazyFrame:
        return self.scan(
            [name for name in as_text if name in self.schema and not self.schema[name].is_nested()]
        )

    def check_rows(self, read: int) -> None:
        """Raises ValueError where other rows were read than are there."""
        if self.rows is not None and read != self.rows:
            raise ValueError(
                f"{self.name}: {read} rows were read, and {self.rows} are there, {self.read_as}; save the file as "
                f"Parquet, or pass {setting('text.quoting')} or {setting('text.separator')}"
            )


def open_tables(
    source: Any,
    text: TextFormat = TextFormat(),
    columns: Sequence[str] = (),
    wanted: Iterable[str] = (),
    item: str | None = None,
) -> list[LogTable]:
    """The tables of a source, files in the order of their names. Parts without a row are left out beside others.

    Args:
        source: a text (delimited or JSON), Parquet or Arrow (IPC) file, compressed or not; a folder of them; a polars
            data frame or lazy frame; or anything with the Arrow C stream interface (pandas, pyarrow).
        text: how text files are read.
        columns: of text files without a header.
        wanted: columns that are read; those that lie within others are brought to the top.
        item: of a log, the one among `wanted` whose values make events: where it is a list, each part becomes a row,
            and so do the parts of the columns that `text.explode` names.

    Raises:
        ValueError: nothing is there, a file cannot be read, or the form is not one of these.
    """
    wanted = tuple(wanted)
    if isinstance(source, str | Path):
        files = files_of(Path(source))
        numbers = whole_numbers(files)
        opened = [table for file in files if (table := _open_file(file, text, columns, numbers))]
        if not opened:
            raise ValueError(f"{source} is empty; expected rows")
        filled = [table for table in opened if table.rows != 0]
        tables = filled or opened[:1]
    else:
        tables = [_open_frame(source)]
    return [_flattened(table, text, wanted, item) for table in tables]


def _open_frame(source: Any) -> LogTable:
    if isinstance(source, pl.DataFrame):
        frame = source.lazy()
    elif isinstance(source, pl.LazyFrame):
        frame = source
    elif hasattr(source, "__arrow_c_stream__"):
        frame = as_frame(source, "the data frame").lazy()
    else:
        raise ValueError(
            f"source is a {type(source).__name__}; expected a file, a folder, "
            "or a polars, pandas or pyarrow frame"
        )
    with reading("the data frame"):
        return LogTable("the data frame", lambda as_text: frame, frame.collect_schema())


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns polars' errors about a damaged or empty file into a ValueError that names it."""
    try:
        yield
    except pl.exceptions.NoDataError:
        raise ValueError(f"{name} is empty; expected a header line and rows") from None
    except (pl.exceptions.ComputeError, pl.exceptions.SchemaError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"{name} cannot be read: {first_line}. It may be cut off or of another format; fetch it again"
        ) from error


def check_columns(columns: Iterable[str], wanted: Iterable[str], where: str, what: str = "") -> None:
    """Raises ValueError where a column is missing; names the nearest that is there.

    >>> check_columns(["user", "itm"], ["user", "item"], "log.csv")
    Traceback (most recent call last):
        ...
    ValueError: log.csv has no column 'item', did you mean 'itm'? It has: user, itm
    """
    there = list(columns)
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            raise ValueError(
                f"{where} has no column {name!r}{what}"
                + (f", did you mean {near[0]!r}?" if near else ".")
                + f" It has: {shortened_list(there)}{_header_hint(there)}"
            )


def shortened_list(names: Sequence[str]) -> str:
    """
    >>> shortened_list(["a", "b"])
    'a, b'
    >>> shortened_list([f"column{number}" for number in range(1000)])[-40:]
    '8, column29, column30, ... (1000 in all)'
    """
    whole = ", ".join(names)
    if len(whole) <= LONGEST_LIST:
        return whole
    return f"{textwrap.shorten(whole, LONGEST_LIST, placeholder='')} ... ({len(names)} in all)"


def _header_hint(there: Sequence[str]) -> str:
    """What may be wrong where columns have names that no one gives."""
    if there and all(len(name) > 2 and name[0] == name[-1] == '"' for name in there):
        return f"; where quotes are no part of the names, pass {setting('text.quoting', 'rfc4180')}"
    if any(name.replace(".", "").replace("-", "").isdigit() for name in there):
        return f"; where the first line is no header, name the columns: {setting('text.columns')}"
    return ""


def _open_file(
    file: File, text: TextFormat, columns: Sequence[str], numbers: frozenset[str]
) -> LogTable | None:
    """None where nothing is in the file."""
    content = open_content(file.path)
    if not len(content.data):
        return None
    name, path = content.name, file.path
    with reading(name):
        kind = kind_of(content)
        if kind == "text":
            table = _open_text(content, text, columns, path)
            if table is None:
                return None
        else:
            frame = _scan_typed(content, kind)
            rows = frame.select(pl.len()).collect().item()
            table = LogTable(name, lambda as_text: frame, frame.collect_schema(), path, rows=rows)
        scan = with_partition(table.scan, file, numbers)
        return replace(table, scan=scan, schema=scan(()).collect_schema())


def _scan_typed(content: Content, kind: Literal["parquet", "arrow"]) -> pl.LazyFrame:
    held = content.held
    match kind:
        case "parquet":
            return pl.scan_parquet(held, glob=False, hive_partitioning=False)
        case "arrow":
            return pl.scan_ipc(held, glob=False, hive_partitioning=False)
        case _:
            assert_never(kind)


def _open_text(content: Content, text: TextFormat, columns: Sequence[str], path: Path) -> LogTable | None:
    content, encoding = to_utf8(content, text.encoding)
    written = "" if encoding == "utf-8" else f", {encoding}"
    if is_json(content):
        found = read_json(content)
        return LogTable(
            content.name, found.scan, found.schema, path, False, found.rows(), f"{found}{written}"
        )
    plain = read_delimited(content, text, columns)
    if plain is None:
        return None
    parted = [explode.column for explode in text.explode]
    said = f"{plain.dialect}{written}"

    def scan(as_text: Sequence[str]) -> pl.LazyFrame:
        return plain.scan([*as_text, *parted])

    return LogTable(content.name, scan, scan(()).collect_schema(), path, False, plain.rows, said)


def _flattened(table: LogTable, text: TextFormat, wanted: tuple[str, ...], item: str | None) -> LogTable:
    explode = text.explode if item is not None else ()
    with reading(table.name):
        flat = flatten(table.scan, wanted, explode, item, table.name)
        rows = table.rows
        if not flat.are_rows_as_read and table.rows is not None:
            table.check_rows(collect(table.lazy().select(pl.len())).item())
            rows = None
        read_as = ", ".join(filter(None, (table.read_as, *flat.said)))
        return replace(
            table, scan=flat.scan, schema=flat.scan(()).collect_schema(), rows=rows, read_as=read_as
        )


def described_reading(tables: Sequence[LogTable]) -> tuple[str, ...]:
    """How text files were read, those that were read alike in one line."""
    names: dict[str, list[str]] = {}
    for table in tables:
        if table.read_as:
            names.setdefault(table.read_as, []).append(Path(table.name).name)
    return tuple(
        f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}: {read_as}"
        for read_as, files in names.items()
    )


def fingerprint(source: Any) -> tuple[object, ...]:
    """Other values when the source has changed: of files their names, sizes and times of change; of a frame its
    content, for which a lazy one is collected."""
    if isinstance(source, str | Path):
        stats = [(file.path.resolve(), file.path.stat()) for file in files_of(Path(source))]
        return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    frame = collect(_open_frame(source).lazy().select(pl.exclude(pl.Object)))
    digest = hashlib.sha256(str(frame.schema).encode())
    digest.update(
        frame.hash_rows(seed=0).to_numpy().tobytes()
    )  # stable within one version of polars, and quick
    return pl.__version__, digest.hexdigest()


def collect(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect(engine="streaming")
