"""Tables of a log to checked, narrowed, dense-coded columns, and the rows that broke a rule.

Shape letters: N rows accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from plait.data import checking
from plait.data.checking import RULE, Column
from plait.data.coding import dense_codes
from plait.data.manifest import Settings, SplitColumn
from plait.data.reading import Table, check_columns, collect, reading
from plait.schema import Category

EXAMPLES = 3  # rows named per broken rule
REJECT_ROW, REJECT_FILE = "reject_row", "reject_file"


@dataclass(frozen=True)
class Rows:
    """A log's accepted rows in their old order. Columns are popped when used: a log is large."""

    # user, item, request, order: int32 codes; time: µs; action0, ...: float32; context0, ...: int32 codes or float64;
    # part: uint8, where a column splits
    columns: dict[str, np.ndarray]
    user_id: pl.Series
    item_id: pl.Series
    num_read: int
    rejected: dict[str, int]  # broken rule -> rows
    rejects: pl.DataFrame | None
    context_label: dict[str, pl.Series]  # of the coded ones among the context columns


@dataclass(frozen=True)
class Part:
    """One table with its columns, ready to be read."""

    table: Table
    lazy: pl.LazyFrame
    columns: dict[str, Column]  # role -> column

    def rules(self) -> list[tuple[Column, str]]:
        return [(column, rule.text) for column in self.columns.values() for rule in column.rules]


def ingest(tables: Sequence[Table], settings: Settings) -> Rows:
    """Reads, checks and encodes all rows.

    Raises:
        ValueError: columns are missing or of the wrong type, a file cannot be read, no row is left, or rows
            break a rule and `settings.on_bad_row` is "stop".
    """
    wanted = [settings.user, settings.item, settings.time, settings.request, settings.order]
    wanted += [action.name for action in settings.actions] + [feature.name for feature in settings.context]
    wanted += [settings.split_column]
    for table in tables:
        check_columns(table.schema, filter(None, wanted), table.name)
    parts, frames = _read_all(tables, settings)
    num_read = sum(frame.height for frame in frames)
    if num_read == 0:
        raise ValueError(f"{tables[0].name} holds no rows")
    rejected = _count_broken(parts, frames)
    rejects = None
    if rejected and settings.on_bad_row == "stop":
        raise ValueError(_describe_broken(parts, frames, rejected, num_read, settings))
    if rejected:
        rejects = pl.concat([_rejected_rows(part) for part in parts], how="diagonal_relaxed")
        frames = [frame.filter(pl.col(RULE) == 0) for frame in frames]
    accepted = pl.concat([frame.drop(RULE) for frame in frames], how="vertical_relaxed", rechunk=False)
    del frames
    if accepted.height == 0:
        raise ValueError(f"no rows left: all {num_read} break a rule: {_tally(rejected)}")
    ids: dict[str, pl.Series] = {}
    columns: dict[str, np.ndarray] = {}
    for role in accepted.columns:
        column = accepted.drop_in_place(role)
        if role in ("user", "item", "request", "order") or isinstance(column.dtype, pl.Categorical):
            columns[role], ids[role] = dense_codes(column)
        else:
            columns[role] = column.to_numpy()
    context_label = {role: labels for role, labels in ids.items() if role.startswith("context")}
    return Rows(columns, ids["user"], ids["item"], num_read, rejected, rejects, context_label)


def _read_all(tables: Sequence[Table], settings: Settings) -> tuple[list[Part], list[pl.DataFrame]]:
    """All tables, narrowed; CSV columns of uncertain type are read once more as text where that is needed.

    A CSV file's types are guessed from its first rows. Where a later row does not fit, its columns are read
    as text, numbers first and ids only if that did not help, so that the rules can name the row.
    """
    numbers = [settings.time, *(action.name for action in settings.actions)]
    numbers += [feature.name for feature in settings.context]
    ids = [name for name in (settings.user, settings.item, settings.request, settings.order) if name]
    for as_text in ([], numbers):
        try:
            return _read_as(tables, settings, as_text)
        except pl.exceptions.ComputeError:
            continue
    return _read_as(tables, settings, numbers + ids, name_errors=True)


def _read_as(
    tables: Sequence[Table], settings: Settings, as_text: Sequence[str], name_errors: bool = False
) -> tuple[list[Part], list[pl.DataFrame]]:
    names = [feature.name for feature in settings.context if isinstance(feature.kind, Category)]
    names += [settings.split_column] if settings.split_column else []
    lazy_frames = [table.lazy([*as_text, *names]) for table in tables]
    schemas = [frame.collect_schema() for frame in lazy_frames]
    categories = {
        name: pl.Categories.random()
        for name in (settings.user, settings.item, settings.request, settings.order)
        if name and any(schema[name] in (pl.String, pl.Categorical, pl.Enum) for schema in schemas)
    }
    categories |= {feature.name: pl.Categories.random() for feature in settings.context}
    now_s = checking.latest_event_s()
    parts, frames = [], []
    for table, lazy, schema in zip(tables, lazy_frames, schemas, strict=True):
        part = Part(table, lazy, _columns_of(schema, settings, categories, now_s))
        narrow = lazy.select(
            *(column.value.alias(role) for role, column in part.columns.items()),
            checking.rule_number(list(part.columns.values())),
        )
        if name_errors:
            with reading(table.name):
                frames.append(collect(narrow))
        else:
            frames.append(collect(narrow))
        parts.append(part)
    return parts, frames


def _columns_of(
    schema: Mapping[str, Any], settings: Settings, categories: dict[str, pl.Categories], now_s: float
) -> dict[str, Column]:
    columns = {
        role: checking.id_column(name, schema[name], categories.get(name))
        for role, name in (("user", settings.user), ("item", settings.item), ("request", settings.request))
        if name
    }
    columns["time"] = checking.time_column(settings.time, schema[settings.time], settings.time_unit, now_s)
    if settings.order:
        order = settings.order
        columns["order"] = checking.order_column(order, schema[order], categories.get(order))
    if isinstance(settings.split, SplitColumn):
        columns["part"] = checking.split_column(settings.split, schema[settings.split.column])
    for index, action in enumerate(settings.actions):
        columns[f"action{index}"] = checking.action_column(action, schema[action.name])
    for index, feature in enumerate(settings.context):
        dtype, group = schema[feature.name], categories[feature.name]
        columns[f"context{index}"] = checking.context_column(feature, dtype, group)
    return columns


def _count_broken(parts: Sequence[Part], frames: Sequence[pl.DataFrame]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part, frame in zip(parts, frames, strict=True):
        for number, (_, text) in enumerate(part.rules(), start=1):
            rows = int((frame[RULE] == number).sum())
            if rows:
                counts[text] = counts.get(text, 0) + rows
    return counts


def _describe_broken(
    parts: Sequence[Part],
    frames: Sequence[pl.DataFrame],
    rejected: dict[str, int],
    num_read: int,
    settings: Settings,
) -> str:
    lines = [
        f"{sum(rejected.values())} of {num_read} rows break a rule (row 1 is the first after the header):"
    ]
    for text, rows in rejected.items():
        examples: list[str] = []
        for part, frame in zip(parts, frames, strict=True):
            for number, (column, rule) in enumerate(part.rules(), start=1):
                if rule == text and len(examples) < EXAMPLES:
                    row_R = (frame[RULE] == number).arg_true().head(EXAMPLES - len(examples))
                    examples += _examples(part, column, row_R)
        hint = (
            "; if these are milliseconds, pass time_unit='ms' (--time-unit ms)"
            if text.endswith("future, read as s")
            else ""
        )
        lines.append(f"  {text}: {rows} rows, e.g. {', '.join(examples)}{hint}")
    lines.append(
        "Correct them, or pass on_bad_row='reject' (--on-bad-row reject) to set them aside in rejects.parquet "
        "and go on."
    )
    return "\n".join(lines)


def _examples(part: Part, column: Column, row_R: pl.Series) -> list[str]:
    values = [collect(part.lazy.select(column.name).slice(row, 1)).item() for row in row_R]
    return [
        f"row {row + 1} of {part.table.name} ({value!r})" for row, value in zip(row_R, values, strict=True)
    ]


def _rejected_rows(part: Part) -> pl.DataFrame:
    """The bad rows of a table as they stand in the log, with row number (from 1), file and rule."""
    texts = [text for _, text in part.rules()]
    bad = part.lazy.with_row_index(REJECT_ROW, offset=1).with_columns(
        checking.rule_number(list(part.columns.values()))
    )
    named = collect(bad.filter(pl.col(RULE) > 0)).with_columns(
        pl.lit(Path(part.table.name).name).alias(REJECT_FILE),
        pl.col(RULE).replace_strict(list(range(1, len(texts) + 1)), texts, return_dtype=pl.String),
    )
    first = [REJECT_ROW, REJECT_FILE, RULE]
    return named.select(*first, pl.exclude(first))


def _tally(rejected: dict[str, int]) -> str:
    return ", ".join(f"{text} ({rows})" for text, rows in rejected.items())
