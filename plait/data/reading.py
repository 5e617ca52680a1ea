"""A log in any of the accepted forms, as lazy polars tables that nothing has read yet."""

import difflib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from plait.data.frames import with_index_as_columns

CSV_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
SUFFIXES = (".parquet", ".pq", ".arrow", ".ipc", ".feather", *CSV_SUFFIXES)


@dataclass(frozen=True)
class Table:
    """One file or data frame of a log."""

    name: str
    scan: Callable[
        [Sequence[str]], pl.LazyFrame
    ]  # the columns named are read as text, where the file has no types
    schema: Mapping[str, Any]  # column -> polars data type
    path: Path | None = None  # of a file

    def lazy(self, as_text: Sequence[str] = ()) -> pl.LazyFrame:
        return self.scan([column for column in as_text if column in self.schema])


def open_tables(source: Any) -> list[Table]:
    """The tables of a source, files in the order of their names.

    Args:
        source: a Parquet, CSV, TSV or Arrow (IPC) file; a folder of them; a polars data frame or lazy frame;
            or anything with the Arrow C stream interface (pandas, pyarrow).

    Raises:
        ValueError: nothing is there, a file cannot be read, or the form is not one of these.
    """
    if isinstance(source, str | Path):
        return [_open_file(path) for path in _files_of(Path(source))]
    if isinstance(source, pl.DataFrame):
        frame = source.lazy()
    elif isinstance(source, pl.LazyFrame):
        frame = source
    elif hasattr(source, "__arrow_c_stream__"):
        frame = pl.DataFrame(with_index_as_columns(source)).lazy()
    else:
        raise ValueError(
            f"source is a {type(source).__name__}; expected a file, a folder, "
            "or a polars, pandas or pyarrow frame"
        )
    with reading("the data frame"):
        return [Table("the data frame", lambda as_text: frame, frame.collect_schema())]


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
                + f" It has: {', '.join(there)}"
            )


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        if not path.name.endswith(SUFFIXES):
            raise ValueError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}, or a folder of them")
        return [path]
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(SUFFIXES))
    if not files:
        raise ValueError(f"{path} holds no file ending in {', '.join(SUFFIXES)}")
    return files


def _open_file(path: Path) -> Table:
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; expected rows")
    if not path.name.endswith(CSV_SUFFIXES):
        frame = pl.scan_parquet(path) if path.suffix in (".parquet", ".pq") else pl.scan_ipc(path)
        with reading(str(path)):
            return Table(str(path), lambda as_text: frame, frame.collect_schema(), path)

    def scan(as_text: Sequence[str]) -> pl.LazyFrame:
        return pl.scan_csv(
            path,
            separator="\t" if ".tsv" in path.suffixes else ",",
            schema_overrides=dict.fromkeys(as_text, pl.String),
            infer_schema_length=1000,
        )

    with reading(str(path)):
        return Table(str(path), scan, scan(()).collect_schema(), path)


def fingerprint(table: Table) -> tuple[str | int, ...]:
    """Other values when the table has changed: of a file its name, size and time of change; of a frame its content,
    for which a lazy one is collected."""
    if table.path is not None:
        stat = table.path.stat()
        return str(table.path.resolve()), stat.st_size, stat.st_mtime_ns
    frame = collect(table.lazy().select(pl.exclude(pl.Object)))
    digest = hashlib.sha256(str(frame.schema).encode())
    digest.update(
        frame.hash_rows(seed=0).to_numpy().tobytes()
    )  # stable within one version of polars, and quick
    return pl.__version__, digest.hexdigest()


def collect(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect(engine="streaming")
