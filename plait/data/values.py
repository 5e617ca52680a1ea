"""Columns of feature tables in the form that features are fitted and coded from: names, lists of names, numbers,
arrays; null where missing.

Shape letters: N rows, W width of a vector.
"""

from typing import Any

import numpy as np
import polars as pl

from plait.data.checking import written
from plait.data.ids import is_text
from plait.data.missing import names_without, numbers_without
from plait.data.text import decimal_hint
from plait.schema import Categories, Category, Feature, Number, Vector

VALUE = pl.col("value")


def file_of(feature: Feature) -> str | None:
    """The .npy file that holds a feature's vectors."""
    return feature.kind.file if isinstance(feature.kind, Vector) else None


def values_of(feature: Feature, frame: pl.DataFrame, where: str) -> pl.Series:
    """A feature's column of a frame (or the file beside it): text, list of text, float64 or array of float32.

    Raises:
        ValueError: the column or file is of the wrong type, or a value is no number; `where` says what was read.
    """
    file = file_of(feature)
    column = pl.Series(feature.name, _load(file, frame.height)) if file else frame[feature.name]
    where, missing = f"{where}, column {feature.name!r}", feature.missing
    match feature.kind:
        case Category():
            return _evaluated(_texts(column, where), names_without(VALUE, missing))
        case Categories(separator=separator):
            return _lists(column, separator, missing, where)
        case Number():
            given = _evaluated(column, numbers_without(VALUE, column.dtype, missing))
            return _numbers(given, where)
        case Vector():
            return _arrays(column, file or where)


def _evaluated(column: pl.Series, expression: pl.Expr) -> pl.Series:
    """An expression of VALUE, over a column."""
    return column.to_frame("value").select(expression.alias(column.name)).to_series()


def _texts(column: pl.Series, where: str) -> pl.Series:
    """Names, null where missing or blank. Whole numbers and truth values are names too."""
    if column.dtype.is_float():
        column = column.fill_nan(None)
        if not (column.drop_nulls() % 1 == 0).all():
            raise ValueError(
                f"{where} holds fractions; expected text or whole numbers (or declare it a number)"
            )
        column = column.cast(pl.Int64)
    if not _are_names(column.dtype):
        raise ValueError(f"{where} holds {column.dtype}; expected text or whole numbers")
    return column.cast(pl.String).to_frame().select(written(pl.col(column.name))).to_series()


def _numbers(column: pl.Series, where: str) -> pl.Series:
    """Float64, null where missing; dates and times as seconds since 1970."""
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if column.dtype == pl.String:
        column = column.str.strip_chars().replace("", None)
    elif not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise ValueError(f"{where} holds {column.dtype}; expected numbers or times")
    number = column.cast(pl.Float64, strict=False).fill_nan(None)
    is_nan = column.cast(pl.Float64, strict=False).is_nan().fill_null(False)
    bad = (number.is_null() & column.is_not_null() & ~is_nan) | number.is_infinite().fill_null(False)
    if bad.any():
        row = int(bad.arg_true()[0])
        hint = decimal_hint(column[row])
        raise ValueError(f"{where}: row {row + 1} holds {column[row]!r}, which is no finite number{hint}")
    return number


def _lists(column: pl.Series, separator: str | None, missing: tuple[str, ...], where: str) -> pl.Series:
    """Lists of different names, null where there is none."""
    is_list = isinstance(column.dtype, pl.List | pl.Array) and _are_names(column.dtype.inner)
    if separator is not None:
        text = _evaluated(_texts(column, where), names_without(VALUE, missing))
        lists = text.str.split(separator)
    elif is_list or column.dtype == pl.Null:
        lists = column.cast(pl.List(pl.String))
    else:
        raise ValueError(
            f"{where} holds {column.dtype}; expected lists of text or whole numbers, or text and a separator "
            "(NAME:categories:SEPARATOR)"
        )
    names = names_without(pl.element().str.strip_chars(), missing)
    lists = lists.list.eval(names.filter(names.is_not_null() & (names != "")).unique(maintain_order=True))
    return pl.select(pl.when(lists.list.len() > 0).then(lists)).to_series().alias(column.name)


def _are_names(dtype: Any) -> bool:
    return is_text(dtype) or dtype in (pl.Boolean, pl.Null) or dtype.is_integer()


def _arrays(column: pl.Series, where: str) -> pl.Series:
    """Arrays of one width, null where missing or all NaN."""
    if not (isinstance(column.dtype, pl.List | pl.Array) and column.dtype.inner.is_numeric()):
        raise ValueError(f"{where} holds {column.dtype}; expected lists of numbers, all of one length")
    lists = column.cast(pl.List(pl.Float32))
    widths = lists.list.len().drop_nulls().unique().sort()
    if len(widths) != 1 or widths[0] == 0:
        raise ValueError(f"{where} holds vectors of lengths {widths.to_list()}; expected one length above 0")
    arrays = lists.list.to_array(int(widths[0]))
    vector_NW = np.nan_to_num(arrays.to_numpy(), nan=np.nan, posinf=np.nan, neginf=np.nan)
    nans_N = np.isnan(vector_NW).sum(axis=1)
    torn = np.flatnonzero((nans_N > 0) & (nans_N < vector_NW.shape[1]))
    if len(torn):
        raise ValueError(f"{where}: the vector of row {torn[0] + 1} is not finite in all of its numbers")
    return pl.select(pl.when(pl.Series(nans_N == 0)).then(arrays)).to_series().alias(column.name)


def _load(file: str, rows: int) -> np.ndarray:
    try:
        vector_NW = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}; expected a .npy file of numbers") from error
    if vector_NW.ndim != 2 or len(vector_NW) != rows or vector_NW.dtype.kind != "f":
        raise ValueError(
            f"{file} holds {vector_NW.dtype} of shape {vector_NW.shape}; expected floats with a row for each of "
            f"the feature table's {rows} rows"
        )
    return np.asarray(vector_NW, dtype=np.float32)
