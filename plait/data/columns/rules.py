"""The rules that a row must keep, and what its columns become. Both are polars expressions, so that a log
is read, checked and narrowed in one streaming pass.
"""

import math
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import polars as pl

from plait.data.columns.ids import EXACT_BELOW, DType, is_nobody, is_text
from plait.data.columns.missing import names_without, numbers_without
from plait.data.columns.times import PER_S, TimeForm, is_missing, microseconds, offset_minutes
from plait.data.manifest import SplitColumn
from plait.schema import (
    Categories,
    Category,
    Feature,
    Number,
    Vector,
)

MEANT = "let negative ids be kept (negative_ids) where it is an id"  # -1 often stands for nobody; a manifest keeps it
CLOCK_SKEW_S = 86_400  # how far an event may be ahead of this machine's clock: clocks differ
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


def latest_event_s() -> float:
    """The latest time that an event may have, of a log or of a history."""
    return clock.time() + CLOCK_SKEW_S


def id_column(
    name: str, dtype: DType, id: pl.Expr, categories: pl.Categories | None, refuses_negative: bool
) -> Column:
    """Users, items, requests. Words for nobody are missing.

    Args:
        id: as `plait.data.columns.ids.as_id` has it, in a column of its own: a rule and the value read it.
        categories: where ids are text.
    """
    _check_id_type(name, dtype)
    rules = (
        list(_float_rules(name, dtype)) if dtype.is_float() else [Rule(f"{name} is missing", id.is_null())]
    )
    if refuses_negative:
        rules.append(Rule(f"{name} is negative; {MEANT}", negative_number(pl.col(name), dtype) < 0))
    return Column(name, id if categories is None else id.cast(pl.Categorical(categories)), tuple(rules))


def given_id_column(name: str, dtype: DType) -> Column:
    """Ids of a history or a feature table as they are given, by the rules of `id_column`."""
    _check_id_type(name, dtype)
    raw = pl.col(name)
    if dtype.is_float():
        return Column(name, raw, _float_rules(name, dtype))
    missing = is_nobody(raw.cast(pl.String)) if is_text(dtype) else raw.is_null()
    return Column(name, raw, (Rule(f"{name} is missing", missing),))


def _check_id_type(name: str, dtype: DType) -> None:
    if not (is_text(dtype) or dtype.is_integer() or dtype.is_float() or dtype == pl.Null):
        raise wrong_type(f"column {name!r}", dtype, "whole numbers or text")


def _float_rules(name: str, dtype: DType) -> tuple[Rule, ...]:
    raw, below = pl.col(name), EXACT_BELOW[dtype.base_type()]
    return (
        Rule(f"{name} is missing", raw.is_nan() | raw.is_null()),
        Rule(f"{name} is not a whole number", ~(raw % 1 == 0)),
        Rule(
            f"{name} is a float from 2^{below.bit_length() - 1} on, where floats merge whole numbers: give the column "
            "as integers or text",
            raw.abs() >= below,
        ),
    )


def negative_number(raw: pl.Expr, dtype: DType) -> pl.Expr:
    """The number of an id, however it is spelt; null where it is none that could be negative."""
    return raw.cast(pl.String).cast(pl.Int64, strict=False) if is_text(dtype) else raw


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
        raise wrong_type(f"column {name!r}", dtype, "numbers, times or text")
    missing = raw.is_nan() | raw.is_null() if dtype.is_float() else raw.is_null()
    kind = pl.Float64 if dtype.is_float() else pl.Int64
    return Column(name, raw.cast(kind), (Rule(f"{name} is missing", missing),))


def time_column(form: TimeForm, schema: Mapping[str, DType], now_s: float) -> Column:
    """Microseconds since 1970."""
    name, (value, number) = form.column, microseconds(form, schema)
    future, before_1970 = value > now_s * 1e6, value < 0
    if number is not None:  # not of their microseconds, which absurd numbers would overflow
        far, negative = number > now_s * PER_S[form.unit], number < 0
        is_mixed = is_text(schema[name])
        future = pl.coalesce(far, future) if is_mixed else far
        before_1970 = pl.coalesce(negative, before_1970) if is_mixed else negative
    rules = [
        Rule(f"{name} is missing", is_missing(pl.col(name), schema[name])),
        Rule(f"{name} is in the future, read as {form.unit}", future),
    ]
    if form.offset is not None:
        offset = offset_minutes(pl.col(form.offset), schema[form.offset])
        rules.append(Rule(f"{form.offset} is no offset from UTC", offset.is_null() & value.is_null()))
    if number is None or is_text(schema[name]):  # a number is one
        rules.append(Rule(f"{name} is not a time", value.is_null()))
    rules.append(Rule(f"{name} is before 1970", before_1970))
    return Column(name, value, tuple(rules))


def split_column(split: SplitColumn, dtype: DType) -> Column:
    """0 for training, 1 for validation, 2 for test."""
    name, raw = split.column, pl.col(split.column)
    if dtype.is_nested():
        raise wrong_type(f"column {name!r}", dtype, "text or whole numbers")
    whole = raw.cast(pl.Int64, strict=False)
    if dtype.is_float():  # whole numbers, as pandas holds them where some are missing
        raw = (
            pl.when(whole.cast(dtype) == raw)
            .then(whole.cast(pl.String))
            .otherwise(raw.fill_nan(None).cast(pl.String))
        )
    text = raw.cast(pl.String).str.strip_chars()
    missing = text.is_null() | (text == "")
    part_of = {value.lower(): part for part, values in enumerate(split.values) for value in values}
    part = text.str.to_lowercase().replace_strict(part_of, default=None, return_dtype=pl.UInt8)
    rules = (
        Rule(f"{name} is missing", missing),
        Rule(f"{name} is none of {', '.join(part_of)}", part.is_null()),
    )
    return Column(name, part, rules)


def context_column(feature: Feature, dtype: DType, categories: pl.Categories) -> Column:
    """As `feature_column`, with "" for a missing category, and NaN for a missing number."""
    column = feature_column(feature, dtype, f"column {feature.name!r}")
    match feature.kind:
        case Category():
            return replace(column, value=column.value.fill_null("").cast(pl.Categorical(categories)))
        case Number():
            return replace(column, value=column.value.fill_null(math.nan))
        case Categories() | Vector():
            raise AssertionError("an event's context is a category or a number")
        case _:
            assert_never(feature.kind)


def feature_column(feature: Feature, dtype: DType, where: str) -> Column:
    """A feature's column, of the log, of a table or of a history: names, lists of names, or numbers as float64 with
    times in seconds since 1970; null where missing.

    Raises:
        ValueError: the column is of the wrong type; `where` says which it is.
    """
    match feature.kind:
        case Category():
            return _category_values(feature, dtype, where)
        case Categories(separator=separator):
            return _list_values(feature, separator, dtype, where)
        case Number():
            return _number_values(feature, dtype, where)
        case Vector():
            raise AssertionError("a vector is no single value")
        case _:
            assert_never(feature.kind)


def _category_values(feature: Feature, dtype: DType, where: str) -> Column:
    name, raw = feature.name, pl.col(feature.name)
    fraction = Rule(f"{name} is not a whole number", raw.is_not_nan() & ~(raw % 1 == 0))
    label = names_without(names(name, dtype, where), feature.missing)
    return Column(name, label, (fraction,) if dtype.is_float() else ())


def _list_values(feature: Feature, separator: str | None, dtype: DType, where: str) -> Column:
    """Different names each; null where there is none."""
    is_list = isinstance(dtype, pl.List | pl.Array) and _are_names(dtype.inner)
    rules: tuple[Rule, ...] = ()
    if separator is not None:
        text = _category_values(feature, dtype, where)
        lists, rules = text.value.str.split(separator), text.rules
    elif is_list or dtype == pl.Null:
        lists = pl.col(feature.name).cast(pl.List(pl.String))
    else:
        expected = "lists of text or whole numbers, or text and a separator (NAME:categories:SEPARATOR)"
        raise wrong_type(where, dtype, expected)
    names = names_without(pl.element().str.strip_chars(), feature.missing)
    lists = lists.list.eval(names.filter(names.is_not_null() & (names != "")).unique(maintain_order=True))
    return Column(feature.name, pl.when(lists.list.len() > 0).then(lists), rules)


def _number_values(feature: Feature, dtype: DType, where: str) -> Column:
    name, is_time = feature.name, dtype in (pl.Date, pl.Datetime)
    if not (is_time or dtype.is_numeric() or dtype in (pl.Boolean, pl.String, pl.Null)):
        raise wrong_type(where, dtype, "numbers or times")
    raw = numbers_without(pl.col(name), dtype, feature.missing)
    if is_time:
        return Column(name, raw.cast(pl.Datetime("us")).dt.epoch("us") / 1e6, ())
    if dtype == pl.String:
        raw = written(raw).str.strip_chars()
    number = raw.cast(pl.Float64, strict=False)
    rules = (
        Rule(f"{name} is not a number", raw.is_not_null() & number.is_null()),
        Rule(f"{name} is not finite", number.is_infinite()),
    )
    return Column(name, number.fill_nan(None), rules)


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


def names(name: str, dtype: DType, where: str) -> pl.Expr:
    """Names as text, null where missing. Of floats, whole numbers are spelt as such: with missing ones among them, they
    are floats to pandas."""
    raw = pl.col(name)
    if dtype.is_float():
        whole = raw.cast(pl.Int64, strict=False)
        spelt = pl.when(whole == raw).then(whole.cast(pl.String)).otherwise(raw.cast(pl.String))
        return pl.when(raw.is_not_nan()).then(spelt)
    if not _are_names(dtype):
        raise wrong_type(where, dtype, "text or whole numbers")
    return written(raw.cast(pl.String))


def _are_names(dtype: DType) -> bool:
    return is_text(dtype) or dtype in (pl.Boolean, pl.Null) or dtype.is_integer()


def wrong_type(where: str, dtype: DType, expected: str) -> ValueError:
    return ValueError(f"{where} holds {dtype}; expected {expected}")
