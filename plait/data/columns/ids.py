"""Ids are their spelling: what a column of ids holds is decided once over all tables of a log, and an id is the same
wherever it is read: in the log, a feature table, a history, on the command line.

A column is whole numbers only where every value in every table is one, and is spelt in text files as its number is;
else it is text, and a number is its decimal spelling.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import polars as pl

DType = Any  # a pl.DataType: its metaclass has a repr that beartype refuses in annotations
NOBODY = ("", "NA", "null", "None", "nan", r"\N")  # what logs write where they know no id, in any case
LARGEST_SIGNED = 2**63 - 1
# Floats hold every whole number below, and merge others from here on.
EXACT_BELOW = {pl.Float64: 2**53, pl.Float32: 2**24, pl.Float16: 2**11}
LONG_HASH = -(2**31)  # no word for nobody lies below
LEAST_HASHES, LEAST_HASH_SHARE = 10, 0.1  # negative ones among the different ids
TEXTS = (pl.String, pl.Categorical, pl.Enum)


def _every_case(word: str) -> Iterable[str]:
    return map("".join, product(*({letter.lower(), letter.upper()} for letter in word)))


NOBODY_SPELT = tuple(sorted({spelt for word in NOBODY for spelt in _every_case(word)}))


@dataclass(frozen=True)
class Held:
    """What the values of an id column are; of several tables, their union by `|`."""

    text: bool = False  # one that is no whole number, or not spelt as it
    negative: bool = False
    large: bool = False  # a whole number above 2^63 - 1

    def __or__(self, other: "Held") -> "Held":
        return Held(self.text | other.text, self.negative | other.negative, self.large | other.large)

    @property
    def dtype(self) -> DType:
        """The one type that holds them all.

        >>> Held(large=True).dtype, (Held(large=True) | Held(negative=True)).dtype
        (UInt64, String)
        """
        if self.text or (self.negative and self.large):
            return pl.String
        return pl.UInt64 if self.large else pl.Int64


def is_text(dtype: DType) -> bool:
    # A categorical type of named categories equals none of the three.
    return dtype in TEXTS or isinstance(dtype, pl.Categorical)


def is_nobody(text: pl.Expr) -> pl.Expr:
    """Whether a text is missing, or a word for nobody."""
    return text.is_null() | text.is_in(NOBODY_SPELT)


def spelt_number(text: pl.Expr, dtype: DType) -> pl.Expr:
    """The whole number that a text spells as numbers are spelt: without leading zeros, plus, blanks; else null."""
    number = text.cast(dtype, strict=False)  # which takes "007", "+7" and "-0", all of them below "1"
    as_it_is = (text >= "1") | ((text >= "-1") & (number < 0)) | (text == "0")
    return pl.when(as_it_is).then(number)


def whole_number(number: pl.Expr, dtype: DType) -> pl.Expr:
    """Floats that are whole and not merged with others, as integers; else null."""
    exact = (number % 1 == 0) & (number.abs() < EXACT_BELOW[dtype.base_type()])
    return pl.when(exact).then(number).cast(pl.Int64, strict=False)


def as_id(raw: pl.Expr, given: DType, wanted: DType) -> pl.Expr:
    """Ids of the type `given` as the log of type `wanted` has them; null where they are missing or none of its ids
    can be spelt so. `wanted` is as `Held.dtype`."""
    if is_text(given):
        text = raw.cast(pl.String)
        return pl.when(~is_nobody(text)).then(text) if wanted == pl.String else spelt_number(text, wanted)
    if given.is_float():
        raw = whole_number(raw, given)
    elif not (given.is_integer() or given == pl.Null):
        return pl.lit(None, dtype=wanted)
    return raw.cast(wanted, strict=False)


def ids_as(values: pl.Series, wanted: DType) -> pl.Series:
    """As `as_id`, of a column.

    >>> ids_as(pl.Series(["7", "007", "x"]), pl.Int64).to_list()
    [7, None, None]
    >>> ids_as(pl.Series([7.0, 7.5]), pl.String).to_list()
    ['7', None]
    """
    frame = pl.DataFrame({"id": values})
    # Beside the column, so that a constant fills it.
    frame = frame.with_columns(as_id(pl.col("id"), values.dtype, wanted).alias("id"))
    return frame["id"].alias(values.name)


def held_by(values: pl.Series, has_types: bool) -> Held:
    """What a column holds.

    Args:
        has_types: whether its source says so itself: there text is text. In a text file it may spell numbers.

    >>> held_by(pl.Series(["7", "NA", "8"]), has_types=False), held_by(pl.Series(["07"]), has_types=False).text
    (Held(text=False, negative=False, large=False), True)
    """
    given = values.drop_nulls()
    if is_text(values.dtype):
        given = given.cast(pl.String)
        given = given.filter(~given.is_in(NOBODY_SPELT))
        if has_types:
            return Held(text=not given.is_empty())
    elif values.dtype.is_float():  # whose fractions and merged numbers are no ids
        given = ids_as(given, pl.Int64).drop_nulls()
    signed, unsigned = ids_as(given, pl.Int64), ids_as(given, pl.UInt64)
    return Held(
        text=bool((signed.is_null() & unsigned.is_null()).any()),
        negative=bool((signed < 0).any()),
        large=bool((signed.is_null() & unsigned.is_not_null()).any()),
    )


def look_like_hashes(negative: pl.Series, num_different: int) -> bool:
    """Whether the different negative ids of a column are ids like others, and not words for nobody: one lies below
    -2^31, or there are ten of them and they are a tenth of all different ids.

    >>> look_like_hashes(pl.Series([-1]), 2), look_like_hashes(pl.Series([-4_611_686_018_427_387_904]), 2)
    (False, True)
    """
    if negative.is_empty():
        return True
    many = len(negative) >= LEAST_HASHES and len(negative) >= LEAST_HASH_SHARE * num_different
    return many or bool((negative < LONG_HASH).any())


def joined_ids(columns: Sequence[pl.Series], held: Held) -> pl.Series:
    """Ids of several tables as one column of the type that holds them all."""
    return pl.concat([ids_as(column, held.dtype) for column in columns])


def id_series(ids: Iterable[Any]) -> pl.Series:
    """Ids that a caller gives as a column; whole numbers beside text become their spelling.

    >>> id_series([7.0, "a"]).to_list()
    ['7', 'a']
    """
    if isinstance(ids, pl.Series):
        return ids
    return pl.Series("id", [_without_point(id) for id in ids], strict=False)


def _without_point(id: Any) -> Any:
    is_float = isinstance(id, float | np.floating)
    return int(id) if is_float and id % 1 == 0 and abs(id) < EXACT_BELOW[pl.Float64] else id
