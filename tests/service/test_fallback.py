"""What answers in place of a model: the popular items, held against a plain loop."""

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from tiny import assert_caught, assert_not_vacuous

from plait.service.fallback import Fallback

NUM_ITEMS = 11
Retrieve = Callable[[Fallback, int, Iterable[int], frozenset[int] | None], tuple[np.ndarray, np.ndarray]]


def check_lists(retrieve: Retrieve) -> Counter[str]:
    met: Counter[str] = Counter()
    rng = np.random.default_rng(0)
    for _ in range(40):
        popular_V = rng.permutation(NUM_ITEMS) + 1
        left_out = set(rng.integers(1, NUM_ITEMS + 1, 4).tolist())
        kept = frozenset(rng.integers(1, NUM_ITEMS + 1, 8).tolist()) if rng.random() < 0.5 else None
        k = int(rng.integers(1, NUM_ITEMS))
        possible = [
            int(item) for item in popular_V if item not in left_out and (kept is None or item in kept)
        ]
        found_K, score_K = retrieve(Fallback(popular_V, {}), k, left_out, kept)
        assert found_K.tolist() == possible[:k]
        assert score_K.tolist() == [-1.0 - place for place in range(len(found_K))], "minus the ranks"
        met.update(kept=kept is not None, all=kept is None, cut=len(possible) > k, short=len(possible) < k)
    return met


def test_the_most_popular_that_are_kept_and_not_left_out_are_listed_with_minus_their_ranks() -> None:
    assert_not_vacuous(check_lists(Fallback.retrieve), above=3)


def test_lists_that_leave_nothing_out_are_caught() -> None:
    assert_caught(check_lists, lambda its, k, left_out, kept: Fallback.retrieve(its, k, (), kept))
