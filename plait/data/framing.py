"""Data frames of other libraries, and mappings of columns, as frames of polars."""

from typing import Any

import polars as pl

UNREADABLE = (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError)


def as_frame(source: Any, what: str) -> pl.DataFrame:
    """The source as a frame.

    Raises:
        ValueError: it is no table, or a column holds values of different types; names it and them.
    """
    try:
        return source.collect() if isinstance(source, pl.LazyFrame) else pl.DataFrame(source)
    except UNREADABLE as error:
        for name in source if hasattr(source, "keys") else ():
            types = _mixed_types(source[name])
            if types:
                raise ValueError(
                    f"{what}: column {name!r} holds values of different types ({', '.join(types)}); make them one, as "
                    f".astype(str) does with a column of pandas"
                ) from error
        raise ValueError(f"{what} cannot be read as a table: {error}") from error


def _mixed_types(column: Any) -> list[str]:
    """The types of a column that polars cannot read."""
    try:
        pl.DataFrame({"": column})
    except UNREADABLE:
        return sorted({type(value).__name__ for value in column})
    return []
