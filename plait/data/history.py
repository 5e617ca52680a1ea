"""Histories that come from outside a prepared folder, read by the very rules that prepare one.

Shape letters: E events, U users, K codes of a user's features.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl
from jaxtyping import Int64

from plait import files
from plait.data.columns import rules
from plait.data.columns.actions import action_column
from plait.data.columns.features import code_context, user_features_of
from plait.data.columns.ids import DType, held_by, ids_as, is_text
from plait.data.columns.rules import RULE, Column, Rule
from plait.data.columns.times import MICROSECONDS_PER_S, TimeForm, TimeUnit
from plait.data.dataset import Dataset
from plait.data.logs.frames import as_frame, has_unnamed_index, is_pandas_row
from plait.data.logs.tables import check_columns
from plait.data.logs.text import TextFormat
from plait.data.storage.whole_folders import parquet_bytes
from plait.data.vocabulary import Vocabulary
from plait.schema import UNKNOWN_ITEM, Action, EventBatch, Feature

COLUMNS, ITEMS = "recommender.json", "items.parquet"  # files of a saved model, beside its weights
AGAIN = "save the model there again, or train it again"


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What the log calls its columns, and how it counts time."""

    user: str
    item: str
    time: str | None  # None: the log has no times, and its rows are in order
    time_unit: TimeUnit
    time_format: str | None = None
    time_offset: str | None = None
    user_ids: Literal["numbers", "text", "as given"] = "as given"  # the last in models that were saved before
    order: str | None = None  # breaks ties of time
    request: str | None = None  # None: events of one time are one request
    context: tuple[Feature, ...] = ()  # as fitted in preparation, like the next
    user_features: tuple[Feature, ...] = ()
    conditions: tuple[Feature, ...] = ()  # of the moment; those of items follow from items
    text: TextFormat = TextFormat()  # of feature tables that are files

    @property
    def time_form(self) -> TimeForm | None:
        if self.time is None:
            return None
        return TimeForm(
            column=self.time, unit=self.time_unit, format=self.time_format, offset=self.time_offset
        )


@dataclass(frozen=True)
class History:
    """What a table of events holds."""

    events: EventBatch  # users in the order of their ids
    user_ids: tuple[Any, ...] | None  # None where the table has no user column: all events are of one user
    unknown_items: tuple[Any, ...]  # ids that the model does not know, each once; UNKNOWN_ITEM in the events
    # By which each user's last request is told from others: its id where the history has them, else its time in µs;
    # None where nothing but the events' own request numbers is known.
    request_name_U: tuple[Any, ...] | None
    # Where each user's last event stands in the order of the log: its time in µs, then what breaks ties of time.
    place_U: tuple[tuple[Any, ...], ...] | None


def columns_read(dataset: Dataset) -> Columns:
    """What the dataset's log called its columns."""
    log = dataset.manifest.settings
    return Columns(
        user=log.user,
        item=log.item,
        time=log.time,
        time_unit=log.time_unit,
        time_format=log.time_format,
        time_offset=log.time_offset,
        user_ids="numbers" if dataset.user_ids().dtype.is_integer() else "text",
        order=log.order,
        request=log.request,
        context=dataset.context,
        user_features=dataset.manifest.user_features,
        conditions=dataset.manifest.conditions,
        text=log.text,
    )


def save_vocabulary(folder: Path, items: Vocabulary, columns: Columns) -> None:
    """Writes what a model needs to read histories: the item ids in dense order, and the columns' names."""
    ids, names = parquet_bytes(items.ids.to_frame("item_id")), msgspec.json.encode(columns)
    files.write_listed(folder / ITEMS, lambda aside: aside.write_bytes(ids))
    files.write_listed(folder / COLUMNS, lambda aside: aside.write_bytes(msgspec.json.format(names)))


def load_vocabulary(folder: Path) -> tuple[Vocabulary, Columns]:
    """Raises ValueError where a file is missing or damaged."""
    for name in (COLUMNS, ITEMS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no saved recommender: it has no {name}; {AGAIN}")
    files.check_hashes(folder, AGAIN, COLUMNS, ITEMS)
    try:
        columns = msgspec.json.decode((folder / COLUMNS).read_bytes(), type=Columns)
        return Vocabulary.of_items(pl.read_parquet(folder / ITEMS, glob=False)["item_id"]), columns
    except (msgspec.MsgspecError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error


def read_history(
    history: Any,
    columns: Columns,
    actions: tuple[Action, ...],
    items: Vocabulary,
    users: Any = None,
    needs_request: bool = False,
) -> History:
    """Events of one user or, where the user column is there, of many, in the order of time.

    Args:
        history: a frame of polars, pandas or Arrow, or a mapping of columns (of single values for one event, as a row
            of pandas is). The named levels of a pandas index are columns. An action without a column is missing in
            every event.
        actions: as fitted in preparation.
        items: those that are known; others become UNKNOWN_ITEM.
        needs_request: where the log has a request column, every event must name its request.
        users: a table of user features; users that it lacks, or all where it is not given, have none. Columns of the
            context and of conditions that the history lacks are missing too. Without the request column, events of
            one time are one request.

    Raises:
        ValueError: a column is missing, of the wrong type, or holds a value that breaks a rule; or there is no user
            column, and something that may have been meant for it: a column, an index, or a table of users.
    """
    read = _read_rows(history, columns, actions, users, needs_request)
    place, form, has_users = read.place, columns.time_form, read.has_users
    by = (columns.user, *place)
    order = read.values.select(pl.arg_sort_by(*by, maintain_order=True)).to_series()
    frame, values = read.frame[order], read.values[order]
    user_E = frame[columns.user].rank("dense").to_numpy().astype(np.int64) - 1
    # Without times, each event is a request of its own and later than those above it.
    tick = values[form.column] if form is not None else pl.Series(np.arange(len(frame)) * MICROSECONDS_PER_S)
    tick_E, request_name_E, has_names = tick.to_numpy(), tick, form is not None
    if columns.request is not None and columns.request in frame.columns:
        request_name_E, has_names = frame[columns.request], True
    start_U1 = np.concatenate([[0], np.cumsum(np.bincount(user_E))]).astype(np.int64)
    user_ids = frame[columns.user].gather(start_U1[:-1])
    item_E = items.index_of(frame[columns.item])
    events = EventBatch(
        user_U=np.arange(len(start_U1) - 1),
        start_U1=start_U1,
        lead_U=np.zeros(len(start_U1) - 1, dtype=np.int64),
        item_E=item_E,
        action_EA=values.select(action.name for action in actions)
        .to_numpy()
        .reshape(len(frame), len(actions))
        .astype(np.float32, copy=False),  # a frame without columns has a type of its own
        time_s_E=tick_E // MICROSECONDS_PER_S,
        request_E=request_name_E.rle_id().to_numpy().astype(np.int64),
        context_EF=code_context(columns.context, frame, "the history"),
        condition_EG=code_context(columns.conditions, frame, "the history"),
        user_code_UK=_user_codes(users, columns, user_ids),  # of nobody, where there are no users
    )
    unknown = frame[columns.item].filter(pl.Series(item_E == UNKNOWN_ITEM)).unique(maintain_order=True)
    last_U = start_U1[1:] - 1
    return History(
        events,
        tuple(user_ids) if has_users else None,
        tuple(unknown),
        request_name_U=tuple(request_name_E.gather(last_U)) if has_names else (None,) * len(last_U),
        place_U=tuple(values.select(place)[last_U].iter_rows()) if place else ((),) * len(last_U),
    )


def event_places(
    events: pl.DataFrame, columns: Columns, actions: tuple[Action, ...], needs_request: bool = False
) -> list[tuple[Any, ...]]:
    """Where each event stands in the order of the log, as `History.place_U`, of events of any users.

    Args:
        events: without the user column; the rest as in `read_history`, whose every rule is held.

    Raises:
        ValueError: as `read_history`.
    """
    read = _read_rows(events, columns, actions, None, needs_request)
    code_context(columns.context, read.frame, "the history")
    code_context(columns.conditions, read.frame, "the history")
    return read.values.select(read.place).rows() if read.place else [()] * len(events)


@dataclass(frozen=True)
class _ReadRows:
    """The rows of a table that breaks no rule, in its order."""

    frame: pl.DataFrame  # as given, with the columns that it lacked
    values: pl.DataFrame  # what the columns mean
    place: tuple[str, ...]  # of those, what orders events
    has_users: bool


def _read_rows(
    history: Any, columns: Columns, actions: tuple[Action, ...], users: Any, needs_request: bool
) -> _ReadRows:
    """Arguments and errors of `read_history`."""
    frame = _as_frame(history)
    has_users = columns.user in frame.columns
    if not has_users:
        _check_one_user(history, frame, columns, actions, users)
    frame = _with_missing_actions(frame, columns, actions)
    if needs_request and columns.request is not None:
        _check_requests(frame, columns.request)
    ordering = () if columns.order is None else (columns.order,)
    form = columns.time_form
    timing = () if form is None else form.columns
    check_columns(frame.columns, (columns.item, *timing, *ordering), "the history")
    user_E = _user_ids_of(frame[columns.user], columns) if has_users else pl.lit(0).alias(columns.user)
    frame = frame.with_columns(user_E)
    times_in = [] if form is None else [rules.time_column(form, frame.schema, rules.latest_event_s())]
    actions_in = [action_column(action, frame.schema[action.name]) for action in actions]
    ids_in = [rules.given_id_column(name, frame.schema[name]) for name in (columns.user, columns.item)]
    order_in = [
        replace(_given_column(name, frame.schema[name]), name=f"order of {name}") for name in ordering
    ]
    values = _checked(frame, [*ids_in, *times_in, *order_in, *actions_in])
    return _ReadRows(frame, values, tuple(column.name for column in (*times_in, *order_in)), has_users)


def _user_ids_of(user_E: pl.Series, columns: Columns) -> pl.Series:
    """Users as the log has them; as they are where one of them is no id that the log could have."""
    if columns.user_ids == "as given" or not (is_text(user_E.dtype) or user_E.dtype.is_numeric()):
        return user_E
    if columns.user_ids == "numbers" and user_E.dtype.is_integer():
        return user_E
    ids = ids_as(user_E, pl.String if columns.user_ids == "text" else held_by(user_E, has_types=False).dtype)
    return user_E if ids.is_null().any() else ids


def _check_requests(frame: pl.DataFrame, request: str) -> None:
    why = "and the model was trained to tell by it what was shown together; give it for every event"
    if request not in frame.columns:
        raise ValueError(f"the history has no column {request!r}, {why}")
    if frame[request].null_count():
        event = frame.row(int(frame[request].is_null().arg_true()[0]), named=True)
        raise ValueError(f"{request} is missing in the event {event}, {why}")


def _user_codes(users: Any, columns: Columns, user_ids: pl.Series) -> Int64[np.ndarray, "U K"]:
    if not columns.user_features:
        return np.empty((len(user_ids), 0), dtype=np.int64)
    table = user_features_of(users, columns.user, columns.user_features, user_ids, columns.text)
    return table.code_NK.astype(np.int64)


def _optional(columns: Columns, actions: tuple[Action, ...]) -> list[str]:
    described = [feature.name for feature in (*columns.context, *columns.conditions)]
    return [action.name for action in actions] + described


def _unread(frame: pl.DataFrame, columns: Columns, actions: tuple[Action, ...]) -> list[str]:
    known = {columns.user, columns.item, columns.time, columns.time_offset, columns.order, columns.request}
    return [name for name in frame.columns if name not in known.union(_optional(columns, actions))]


def _check_one_user(
    history: Any, frame: pl.DataFrame, columns: Columns, actions: tuple[Action, ...], users: Any
) -> None:
    """Raises ValueError where a history without the user column has something that may have been meant for it."""
    why = f"the history has no column {columns.user!r}, so all its events would be of one user, and"
    near = difflib.get_close_matches(columns.user, _unread(frame, columns, actions), n=1)
    if near:
        raise ValueError(
            f"{why} the model knows none that is called {near[0]!r}; did you mean {columns.user!r} by {near[0]!r}? "
            "Leave it out where all events are of one user"
        )
    if has_unnamed_index(history):
        raise ValueError(
            f"{why} it has an index without a name, such as {history.index[0]!r}. Where that is the user, name it "
            f"(history.rename_axis({columns.user!r})); where all events are of one user, drop it "
            "(history.reset_index(drop=True))"
        )
    if users is not None:
        raise ValueError(
            f"{why} no row of users can be told to be this user's: give the history the column {columns.user!r}, or "
            "leave users out"
        )


def _with_missing_actions(frame: pl.DataFrame, columns: Columns, actions: tuple[Action, ...]) -> pl.DataFrame:
    """The frame with a column for every action, empty where it has none.

    Raises:
        ValueError: an action has no column, and a column is there that may have been meant for it.
    """
    optional = _optional(columns, actions)
    absent = [name for name in optional if name not in frame.columns]
    strange = _unread(frame, columns, actions)
    if absent and strange:
        near = difflib.get_close_matches(absent[0], strange, n=1)
        raise ValueError(
            f"the history has no column {absent[0]!r}, and the model knows none that is called "
            f"{', '.join(map(repr, strange))}"
            + (f"; did you mean {absent[0]!r} by {near[0]!r}?" if near else ".")
            + f" Leave such columns out where {absent[0]!r} is missing in every event"
        )
    empty = [pl.lit(None).alias(action.name) for action in actions if action.name in absent]
    return frame.with_columns(empty) if empty else frame


def _as_frame(history: Any) -> pl.DataFrame:
    if isinstance(history, pl.DataFrame):
        return history
    if isinstance(history, str | Path):
        raise ValueError(
            f"the history is the path {str(history)!r}; expected a frame of polars, pandas or Arrow, or a mapping of "
            "columns: read the file first, as polars.read_csv does"
        )
    if is_pandas_row(history):
        history = history.to_dict()
    if isinstance(history, Mapping):
        history = {name: _as_column(values) for name, values in history.items()}
    return as_frame(history, "the history")


def _as_column(values: Any) -> Any:
    if np.ndim(values) == 0:
        return [values]
    is_object = isinstance(values, np.ndarray) and values.dtype == object  # polars keeps such text shut
    return list(values) if is_object or isinstance(values, tuple) else values


def _given_column(name: str, dtype: DType) -> Column:
    raw = pl.col(name)
    missing = raw.is_null() | raw.is_nan() if dtype.is_float() else raw.is_null()
    if dtype == pl.String:
        missing = missing | (raw == "")
    return Column(name, raw, (Rule(f"{name} is missing", missing),))


def _checked(frame: pl.DataFrame, columns: list[Column]) -> pl.DataFrame:
    values = frame.select(rules.rule_number(columns), *(c.value.alias(c.name) for c in columns))
    broken = values[RULE].to_numpy().nonzero()[0]
    if len(broken):
        row = int(broken[0])
        rule = rules.rule_texts(columns)[values[RULE][row] - 1]
        raise ValueError(f"the history breaks a rule: {rule}, in the event {frame.row(row, named=True)}")
    return values
