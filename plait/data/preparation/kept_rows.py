"""The rows that are kept: sorted by user and time, without duplicates if asked, users and items that are too rare gone.

Shape letters: N rows sorted by (user, time), U users, V items, both as the log numbers them.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from plait.data.columns.times import MICROSECONDS_PER_S
from plait.data.manifest import Settings, left_out
from plait.data.preparation import sequences
from plait.data.preparation.coding import coarsest_unit, counts, order_events, ticks
from plait.data.preparation.ingestion import LogRows
from plait.wording import setting


@dataclass(frozen=True)
class SortedRows:
    """Rows by (user, time, order); `row_N` is where the log had them."""

    user_N: np.ndarray
    item_N: np.ndarray
    tick_N: np.ndarray  # in `ticks_per_s`
    row_N: np.ndarray
    ticks_per_s: int

    def where(self, keep_N: np.ndarray) -> "SortedRows":
        if keep_N.all():
            return self
        return SortedRows(
            self.user_N[keep_N],
            self.item_N[keep_N],
            self.tick_N[keep_N],
            self.row_N[keep_N],
            self.ticks_per_s,
        )


@dataclass(frozen=True)
class KeptRows:
    """What the filters leave, and what they removed."""

    rows: SortedRows
    user_rows_U: np.ndarray  # rows kept of each user; 0 where none is
    item_rows_V: np.ndarray
    users_left_out: pl.DataFrame  # with how many rows they had
    removed: dict[str, int]  # by the field of the counts


def kept_rows(log: LogRows, settings: Settings) -> KeptRows:
    """Sorts and filters a log's rows.

    Raises:
        ValueError: nothing is left.
    """
    rows, rows_U = _sorted(log)
    rows, core, removed = _filtered(rows, settings)
    if len(rows.row_N) == 0:
        gone = (removed[key] for key in ("duplicates_removed", "single_event_rows", "core_rows"))
        raise ValueError(
            f"no events left of {log.num_read} rows; left out: {left_out(settings, log.rejected, *gone)}. Lower "
            f"{setting('min_user_events')} and {setting('min_item_events')}, or give a longer log"
        )
    lost = _users_left_out(rows_U, core.user_rows_U, log.user_id)
    return KeptRows(rows, core.user_rows_U, core.item_rows_V, lost, removed)


def _sorted(log: LogRows) -> tuple[SortedRows, np.ndarray]:
    """The rows by user and time, and how many each user has."""
    unit = coarsest_unit(log.columns["time"], (MICROSECONDS_PER_S, 1_000))  # short keys sort faster
    tick_N = ticks(log.columns.pop("time"), unit)
    user_N = log.columns.pop("user")
    rows_U = counts(user_N, len(log.user_id))
    # Of events at one time, those of training first where a column splits and none orders.
    row_N = order_events(user_N, tick_N, log.columns.get("order", log.columns.get("part")))
    # One by one: each takes the memory that the one before it left.
    item_N = log.columns.pop("item").take(row_N)
    tick_N = tick_N.take(row_N)
    user_N = np.repeat(np.arange(len(rows_U), dtype=np.int32), rows_U)  # sorted, that is
    return SortedRows(user_N, item_N, tick_N, row_N, MICROSECONDS_PER_S // unit), rows_U


def _filtered(rows: SortedRows, settings: Settings) -> tuple[SortedRows, sequences.Core, dict[str, int]]:
    """Removes duplicates if asked, users with one event, and what the k-core does not hold."""
    counted = {"duplicates_removed": 0}
    again_N = sequences.repeats_previous(rows.user_N, rows.tick_N)
    duplicate_N = sequences.duplicate_rows(again_N, rows.item_N)
    counted["duplicates"] = int(duplicate_N.sum())
    if settings.deduplicate:
        counted["duplicates_removed"] = counted["duplicates"]
        rows = rows.where(~duplicate_N)
    several_N = sequences.tied_rows(sequences.repeats_previous(rows.user_N))
    counted["single_event_rows"] = int((~several_N).sum())
    rows = rows.where(several_N)
    least = max(settings.min_user_events, 2)
    core = sequences.k_core(rows.user_N, rows.item_N, least, settings.min_item_events)
    counted |= {
        "core_rows": int((~core.keep_N).sum()),
        "core_users": core.lost_users,
        "core_items": core.lost_items,
    }
    return rows.where(core.keep_N), core, counted


def _users_left_out(rows_U: np.ndarray, kept_U: np.ndarray, user_id: pl.Series) -> pl.DataFrame:
    """Users whose events the filters removed, with how many rows they had."""
    is_kept_U = np.zeros(len(user_id), dtype=bool)
    is_kept_U[: len(kept_U)] = kept_U > 0
    return pl.DataFrame({"user_id": user_id, "rows": rows_U}).filter(~pl.Series(is_kept_U))
