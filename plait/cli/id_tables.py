"""Tables of the users and items that a question is about: any file that a log may be, or a text with an id a line."""

from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from plait.data.columns.features import check_ids
from plait.data.logs.containers import kind_of, open_content
from plait.data.logs.delimited_text import SEPARATORS
from plait.data.logs.encodings import to_utf8
from plait.data.logs.nested_fields import is_json
from plait.data.logs.tables import LogTable, check_columns, collect, open_tables, reading, shortened_list

Report = Callable[[str], None]


def read_ids(path: Path, names: Mapping[str, str], report: Report) -> pl.DataFrame:
    """Columns of ids, called as in the log; what else a file holds is told and not read.

    Args:
        names: what the log calls each column, and what Plait's answers call it, which will do where the log's is not
            there.

    Raises:
        ValueError: the file cannot be read, has no rows, lacks a column, or an id is missing.
    """
    frames = [_columns(table, names, report) for table in list_tables(path)]
    found = pl.concat(frames, how="vertical_relaxed")
    if not found.height:
        raise ValueError(f"{path} has no rows; expected one for each {' and '.join(names.values())}")
    return found


def _columns(table: LogTable, names: Mapping[str, str], report: Report) -> pl.DataFrame:
    there = table.schema
    wanted = [ours if ours in there and log not in there else log for log, ours in names.items()]
    check_columns(there, wanted, table.name)
    with reading(table.name):
        frame = collect(table.lazy(as_text=wanted).select(wanted))
    table.check_rows(frame.height)
    for column in frame:
        check_ids(column, table.name)
    unread = [name for name in there if name not in wanted]
    if unread:
        report(f"{table.name}: read are {', '.join(wanted)}, and not {shortened_list(unread)}")
    return frame.rename(dict(zip(wanted, names, strict=True)))


def list_tables(path: Path) -> list[LogTable]:
    """A text without any separator in its first line is no log, and a list all the same: its lines are ids."""
    lines = _lines(path) if path.is_file() else []
    if not lines or any(separator in lines[0] for separator in SEPARATORS):
        return open_tables(path)
    frame = pl.LazyFrame({lines[0]: lines[1:]}, schema={lines[0]: pl.String})
    return [LogTable(str(path), lambda as_text: frame, frame.collect_schema(), path, has_types=False)]


def _lines(path: Path) -> list[str]:
    """Of a text that is no JSON, without the blank ones at the end; none of anything else."""
    content = open_content(path)
    if not len(content.data) or kind_of(content) != "text":
        return []
    content, _ = to_utf8(content, None)
    if is_json(content):
        return []
    return content.data.tobytes().decode().replace("\r\n", "\n").rstrip("\n").split("\n")
