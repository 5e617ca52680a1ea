"""The moment that is asked about: when it is, and what is known of it.

Shape letter: F features of the context.
"""

import difflib
import time as clock
import warnings
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import polars as pl
from jaxtyping import Int64

from plait.data.columns import rules
from plait.data.columns.features import code_context
from plait.data.columns.times import MICROSECONDS_PER_S
from plait.data.columns.values import feature_values
from plait.data.history import Columns
from plait.schema import UNSEEN_VALUE, Category, Number, shortened

CENTURY_S = 3_200_000_000  # a request may lie ahead, but not in the milliseconds of a log of seconds


def moment_of(at: Any, columns: Columns) -> tuple[int | None, int | None]:
    """A time as the log writes it, in unix seconds, and in µs what tells it from the times of the log's requests.

    Raises:
        ValueError: it is none.
    """
    if at is None:
        return None, None
    form = columns.time_form
    if form is None:
        raise ValueError(f"at = {at!r}: the log that the model was trained on has no times; leave it out")
    given = pl.DataFrame({"at": [at]})
    latest_s = clock.time() + CENTURY_S
    form = msgspec.structs.replace(form, column="at", offset=None)
    column = rules.time_column(form, given.schema, latest_s)
    rule, microseconds = given.select(rules.rule_number([column]), column.value).row(0)
    if rule:
        raise ValueError(f"at = {at!r}: {rules.rule_texts([column])[rule - 1]}")
    return int(microseconds) // MICROSECONDS_PER_S, int(microseconds)


def codes_of_moment(context: Mapping[str, Any], columns: Columns) -> Int64[np.ndarray, " F"]:
    """The codes of a moment's context features; missing where not named. A warning names values that are unseen.

    Raises:
        ValueError: the model reads no context of a name, or a value is none of its kind.
    """
    names = [feature.name for feature in columns.context]
    for name in context:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise ValueError(
                f"context {name!r} was not there in training, so the model cannot read it; it reads "
                f"{', '.join(names) or 'no context'}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    frame = pl.DataFrame({name: [value] for name, value in context.items()} or {"no context": [None]})
    code_F = code_context(columns.context, frame, "context")[0]
    for feature, code in zip(columns.context, code_F, strict=True):
        if code == UNSEEN_VALUE and isinstance(feature.kind, Category):
            warnings.warn(
                f"context {feature.name!r} = {context[feature.name]!r} is unseen: no training event has it, as "
                f"they have {shortened(feature.kind.values)}",
                stacklevel=4,
            )
    return code_F


def numbers_of_moment(context: Mapping[str, Any], columns: Columns) -> dict[str, float]:
    """Of every number among the context, NaN where it is not given."""
    numbers = {}
    for feature in columns.context:
        if isinstance(feature.kind, Number):
            given = pl.DataFrame({feature.name: [context.get(feature.name)]})
            (number,) = feature_values(feature, given, "context")
            numbers[feature.name] = float("nan") if number is None else float(number)
    return numbers
