"""What recommended lists hold, whether it is right or not: how much of the catalogue, how well known, how unlike.

None of these is better by itself: a list of random items covers, surprises and differs most. They say what a gain in
hits was bought with.

Shape letters: L ranked lists, K places of a list, V1 items by dense index with the unknown one, C codes of an item's
values, P pairs of places, N numbers of events, D draws, U users.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from plait.metrics.statistic import Form, Parts, Statistic, mean_over_users
from plait.schema import FIRST_VALUE, UNKNOWN_ITEM

HEAD = 0.5  # of all events: what is frequent has so many of them together
LISTS_AT_A_TIME = 1 << 14  # whose pairs are compared


@dataclass(frozen=True)
class Recommended:
    """The first items of ranked lists, and how often training met each item."""

    user_L: Int64[np.ndarray, " L"]
    item_LK: Int[np.ndarray, "L K"]  # best first; UNKNOWN_ITEM where no item is left to show
    events_V1: Int64[np.ndarray, " V1"]  # training events

    @property
    def is_item_LK(self) -> Bool[np.ndarray, "L K"]:
        return self.item_LK != UNKNOWN_ITEM

    @property
    def num_items(self) -> int:
        return len(self.events_V1) - 1


def least_of_frequent(events_N: Int64[np.ndarray, " N"]) -> int:
    """The fewest events of one that is frequent. The most frequent together have half of all events; as many have those
    that are as frequent as the last of them.

    >>> least_of_frequent(np.array([0, 1, 1, 2, 4, 6]))
    4
    """
    falling_N = np.sort(events_N)[::-1]
    reach_N = np.cumsum(falling_N)
    last = np.searchsorted(reach_N, HEAD * reach_N[-1])
    return max(1, int(falling_N[last]))


def coverage(lists: Recommended) -> Statistic:
    """Catalogue coverage: the share of all items that stand in the list of any user, in [0, 1].

    It grows with the number of users, and its interval is for as many. A user brings to it what no other user's list
    holds (the jackknife of the number of species).

    Source: Herlocker et al., TOIS 22(1), 2004, section 4.2.1; Heltshe & Forrester, Biometrics 39(1), 1983.

    >>> lists = Recommended(np.arange(2), np.array([[1, 2], [1, 3]]), np.array([0, 9, 1, 0, 0]))
    >>> coverage(lists).value, coverage(lists).parts().influence_U
    (0.75, array([0., 0.]))
    """
    user_U, at_L = np.unique(lists.user_L, return_inverse=True)
    user_P = np.broadcast_to(at_L[:, None], lists.item_LK.shape)[lists.is_item_LK]
    pair_P = np.unique(user_P.astype(np.int64) * len(lists.events_V1) + lists.item_LK[lists.is_item_LK])
    user_P, item_P = np.divmod(pair_P, len(lists.events_V1))

    def under(weight_DU: Float64[np.ndarray, "D U"]) -> Float64[np.ndarray, " D"]:
        shown = [len(np.unique(item_P[weight_U[user_P] > 0])) for weight_U in weight_DU]
        return np.array(shown) / lists.num_items

    def parts() -> Parts:
        is_alone_P = np.bincount(item_P, minlength=1)[item_P] == 1
        own_U = np.bincount(user_P[is_alone_P], minlength=len(user_U)) / lists.num_items
        return Parts(own_U - own_U.mean(), np.full(len(user_U), 1 / len(user_U)), "mean")

    return Statistic(user_U, under, "higher", len(user_U), parts)


def novelty(lists: Recommended) -> Statistic:
    """How little known the items of a list are, in bits: the mean of -log2 of each item's share of all training events.

    An item without a training event counts as one that has one.

    Source: Zhou et al., PNAS 107(10), 2010 (self-information); Vargas & Castells, RecSys 2011.

    >>> novelty(Recommended(np.zeros(1, int), np.array([[1, 2]]), np.array([0, 4, 4]))).value
    1.0
    """
    share_V1 = np.maximum(1, lists.events_V1) / max(1, lists.events_V1.sum())
    return _mean_of_places(lists, -np.log2(np.minimum(1.0, share_V1)), "mean")


def frequent_share(lists: Recommended) -> Statistic:
    """The share of a list's items that are frequent: of those which together have half of all training events.

    >>> frequent_share(Recommended(np.zeros(1, int), np.array([[1, 2]]), np.array([0, 6, 2]))).value
    0.5
    """
    is_frequent_V1 = lists.events_V1 >= least_of_frequent(lists.events_V1)
    return _mean_of_places(lists, is_frequent_V1.astype(np.float64), "share")


def diversity(lists: Recommended, code_VC: Int[np.ndarray, "V1 C"]) -> Statistic | None:
    """How unlike the items of a list are: over its pairs, the mean share of the values of either that both do not have.
    In [0, 1].

    Pairs with an item of which no value is known do not count. None where no list has another pair.

    Args:
        code_VC: codes of each item's values of one feature, no code twice.

    Source: Ziegler et al., WWW 2005 (intra-list similarity), with Jaccard's distance.

    >>> lists = Recommended(np.zeros(1, int), np.array([[1, 2, 3]]), np.array([0, 1, 1, 1]))
    >>> round(diversity(lists, np.array([[0, -1], [2, 3], [2, -1], [4, -1]])).value, 4)
    0.8333
    """
    sums = [
        _distances(lists.item_LK[at : at + LISTS_AT_A_TIME], code_VC)
        for at in range(0, len(lists.item_LK), LISTS_AT_A_TIME)
    ]
    sum_L, count_L = np.concatenate(sums, axis=1)
    has_L = count_L > 0
    if not has_L.any():
        return None
    return mean_over_users(lists.user_L[has_L], sum_L[has_L] / count_L[has_L], form="share")


def _distances(
    item_LK: Int[np.ndarray, "L K"], code_VC: Int[np.ndarray, "V1 C"]
) -> Float64[np.ndarray, "2 L"]:
    """Of each list the sum of its pairs' distances, and their number."""
    code_LKC = np.where(code_VC >= FIRST_VALUE, code_VC, -1)[item_LK]
    count_LK = (code_LKC >= 0).sum(axis=2)
    found_2L = np.zeros((2, len(item_LK)))
    for a, b in combinations(range(item_LK.shape[1]), 2):
        both_L = np.zeros(len(item_LK), dtype=np.int64)
        for code_L in code_LKC[:, a].T:
            both_L += ((code_L[:, None] == code_LKC[:, b]) & (code_L[:, None] >= 0)).any(axis=1)
        either_L = count_LK[:, a] + count_LK[:, b] - both_L
        counts_L = (count_LK[:, a] > 0) & (count_LK[:, b] > 0)
        found_2L += np.where(counts_L, [1 - both_L / np.maximum(1, either_L), np.ones_like(either_L)], 0)
    return found_2L


def _mean_of_places(lists: Recommended, value_V1: Float64[np.ndarray, " V1"], form: Form) -> Statistic:
    """The mean over users of the mean over each list; lists that show nothing do not count."""
    count_L = lists.is_item_LK.sum(axis=1)
    sum_L = np.where(lists.is_item_LK, value_V1[lists.item_LK], 0).sum(axis=1)
    has_L = count_L > 0
    return mean_over_users(lists.user_L[has_L], sum_L[has_L] / count_L[has_L], form=form)
