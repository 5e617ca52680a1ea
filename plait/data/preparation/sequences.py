"""From sorted rows to a dataset's arrays: ties, duplicates, k-core, requests, segments. Pure functions.

Shape letters: N rows sorted by (user, time), E events kept, U users, V items.
"""

from dataclasses import dataclass
from typing import assert_never

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

from plait.data.manifest import LeaveOneOut, Split, SplitColumn, Temporal
from plait.data.preparation.coding import stable_argsort
from plait.data.windows import concatenated_ranges

BLOCK = 1 << 17  # events looked at together


def repeats_previous(*columns_N: Integer[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Whether a row equals the row before it in every column.

    >>> repeats_previous(np.array([1, 1, 1, 2]), np.array([5, 5, 6, 6])).tolist()
    [False, True, False, False]
    """
    same_N = np.zeros(len(columns_N[0]), dtype=bool)
    same_N[1:] = True
    for column_N in columns_N:
        same_N[1:] &= column_N[1:] == column_N[:-1]
    return same_N


def tied_rows(again_N: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Rows that share user and time with a neighbour, given `repeats_previous(user, time)`."""
    tied_N = again_N.copy()
    tied_N[:-1] |= again_N[1:]
    return tied_N


def duplicate_rows(
    user_N: Int32[np.ndarray, " N"], tick_N: Int64[np.ndarray, " N"], item_N: Int32[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Rows whose (user, time, item) an earlier row has. Only tied rows are looked at: few, in most logs."""
    again_N = repeats_previous(user_N, tick_N)
    row_D = np.flatnonzero(tied_rows(again_N))
    group_D = np.cumsum(~again_N[row_D])
    by_item_D = stable_argsort(item_N[row_D])
    order_D = by_item_D[stable_argsort(group_D[by_item_D])]
    duplicate_N = np.zeros(len(user_N), dtype=bool)
    duplicate_N[row_D[order_D]] = repeats_previous(group_D[order_D], item_N[row_D[order_D]])
    return duplicate_N


@dataclass(frozen=True)
class Core:
    """The rows that a k-core keeps."""

    keep_N: Bool[np.ndarray, " N"]
    user_rows_U: Int64[np.ndarray, " U"]  # rows kept of each user, of those that lost all too
    item_rows_V: Int64[np.ndarray, " V"]
    lost_users: int
    lost_items: int


def k_core(
    user_N: Int32[np.ndarray, " N"], item_N: Int32[np.ndarray, " N"], min_user: int, min_item: int
) -> Core:
    """The largest set of rows in which every user has `min_user` rows and every item `min_item`."""
    user_rows_U, item_rows_V = np.bincount(user_N), np.bincount(item_N)
    users, items = np.count_nonzero(user_rows_U), np.count_nonzero(item_rows_V)
    keep_N = np.ones(len(user_N), dtype=bool)
    while True:
        poor_U, poor_V = user_rows_U < min_user, item_rows_V < min_item
        if not (user_rows_U[poor_U].any() or item_rows_V[poor_V].any()):
            break
        poor_N = poor_U[user_N]
        poor_N |= poor_V[item_N]
        gone = np.flatnonzero(keep_N & poor_N)
        keep_N[gone] = False
        user_rows_U -= np.bincount(user_N[gone], minlength=len(user_rows_U))
        item_rows_V -= np.bincount(item_N[gone], minlength=len(item_rows_V))
    lost_users, lost_items = users - np.count_nonzero(user_rows_U), items - np.count_nonzero(item_rows_V)
    return Core(keep_N, user_rows_U, item_rows_V, int(lost_users), int(lost_items))


def user_starts(rows_U: Int64[np.ndarray, " U"]) -> Int64[np.ndarray, " U1"]:
    """Offsets of each user's events, given how many each has.

    >>> user_starts(np.array([2, 1])).tolist()
    [0, 2, 3]
    """
    return np.concatenate([[0], np.cumsum(rows_U)]).astype(np.int64)


def request_numbers(
    new_E: Bool[np.ndarray, " E"], start_U1: Int64[np.ndarray, " U1"]
) -> Int32[np.ndarray, " E"]:
    """Running number of each event's request within its user, from 0.

    Args:
        new_E: whether an event opens a request; true for every user's first event.

    >>> request_numbers(np.array([True, False, True, True]), np.array([0, 3, 4])).tolist()
    [0, 0, 1, 0]
    """
    number_E = np.cumsum(new_E, dtype=np.int32)
    first_U = number_E[start_U1[:-1]]
    number_E -= np.repeat(first_U, np.diff(start_U1))
    return number_E


def resolve_split(split: Split, time_s_E: Int64[np.ndarray, " E"]) -> Split:
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


def segments(
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


def first_out_of_order(part_E: Integer[np.ndarray, " E"], start_U1: Int64[np.ndarray, " U1"]) -> int | None:
    """The first event whose part comes before that of its user's event before it; None where there is none.

    >>> first_out_of_order(np.array([0, 1, 0, 2, 1]), np.array([0, 2, 5]))
    4
    """
    falls_E = np.zeros(len(part_E), dtype=bool)
    falls_E[1:] = part_E[1:] < part_E[:-1]
    falls_E[start_U1[:-1]] = False
    return int(falls_E.argmax()) if falls_E.any() else None


def training_rows(
    start_U1: Int64[np.ndarray, " U1"], validation_U: Int64[np.ndarray, " U"]
) -> Bool[np.ndarray, " E"]:
    """Whether an event lies in its user's training segment."""
    lengths_U2 = np.stack([validation_U - start_U1[:-1], start_U1[1:] - validation_U], axis=1)
    return np.repeat(np.tile([True, False], len(validation_U)), lengths_U2.ravel())


def queries(
    start_U1: Int64[np.ndarray, " U1"], begin_U: Int64[np.ndarray, " U"], end_U: Int64[np.ndarray, " U"]
) -> tuple[Int64[np.ndarray, " Q"], Int64[np.ndarray, " Q"], Int64[np.ndarray, " Q"]]:
    """User, event and end of the history of every event of a segment whose user has any event before it."""
    user_u = np.flatnonzero((begin_U > start_U1[:-1]) & (end_U > begin_U))
    event_Q, _ = concatenated_ranges(begin_U[user_u], end_U[user_u])
    events_u = end_U[user_u] - begin_U[user_u]
    return np.repeat(user_u, events_u), event_Q, np.repeat(begin_U[user_u], events_u)


def count_queries(
    start_U1: Int64[np.ndarray, " U1"], validation_U: Int64[np.ndarray, " U"], test_U: Int64[np.ndarray, " U"]
) -> dict[str, int]:
    """How many events of each segment are queries, and how many are not for want of any history."""
    counts = {}
    for part, begin_U, end_U in (
        ("validation", validation_U, test_U),
        ("test", test_U, start_U1[1:]),
    ):
        events_U = end_U - begin_U
        has_history_U = begin_U > start_U1[:-1]
        counts[f"{part}_queries"] = int(events_U[has_history_U].sum())
        counts[f"{part}_without_history"] = int(events_U[~has_history_U].sum())
    return counts


def met_before(
    start_U1: Int64[np.ndarray, " U1"],
    item_E: Integer[np.ndarray, " E"],
    user_Q: Int64[np.ndarray, " Q"],
    event_Q: Int64[np.ndarray, " Q"],
    history_end_Q: Int64[np.ndarray, " Q"],
) -> Bool[np.ndarray, " Q"]:
    """Whether the item of each query's event is among its user's events before `history_end_Q`.

    One pass over the events, however many queries a user has: it finds where each pair of user and item that is asked
    about comes first.

    >>> met_before(np.array([0, 4]), np.array([7, 5, 7, 5]), *np.array([[0, 0], [2, 3], [1, 1]])).tolist()
    [True, False]
    """
    num_items = int(item_E.max(initial=0)) + 1
    pair_P, pair_Q = np.unique(user_Q * num_items + item_E[event_Q], return_inverse=True)
    # Which pairs may be asked about, told by some of their bits: of the others few share them.
    maybe = np.zeros(1 << (8 * len(pair_P)).bit_length(), dtype=bool)
    maybe[_bits(pair_P, maybe)] = True
    first_P = np.full(len(pair_P), len(item_E))
    for begin in range(0, len(item_E), BLOCK):
        item_e = item_E[begin : begin + BLOCK].astype(np.int64)
        user_e = np.searchsorted(start_U1, [begin, begin + len(item_e) - 1], side="right") - 1
        ends = np.clip(start_U1[user_e[0] : user_e[1] + 2], begin, begin + len(item_e))
        pair_e = np.repeat(np.arange(user_e[0], user_e[1] + 1), np.diff(ends)) * num_items + item_e
        row_r = np.flatnonzero(maybe[_bits(pair_e, maybe)])
        at_r = np.minimum(np.searchsorted(pair_P, pair_e[row_r]), len(pair_P) - 1)
        is_asked_r = pair_P[at_r] == pair_e[row_r]
        np.minimum.at(first_P, at_r[is_asked_r], begin + row_r[is_asked_r])
    return first_P[pair_Q] < history_end_Q


def _bits(pair_P: Int64[np.ndarray, " P"], table: Bool[np.ndarray, " T"]) -> Int64[np.ndarray, " P"]:
    """A place in a table whose size is a power of 2, alike for neighbours in no way that matters."""
    return (pair_P * 0x9E3779B97F4A7C1 >> 20) & (len(table) - 1)
