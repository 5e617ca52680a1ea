"""Events of training, validation and test.

Shape letters: E events kept, U users.
"""

from dataclasses import dataclass
from typing import assert_never

import numpy as np
from jaxtyping import Int64, Integer

from plait.data.facts import date
from plait.data.manifest import LeaveOneOut, Split, SplitColumn, Temporal
from plait.data.preparation.ingestion import LogRows
from plait.data.preparation.numbering import NumberedEvents
from plait.data.queries import training_rows
from plait.wording import setting


@dataclass(frozen=True)
class SplitPoints:
    """Where each user's validation and test begin: training is `start : validation`, test `test : end`."""

    split: Split  # resolved
    validation_U: np.ndarray
    test_U: np.ndarray
    is_train_E: np.ndarray


def split_points(split: Split, events: NumberedEvents, log: LogRows) -> SplitPoints:
    """Splits the events.

    Raises:
        ValueError: the split leaves a segment empty, or tears a user's events out of order.
    """
    part_E = log.columns.pop("part")[events.row_E] if "part" in log.columns else None
    split = _resolved(split, events.time_s_E)
    if part_E is not None:
        _check_parts(split, part_E, events)
    validation_U, test_U = _begins(split, events.start_U1, events.time_s_E, part_E)
    is_train_E = training_rows(events.start_U1, validation_U)
    if not is_train_E.any():
        raise ValueError(f"{split} leaves no event to train on: every user has fewer than three")
    return SplitPoints(split, validation_U, test_U, is_train_E)


def _resolved(split: Split, time_s_E: Int64[np.ndarray, " E"]) -> Split:
    """The split with its cuts as times.

    Raises:
        ValueError: a cut leaves a segment of the log without events.
    """
    match split:
        case LeaveOneOut() | SplitColumn():
            return split
        case Temporal():
            return _with_cuts(split, time_s_E)
        case _:
            assert_never(split)


def _with_cuts(split: Temporal, time_s_E: Int64[np.ndarray, " E"]) -> Temporal:
    if split.validation is not None:
        assert split.test is not None
        rows = len(time_s_E)
        ranks = [rows - round(rows * share) for share in (split.validation + split.test, split.test)]
        by_rank = np.partition(time_s_E, [min(rank, rows - 1) for rank in ranks])
        cuts = [int(by_rank[min(rank, rows - 1)]) for rank in ranks]
        if cuts[0] == cuts[1]:
            raise ValueError(
                f"{split}: both cuts fall on time {cuts[0]} s, because the log's times are tied; "
                "take larger shares, or give cut_validation_s and cut_test_s"
            )
        split = Temporal(*cuts)
    assert split.cut_validation_s is not None and split.cut_test_s is not None
    low, high = int(time_s_E.min()), int(time_s_E.max())
    if not low < split.cut_validation_s or not split.cut_test_s <= high:
        raise ValueError(f"{split}: the log's times run from {low} to {high} s; put both cuts inside")
    if not ((time_s_E >= split.cut_validation_s) & (time_s_E < split.cut_test_s)).any():
        raise ValueError(
            f"{split}: no event lies between the cuts, so nothing is left to validate on; move them apart"
        )
    return split


def _begins(
    split: Split,
    start_U1: Int64[np.ndarray, " U1"],
    time_s_E: Int64[np.ndarray, " E"],
    part_E: Integer[np.ndarray, " E"] | None = None,
) -> tuple[Int64[np.ndarray, " U"], Int64[np.ndarray, " U"]]:
    """Rows at which each user's validation and test segments begin.

    Training is `start : validation`, validation `validation : test`, test `test : end`.

    Args:
        part_E: of a split by a column, 0 for training, 1 for validation, 2 for test; ascending in every user.
    """
    match split:
        case LeaveOneOut():
            start_U, end_U = start_U1[:-1], start_U1[1:]
            return np.maximum(end_U - 2, start_U), np.maximum(end_U - 1, start_U)
        case Temporal():
            assert split.cut_validation_s is not None and split.cut_test_s is not None
            before = [time_s_E < cut for cut in (split.cut_validation_s, split.cut_test_s)]
        case SplitColumn():
            assert part_E is not None
            before = [part_E < part for part in (1, 2)]
        case _:
            assert_never(split)
    validation_U, test_U = (
        start_U1[:-1] + np.add.reduceat(before_E, start_U1[:-1], dtype=np.int64) for before_E in before
    )
    return validation_U, test_U


def _check_parts(split: Split, part_E: np.ndarray, events: NumberedEvents) -> None:
    """Raises ValueError where a part of a split by column is empty, or comes too late in its user."""
    names = ("train", "validation", "test")
    empty = [name for part, name in enumerate(names) if not (part_E == part).any()]
    if empty:
        raise ValueError(
            f"{split}: no event that is left is for {' or '.join(empty)}; name the values that are, or lower "
            f"{setting('min_user_events')} and {setting('min_item_events')}"
        )
    event = first_out_of_order(part_E, events.start_U1)
    if event is not None:
        user = events.user_id[int(np.searchsorted(events.start_U1, event, side="right")) - 1]
        now, before = names[part_E[event]], names[part_E[event - 1]]
        raise ValueError(
            f"{split}: row {events.row_E[event] + 1} of the rows that keep the rules, of user {user!r} at "
            f"{date(events.time_s_E[event])}, is for {now}, and one of this user before it for {before}; of every "
            "user, training must come before validation and validation before test. Correct the column, or split by "
            "time"
        )


def first_out_of_order(part_E: Integer[np.ndarray, " E"], start_U1: Int64[np.ndarray, " U1"]) -> int | None:
    """The first event whose part comes before that of its user's event before it; None where there is none.

    >>> first_out_of_order(np.array([0, 1, 0, 2, 1]), np.array([0, 2, 5]))
    4
    """
    falls_E = np.zeros(len(part_E), dtype=bool)
    falls_E[1:] = part_E[1:] < part_E[:-1]
    falls_E[start_U1[:-1]] = False
    return int(falls_E.argmax()) if falls_E.any() else None
