"""Columns of feature tables in the form that features are fitted and coded from: names, lists of names, numbers,
arrays; null where missing.

Shape letters: N rows, W width of a vector.
"""

from typing import Any, assert_never

import numpy as np
import polars as pl

from plait.data.columns import rules
from plait.data.columns.rules import RULE
from plait.data.logs.text import decimal_hint
from plait.schema import Categories, Category, Feature, FeatureKind, Number, Vector


def file_of(feature: Feature) -> str | None:
    """The .npy file that holds a feature's vectors."""
    return feature.kind.file if isinstance(feature.kind, Vector) else None


def feature_values(feature: Feature, frame: pl.DataFrame, where: str) -> pl.Series:
    """A feature's column of a frame (or the file beside it): text, list of text, float64 or array of float32.

    Raises:
        ValueError: the column or file is of the wrong type, or a value is no number; `where` says what was read.
    """
    file, where = file_of(feature), f"{where}, column {feature.name!r}"
    match feature.kind:
        case Category() | Categories() | Number():
            return _checked(feature, frame[feature.name], where)
        case Vector():
            column = pl.Series(feature.name, _load(file, frame.height)) if file else frame[feature.name]
            return _arrays(column, file or where)
        case _:
            assert_never(feature.kind)


def _checked(feature: Feature, column: pl.Series, where: str) -> pl.Series:
    """The column's values, all of which keep the rules."""
    read = rules.feature_column(feature, column.dtype, where)
    values = column.to_frame().select(rules.rule_number([read]), read.value.alias(feature.name))
    broken = values[RULE].to_numpy().nonzero()[0]
    if len(broken):
        raise _refused(feature.kind, int(broken[0]), column[int(broken[0])], where)
    return values[feature.name]


def _refused(kind: FeatureKind, row: int, value: Any, where: str) -> ValueError:
    match kind:
        case Category() | Categories():
            return ValueError(
                f"{where} holds fractions; expected text or whole numbers (or declare it a number)"
            )
        case Number():
            hint = decimal_hint(value)
            return ValueError(f"{where}: row {row + 1} holds {value!r}, which is no finite number{hint}")
        case Vector():
            raise AssertionError("vectors are checked as arrays")
        case _:
            assert_never(kind)


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
