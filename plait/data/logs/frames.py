"""Data frames of other libraries, and mappings of columns, as frames of polars. Those of pandas keep a part of a table
beside its columns: in the index.
"""

from typing import Any

import polars as pl

UNREADABLE = (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError)


def as_frame(source: Any, what: str) -> pl.DataFrame:
    """The source as a frame.

    Raises:
        ValueError: it is no table, or a column holds values of different types; names it and them.
    """
    try:
        return _plain(source)
    except UNREADABLE as error:
        for name in source if hasattr(source, "keys") else ():
            types = _mixed_types(source[name])
            if types:
                raise ValueError(
                    f"{what}: column {name!r} holds values of different types ({', '.join(types)}); make them one, as "
                    f".astype(str) does with a column of pandas"
                ) from error
        raise ValueError(f"{what} cannot be read as a table: {error}") from error


def is_pandas(given: Any) -> bool:
    return any(of.__module__.partition(".")[0] == "pandas" for of in type(given).__mro__)


def is_pandas_row(given: Any) -> bool:
    """A row as `frame.iloc[-1]` gives it."""
    return is_pandas(given) and not hasattr(given, "columns") and hasattr(given, "to_dict")


def with_index_as_columns(frame: Any) -> Any:
    """A pandas frame with the named levels of its index among its columns; anything else as it is."""
    if not is_pandas(frame) or not hasattr(frame, "columns"):
        return frame
    named = [name for name in frame.index.names if isinstance(name, str) and name not in frame.columns]
    return frame.reset_index(level=named) if named else frame


def has_unnamed_index(frame: Any) -> bool:
    """Whether a pandas frame has an index that says something, but not what."""
    if not is_pandas(frame) or not hasattr(frame, "columns") or all(frame.index.names):
        return False
    return not frame.index.equals(frame.reset_index(drop=True).index)


def _plain(source: Any) -> pl.DataFrame:
    return (
        source.collect() if isinstance(source, pl.LazyFrame) else pl.DataFrame(with_index_as_columns(source))
    )


def _mixed_types(column: Any) -> list[str]:
    """The types of a column that polars cannot read."""
    try:
        pl.DataFrame({"": column})
    except UNREADABLE:
        return sorted({type(value).__name__ for value in column})
    return []
