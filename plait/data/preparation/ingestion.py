"""Tables of a log to checked, narrowed, dense-coded columns, and the rows that broke a rule.

Shape letters: N rows accepted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl

from plait.data.columns import rules
from plait.data.columns.actions import action_column, read_as
from plait.data.columns.ids import Held, as_id, held_by, is_text, look_like_hashes
from plait.data.columns.rules import RULE, Column
from plait.data.columns.times import MICROSECONDS_PER_S, UNIT_NAMES, fitting_unit
from plait.data.logs.tables import LogTable, check_columns, collect, reading
from plait.data.logs.text import decimal_hint, with_decimal_points
from plait.data.manifest import Settings, SplitColumn
from plait.data.preparation.coding import dense_codes, joined
from plait.schema import Category, Number
from plait.wording import setting

EXAMPLES = 3  # rows named per broken rule
FIRST_ROWS = 1_000  # from which the type of ids is guessed
LEAST_SHARE_LEFT = 0.5  # of the rows, for setting bad ones aside to be advised
REJECT_ROW, REJECT_FILE = "reject_row", "reject_file"
ID = "plait_id_of_"  # and the role: a column beside the log's own


@dataclass(frozen=True)
class LogRows:
    """A log's accepted rows in their old order. Columns are popped when used: a log is large."""

    # user, item, request, order: int32 codes; time: µs; action0, ...: float32; context0, ...: int32 codes or float64,
    # of `Settings.of_events`; part: uint8, where a column splits
    columns: dict[str, np.ndarray]
    user_id: pl.Series
    item_id: pl.Series
    num_read: int
    rejected: dict[str, int]  # broken rule -> rows
    rejects: pl.DataFrame | None
    context_label: dict[str, pl.Series]  # of the coded ones among the context columns


@dataclass(frozen=True)
class LogPart:
    """One table with its columns, ready to be read."""

    table: LogTable
    lazy: pl.LazyFrame
    schema: Mapping[str, Any]
    columns: dict[str, Column]  # role -> column

    def rules(self) -> list[tuple[Column, str]]:
        return [(column, rule.text) for column in self.columns.values() for rule in column.rules]


def log_columns(settings: Settings) -> list[str]:
    """The columns of the log that are read."""
    names = [
        settings.user,
        settings.item,
        settings.time,
        settings.time_offset,
        settings.request,
        settings.order,
    ]
    names += [action.name for action in settings.actions] + [feature.name for feature in settings.of_events]
    names.append(settings.split_column)
    return [name for name in names if name is not None]


def ingest(
    tables: Sequence[LogTable], settings: Settings, held: Mapping[str, Held] = MappingProxyType({})
) -> LogRows:
    """Reads, checks and encodes all rows.

    Args:
        held: what the ids of feature tables are, under "user" and "item".

    Raises:
        ValueError: columns are missing or of the wrong type, a file cannot be read, no row is left, or rows
            break a rule and `settings.on_bad_row` is "stop".
    """
    for table in tables:
        check_columns(table.schema, log_columns(settings), table.name)
    parts, frames = _read_all(tables, settings, held)
    for table, frame in zip(tables, frames, strict=True):
        table.check_rows(frame.height)
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
            columns[role] = joined(column)
    if settings.time is None:
        columns["time"] = np.arange(len(columns["user"]), dtype=np.int64) * MICROSECONDS_PER_S
    context_label = {role: labels for role, labels in ids.items() if role.startswith("context")}
    return LogRows(columns, ids["user"], ids["item"], num_read, rejected, rejects, context_label)


@dataclass(frozen=True)
class IdForm:
    """What is known of an id column over all tables."""

    held: Held
    refuses_negative: bool


Forms = Mapping[str, IdForm]  # by the role of the column


def _id_columns(settings: Settings) -> dict[str, str]:
    roles = {"user": settings.user, "item": settings.item, "request": settings.request}
    return {role: name for role, name in roles.items() if name}


def _read_all(
    tables: Sequence[LogTable], settings: Settings, held: Mapping[str, Held]
) -> tuple[list[LogPart], list[pl.DataFrame]]:
    """All tables, narrowed, with ids of the one type that holds them all.

    That type is guessed from the first rows. Where the others do not bear it out, all is read once more.
    """
    refuses = settings.negative_ids == "refuse"
    forms: Forms = {
        role: IdForm(at_first | held.get(role, Held()), refuses)
        for role, at_first in _held_at_first(tables, _id_columns(settings)).items()
    }
    while True:
        parts, frames = _read_of_any_type(tables, settings, forms)
        found = {role: _held_against(parts, frames, role, form, settings) for role, form in forms.items()}
        if all(_reads_alike(found[role], form) for role, form in forms.items()):
            return parts, frames
        forms = found


def _reads_alike(one: IdForm, other: IdForm) -> bool:
    return one.held.dtype == other.held.dtype and one.refuses_negative == other.refuses_negative


def _held_at_first(tables: Sequence[LogTable], ids: Mapping[str, str]) -> dict[str, Held]:
    """What the first rows of text files hold, and what the types of others say, by the role of the column."""
    held = dict.fromkeys(ids, Held())
    for table in tables:
        if table.has_types:
            found = {role: Held(text=is_text(table.schema[name])) for role, name in ids.items()}
        else:
            with reading(table.name):
                lazy = table.lazy(list(ids.values())).select(set(ids.values())).head(FIRST_ROWS)
                first = lazy.collect()  # not streamed: a stream reads on beyond the first rows
            found = {role: held_by(first[name], has_types=False) for role, name in ids.items()}
        held = {role: held[role] | found[role] for role in ids}
    return held


def _held_against(
    parts: Sequence[LogPart], frames: Sequence[pl.DataFrame], role: str, form: IdForm, settings: Settings
) -> IdForm:
    """The form that the rows read ask for, beside what was known."""
    held = form.held
    if held.dtype != pl.String:
        for part, frame in zip(parts, frames, strict=True):
            held |= _held_in(part, frame[role], role)
    if held.dtype != form.held.dtype or settings.negative_ids is not None or form.refuses_negative:
        return IdForm(held, form.refuses_negative)
    return IdForm(held, _refuses_negative(frames, role))


def _held_in(part: LogPart, value: pl.Series, role: str) -> Held:
    held = Held(negative=bool((value < 0).any()))
    column = part.columns[role]
    # Of floats, the rules tell fractions and merged ids.
    if value.null_count() == 0 or part.schema[column.name].is_float():
        return held
    odd = pl.col(column.name).cast(pl.String)
    texts = collect(part.lazy.filter(pl.col(ID + role).is_null()).select(odd).unique()).to_series()
    return held | held_by(texts, has_types=False)


def _refuses_negative(frames: Sequence[pl.DataFrame], role: str) -> bool:
    """Whether the column's negative values are no ids like others."""
    is_coded = isinstance(frames[0][role].dtype, pl.Categorical)
    if not is_coded and not any((frame[role] < 0).any() for frame in frames):
        return False
    different = pl.concat([frame[role].unique() for frame in frames]).unique().drop_nulls()
    dtype = different.dtype
    number = pl.DataFrame({"id": different}).select(rules.negative_number(pl.col("id"), dtype)).to_series()
    return not look_like_hashes(number.filter(number < 0), len(different))


def _read_of_any_type(
    tables: Sequence[LogTable], settings: Settings, forms: Forms
) -> tuple[list[LogPart], list[pl.DataFrame]]:
    """Columns whose types are guessed are read once more as text where a row does not fit, so that the rules can name
    it: numbers first, and what breaks ties only if that did not help."""
    numbers = [*(() if settings.time is None else settings.time_form.columns)]
    numbers += [action.name for action in settings.actions]
    numbers += [feature.name for feature in settings.of_events]
    for as_text in ([], numbers):
        try:
            return _read_as(tables, settings, forms, as_text)
        except pl.exceptions.ComputeError:
            continue
    order = [settings.order] if settings.order else []
    return _read_as(tables, settings, forms, numbers + order, name_errors=True)


def _read_as(
    tables: Sequence[LogTable],
    settings: Settings,
    forms: Forms,
    as_text: Sequence[str],
    name_errors: bool = False,
) -> tuple[list[LogPart], list[pl.DataFrame]]:
    ids = _id_columns(settings)
    spelt = [*as_text, *ids.values(), *_spelt_columns(settings)]
    lazy_frames = [
        with_decimal_points(table.lazy(spelt), _numbers(settings), settings.text) for table in tables
    ]
    schemas = [frame.collect_schema() for frame in lazy_frames]
    texts = [feature.name for feature in settings.of_events]
    texts += [name for role, name in ids.items() if forms[role].held.dtype == pl.String]
    if settings.order and any(is_text(schema[settings.order]) for schema in schemas):
        texts.append(settings.order)
    categories = {name: pl.Categories.random() for name in texts}
    now_s = rules.latest_event_s()
    parts, frames = [], []
    for table, lazy, schema in zip(tables, lazy_frames, schemas, strict=True):
        read = lazy.with_columns(
            as_id(pl.col(name), schema[name], forms[role].held.dtype).alias(ID + role)
            for role, name in ids.items()
        )
        part = LogPart(table, read, schema, _columns_of(schema, settings, forms, categories, now_s))
        narrow = read.select(
            *(column.value.alias(role) for role, column in part.columns.items()),
            rules.rule_number(list(part.columns.values())),
        )
        if name_errors:
            with reading(table.name):
                frames.append(collect(narrow))
        else:
            frames.append(collect(narrow))
        parts.append(part)
    return parts, frames


def _numbers(settings: Settings) -> list[str]:
    """The columns that hold numbers, or times that may be."""
    names = [action.name for action in settings.actions if not read_as(action.kind).is_spelt]
    names += [feature.name for feature in settings.of_events if isinstance(feature.kind, Number)]
    return names if settings.time is None else [settings.time, *names]


def _spelt_columns(settings: Settings) -> list[str]:
    """Columns, beside those of ids, that mean what is written and not the number that it may be."""
    names = [feature.name for feature in settings.of_events if isinstance(feature.kind, Category)]
    names += [settings.split_column] if settings.split_column else []
    names += [action.name for action in settings.actions if read_as(action.kind).is_spelt]
    if settings.time_format is not None and settings.time is not None:
        names.append(settings.time)
    return names + ([settings.time_offset] if settings.time_offset else [])


def _columns_of(
    schema: Mapping[str, Any],
    settings: Settings,
    forms: Forms,
    categories: dict[str, pl.Categories],
    now_s: float,
) -> dict[str, Column]:
    columns = {}
    for role, name in _id_columns(settings).items():
        form = forms[role]
        columns[role] = rules.id_column(
            name, schema[name], pl.col(ID + role), categories.get(name), form.refuses_negative
        )
    if settings.time is not None:
        columns["time"] = rules.time_column(settings.time_form, schema, now_s)
    if settings.order:
        order = settings.order
        columns["order"] = rules.order_column(order, schema[order], categories.get(order))
    if isinstance(settings.split, SplitColumn):
        columns["part"] = rules.split_column(settings.split, schema[settings.split.column])
    for index, action in enumerate(settings.actions):
        columns[f"action{index}"] = action_column(action, schema[action.name])
    for index, feature in enumerate(settings.of_events):
        dtype, group = schema[feature.name], categories[feature.name]
        columns[f"context{index}"] = rules.context_column(feature, dtype, group)
    return columns


def _count_broken(parts: Sequence[LogPart], frames: Sequence[pl.DataFrame]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part, frame in zip(parts, frames, strict=True):
        for number, (_, text) in enumerate(part.rules(), start=1):
            rows = int((frame[RULE] == number).sum())
            if rows:
                counts[text] = counts.get(text, 0) + rows
    return counts


def _describe_broken(
    parts: Sequence[LogPart],
    frames: Sequence[pl.DataFrame],
    rejected: dict[str, int],
    num_read: int,
    settings: Settings,
) -> str:
    lines = [
        f"{sum(rejected.values())} of {num_read} rows break a rule (row 1 is the first after the header):"
    ]
    for text, rows in rejected.items():
        examples: list[tuple[str, Any]] = []
        for part, frame in zip(parts, frames, strict=True):
            for number, (column, rule) in enumerate(part.rules(), start=1):
                if rule == text and len(examples) < EXAMPLES:
                    row_R = (frame[RULE] == number).arg_true().head(EXAMPLES - len(examples))
                    examples += _examples(part, column, row_R)
        is_ahead = f"future, read as {settings.time_unit}" in text
        hint = _unit_hint(examples, settings) if is_ahead else decimal_hint(examples[0][1])
        shown = ", ".join(f"{where} ({value!r})" for where, value in examples)
        lines.append(f"  {text}: {rows} rows, e.g. {shown}{hint}")
    return "\n".join([*lines, _advice(num_read - sum(rejected.values()), num_read)])


def _advice(left: int, num_read: int) -> str:
    if left == 0:
        return "Correct them: without these rows none is left."
    if left < num_read * LEAST_SHARE_LEFT:
        return (
            f"Correct them: without these rows only {left} of {num_read} are left. Where that is meant, take them out "
            "of the log first."
        )
    return (
        f"Correct them, or pass {setting('on_bad_row', 'reject')} to set them aside in rejects.parquet "
        f"and go on with the other {left}."
    )


def _unit_hint(examples: Sequence[tuple[str, Any]], settings: Settings) -> str:
    """Which unit times are in that lie in the future."""
    numbers = [value for _, value in examples if isinstance(value, int | float)]
    unit = fitting_unit(max(numbers), rules.latest_event_s()) if numbers else None
    if unit is None or unit == settings.time_unit:
        return ""
    return f"; if these are {UNIT_NAMES[unit]}, pass {setting('time_unit', unit)}"


def _examples(part: LogPart, column: Column, row_R: pl.Series) -> list[tuple[str, Any]]:
    """Where rows are, and what the column holds there."""
    values = [collect(part.lazy.select(column.name).slice(row, 1)).item() for row in row_R]
    return [(f"row {row + 1} of {part.table.name}", value) for row, value in zip(row_R, values, strict=True)]


def _rejected_rows(part: LogPart) -> pl.DataFrame:
    """The bad rows of a table as they stand in the log, with row number (from 1), file and rule."""
    texts = [text for _, text in part.rules()]
    bad = part.lazy.with_row_index(REJECT_ROW, offset=1).with_columns(
        rules.rule_number(list(part.columns.values()))
    )
    named = collect(bad.filter(pl.col(RULE) > 0)).with_columns(
        pl.lit(Path(part.table.name).name).alias(REJECT_FILE),
        pl.col(RULE).replace_strict(list(range(1, len(texts) + 1)), texts, return_dtype=pl.String),
    )
    first = [REJECT_ROW, REJECT_FILE, RULE]
    return named.select(*first, pl.exclude(*first, f"^{ID}.*$"))


def _tally(rejected: dict[str, int]) -> str:
    return ", ".join(f"{text} ({rows})" for text, rows in rejected.items())
