"""The rules that a row must keep, and what its columns become. Both are polars expressions, so that a log
is read, checked and narrowed in one streaming pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import polars as pl

from plait.schema import Action, Amount, Binary, Categorical, Category, Feature, Regression

DType = Any  # a pl.DataType: its metaclass has a repr that beartype refuses in annotations
MICROSECONDS_PER_S = 1_000_000
MICROSECONDS = {"s": MICROSECONDS_PER_S, "ms": 1_000}
MEANT = "ids that are meant to be so need a letter before them"  # -1 often stands for nobody
RULE = "reject_rule"  # the column that holds the number of the first rule that a row breaks, 0 for none


@dataclass(frozen=True)
class Rule:
    text: str
    broken: pl.Expr  # null counts as kept


@dataclass(frozen=True)
class Column:
    """One column of the log on its way in."""

    name: str  # in the log
    value: pl.Expr
    rules: tuple[Rule, ...]  # a row is held to the first that it breaks


def id_column(name: str, dtype: DType, categories: pl.Categories | None) -> Column:
    """Users, items, requests: whole numbers from 0, or text where `categories` are given.

    Text that spells a negative number is refused like the number: whether a column of a CSV file is read as text is
    decided by its other rows.
    """
    raw = pl.col(name)
    if categories is not None:
        text = raw.cast(pl.String)
        missing = Rule(f"{name} is missing", text.is_null() | (text == ""))
        negative = Rule(f"{name} is negative; {MEANT}", text.cast(pl.Int64, strict=False) < 0)
        return Column(name, text.cast(pl.Categorical(categories)), (missing, negative))
    missing = Rule(f"{name} is missing", raw.is_nan() | raw.is_null() if dtype.is_float() else raw.is_null())
    if not (dtype.is_integer() or dtype.is_float()):
        raise _wrong_type(name, dtype, "whole numbers or text")
    whole = raw.cast(pl.Int64, strict=False)
    broken = Rule(f"{name} is above 2^63 - 1: give the column as text", whole.is_null())
    if dtype.is_float():
        broken = Rule(f"{name} is not a whole number", whole.is_null() | (whole.cast(dtype) != raw))
    return Column(name, whole, (missing, broken, Rule(f"{name} is negative; {MEANT}", raw < 0)))


def order_column(name: str, dtype: DType, categories: pl.Categories | None) -> Column:
    """Anything with an order: it only breaks ties of time."""
    raw = pl.col(name)
    if categories is not None:
        text = raw.cast(pl.String)
        missing = text.is_null() | (text == "")
        return Column(name, text.cast(pl.Categorical(categories)), (Rule(f"{name} is missing", missing),))
    if dtype.is_temporal():
        raw = raw.to_physical()
    elif not dtype.is_numeric():
        raise _wrong_type(name, dtype, "numbers, times or text")
    missing = raw.is_nan() | raw.is_null() if dtype.is_float() else raw.is_null()
    kind = pl.Float64 if dtype.is_float() else pl.Int64
    return Column(name, raw.cast(kind), (Rule(f"{name} is missing", missing),))


def time_column(name: str, dtype: DType, unit: Literal["s", "ms"], now_s: float) -> Column:
    """Microseconds since 1970, from numbers in `unit`, datetimes, or ISO 8601 text in UTC."""
    raw = pl.col(name)
    to_microseconds = partial(_number_to_microseconds, unit=unit)
    if dtype.is_integer():
        value = raw.cast(pl.Int64, strict=False) * MICROSECONDS[unit]
    elif dtype.is_float():
        value = to_microseconds(raw)
    elif dtype in (pl.Datetime, pl.Date):
        value = raw.cast(pl.Datetime("us")).to_physical() if dtype == pl.Date else raw.dt.epoch("us")
    elif dtype == pl.String:
        clean = raw.str.strip_chars().str.replace("T", " ").str.strip_suffix("Z")
        value = pl.coalesce(
            to_microseconds(clean.cast(pl.Float64, strict=False)),
            clean.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us").to_physical(),
            clean.str.to_datetime("%Y-%m-%d", strict=False, time_unit="us", exact=True).to_physical(),
        )
    else:
        raise _wrong_type(name, dtype, "numbers of seconds or milliseconds, datetimes, or ISO 8601 text")
    latest = now_s * 1e6
    if dtype.is_numeric():  # before the multiplication, which an absurd number would overflow
        future = raw.cast(pl.Float64) > latest / MICROSECONDS[unit]
    else:
        future = value > latest
    missing = raw.is_nan() | raw.is_null() if dtype.is_float() else raw.is_null()
    return Column(
        name,
        value,
        (
            Rule(f"{name} is missing", missing),
            Rule(f"{name} is in the future, read as {unit}", future),
            Rule(f"{name} is not a time", value.is_null()),
            Rule(f"{name} is before 1970", value < 0),
        ),
    )


def action_column(action: Action, dtype: DType) -> Column:
    """float32, missing = NaN; a category becomes its index."""
    name, kind, raw = action.name, action.kind, pl.col(action.name)
    if isinstance(kind, Categorical):
        return _category_column(name, kind, dtype)
    if not (dtype.is_numeric() or dtype == pl.Boolean or dtype == pl.String or dtype == pl.Null):
        raise _wrong_type(name, dtype, "numbers")
    if dtype == pl.String:
        raw = written(raw).str.strip_chars()
        if isinstance(kind, Binary):
            raw = raw.str.to_lowercase().replace({"true": "1", "false": "0"})
    number = raw.cast(pl.Float64, strict=False)  # ranges are checked before rounding to 32 bits
    value = number.cast(pl.Float32, strict=False)
    rules = [
        Rule(f"{name} is not a number", raw.is_not_null() & number.is_null()),
        Rule(f"{name} is not finite", value.is_infinite()),
    ]
    given = number.is_not_nan()
    match kind:
        case Binary():
            rules.append(Rule(f"{name} is neither 0 nor 1", given & (number != 0) & (number != 1)))
        case Regression(low=low, high=high):
            rules.append(
                Rule(f"{name} is outside {low:g} to {high:g}", given & ((number < low) | (number > high)))
            )
        case Amount():
            rules.append(Rule(f"{name} is negative", given & (number < 0)))
    return Column(name, value.fill_null(float("nan")), tuple(rules))


def context_column(feature: Feature, dtype: DType, categories: pl.Categories) -> Column:
    """A category as text, missing = ""; a number as float64, missing = NaN, times in seconds since 1970."""
    name, raw = feature.name, pl.col(feature.name)
    if isinstance(feature.kind, Category):
        text, rules = _names(name, dtype)
        return Column(name, text.fill_null("").cast(pl.Categorical(categories)), rules)
    if dtype in (pl.Date, pl.Datetime):
        return Column(name, (raw.cast(pl.Datetime("us")).dt.epoch("us") / 1e6).fill_null(math.nan), ())
    if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.String, pl.Null)):
        raise _wrong_type(name, dtype, "numbers or times")
    if dtype == pl.String:
        raw = written(raw).str.strip_chars()
    number = raw.cast(pl.Float64, strict=False)
    rules = (
        Rule(f"{name} is not a number", raw.is_not_null() & number.is_null()),
        Rule(f"{name} is not finite", number.is_infinite()),
    )
    return Column(name, number.fill_null(math.nan), rules)


def written(text: pl.Expr) -> pl.Expr:
    """Text as it stands, null where nothing but blanks does: that is missing in every column of values."""
    return pl.when(text.str.strip_chars() != "").then(text)


def rule_number(columns: Sequence[Column]) -> pl.Expr:
    """The number of the first rule that a row breaks, counted over all columns from 1; 0 for none."""
    number: pl.Expr = pl.lit(0, dtype=pl.UInt8)
    rules = [rule for column in columns for rule in column.rules]
    for index in range(len(rules), 0, -1):
        number = pl.when(rules[index - 1].broken).then(pl.lit(index, dtype=pl.UInt8)).otherwise(number)
    return number.alias(RULE)


def rule_texts(columns: Sequence[Column]) -> list[str]:
    return [rule.text for column in columns for rule in column.rules]


def _number_to_microseconds(number: pl.Expr, unit: Literal["s", "ms"]) -> pl.Expr:
    return (number.cast(pl.Float64) * MICROSECONDS[unit]).round().cast(pl.Int64, strict=False)


def _category_column(name: str, kind: Categorical, dtype: DType) -> Column:
    text, rules = _names(name, dtype)
    index = text.replace_strict(list(kind.values), list(range(len(kind.values))), default=None).cast(
        pl.Float32
    )
    unknown = Rule(f"{name} is none of {', '.join(kind.values)}", text.is_not_null() & index.is_null())
    return Column(name, index.fill_null(float("nan")), (*rules, unknown))


def _names(name: str, dtype: DType) -> tuple[pl.Expr, tuple[Rule, ...]]:
    """Names as text, null where missing; whole numbers with missing ones among them, as pandas holds them, too."""
    raw = pl.col(name)
    rules: tuple[Rule, ...] = ()
    if dtype.is_float():
        whole = raw.fill_nan(None).cast(pl.Int64, strict=False)
        broken = raw.is_not_nan() & (whole.is_null() | (raw % 1 != 0))
        raw, dtype, rules = whole, pl.Int64(), (Rule(f"{name} is not a whole number", broken),)
    if not (dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean, pl.Null) or dtype.is_integer()):
        raise _wrong_type(name, dtype, "text or whole numbers")
    return written(raw.cast(pl.String)), rules


def _wrong_type(name: str, dtype: DType, expected: str) -> ValueError:
    return ValueError(f"column {name!r} holds {dtype}; expected {expected}")
