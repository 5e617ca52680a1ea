"""A prepared user's events, spelled as in the log again: what a store of histories begins with.

Shape letters: E events.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from plait.data.columns.times import MICROSECONDS_PER_S, PER_S
from plait.data.dataset import Dataset
from plait.data.history import Columns
from plait.schema import (
    FIRST_VALUE,
    MISSING_VALUE,
    UNSEEN_VALUE,
    Category,
    EventBatch,
    Feature,
    KindOfOutcomes,
    Number,
)

NOT_SEEN = "\N{REPLACEMENT CHARACTER} unseen in training"  # a value that no training event has


def check_can_spell(columns: Columns) -> None:
    """Raises ValueError where a prepared dataset no longer holds what the log's columns said."""
    lost = {columns.order: "what breaks ties of time", columns.time_offset: "the offset from UTC"}
    for name, what in lost.items():
        if name is not None:
            raise ValueError(
                f"prepared data does not keep the log's column {name!r}, {what}; append the log's events instead"
            )


def log_rows(dataset: Dataset, columns: Columns, user: int) -> list[dict[str, Any]]:
    """The events of one dense user, oldest first; numbers of the context and of conditions stand for their buckets.

    Reading them again gives the prepared events: items, actions, seconds, requests, context, conditions of the moment.

    Raises:
        ValueError: as `check_can_spell`.
    """
    check_can_spell(columns)
    events = dataset.history(user)
    spelled: dict[str, list[Any]] = {columns.item: dataset.items.ids_at(events.item_E).to_list()}
    if columns.time is not None:
        spelled[columns.time] = _times(columns, _microseconds(events))
    if columns.request is not None:
        spelled[columns.request] = [f"prepared-{user}-{number}" for number in events.request_E.tolist()]
    for action, value_E in zip(dataset.actions, events.action_EA.T, strict=True):
        names = action.kind.values if isinstance(action.kind, KindOfOutcomes) else None
        spelled[action.name] = [_action(value, names) for value in value_E.tolist()]
    of_moment = dataset.manifest.conditions
    coded = [
        *zip(dataset.context, events.context_EF.T, strict=True),
        *zip(of_moment, events.condition_EG.T[: len(of_moment)], strict=True),
    ]
    for feature, code_E in coded:
        spelled[feature.name] = [_described(feature, code) for code in code_E.tolist()]
    return [dict(zip(spelled, row, strict=True)) for row in zip(*spelled.values(), strict=True)]


def _microseconds(events: EventBatch) -> Int64[np.ndarray, " E"]:
    """Seconds, and so many microseconds more as requests of that second came before: they were told apart by less."""
    is_later_E = np.diff(events.request_E, prepend=events.request_E[:1]) != 0
    nth_E = np.cumsum(is_later_E)
    _, first_E = np.unique(events.time_s_E, return_index=True)
    begin_E = nth_E[first_E[np.searchsorted(events.time_s_E[first_E], events.time_s_E)]]
    return events.time_s_E * MICROSECONDS_PER_S + (nth_E - begin_E)


def _times(columns: Columns, us_E: Int64[np.ndarray, " E"]) -> list[Any]:
    if columns.time_format is not None:
        return pl.from_epoch(pl.Series(us_E), time_unit="us").dt.strftime(columns.time_format).to_list()
    per_s = PER_S[columns.time_unit]
    if per_s >= MICROSECONDS_PER_S:
        return (us_E * (per_s // MICROSECONDS_PER_S)).tolist()
    whole_E, rest_E = np.divmod(us_E, MICROSECONDS_PER_S // per_s)
    return whole_E.tolist() if not rest_E.any() else (us_E / (MICROSECONDS_PER_S // per_s)).tolist()


def _action(value: float, names: tuple[str, ...] | None) -> float | str | None:
    if np.isnan(value):
        return None
    return value if names is None else names[int(value)]


def _described(feature: Feature, code: int) -> float | str | None:
    if code == MISSING_VALUE:
        return None
    kind = feature.kind
    if isinstance(kind, Number):
        bucket = code - FIRST_VALUE
        return kind.edges[bucket - 1] if bucket else (kind.edges[0] - 1 if kind.edges else 0.0)
    assert isinstance(kind, Category), "a context or condition of the moment is a category or a number"
    return NOT_SEEN if code == UNSEEN_VALUE else kind.values[code - FIRST_VALUE]
