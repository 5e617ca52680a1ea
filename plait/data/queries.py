"""Which of the prepared events are trained on, which are asked about, and which answers were met before.

Shape letters: E events, U users, Q queries.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64, Integer

from plait.data.windows import concatenated_ranges

BLOCK = 1 << 17  # events looked at together
MOST_LOOKS = 4  # at each event, on average, before all pairs are looked up in one pass


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

    >>> met_before(np.array([0, 4]), np.array([7, 5, 7, 5]), *np.array([[0, 0], [2, 3], [1, 1]])).tolist()
    [True, False]
    """
    begin_Q = start_U1[user_Q]
    if (history_end_Q - begin_Q).sum() <= MOST_LOOKS * len(item_E):
        return _met_by_looking(begin_Q, history_end_Q, item_E, item_E[event_Q])
    return _met_by_pairs(start_U1, item_E, user_Q, event_Q) < history_end_Q


def _met_by_looking(
    begin_Q: Int64[np.ndarray, " Q"],
    end_Q: Int64[np.ndarray, " Q"],
    item_E: Integer[np.ndarray, " E"],
    item_Q: Integer[np.ndarray, " Q"],
) -> Bool[np.ndarray, " Q"]:
    """Looks through every history: fast where a user has few queries."""
    met_Q = np.zeros(len(item_Q), dtype=bool)
    block_Q = np.cumsum(end_Q - begin_Q) // BLOCK
    edges = np.flatnonzero(np.diff(block_Q, prepend=-1, append=-1))
    for first, last in pairwise(edges):
        begin_q, end_q, item_q = begin_Q[first:last], end_Q[first:last], item_Q[first:last]
        look = _met_side_by_side if _stand_side_by_side(begin_q, end_q) else _met_apart
        met_Q[first + look(begin_q, end_q, item_E, item_q)] = True
    return met_Q


def _stand_side_by_side(begin_q: Int64[np.ndarray, " q"], end_q: Int64[np.ndarray, " q"]) -> bool:
    """Whether histories follow each other, with no more events between them than in them."""
    in_order = (begin_q[1:] >= end_q[:-1]).all()
    return bool(in_order and end_q[-1] - begin_q[0] <= 2 * (end_q - begin_q).sum())


def _met_side_by_side(
    begin_q: Int64[np.ndarray, " q"],
    end_q: Int64[np.ndarray, " q"],
    item_E: Integer[np.ndarray, " E"],
    item_q: Integer[np.ndarray, " q"],
) -> Int64[np.ndarray, " m"]:
    """The queries whose item is in their history: no event is copied to be looked at."""
    next_q = np.append(begin_q[1:], end_q[-1])
    same_R = item_E[begin_q[0] : end_q[-1]] == np.repeat(item_q, next_q - begin_q)
    row_m = begin_q[0] + np.flatnonzero(same_R)
    at_m = np.searchsorted(begin_q, row_m, side="right") - 1
    return at_m[row_m < end_q[at_m]]


def _met_apart(
    begin_q: Int64[np.ndarray, " q"],
    end_q: Int64[np.ndarray, " q"],
    item_E: Integer[np.ndarray, " E"],
    item_q: Integer[np.ndarray, " q"],
) -> Int64[np.ndarray, " m"]:
    """As `_met_side_by_side`, of any histories."""
    row_R, start_q1 = concatenated_ranges(begin_q, end_q)
    same_R = item_E[row_R] == np.repeat(item_q, np.diff(start_q1))
    return np.searchsorted(start_q1, np.flatnonzero(same_R), side="right") - 1


def _met_by_pairs(
    start_U1: Int64[np.ndarray, " U1"],
    item_E: Integer[np.ndarray, " E"],
    user_Q: Int64[np.ndarray, " Q"],
    event_Q: Int64[np.ndarray, " Q"],
) -> Int64[np.ndarray, " Q"]:
    """The first event of each query's user with its item. One pass over the events, however many queries a user has: it
    finds where each pair of user and item that is asked about comes first."""
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
    return first_P[pair_Q]


def _bits(pair_P: Int64[np.ndarray, " P"], table: Bool[np.ndarray, " T"]) -> Int64[np.ndarray, " P"]:
    """A place in a table whose size is a power of 2, alike for neighbours in no way that matters."""
    return (pair_P * 0x9E3779B97F4A7C1 >> 20) & (len(table) - 1)
