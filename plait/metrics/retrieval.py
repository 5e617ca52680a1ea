"""Retrieval: where the answer stands among the candidates.

Shape letters: Q queries, C candidates, S seen items of all queries laid end to end, N negatives of a query.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from plait.schema import UNKNOWN_ITEM

FIRST_ITEM = UNKNOWN_ITEM + 1
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


def hr_at(k: int, rank_Q: Int[np.ndarray, " Q"]) -> Float64[np.ndarray, " Q"]:
    """Hit rate, per query: 1 where rank <= k, else 0. With one answer a query it is also recall@k.

    Args:
        rank_Q: from `ranks_of`; 1 is the top.

    Raises:
        ValueError: there is no query, a rank is below 1, or k is.

    >>> hr_at(10, np.array([1, 10, 11]))
    array([1., 1., 0.])
    """
    _check(k, rank_Q)
    return (rank_Q <= k).astype(np.float64)


def ndcg_at(k: int, rank_Q: Int[np.ndarray, " Q"]) -> Float64[np.ndarray, " Q"]:
    """Normalised discounted cumulative gain, per query: 1 / log2(1 + rank) where rank <= k, else 0.

    In [0, 1]. With one answer a query the ideal gain is 1, so no normaliser appears.

    Raises:
        ValueError: there is no query, a rank is below 1, or k is.

    Source: Järvelin & Kekäläinen, TOIS 20(4), 2002, with binary gain and the log2(1 + rank) discount; the
    paper's own discount leaves the ranks below its base undiscounted.

    >>> ndcg_at(10, np.array([1, 3, 11]))
    array([1. , 0.5, 0. ])
    """
    _check(k, rank_Q)
    return np.where(rank_Q <= k, 1 / np.log2(1.0 + rank_Q), 0.0)


def reciprocal_rank(rank_Q: Int[np.ndarray, " Q"]) -> Float64[np.ndarray, " Q"]:
    """1 / rank, per query, in (0, 1], without a cut-off. Its mean is the MRR.

    Raises:
        ValueError: there is no query, or a rank is below 1.

    >>> reciprocal_rank(np.array([1, 4]))
    array([1.  , 0.25])
    """
    _check(1, rank_Q)
    return 1.0 / rank_Q


def sample_negatives(
    num_items: int,
    answer_Q: Int[np.ndarray, " Q"],
    start_Q1: Int[np.ndarray, " Q1"],
    seen_S: Int[np.ndarray, " S"],
    num_negatives: int,
    rng: np.random.Generator,
) -> Int64[np.ndarray, "Q N"]:
    """Different items for each query, uniform over those that are neither seen nor the answer.

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


def _check(k: int, rank_Q: Int[np.ndarray, " Q"]) -> None:
    if k < 1:
        raise ValueError(f"k={k}: a list holds at least one item")
    if not len(rank_Q):
        raise ValueError("no queries: rank_Q is empty, and a metric over nothing has no value")
    if rank_Q.min() < 1:
        raise ValueError(f"ranks start at 1, got {rank_Q.min()}; are these positions that start at 0?")


def _check_catalogue(num_items: int, item_S: Int[np.ndarray, " S"]) -> None:
    foreign_S = item_S[(item_S < FIRST_ITEM) | (item_S > num_items)]
    if len(foreign_S):
        raise ValueError(f"sample_negatives: item {foreign_S[0]} is not one of the items 1 to {num_items}")
