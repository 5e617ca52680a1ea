"""Retrieval: where answers stand among the candidates.

A question has one ranked list and one answer, or several: all that a user did next. An answer's *rank* counts the items
ahead of it that are no answers; its *place* in the list counts the other answers, too.

Shape letters: Q queries (held-out events), C candidates, S seen items of all queries laid end to end, N negatives of a
query; L lists, A their answers (no item twice in a list).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from plait.schema import UNKNOWN_ITEM

FIRST_ITEM = UNKNOWN_ITEM + 1
RANK_BITS = 40  # no catalogue has as many items
NEVER = np.iinfo(np.int64).max  # the rank of an answer that cannot be recommended: beyond every k


def ranks_of(
    answer_Q: Int[np.ndarray, " Q"],
    score_QC: Float[np.ndarray, "Q C"],
    allowed_QC: Bool[np.ndarray, "Q C"] | None = None,
) -> Int64[np.ndarray, " Q"]:
    """Rank of each answer among the candidates, 1 being the top.

    A tie counts against the answer, so a scorer that cannot tell items apart earns nothing. The answer's
    score is read from `score_QC`, never computed apart: two kernels may round the same product differently,
    and the answer would stand above or below itself.

    Args:
        answer_Q: the answer's column in `score_QC`.
        allowed_QC: the candidates that compete (False: a seen item that is filtered). The answer always does.

    Raises:
        ValueError: an answer is not a column, or a score is NaN (the message names the query).

    >>> ranks_of(np.array([1]), np.array([[0.5, 0.5, 0.1]]))
    array([2])
    >>> ranks_of(np.array([1]), np.array([[0.5, 0.5, 0.1]]), np.array([[False, True, True]]))
    array([1])
    """
    num_candidates = score_QC.shape[1]
    outside_Q = (answer_Q < 0) | (answer_Q >= num_candidates)
    if outside_Q.any():
        query = outside_Q.argmax()
        raise ValueError(
            f"ranks_of: query {query} names column {answer_Q[query]}, "
            f"expected one of the {num_candidates} candidates"
        )
    nan_Q = np.isnan(score_QC).any(axis=1)
    if nan_Q.any():
        query = nan_Q.argmax()
        count = np.isnan(score_QC[query]).sum()
        raise ValueError(
            f"ranks_of: query {query} has NaN for {count} of {num_candidates} scores; a NaN has no rank, "
            "look for the step in which the model diverged"
        )
    ahead_QC = score_QC >= np.take_along_axis(score_QC, answer_Q[:, None], axis=1)
    if allowed_QC is not None:
        ahead_QC &= allowed_QC
    np.put_along_axis(ahead_QC, answer_Q[:, None], True, axis=1)
    return ahead_QC.sum(axis=1)


@dataclass(frozen=True)
class Places:
    """Where the answers of ranked lists stand, list after list and the first of each list first."""

    user_L: Int64[np.ndarray, " L"]
    start_L1: Int64[np.ndarray, " L1"]  # where each list's answers begin
    place_A: Int64[np.ndarray, " A"]  # 1 is the top; no two of a list are alike but for NEVER

    @property
    def answers_L(self) -> Int64[np.ndarray, " L"]:
        """How many answers each list has."""
        return np.diff(self.start_L1)

    def sums(self, value_A: Float64[np.ndarray, " A"]) -> Float64[np.ndarray, " L"]:
        """The sum of each list."""
        return np.add.reduceat(value_A, self.start_L1[:-1])


def places_of(
    user_Q: Int[np.ndarray, " Q"],
    list_Q: Int[np.ndarray, " Q"],
    item_Q: Int[np.ndarray, " Q"],
    rank_Q: Int[np.ndarray, " Q"],
) -> Places:
    """The places that answers take in their lists: an item that is an answer twice counts once.

    Args:
        list_Q: which list each is an answer to. A list is one user's.
        rank_Q: 1 and the items ahead of it that are no answers; NEVER where it cannot be recommended.

    Raises:
        ValueError: there is no answer, or a rank is below 1.

    >>> places_of(np.array([4, 4, 4]), np.array([0, 0, 0]), np.array([7, 8, 9]), np.array([3, 1, 1])).place_A
    array([1, 2, 5])
    """
    if not len(rank_Q):
        raise ValueError("no queries: rank_Q is empty, and a metric over nothing has no value")
    if rank_Q.min() < 1:
        raise ValueError(f"ranks start at 1, got {rank_Q.min()}; are these positions that start at 0?")
    by_rank_Q = np.lexsort((rank_Q, list_Q))
    once_A = by_rank_Q[_once(list_Q[by_rank_Q], item_Q[by_rank_Q])]
    _, first_L, answers_L = np.unique(list_Q[once_A], return_index=True, return_counts=True)
    ahead_A = np.arange(len(once_A)) - np.repeat(first_L, answers_L)
    rank_A = rank_Q[once_A].astype(np.int64)
    place_A = np.where(rank_A == NEVER, NEVER, rank_A + ahead_A)
    start_L1 = np.append(first_L, len(once_A))
    return Places(user_Q[once_A[first_L]].astype(np.int64), start_L1, place_A)


def among_others(
    list_Q: Int[np.ndarray, " Q"], item_Q: Int[np.ndarray, " Q"], rank_Q: Int[np.ndarray, " Q"]
) -> Int64[np.ndarray, " Q"]:
    """Ranks among the items that are no answers, of ranks that count every item ahead. Ties count both.

    >>> among_others(np.zeros(4, int), np.array([7, 8, 9, 8]), np.array([3, 1, 3, 1])).tolist()
    [1, 1, 1, 1]
    """
    base_Q = np.unique(list_Q, return_inverse=True)[1].astype(np.int64) << RANK_BITS
    is_ranked_Q = rank_Q != NEVER
    place_Q = base_Q + np.where(is_ranked_Q, rank_Q, 0)
    ranked_A = np.flatnonzero(is_ranked_Q)
    place_A = np.sort(place_Q[ranked_A[_once(list_Q[ranked_A], item_Q[ranked_A])]])
    not_behind_Q = np.searchsorted(place_A, place_Q, side="right") - np.searchsorted(place_A, base_Q)
    return np.where(is_ranked_Q, rank_Q - not_behind_Q + 1, NEVER)


def _once(list_Q: Int[np.ndarray, " Q"], item_Q: Int[np.ndarray, " Q"]) -> Int64[np.ndarray, " A"]:
    """Where each item of each list comes first, in the given order."""
    at_Q = np.unique(list_Q, return_inverse=True)[1].astype(np.int64)
    return np.sort(np.unique(at_Q * (1 + item_Q.max(initial=0)) + item_Q, return_index=True)[1])


def hr_at(k: int, places: Places) -> Float64[np.ndarray, " L"]:
    """Hit rate, per list: 1 where any answer is among the first k, else 0.

    Raises:
        ValueError: k is below 1.

    >>> one_each = np.arange(3)
    >>> hr_at(10, places_of(one_each, one_each, one_each, np.array([1, 10, 11])))
    array([1., 1., 0.])
    """
    return (_hits(k, places) > 0).astype(np.float64)


def recall_at(k: int, places: Places) -> Float64[np.ndarray, " L"]:
    """Per list, the share of its answers that are among the first k. With one answer it is the hit rate.

    Raises:
        ValueError: k is below 1.

    >>> recall_at(2, places_of(np.zeros(3, int), np.zeros(3, int), np.arange(3), np.array([1, 1, 1])))
    array([0.66666667])
    """
    return _hits(k, places) / places.answers_L


def ndcg_at(k: int, places: Places) -> Float64[np.ndarray, " L"]:
    """Normalised discounted cumulative gain, per list: 1 / log2(1 + place) of each answer among the first k, over what
    as many answers at the top would give.

    In [0, 1]. With one answer that ideal is 1.

    Raises:
        ValueError: k is below 1.

    Source: Järvelin & Kekäläinen, TOIS 20(4), 2002, with binary gain and the log2(1 + rank) discount; the
    paper's own discount leaves the ranks below its base undiscounted.

    >>> one_each = np.arange(3)
    >>> ndcg_at(10, places_of(one_each, one_each, one_each, np.array([1, 3, 11])))
    array([1. , 0.5, 0. ])
    """
    _check_length(k)
    gain_A = np.where(places.place_A <= k, 1 / np.log2(1.0 + places.place_A), 0.0)
    longest = min(k, int(places.answers_L.max()))
    ideal_K = np.cumsum(1 / np.log2(2.0 + np.arange(longest)))
    return places.sums(gain_A) / ideal_K[np.minimum(places.answers_L, k) - 1]


def reciprocal_rank(places: Places) -> Float64[np.ndarray, " L"]:
    """1 / the place of its first answer, per list, in (0, 1], without a cut-off. Its mean is the MRR.

    >>> one_each = np.arange(2)
    >>> reciprocal_rank(places_of(one_each, one_each, one_each, np.array([1, 4])))
    array([1.  , 0.25])
    """
    return 1.0 / places.place_A[places.start_L1[:-1]]


def _hits(k: int, places: Places) -> Float64[np.ndarray, " L"]:
    """How many answers of each list are among the first k."""
    _check_length(k)
    return places.sums((places.place_A <= k).astype(np.float64))


def _check_length(k: int) -> None:
    if k < 1:
        raise ValueError(f"k={k}: a list holds at least one item")


def sample_negatives(
    num_items: int,
    answer_Q: Int[np.ndarray, " Q"],
    start_Q1: Int[np.ndarray, " Q1"],
    seen_S: Int[np.ndarray, " S"],
    num_negatives: int,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "Q N"]:
    """Different items for each query, uniform over those that are neither seen nor the answer. (Other answers of its
    list are to stand among the seen items.)

    Args:
        num_items: size of the catalogue; its items are 1 to num_items, the unknown item never is a negative.
        start_Q1: query q has seen `seen_S[start_Q1[q] : start_Q1[q + 1]]`, in any order, repeated or not.

    Returns:
        Each query's negatives, ascending.

    Raises:
        ValueError: an item is not in the catalogue, or a query has fewer unseen items than asked for.

    >>> rng = np.random.default_rng(0)
    >>> sample_negatives(6, np.array([2]), np.array([0, 3]), np.array([4, 4, 5]), 3, rng)
    array([[1, 3, 6]])
    """
    num_queries = len(answer_Q)
    if len(start_Q1) != num_queries + 1 or start_Q1[0] != 0 or start_Q1[-1] != len(seen_S):
        raise ValueError(
            f"sample_negatives: start_Q1 is {start_Q1}, "
            f"expected {num_queries + 1} offsets from 0 to {len(seen_S)}"
        )
    _check_catalogue(num_items, seen_S[seen_S != UNKNOWN_ITEM])
    _check_catalogue(num_items, answer_Q)

    # Every (query, excluded item) pair once, ascending.
    query_S = np.repeat(np.arange(num_queries), np.diff(start_Q1))
    pair_S = (query_S * (num_items + 1) + seen_S)[seen_S != UNKNOWN_ITEM]
    pair_X = np.unique(np.concatenate([pair_S, np.arange(num_queries) * (num_items + 1) + answer_Q]))
    query_X, item_X = np.divmod(pair_X, num_items + 1)
    num_excluded_Q = np.bincount(query_X, minlength=num_queries)
    num_left_Q = num_items - num_excluded_Q
    if (num_left_Q < num_negatives).any():
        query = (num_left_Q < num_negatives).argmax()
        raise ValueError(
            f"sample_negatives: query {query} has {num_left_Q[query]} unseen items of {num_items}, "
            f"asked for {num_negatives}; ask for fewer, or rank the full catalogue"
        )

    # The r-th item left (from 0) is FIRST_ITEM + r + the excluded items that have at most r left before them.
    order_QN = _different(num_left_Q, num_negatives, rng)
    first_Q = np.cumsum(num_excluded_Q) - num_excluded_Q
    before_X = item_X - FIRST_ITEM - (np.arange(len(item_X)) - first_Q[query_X])
    row_Q1 = np.arange(num_queries)[:, None] * (num_items + 1)
    skipped_QN = np.searchsorted(query_X * (num_items + 1) + before_X, row_Q1 + order_QN, side="right")
    return FIRST_ITEM + order_QN + skipped_QN - first_Q[:, None]


def _different(
    below_Q: Int64[np.ndarray, " Q"], count: int, rng: np.random.Generator
) -> Int64[np.ndarray, "Q N"]:
    """`count` different numbers below `below_Q`, ascending, every set as likely.

    Repeats are drawn again until there are none. No number is treated unlike another, so no set is favoured.
    """
    drawn_QN = np.sort(rng.integers(0, below_Q[:, None], size=(len(below_Q), count)), axis=1)
    row_R = np.arange(len(below_Q))
    while len(row_R):
        repeat_RN = np.zeros((len(row_R), count), dtype=bool)
        repeat_RN[:, 1:] = np.diff(drawn_QN[row_R], axis=1) == 0
        has_R = repeat_RN.any(axis=1)
        row_R, repeat_RN = row_R[has_R], repeat_RN[has_R]
        fresh_RN = rng.integers(0, below_Q[row_R, None], size=repeat_RN.shape)
        drawn_QN[row_R] = np.sort(np.where(repeat_RN, fresh_RN, drawn_QN[row_R]), axis=1)
    return drawn_QN


def _check_catalogue(num_items: int, item_S: Int[np.ndarray, " S"]) -> None:
    foreign_S = item_S[(item_S < FIRST_ITEM) | (item_S > num_items)]
    if len(foreign_S):
        raise ValueError(f"sample_negatives: item {foreign_S[0]} is not one of the items 1 to {num_items}")
