"""Histories that come from outside a prepared folder, read by the very rules that prepare one.

Shape letters: E events.
"""

import time as clock
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl

from plait.data import checking
from plait.data.checking import RULE, Column, DType, Rule
from plait.data.coding import item_index
from plait.data.writing import parquet_bytes, write_bytes
from plait.schema import Action, EventBatch

MICROSECONDS_PER_S = 1_000_000
COLUMNS, ITEMS = "recommender.json", "items.parquet"  # files of a saved model, beside its weights


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What the log calls its columns, and how it counts time."""

    user: str
    item: str
    time: str
    time_unit: Literal["s", "ms"]
    order: str | None = None  # breaks ties of time


def save_vocabulary(folder: Path, item_ids: pl.Series, columns: Columns) -> None:
    """Writes what a model needs to read histories: the item ids in dense order, and the columns' names."""
    write_bytes(folder / ITEMS, parquet_bytes(item_ids.to_frame("item_id")))
    write_bytes(folder / COLUMNS, msgspec.json.format(msgspec.json.encode(columns)))


def load_vocabulary(folder: Path) -> tuple[pl.Series, Columns]:
    """Raises ValueError where a file is missing or damaged."""
    for name in (COLUMNS, ITEMS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no saved recommender: it has no {name}")
    try:
        columns = msgspec.json.decode((folder / COLUMNS).read_bytes(), type=Columns)
        return pl.read_parquet(folder / ITEMS)["item_id"], columns
    except (msgspec.MsgspecError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error


def read_history(
    history: Any, columns: Columns, actions: tuple[Action, ...], item_ids: pl.Series
) -> tuple[EventBatch, pl.Series | None]:
    """Events of one user or, where the user column is there, of many, in the order of time; and the users' ids.

    Args:
        history: a frame of polars, pandas or Arrow, or a mapping of columns (of single values for one event).
        actions: as fitted in preparation.
        item_ids: dense item i is at index i - 1; other items become UNKNOWN_ITEM.

    Raises:
        ValueError: a column is missing, of the wrong type, or holds a value that breaks a rule.
    """
    frame = _as_frame(history)
    ordering = () if columns.order is None else (columns.order,)
    for name in (columns.item, columns.time, *ordering, *(action.name for action in actions)):
        if name not in frame.columns:
            raise ValueError(f"the history has no column {name!r}; it has {', '.join(frame.columns)}")
    has_users = columns.user in frame.columns
    if not has_users:
        frame = frame.with_columns(pl.lit(0).alias(columns.user))
    time = checking.time_column(columns.time, frame.schema[columns.time], columns.time_unit, clock.time())
    actions_in = [checking.action_column(action, frame.schema[action.name]) for action in actions]
    values = _checked(frame, [_user_column(columns.user, frame.schema[columns.user]), time, *actions_in])
    values = values.with_columns(frame[name].alias(f"order of {name}") for name in ordering)
    by = (columns.user, columns.time, *(f"order of {name}" for name in ordering))
    order = values.select(pl.arg_sort_by(*by, maintain_order=True)).to_series()
    frame, values = frame[order], values[order]
    user_E = frame[columns.user].rank("dense").to_numpy().astype(np.int64) - 1
    tick_E = values[columns.time].to_numpy()
    new_E = np.diff(tick_E, prepend=tick_E[:1]) != 0
    start_U1 = np.concatenate([[0], np.cumsum(np.bincount(user_E))]).astype(np.int64)
    events = EventBatch(
        user_U=np.arange(len(start_U1) - 1),
        start_U1=start_U1,
        lead_U=np.zeros(len(start_U1) - 1, dtype=np.int64),
        item_E=item_index(frame[columns.item], item_ids),
        action_EA=values.select(action.name for action in actions)
        .to_numpy()
        .reshape(len(frame), len(actions))
        .astype(np.float32, copy=False),  # a frame without columns has a type of its own
        time_s_E=tick_E // MICROSECONDS_PER_S,
        request_E=np.cumsum(new_E),
    )
    return events, frame[columns.user].gather(start_U1[:-1]) if has_users else None


def _as_frame(history: Any) -> pl.DataFrame:
    if isinstance(history, pl.DataFrame):
        return history
    if isinstance(history, Mapping):
        history = {name: _as_column(values) for name, values in history.items()}
    try:
        return pl.DataFrame(history)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise ValueError(f"the history cannot be read as a table: {error}") from error


def _as_column(values: Any) -> Any:
    if np.ndim(values) == 0:
        return [values]
    is_object = isinstance(values, np.ndarray) and values.dtype == object  # polars keeps such text shut
    return list(values) if is_object or isinstance(values, tuple) else values


def _user_column(name: str, dtype: DType) -> Column:
    raw = pl.col(name)
    missing = raw.is_null() | raw.is_nan() if dtype.is_float() else raw.is_null()
    return Column(name, raw, (Rule(f"{name} is missing", missing),))


def _checked(frame: pl.DataFrame, columns: list[Column]) -> pl.DataFrame:
    values = frame.select(checking.rule_number(columns), *(c.value.alias(c.name) for c in columns))
    broken = values[RULE].to_numpy().nonzero()[0]
    if len(broken):
        row = int(broken[0])
        rule = checking.rule_texts(columns)[values[RULE][row] - 1]
        raise ValueError(f"the history breaks a rule: {rule}, in the event {frame.row(row, named=True)}")
    return values
