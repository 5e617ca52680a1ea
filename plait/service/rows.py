"""Events as requests send them, as the store keeps them, and as the model reads them.

A row is a mapping of the log's columns. Kept are ids as they are spelled, numbers as numbers, times as written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import polars as pl

from plait.data.columns.actions import read_as
from plait.data.history import event_places
from plait.recommender import Recommender
from plait.schema import Feature, Number
from plait.service.problems import Problem, refused
from plait.store.history import place_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Rows:
    """What a model's log calls its columns, and what they hold.

    Args:
        beside: the columns that models beside it read, and how their values are kept: it keeps them, too, unread.
    """

    recommender: Recommender
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def known(self) -> frozenset[str]:
        """The names that a message may repeat."""
        columns = self.recommender.columns
        actions = [action.name for action in self.recommender.actions]
        answers = [name for a in self.recommender.actions for name in a.kind.answer_columns(a.name)]
        ways = [columns.user, columns.item, columns.time, columns.order, columns.request]
        described = [feature.name for feature in (*columns.context, *columns.conditions)]
        asked_under = [feature.name for feature in self.recommender.model.config.conditions]
        return frozenset([*filter(None, ways), *actions, *answers, *described, *asked_under])

    def spelled(self, row: Mapping[str, Any]) -> Row:
        """A row in the one form that is kept.

        Raises:
            Problem: the item or the time is missing, a column is not known, or a number is none.
        """
        columns, found = self.recommender.columns, {}
        for name in filter(None, (columns.item, columns.time)):
            if row.get(name) is None:
                raise Problem(422, "wrong event", f"the event has no {name!r}; give it as the log does")
        kept = {**self.beside, **self.types}
        if not row.keys() <= kept.keys():
            raise Problem(
                422,
                "wrong event",
                f"the event has a column that the model does not know; it knows {', '.join(kept)}",
            )
        for name, value in row.items():
            if value is not None:
                found[name] = (
                    _text(value) if kept[name] == "text" else _number(value, name, kept[name] == "number")
                )
        return found

    def frame(self, rows: Sequence[Row]) -> pl.DataFrame:
        """Rows as a table, with the columns that any of them has, and those that all must."""
        columns, series = self.recommender.columns, []
        must = {columns.item, columns.time, columns.order, columns.request} - {None}
        for name, kind in self.types.items():
            values = [row.get(name) for row in rows]
            if name in must or any(value is not None for value in values):
                series.append(_column(name, values, kind))
        return pl.DataFrame(series)

    def places(self, rows: Sequence[Row]) -> list[bytes]:
        """Where each row stands in its user's history, by the very rules that read one.

        Raises:
            Problem: a row breaks a rule of the log.
        """
        columns, model = self.recommender.columns, self.recommender.model
        try:
            places = event_places(
                self.frame(rows), columns, self.recommender.actions, needs_request=model.reads_requests
            )
        except ValueError as error:
            raise refused(error, self.known) from error
        return [place_of(*(place or (0,))) for place in places]

    @property
    def types(self) -> dict[str, str]:
        """By column, how its values are kept: "text", "number", or "any" of the two."""
        columns = self.recommender.columns
        found = {columns.item: "text"}
        if columns.time is not None:
            found[columns.time] = "any"
        if columns.time_offset is not None:
            found[columns.time_offset] = "text"
        if columns.order is not None:
            found[columns.order] = "any"
        if columns.request is not None:
            found[columns.request] = "text"
        for action in self.recommender.actions:
            found[action.name] = "text" if read_as(action.kind).is_spelt else "number"
        return found | described_types((*columns.context, *columns.conditions))


def described_types(features: Sequence[Feature]) -> dict[str, str]:
    """How values of the context and of conditions are kept, by name."""
    return {feature.name: "number" if isinstance(feature.kind, Number) else "text" for feature in features}


def packed(row: Row) -> bytes:
    """The same row gives the same bytes."""
    return msgspec.json.encode(row, order="deterministic")


def unpacked(content: bytes) -> Row:
    return msgspec.json.decode(content, type=dict)


def _text(value: Any) -> str:
    """
    >>> _text(3), _text(True), _text("x")
    ('3', 'true', 'x')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: Any, name: str, must: bool) -> Any:
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str):
        return value
    for read in (int, float):
        try:
            return read(value)
        except ValueError:
            continue
    if must:
        raise Problem(
            422, "wrong event", f"{name!r} is no number; give one, or leave it out where it is missing"
        )
    return value


def _column(name: str, values: list[Any], kind: str) -> pl.Series:
    there = [value for value in values if value is not None]
    if kind == "number":
        return pl.Series(name, [None if v is None else float(v) for v in values], dtype=pl.Float64)
    if kind == "any" and all(isinstance(v, int) for v in there):
        return pl.Series(name, values, dtype=pl.Int64)
    if kind == "any" and all(isinstance(v, int | float) for v in there):
        return pl.Series(name, values, dtype=pl.Float64, strict=False)
    return pl.Series(name, [None if v is None else _text(v) for v in values], dtype=pl.String)
