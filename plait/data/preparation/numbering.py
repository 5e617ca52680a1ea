"""Events numbered: users and items without gaps, requests within their user; and how many events resemble others.

Shape letters: E events kept, U users, V items.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from plait.data.preparation import sequences
from plait.data.preparation.ingestion import LogRows
from plait.data.preparation.kept_rows import KeptRows, SortedRows


@dataclass(frozen=True)
class Ties:
    """Events that others resemble."""

    repeats: int  # have the item and time of an earlier one of their user
    tied_in_order: int  # share all that orders them with a neighbour
    share: float  # of the events, share user and time with a neighbour
    split_requests: int  # how often a request is torn apart by another


@dataclass(frozen=True)
class NumberedEvents:
    """The events that are kept, each user's one after another."""

    start_U1: np.ndarray
    item_E: np.ndarray  # from 1
    request_E: np.ndarray
    time_s_E: np.ndarray
    row_E: np.ndarray  # where the log had them
    user_id: pl.Series
    item_id: pl.Series
    item_rows_V: np.ndarray  # events of each item
    ties: Ties


def numbered(kept: KeptRows, log: LogRows) -> NumberedEvents:
    """Numbers users, items and requests of what the filters left."""
    rows = kept.rows
    user_E, user_id = _without_gaps(rows.user_N, kept.user_rows_U > 0, log.user_id)
    item_E, item_id = _without_gaps(rows.item_N, kept.item_rows_V > 0, log.item_id)
    item_E += 1  # 0 stands for items that the table lacks
    start_U1 = sequences.user_starts(kept.user_rows_U[kept.user_rows_U > 0])
    again_E = sequences.repeats_previous(user_E, rows.tick_N)
    tied_E = sequences.tied_rows(again_E)
    request_E, split_requests = _requests(user_E, start_U1, again_E, rows, log)
    ties = Ties(
        repeats=int(sequences.duplicate_rows(again_E, item_E).sum()),
        tied_in_order=_count_tied_in_order(user_E, tied_E, rows, log),
        share=float(tied_E.mean()),
        split_requests=split_requests,
    )
    return NumberedEvents(
        start_U1=start_U1,
        item_E=item_E,
        request_E=request_E,
        time_s_E=np.floor_divide(rows.tick_N, rows.ticks_per_s, dtype=np.int64),
        row_E=rows.row_N,
        user_id=user_id,
        item_id=item_id,
        item_rows_V=kept.item_rows_V[kept.item_rows_V > 0],
        ties=ties,
    )


def _without_gaps(code_E: np.ndarray, present: np.ndarray, ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Codes without gaps, where filtering left some ids without an event."""
    if len(present) == len(ids) and present.all():
        return code_E, ids
    return (np.cumsum(present, dtype=np.int32) - 1)[code_E], ids.head(len(present)).filter(pl.Series(present))


def _count_tied_in_order(user_E: np.ndarray, tied_E: np.ndarray, rows: SortedRows, log: LogRows) -> int:
    """Events that share all that orders them with a neighbour."""
    if "order" in log.columns:
        order_E = log.columns.pop("order")[rows.row_N]
        tied_E = sequences.tied_rows(sequences.repeats_previous(user_E, rows.tick_N, order_E))
    return int(tied_E.sum())


def _requests(
    user_E: np.ndarray, start_U1: np.ndarray, again_E: np.ndarray, rows: SortedRows, log: LogRows
) -> tuple[np.ndarray, int]:
    """Request numbers, and how often a request is torn apart by another.

    Args:
        again_E: whether an event has the user and the time of the one before it.
    """
    if "request" not in log.columns:
        return sequences.request_numbers(~again_E, start_U1), 0
    request_E = log.columns.pop("request")[rows.row_N]
    new_E = ~sequences.repeats_previous(user_E, request_E)
    pair_R = user_E[new_E].astype(np.int64) << 32 | request_E[new_E]
    return sequences.request_numbers(new_E, start_U1), len(pair_R) - len(np.unique(pair_R))
