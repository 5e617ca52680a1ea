"""Values that stand for none, beside null, NaN and empty: declared for a column, read so wherever it is read."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from plait.data.columns.ids import DType, is_text
from plait.wording import setting

Missing = Mapping[str, Any]  # column -> the list of its values that stand for none


def names_without(name: pl.Expr, missing: tuple[str, ...]) -> pl.Expr:
    """Names, null where they are one of the missing."""
    return pl.when(~name.is_in(missing)).then(name) if missing else name


def numbers_without(raw: pl.Expr, dtype: DType, missing: tuple[str, ...]) -> pl.Expr:
    """Numbers or texts of numbers, null where they are spelt like one of the missing, or are the same number.

    >>> frame = pl.DataFrame({"rating": ["0", "0.0", "3", "-"]})
    >>> frame.select(numbers_without(pl.col("rating"), pl.String, ("0", "-"))).to_series().to_list()
    [None, None, '3', None]
    """
    if not missing:
        return raw
    numbers = [number for number in map(_number, missing) if number is not None]
    if is_text(dtype):
        text = raw.cast(pl.String)
        stands_for_none = text.is_in(missing) | text.cast(pl.Float64, strict=False).is_in(numbers).fill_null(
            False
        )
    elif dtype.is_numeric():
        kind = dtype if dtype.is_float() else pl.Float64
        stands_for_none = raw.cast(kind).is_in(pl.Series(numbers, dtype=pl.Float64).cast(kind).implode())
    else:
        stands_for_none = raw.cast(pl.String).is_in(missing)
    return pl.when(stands_for_none).then(None).otherwise(raw)


def with_missing(declared: Iterable[Any], missing: Missing) -> tuple[Any, ...]:
    """Actions or features, not yet checked to be so, that know which values of theirs stand for none."""
    texts = {column: tuple(map(_spelt, _listed(values))) for column, values in missing.items()}
    return tuple(
        msgspec.structs.replace(one, missing=texts[one.name]) if getattr(one, "name", None) in texts else one
        for one in declared
    )


def check_missing(missing: Any, columns: Iterable[str]) -> None:
    """Raises ValueError where values are declared missing of a column that is no action, feature or context."""
    known = sorted(set(columns))
    if not isinstance(missing, Mapping):
        raise ValueError(f"missing: found {missing!r}, expected values by column, such as {{'rating': [0]}}")
    for column, values in missing.items():
        if column not in known:
            near = difflib.get_close_matches(str(column), known, n=1)
            raise ValueError(
                f"{setting('missing')} names the column {column!r}, which is no action, feature or context; "
                + (f"did you mean {near[0]!r}?" if near else f"those are {', '.join(known) or 'none'}")
            )
        if not all(isinstance(value, str | int | float | np.number) for value in _listed(values)):
            raise ValueError(f"missing of {column!r}: found {values!r}, expected a list of numbers or texts")


def parse_missing(texts: Iterable[str]) -> dict[str, list[str]]:
    """The command line's spelling: COLUMN=VALUE, once for each value.

    >>> parse_missing(["rating=0", "rating=-1"])
    {'rating': ['0', '-1']}
    """
    missing: dict[str, list[str]] = {}
    for text in texts:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise ValueError(f"{setting('missing', text)}: expected COLUMN=VALUE, such as rating=0")
        missing.setdefault(column, []).append(value)
    return missing


def _listed(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list | tuple) else [values]


def _spelt(value: Any) -> str:
    """
    >>> _spelt(0.0), _spelt(-1), _spelt("n/a")
    ('0', '-1', 'n/a')
    """
    is_whole = isinstance(value, float | np.floating) and value % 1 == 0
    return str(int(value)) if is_whole else str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
