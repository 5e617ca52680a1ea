"""Users' histories as rows of a matrix.

Shape letters: H histories, S their events laid end to end, oldest first, V1 items by dense index, the unknown one
(which no count knows) before them, M windows of events, which may overlap, C values of an event.
"""

import numpy as np
from jaxtyping import Float64, Int64
from scipy import sparse

from plait.schema import UNKNOWN_ITEM


def steps_back(start_H1: Int64[np.ndarray, " H1"]) -> Int64[np.ndarray, " S"]:
    """How many events of its history stand after each event.

    >>> steps_back(np.array([0, 3, 3, 4])).tolist()
    [2, 1, 0, 0]
    """
    return np.repeat(start_H1[1:], np.diff(start_H1)) - 1 - np.arange(start_H1[-1])


def recent(start_H1: Int64[np.ndarray, " H1"], decay: float, last: int) -> Float64[np.ndarray, " S"]:
    """The weight of each event: `decay` for each step back from the newest, 0 before the `last` newest.

    >>> recent(np.array([0, 3, 4]), decay=0.5, last=2).tolist()
    [0.0, 0.5, 1.0, 1.0]
    """
    back_S = steps_back(start_H1)
    return np.where(back_S < last, decay**back_S, 0.0)


def rows_of(
    item_S: Int64[np.ndarray, " S"],
    start_H1: Int64[np.ndarray, " H1"],
    num_items: int,
    weight_S: Float64[np.ndarray, " S"] | None = None,
) -> sparse.csr_array:
    """A row for each history with the summed weights of its events, item by item: H x V1.

    Args:
        weight_S: 1 for each event without it.

    >>> rows_of(np.array([2, 2, 1]), np.array([0, 2, 3]), num_items=2).toarray().tolist()
    [[0.0, 0.0, 2.0], [0.0, 1.0, 0.0]]
    """
    weight_S = np.ones(len(item_S)) if weight_S is None else weight_S
    history_S = np.repeat(np.arange(len(start_H1) - 1), np.diff(start_H1))
    kept_S = (weight_S != 0) & (item_S != UNKNOWN_ITEM)
    place = history_S[kept_S], item_S[kept_S]
    return sparse.coo_array((weight_S[kept_S], place), shape=(len(start_H1) - 1, num_items + 1)).tocsr()


def items_met(
    item_S: Int64[np.ndarray, " S"], start_H1: Int64[np.ndarray, " H1"], num_items: int
) -> sparse.csr_array:
    """1 where an item occurs in a history, however often: H x V1."""
    rows = rows_of(item_S, start_H1, num_items)
    rows.data[:] = 1.0
    return rows


def sums(
    value_SC: Float64[np.ndarray, "S C"],
    start_H1: Int64[np.ndarray, " H1"],
    weight_S: Float64[np.ndarray, " S"],
) -> Float64[np.ndarray, "H C"]:
    """Each history's weighted sum of the values of its events.

    >>> sums(np.array([[1.0], [2.0], [4.0]]), np.array([0, 2, 2, 3]), np.array([0.5, 1.0, 1.0])).tolist()
    [[2.5], [0.0], [4.0]]
    """
    shape = len(start_H1) - 1, len(weight_S)
    by_history = sparse.csr_array((weight_S, np.arange(len(weight_S)), start_H1), shape=shape)
    return by_history @ value_SC


def sums_of_windows(
    value_SC: Float64[np.ndarray, "S C"],
    first_M: Int64[np.ndarray, " M"],
    end_M: Int64[np.ndarray, " M"],
    decay: float,
) -> Float64[np.ndarray, "M C"]:
    """Each window's sum of the values of its events `first_M : end_M`, weighted by `decay` for each step back from the
    newest.

    >>> sums_of_windows(np.array([[1.0], [2.0], [4.0]]), np.array([0, 1, 3]), np.array([2, 3, 3]), 0.5).tolist()
    [[2.5], [5.0], [0.0]]
    """
    start_M1 = np.concatenate([[0], np.cumsum(end_M - first_M)])
    event_N = np.arange(start_M1[-1]) + np.repeat(first_M - start_M1[:-1], end_M - first_M)
    weight_N = decay ** steps_back(start_M1)
    by_window = sparse.csr_array((weight_N, event_N, start_M1), shape=(len(first_M), len(value_SC)))
    return by_window @ value_SC
