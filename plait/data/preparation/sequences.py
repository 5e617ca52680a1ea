"""From sorted rows to a dataset's arrays: ties, duplicates, k-core, requests. Pure functions.

Shape letters: N rows sorted by (user, time), E events kept, U users, V items.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

from plait.data.preparation.coding import counts, stable_argsort


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
    again_N: Bool[np.ndarray, " N"], item_N: Int32[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Rows whose (user, time, item) an earlier row has. Only tied rows are looked at: few, in most logs.

    Args:
        again_N: `repeats_previous(user, time)`.
    """
    row_D = np.flatnonzero(tied_rows(again_N))
    group_D = np.cumsum(~again_N[row_D])
    by_item_D = stable_argsort(item_N[row_D])
    order_D = by_item_D[stable_argsort(group_D[by_item_D])]
    duplicate_N = np.zeros(len(item_N), dtype=bool)
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
    user_rows_U, item_rows_V = counts(user_N), counts(item_N)
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
