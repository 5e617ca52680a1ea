"""Data frames of pandas, which keep a part of a table beside its columns: in the index."""

from typing import Any


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
