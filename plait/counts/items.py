"""Counts of items: which are frequent, which come after which, which are met by the same users.

Shape letters: E events of all users laid end to end, oldest first, U users, H histories, V1 items by dense index, the
unknown one (which no count knows) before them.
"""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy import sparse

from plait.schema import UNKNOWN_ITEM

Table: TypeAlias = (
    sparse.csr_array | Float[np.ndarray, "V1 V1"]
)  # by an item of the history, then by the item to score


def popularity(item_E: Int64[np.ndarray, " E"], num_items: int) -> Float64[np.ndarray, " V1"]:
    """Events of each item.

    >>> popularity(np.array([2, 1, 2]), num_items=3).tolist()
    [0.0, 1.0, 2.0, 0.0]
    """
    return _counted(item_E, np.ones(len(item_E)), num_items)


def recent_popularity(
    item_E: Int64[np.ndarray, " E"], time_s_E: Int64[np.ndarray, " E"], num_items: int, half_life_s: float
) -> Float64[np.ndarray, " V1"]:
    """Events of each item, an event counting half for each half-life that it lies before the newest.

    >>> recent_popularity(np.array([1, 2]), np.array([0, 60]), num_items=2, half_life_s=60.0).tolist()
    [0.0, 0.5, 1.0]
    """
    age_s_E = time_s_E.max(initial=0) - time_s_E
    return _counted(item_E, 0.5 ** (age_s_E / half_life_s), num_items)


def followers(
    item_E: Int64[np.ndarray, " E"],
    start_U1: Int64[np.ndarray, " U1"],
    history_end_E: Int64[np.ndarray, " E"],
    num_items: int,
    window: int,
) -> sparse.csr_array:
    """How often an item (column) came within `window` events after another (row), 1 / distance each time. With a window
    of 1 these are the transitions from one item to the next.

    Args:
        start_U1: user u's events are `start_U1[u] : start_U1[u + 1]`.
        history_end_E: row after the last event that each event may be predicted from. Distances count from there: where
            nothing of the event's own request is known, the newest event before that request is at distance 1.

    Source: the sequential rules of Ludewig & Jannach, User Modeling and User-Adapted Interaction 28, 2018, section 3.1;
    `shares` divides them.

    >>> followers(np.array([1, 2, 3]), np.array([0, 3]), np.arange(3), num_items=3, window=2).toarray()[1].tolist()
    [0.0, 0.0, 1.0, 0.5]
    """
    start_E = np.repeat(start_U1[:-1], np.diff(start_U1))
    table = sparse.csr_array((num_items + 1, num_items + 1))
    for distance in range(1, window + 1):
        after_P = np.flatnonzero(history_end_E - distance >= start_E)
        before_P = history_end_E[after_P] - distance
        pair_2P = np.stack([item_E[before_P], item_E[after_P]])
        pair_2P = pair_2P[:, (pair_2P != UNKNOWN_ITEM).all(axis=0)]
        weight_P = np.full(pair_2P.shape[1], 1 / distance)
        table = table + sparse.coo_array((weight_P, tuple(pair_2P)), shape=table.shape).tocsr()
    return table


def shares(table: sparse.csr_array) -> sparse.csr_array:
    """Each row divided by its sum, so that an item with many events says no more than another. Rows of nothing stay.

    >>> shares(sparse.csr_array([[0.0, 0.0], [1.0, 3.0]])).toarray().tolist()
    [[0.0, 0.0], [0.25, 0.75]]
    """
    return sparse.csr_array(
        (table.data / np.repeat(table.sum(axis=1), np.diff(table.indptr)), table.indices, table.indptr),
        shape=table.shape,
    )


def together(met: sparse.csr_array) -> sparse.csr_array:
    """How many users met each pair of items, on the diagonal each item: V1 x V1.

    Args:
        met: users x V1, 1 where a user met an item.

    >>> together(sparse.csr_array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])).toarray().tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 2.0]]
    """
    return (met.T @ met).tocsr()


def neighbours(together: sparse.csr_array, keep: int, damping: float) -> sparse.csr_array:
    """Item-kNN: of each item (row) the `keep` nearest others, by the damped cosine of the users that met them.

    Items as near as the last that is kept are kept too, so that no order of items decides.

    Args:
        together: how many users met each pair.
        damping: added to the cosine's denominator, so that a few common users are no proof.

    Source: Deshpande & Karypis, ACM Transactions on Information Systems 22(1), 2004, sections 4.1 and 4.2.
    """
    count_V1, pairs = together.diagonal(), together.tocoo()
    before, after = pairs.coords
    apart = before != after
    before, after, users = before[apart], after[apart], pairs.data[apart]
    cosine = users / (np.sqrt(count_V1[before] * count_V1[after]) + damping)
    table = sparse.coo_array((cosine, (before, after)), shape=together.shape).tocsr()
    for begin, end in zip(table.indptr[:-1], table.indptr[1:], strict=True):
        if end - begin > keep:
            near = table.data[begin:end]
            near[near < np.partition(near, -keep)[-keep]] = 0.0
    table.eliminate_zeros()
    return table


def ease(together: sparse.csr_array, l2: float) -> Float64[np.ndarray, "V1 V1"]:
    """The weights with which a user's items predict each item from the others, by ridge regression in closed form.

    Takes the inverse of a matrix of all pairs of items: time grows with the cube of the catalogue.

    Args:
        together: how many users met each pair.
        l2: the ridge, in users; above 0.

    Source: Steck, The Web Conference 2019, algorithm 1.
    """
    gram_VV = together.toarray()[UNKNOWN_ITEM + 1 :, UNKNOWN_ITEM + 1 :]
    gram_VV[np.diag_indices_from(gram_VV)] += l2
    inverse_VV = np.linalg.inv(gram_VV)
    weight_VV = -inverse_VV / np.diag(inverse_VV)
    np.fill_diagonal(weight_VV, 0.0)
    return np.pad(weight_VV, (UNKNOWN_ITEM + 1, 0))


def scores(rows: sparse.csr_array, table: Table) -> Float[np.ndarray, "H V1"]:
    """What each history's items say of every item: their rows of the table, summed with their weights."""
    found = rows @ table
    return found.toarray() if sparse.issparse(found) else found


def backed(
    score_HV1: Float[np.ndarray, "H V1"], popularity_V1: Float64[np.ndarray, " V1"]
) -> Float[np.ndarray, "H V1"]:
    """The scores above 0, and below them all others in order of popularity. So a user of whom nothing is known is shown
    what is popular.

    >>> backed(np.array([[0.0, 0.0, 0.2, 0.0]]), np.array([0.0, 5.0, 7.0, 7.0])).tolist()
    [[-1.0, -0.75, 0.2, -0.5]]
    """
    _, place_V1 = np.unique(popularity_V1, return_inverse=True)
    by_popularity_V1 = place_V1 / len(place_V1) - 1
    return np.where(score_HV1 > 0, score_HV1, by_popularity_V1.astype(score_HV1.dtype))


def _counted(
    item_E: Int64[np.ndarray, " E"], weight_E: Float64[np.ndarray, " E"], num_items: int
) -> Float64[np.ndarray, " V1"]:
    count_V1 = np.bincount(item_E, weights=weight_E, minlength=num_items + 1).astype(np.float64)
    count_V1[UNKNOWN_ITEM] = 0.0
    return count_V1
