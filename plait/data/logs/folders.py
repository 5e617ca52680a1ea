"""Which files of a folder are parts of a table, and what the names of its subfolders say about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from plait.data.logs.nested_fields import Scan

COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst", ".snappy")
HELD = (
    *(".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".tab", ".json", ".jsonl", ".ndjson"),
    *(".parquet", ".pq", ".arrow", ".ipc", ".feather"),
)
UNREAD = (".", "_")  # how the names of files begin that hold no rows, such as _SUCCESS
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class File:
    path: Path
    partition: Mapping[str, str | None]  # column -> value, of the folders `column=value` that it lies in


def files_of(path: Path) -> list[File]:
    """The file at a path, or those of a folder in the order of their names, subfolders `column=value` among them.

    What a file holds is told by its content; in a folder the name decides whether it is read at all, so that a
    README is not.

    Raises:
        ValueError: there is none.
    """
    if path.is_file():
        return [File(path, {})]
    if not path.exists():
        raise ValueError(f"{path} does not exist")
    files = _files_below(path, {})
    if not files:
        kinds = ", ".join(HELD)
        raise ValueError(
            f"{path} holds no file ending in {kinds} (compressed or not), nor one called part-..."
        )
    columns = {tuple(sorted(file.partition)) for file in files}
    if len(columns) > 1:
        found = " and ".join(sorted(", ".join(names) or "none" for names in columns))
        raise ValueError(f"{path}: its subfolders column=value name other columns for some files: {found}")
    return files


def _files_below(folder: Path, partition: Mapping[str, str | None]) -> list[File]:
    files = []
    for path in sorted(folder.iterdir()):
        column, is_value, value = path.name.partition("=")
        if path.is_file() and _may_hold_rows(path):
            files.append(File(path, partition))
        elif path.is_dir() and column and is_value:
            known = None if value == NO_VALUE else unquote(value)
            files += _files_below(path, {**partition, unquote(column): known})
    return files


def _may_hold_rows(path: Path) -> bool:
    name = path.name.lower()
    if name.startswith(UNREAD):
        return False
    while name.endswith(COMPRESSED):
        name = name.rpartition(".")[0]
    return name.endswith(HELD) or name.startswith("part-")


def whole_numbers(files: Sequence[File]) -> frozenset[str]:
    """The columns of the folders' names in which every value is spelt as a whole number is."""
    values: dict[str, set[str]] = {}
    for file in files:
        for column, value in file.partition.items():
            values.setdefault(column, set()).update([value] if value is not None else [])
    return frozenset(column for column, found in values.items() if found and all(map(_is_number, found)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit() and str(int(text)) == text and len(text) < 19


def with_partition(scan: Scan, file: File, numbers: frozenset[str]) -> Scan:
    """The scan with a column for each folder `column=value` that its file does not hold itself."""
    if not file.partition:
        return scan

    def scan_with(as_text: Sequence[str]) -> pl.LazyFrame:
        frame = scan(as_text)
        there = frame.collect_schema()
        return frame.with_columns(
            pl.lit(value, pl.String)
            .cast(pl.Int64 if column in numbers and column not in as_text else pl.String)
            .alias(column)
            for column, value in file.partition.items()
            if column not in there
        )

    return scan_with
