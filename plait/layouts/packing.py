"""Many users in one row of tokens.

Rows near the longest user win: longer ones do quadratic work on masked pairs, shorter ones do not exist.
Shape letters: U users, N tokens, R rows, L slots of a row.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

PADDING = -1


@dataclass(frozen=True)
class PackedRows:
    """Where each token stands, and who owns each slot."""

    cell_N: Int64[np.ndarray, " N"]  # slot of each token in the flattened rows: row * L + column
    segment_RL: Int64[np.ndarray, "R L"]  # number of the user within the batch, PADDING where none

    @property
    def fill(self) -> float:
        """Share of the slots that hold a token."""
        return len(self.cell_N) / self.segment_RL.size


def pack(length_U: Int64[np.ndarray, " U"], row_length: int | None = None) -> PackedRows:
    """First-fit decreasing into rows of at most `row_length` slots (default: the longest user).

    Raises:
        ValueError: a user is longer than a row.

    >>> pack(np.array([3, 5, 2])).segment_RL.tolist()
    [[1, 1, 1, 1, 1], [0, 0, 0, 2, 2]]
    """
    row_length = _checked_row_length(length_U, row_length)
    row_U = np.zeros(len(length_U), dtype=np.int64)
    column_U = np.zeros(len(length_U), dtype=np.int64)
    rows = _OpenRows(len(length_U), row_length)
    longest_first = np.argsort(-length_U, kind="stable")
    for user, length in zip(longest_first.tolist(), length_U[longest_first].tolist(), strict=True):
        row_U[user], column_U[user] = rows.take(length)
    return _rows(length_U, row_U, column_U, int((column_U + length_U).max(initial=1)))


def _checked_row_length(length_U: Int64[np.ndarray, " U"], row_length: int | None) -> int:
    longest = int(length_U.max(initial=1))
    row_length = longest if row_length is None else row_length
    if longest > row_length:
        raise ValueError(f"a user of {longest} tokens does not fit into rows of {row_length}")
    return row_length


class _OpenRows:
    """The free slots of rows, as the leaves of a tree of maxima: finds the first row with room in log2(rows) steps."""

    def __init__(self, num_rows: int, row_length: int) -> None:
        self.row_length = row_length
        self.num_leaves = 1 << max(0, num_rows - 1).bit_length()
        # Of node n, the most that is free below it: its children are 2 n and 2 n + 1.
        self.free = [row_length] * (2 * self.num_leaves)

    def take(self, length: int) -> tuple[int, int]:
        """The first row that has so many slots left, and the first of them."""
        free, node = self.free, 1
        while node < self.num_leaves:
            node = 2 * node + (free[2 * node] < length)
        place = node - self.num_leaves, self.row_length - free[node]
        free[node] -= length
        while node > 1:
            node //= 2
            most = max(free[2 * node], free[2 * node + 1])
            if free[node] == most:
                break
            free[node] = most
        return place


def in_one_row(length_U: Int64[np.ndarray, " U"]) -> PackedRows:
    """All users in one row, in their order.

    >>> in_one_row(np.array([1, 2])).segment_RL.tolist()
    [[0, 1, 1]]
    """
    return PackedRows(np.arange(length_U.sum()), np.repeat(np.arange(len(length_U)), length_U)[None])


def pad(length_U: Int64[np.ndarray, " U"], row_length: int | None = None) -> PackedRows:
    """The reference: one user per row, padded on the right to `row_length` slots (default: the longest user).

    Raises:
        ValueError: a user is longer than a row.

    >>> pad(np.array([1, 2]), row_length=3).segment_RL.tolist()
    [[0, -1, -1], [1, 1, -1]]
    """
    num_users = len(length_U)
    row_length = _checked_row_length(length_U, row_length)
    return _rows(length_U, np.arange(num_users), np.zeros(num_users, dtype=np.int64), row_length)


def _rows(
    length_U: Int64[np.ndarray, " U"],
    row_U: Int64[np.ndarray, " U"],
    column_U: Int64[np.ndarray, " U"],
    row_length: int,
) -> PackedRows:
    first_U = np.cumsum(length_U) - length_U
    offset_U = row_U * row_length + column_U - first_U
    cell_N = np.arange(length_U.sum()) + np.repeat(offset_U, length_U)
    segment_RL = np.full((int(row_U.max(initial=0)) + 1, row_length), PADDING)
    segment_RL.reshape(-1)[cell_N] = np.repeat(np.arange(len(length_U)), length_U)
    return PackedRows(cell_N, segment_RL)
