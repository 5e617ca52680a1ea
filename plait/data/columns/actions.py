"""What a kind of action is to the data: how its column in the log is read, what is fitted and counted on it, and what a
simulated one is made of.

One final class for each kind of `plait.schema`, over one abstract class, and one function from the kind to its class.

Shape letters: E events, N values that are not missing.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never, final

import msgspec
import numpy as np
import polars as pl
from jaxtyping import Float32

from plait.data.columns.ids import DType
from plait.data.columns.missing import names_without, numbers_without
from plait.data.columns.rules import Column, Rule, names, written, wrong_type
from plait.data.manifest import ActionFacts
from plait.schema import (
    Action,
    ActionKind,
    Amount,
    Binary,
    Categorical,
    Ordinal,
    Regression,
    shortened,
)

MOST_SHOWN = 5  # values of a category in a message


NUMBER_TRIALS = 4  # behind a bounded number that is drawn: it takes one of five values, as five stars do


@dataclass(frozen=True)
class ActionDraws:
    """What a simulated action is made of: hits among trials, and a size. Without a size, its value is what the hits
    come to."""

    trials: int  # 0: it has a size whatever happens
    has_size: bool = False
    low: float = 0.0  # of no hits
    high: float = 1.0  # of nothing but hits
    tells_levels: bool = False  # the chance of every number of hits is what is predicted


class ReadKind(ABC):
    """How a log holds the actions of one kind."""

    @property
    @abstractmethod
    def is_spelt(self) -> bool:
        """Whether a text means what is written, and not the number that it may be."""

    @abstractmethod
    def column(self, action: Action, dtype: DType) -> Column:
        """float32, missing = NaN, with the rules that a row must keep.

        Raises:
            ValueError: the column holds another type of values.
        """

    @abstractmethod
    def fitted(self, value_N: Float32[np.ndarray, " N"]) -> ActionKind:
        """The kind with what it takes from the values of training rows."""

    @abstractmethod
    def facts(self, value_N: Float32[np.ndarray, " N"]) -> ActionFacts:
        """What to know of an action before training on it."""

    @property
    @abstractmethod
    def draws(self) -> ActionDraws | None:
        """What a simulated one is made of; None where a world cannot draw it."""


def read_as(kind: ActionKind) -> ReadKind:
    """How a log holds a kind."""
    match kind:
        case Binary():
            return BinaryColumn(kind)
        case Regression():
            return RegressionColumn(kind)
        case Amount():
            return AmountColumn(kind)
        case Categorical():
            return CategoricalColumn(kind)
        case Ordinal():
            return OrdinalColumn(kind)
        case _:
            assert_never(kind)


def action_column(action: Action, dtype: DType) -> Column:
    """An action's column of the log on its way in."""
    return read_as(action.kind).column(action, dtype)


def known_values(value_E: Float32[np.ndarray, " E"]) -> Float32[np.ndarray, " N"]:
    """Those that are not missing."""
    is_missing_E = np.isnan(value_E)
    return value_E[~is_missing_E] if is_missing_E.any() else value_E


@final
@dataclass(frozen=True)
class BinaryColumn(ReadKind):
    kind: Binary
    is_spelt = False

    def column(self, action: Action, dtype: DType) -> Column:
        raw = _numbers(action, dtype)
        if dtype == pl.String:
            raw = raw.str.to_lowercase().replace({"true": "1", "false": "0"})
        number = _number(raw)
        broken = number.is_not_nan() & (number != 0) & (number != 1)
        return _number_column(action, dtype, raw, Rule(f"{action.name} is neither 0 nor 1", broken))

    def fitted(self, value_N: Float32[np.ndarray, " N"]) -> ActionKind:
        return self.kind

    def facts(self, value_N: Float32[np.ndarray, " N"]) -> ActionFacts:
        return ActionFacts(known=len(value_N), events={"1": int(value_N.sum(dtype=np.float64))})

    @property
    def draws(self) -> ActionDraws | None:
        return ActionDraws(trials=1)


@final
@dataclass(frozen=True)
class RegressionColumn(ReadKind):
    kind: Regression
    is_spelt = False

    def column(self, action: Action, dtype: DType) -> Column:
        raw, low, high = _numbers(action, dtype), self.kind.low, self.kind.high
        number = _number(raw)
        broken = number.is_not_nan() & ((number < low) | (number > high))
        return _number_column(
            action, dtype, raw, Rule(f"{action.name} is outside {low:g} to {high:g}", broken)
        )

    def fitted(self, value_N: Float32[np.ndarray, " N"]) -> ActionKind:
        return self.kind

    def facts(self, value_N: Float32[np.ndarray, " N"]) -> ActionFacts:
        return _facts_of_numbers(value_N)

    @property
    def draws(self) -> ActionDraws | None:
        return ActionDraws(trials=NUMBER_TRIALS, low=float(self.kind.low), high=float(self.kind.high))


@final
@dataclass(frozen=True)
class AmountColumn(ReadKind):
    kind: Amount
    is_spelt = False

    def column(self, action: Action, dtype: DType) -> Column:
        raw = _numbers(action, dtype)
        number = _number(raw)
        broken = number.is_not_nan() & (number < 0)
        return _number_column(action, dtype, raw, Rule(f"{action.name} is negative", broken))

    def fitted(self, value_N: Float32[np.ndarray, " N"]) -> ActionKind:
        largest = float(np.log1p(value_N.max(initial=0.0), dtype=np.float64))
        return msgspec.structs.replace(self.kind, log1p_scale=largest or 1.0)

    def facts(self, value_N: Float32[np.ndarray, " N"]) -> ActionFacts:
        return _facts_of_numbers(value_N)

    @property
    def draws(self) -> ActionDraws | None:
        return ActionDraws(trials=int(self.kind.zero_inflated), has_size=True)


@final
@dataclass(frozen=True)
class CategoricalColumn(ReadKind):
    kind: Categorical
    is_spelt = True

    def column(self, action: Action, dtype: DType) -> Column:
        return _named_column(action, self.kind.values, dtype)

    def fitted(self, value_N: Float32[np.ndarray, " N"]) -> ActionKind:
        return self.kind

    def facts(self, value_N: Float32[np.ndarray, " N"]) -> ActionFacts:
        return _facts_of_outcomes(self.kind.values, value_N)

    @property
    def draws(self) -> ActionDraws | None:
        return None  # no order that hits could climb


@final
@dataclass(frozen=True)
class OrdinalColumn(ReadKind):
    """Levels that are numbers all of them are compared as numbers, others as they are spelt."""

    kind: Ordinal

    @property
    def is_spelt(self) -> bool:
        return self.kind.levels is None

    def column(self, action: Action, dtype: DType) -> Column:
        levels = self.kind.levels
        if levels is None:
            return _named_column(action, self.kind.values, dtype)
        raw = _numbers(action, dtype)
        number = _number(raw).fill_nan(None)
        index = _index_of(number.cast(pl.Float32, strict=False), pl.Series(levels, dtype=pl.Float32))
        rules = _number_rules(action, dtype, raw)
        none_of = _none_of(action, self.kind.values, number, index)
        return Column(action.name, index.fill_null(float("nan")), (*rules, none_of))

    def fitted(self, value_N: Float32[np.ndarray, " N"]) -> ActionKind:
        return self.kind

    def facts(self, value_N: Float32[np.ndarray, " N"]) -> ActionFacts:
        return _facts_of_outcomes(self.kind.values, value_N)

    @property
    def draws(self) -> ActionDraws | None:
        steps = len(self.kind.values) - 1
        return ActionDraws(trials=steps, high=float(steps), tells_levels=True)


def _numbers(action: Action, dtype: DType) -> pl.Expr:
    """Numbers as they stand in the log, or their texts without the blanks around them; null where missing."""
    if not (dtype.is_numeric() or dtype == pl.Boolean or dtype == pl.String or dtype == pl.Null):
        raise wrong_type(f"column {action.name!r}", dtype, "numbers")
    raw = numbers_without(pl.col(action.name), dtype, action.missing)
    return written(raw).str.strip_chars() if dtype == pl.String else raw


def _number(raw: pl.Expr) -> pl.Expr:
    return raw.cast(pl.Float64, strict=False)  # ranges are checked before rounding to 32 bits


def _number_rules(action: Action, dtype: DType, raw: pl.Expr) -> list[Rule]:
    number, rules = _number(raw), []
    if not dtype.is_numeric():
        rules.append(Rule(f"{action.name} is not a number", raw.is_not_null() & number.is_null()))
    if not dtype.is_integer():
        is_infinite = number.cast(pl.Float32, strict=False).is_infinite()
        rules.append(Rule(f"{action.name} is not finite", is_infinite))
    return rules


def _number_column(action: Action, dtype: DType, raw: pl.Expr, own: Rule) -> Column:
    value = _number(raw).cast(pl.Float32, strict=False)
    return Column(action.name, value.fill_null(float("nan")), (*_number_rules(action, dtype, raw), own))


def _named_column(action: Action, values: Sequence[str], dtype: DType) -> Column:
    """The index of a name among the values."""
    text = names_without(names(action.name, dtype, f"column {action.name!r}"), action.missing)
    index = _index_of(text, pl.Series(values))
    return Column(action.name, index.fill_null(float("nan")), (_none_of(action, values, text, index),))


def _index_of(value: pl.Expr, values: pl.Series) -> pl.Expr:
    """Null where it is none of them."""
    return value.replace_strict(values, list(range(len(values))), default=None).cast(pl.Float32)


def _none_of(action: Action, values: Sequence[str], given: pl.Expr, index: pl.Expr) -> Rule:
    listed = ", ".join(values) if len(values) <= MOST_SHOWN else shortened(values)
    return Rule(f"{action.name} is none of {listed}", given.is_not_null() & index.is_null())


def _facts_of_numbers(value_N: Float32[np.ndarray, " N"]) -> ActionFacts:
    if not len(value_N):
        return ActionFacts(known=0)
    return ActionFacts(
        known=len(value_N),
        low=float(value_N.min()),
        high=float(value_N.max()),
        mean=float(value_N.mean(dtype=np.float64)),
    )


def _facts_of_outcomes(values: Sequence[str], value_N: Float32[np.ndarray, " N"]) -> ActionFacts:
    counts = np.bincount(value_N.astype(np.int64), minlength=len(values))
    return ActionFacts(known=len(value_N), events=dict(zip(values, counts.tolist(), strict=True)))
