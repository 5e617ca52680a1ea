"""Ids to dense codes, and stable orders of large arrays.

Shape letters: N rows, V different values.
"""

import difflib
from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64, Integer

from plait.data.columns.ids import LARGEST_SIGNED

MOST_COMPARED = 1_000  # texts: difflib is slow
BLOCK = 1 << 16  # rows worked on at a time where that spares a large temporary array
COUNTED = 1 << 20  # rows counted at a time: more than there are codes, mostly
LEAST_COUNTED = 1 << 20  # of fewer rows, numpy's order is found before scipy is loaded


def dense_codes(values: pl.Series) -> tuple[Int32[np.ndarray, " N"], pl.Series]:
    """Each value's rank among the different values, and these values in ascending order.

    Args:
        values: numbers or a Categorical column (ordered by its text), without nulls. Read chunk by chunk,
            never copied whole.

    >>> code_N, value_V = dense_codes(pl.Series([7, 3, 7]))
    >>> code_N.tolist(), value_V.to_list()
    ([1, 0, 1], [3, 7])
    """
    if isinstance(values.dtype, pl.Categorical):
        table = pl.DataFrame({"value": values.unique()})
        table = table.with_columns(label=pl.col("value").cast(pl.String)).sort("label")
        key_V, label_V = table["value"].to_physical().to_numpy(), table["label"].alias(values.name)
        return _through_table(values.to_physical(), key_V, 0, int(key_V.max()) + 1), label_V
    if values.dtype.is_integer():
        low, high = values.min(), values.max()
        assert isinstance(low, int) and isinstance(high, int), "no rows, or nulls among them"
        span = high - low + 1
        if span <= max(1 << 20, 4 * len(values)):  # a table of the span costs less than hashing every row
            present_S = np.zeros(span, dtype=bool)
            for chunk in values.get_chunks():
                present_S[_above(chunk, low)] = True
            key_V = np.flatnonzero(present_S)
            whole_V = key_V.astype(np.uint64 if low > LARGEST_SIGNED else np.int64) + low
            value_V = pl.Series(values.name, whole_V, dtype=values.dtype)
            return _through_table(values, key_V, low, span), value_V
    value_V = values.unique().sort()
    table = pl.DataFrame({"value": value_V, "code": np.arange(len(value_V), dtype=np.int32)})
    rows = pl.DataFrame({"value": values}).join(table, on="value", how="left", maintain_order="left")
    return rows["code"].to_numpy(), value_V


def similar_texts(asked: str, known: pl.Series) -> list[str]:
    """Up to three of the known texts that are like the one asked for, likest first.

    Only texts that share its first or second half, in any case, are compared: a single slip leaves one of them.

    >>> similar_texts("Ann-marie", pl.Series(["anne", "ann-mary", "anne-marie"]))
    ['anne-marie', 'ann-mary']
    """
    lower, half = asked.lower(), len(asked) // 2
    text = known.str.to_lowercase()
    alike = text.str.starts_with(lower[:half]) | text.str.ends_with(lower[half:])
    by_lower = {id.lower(): id for id in known.filter(alike).head(MOST_COMPARED)}
    return [by_lower[near] for near in difflib.get_close_matches(lower, by_lower, n=3, cutoff=0.8)]


def _through_table(
    values: pl.Series, key_V: Integer[np.ndarray, " V"], low: int, span: int
) -> Int32[np.ndarray, " N"]:
    """Codes of integers `low <= value < low + span`, where `low + key_V[code]` is a code's value."""
    table_S = np.zeros(span, dtype=np.int32)
    table_S[key_V] = np.arange(len(key_V), dtype=np.int32)
    code_N = np.empty(len(values), dtype=np.int32)
    begin = 0
    for chunk in values.get_chunks():
        # Not mode "raise", which would fill a copy of `out` first.
        np.take(table_S, _above(chunk, low), out=code_N[begin : begin + len(chunk)], mode="clip")
        begin += len(chunk)
    return code_N


def _above(chunk: pl.Series, low: int) -> Int64[np.ndarray, " N"]:
    """How far integers of 64 bits lie above the least of them."""
    return (chunk.to_numpy() - low).astype(np.int64, copy=False)


def stable_argsort(key_N: Integer[np.ndarray, " N"]) -> Integer[np.ndarray, " N"]:
    """The order that sorts non-negative keys, equal keys in their old order.

    Many dense keys are counted, which is several times as fast as sorting. Of others, key and row number share one word
    where they fit, because numpy sorts words several times faster than it sorts indices.

    >>> stable_argsort(np.array([2, 0, 2, 1])).tolist()
    [1, 3, 0, 2]
    """
    assert key_N.min(initial=0) >= 0, "keys must not be negative"
    largest, row_bits = int(key_N.max(initial=0)), max(len(key_N) - 1, 0).bit_length()
    if LEAST_COUNTED <= len(key_N) <= np.iinfo(np.int32).max and largest <= len(key_N):
        return _order_by_counting(key_N, largest + 1)
    if largest.bit_length() + row_bits > 63:
        return np.argsort(key_N, kind="stable")
    packed_N = key_N.astype(np.int64)
    packed_N <<= row_bits
    for begin in range(0, len(key_N), BLOCK):
        packed_N[begin : begin + BLOCK] |= np.arange(begin, min(begin + BLOCK, len(key_N)))
    packed_N.sort()
    packed_N &= (1 << row_bits) - 1
    return packed_N


def _order_by_counting(key_N: Integer[np.ndarray, " N"], num_keys: int) -> Int32[np.ndarray, " N"]:
    """The places of each key, as a sparse matrix with a row for each key lists its columns: in ascending order."""
    from scipy.sparse import coo_array

    place_N, is_there_N = np.arange(len(key_N), dtype=np.int32), np.ones(len(key_N), dtype=bool)
    at = (key_N.astype(np.int32, copy=False), place_N)
    return coo_array((is_there_N, at), shape=(num_keys, len(key_N))).tocsr().indices


def is_ascending(key_N: Integer[np.ndarray, " N"]) -> bool:
    """Whether no key is below the one before it. Looks no further than the first that is.

    >>> is_ascending(np.array([1, 1, 2])), is_ascending(np.array([1, 2, 1]))
    (True, False)
    """
    blocks = (key_N[begin : begin + BLOCK + 1] for begin in range(0, len(key_N), BLOCK))
    return all((block[1:] >= block[:-1]).all() for block in blocks)


def order_events(
    user_N: Integer[np.ndarray, " N"],
    tick_N: Integer[np.ndarray, " N"],
    tiebreak_N: Integer[np.ndarray, " N"] | None,
) -> Integer[np.ndarray, " N"]:
    """The order of rows by (user, time, tiebreak, row)."""
    if tiebreak_N is None and is_ascending(tick_N):  # as most logs are written
        return stable_argsort(user_N)
    if tiebreak_N is None:
        by_time_N = stable_argsort(tick_N)
    else:
        by_tiebreak_N = stable_argsort(tiebreak_N)
        by_time_N = by_tiebreak_N[stable_argsort(tick_N[by_tiebreak_N])]
    order_N = stable_argsort(user_N[by_time_N])
    for begin in range(0, len(order_N), BLOCK):
        order_N[begin : begin + BLOCK] = by_time_N[order_N[begin : begin + BLOCK]]
    return order_N


def counts(code_N: Int32[np.ndarray, " N"], least: int = 0) -> Int64[np.ndarray, " V"]:
    """How many rows each code has, of at least so many codes. numpy counts in a copy of 64 bits: part by part, that is
    small.

    >>> counts(np.array([2, 0, 2], dtype=np.int32), least=4).tolist()
    [1, 0, 2, 0]
    """
    num_codes = max(int(code_N.max(initial=-1)) + 1, least)
    counts_V = np.zeros(num_codes, dtype=np.int64)
    for begin in range(0, len(code_N), COUNTED):
        counts_V += np.bincount(code_N[begin : begin + COUNTED], minlength=num_codes)
    return counts_V


def joined(values: pl.Series) -> np.ndarray:
    """A column's chunks as one array. Its memory is numpy's, which uses it again once it is free; that of polars it
    cannot use.

    >>> joined(pl.Series([1, 2]).append(pl.Series([3]))).tolist()
    [1, 2, 3]
    """
    return np.concatenate([chunk.to_numpy() for chunk in values.get_chunks()])


def ticks(time_N: Int64[np.ndarray, " N"], unit: int) -> Integer[np.ndarray, " N"]:
    """Times from 1970 on in a unit that divides them, in 32 bits where they fit: half the memory to go through.

    >>> ticks(np.array([4000, 6000]), 1000), ticks(np.array([2**40]), 1).dtype
    (array([4, 6], dtype=int32), dtype('int64'))
    """
    fits = time_N.max(initial=0) // unit <= np.iinfo(np.int32).max
    dtype = np.int32 if fits else np.int64
    return np.floor_divide(time_N, unit, out=np.empty(len(time_N), dtype), casting="unsafe")


def coarsest_unit(tick_N: Int64[np.ndarray, " N"], units: Sequence[int]) -> int:
    """The first of `units` that divides every tick, else 1.

    >>> coarsest_unit(np.array([4000, 6000]), units=(1_000_000, 1_000))
    1000
    """
    for unit in units:
        blocks = (tick_N[begin : begin + BLOCK] for begin in range(0, len(tick_N), BLOCK))
        if all(
            (block // unit * unit == block).all() for block in blocks
        ):  # numpy divides faster than it takes %
            return unit
    return 1
