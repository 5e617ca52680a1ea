"""What counts say of every item, against a plain loop over one history at a time, and of items that nobody counted."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from tiny import assert_not_vacuous

from plait.counts.beside import SMOOTHING, ItemCounts, Tables, pruned

ITEMS = 12
POPULARITY = np.array(
    [0.0, 9, 1, 5, 2, 8, 3, 0, 4, 6, 7, 11, 10]
)  # item 7 has no event, item 2 is the rarest
HISTORIES = [[1, 3, 3, 5], [], [0, 9], [3] * 6]


def tables() -> Tables:
    rng = np.random.default_rng(0)
    rules = rng.random((ITEMS + 1, ITEMS + 1)) * (rng.random((ITEMS + 1, ITEMS + 1)) < 0.5)
    rules[0], rules[:, 0] = 0.0, 0.0
    ease = rng.normal(size=rules.shape) * (rules > 0)
    return Tables(POPULARITY, sparse.csr_array(rules), 3, 0.5, sparse.csr_array(ease), reads_own=True)


def laid_out() -> tuple[np.ndarray, np.ndarray]:
    item_S = np.array([item for history in HISTORIES for item in history], dtype=np.int64)
    return item_S, np.cumsum([0, *map(len, HISTORIES)])


def test_terms_are_those_of_one_history_at_a_time():
    found, rules, ease = tables(), tables().rules.toarray(), tables().ease.toarray()
    by_rules, by_ease, by_own = found.terms(*laid_out(), ITEMS)
    share = (POPULARITY + 0.5) / (POPULARITY + 0.5).sum()
    for history, rules_I, ease_I, own_I in zip(HISTORIES, by_rules, by_ease, by_own, strict=True):
        weights = {-back: 0.5**back for back in range(min(3, len(history)))}
        last = [(item, 0.5**back) for back, item in enumerate(reversed(history[-3:])) if item]
        total = sum(weight for _, weight in last)
        assert len(weights) >= len(last)
        for item in set(range(1, ITEMS + 1)) - {7}:
            followed = sum(weight * rules[before, item] for before, weight in last) / (total or 1.0)
            expected = np.log((1 - SMOOTHING) * followed + SMOOTHING * share[item])
            assert rules_I[item] == pytest.approx(expected, rel=1e-5)
            met = sum(ease[before, item] for before in set(history) - {0})
            assert ease_I[item] == pytest.approx(met, rel=1e-4, abs=1e-6)
            assert own_I[item] == pytest.approx(np.log1p(history.count(item)))
    assert_not_vacuous({"met twice": by_own.max() > 1, "followed": (by_rules > -2).sum()})


def test_new_items_get_the_mean_of_the_rarest_tenth():
    """Of items without training events, and of those that came after the counts."""
    grown = list(tables().terms(*laid_out(), ITEMS + 2))
    for term_HI, before_HI in zip(grown, tables().terms(*laid_out(), ITEMS), strict=True):
        np.testing.assert_array_equal(term_HI[:, : ITEMS + 1], before_HI)
        rarest_H = term_HI[:, [2, 4]].mean(axis=1)  # a tenth of eleven, rounded up
        for new in (7, ITEMS + 1, ITEMS + 2):
            np.testing.assert_allclose(term_HI[:, new], rarest_H, rtol=1e-6)


def test_items_that_came_after_the_counts_say_nothing_in_a_history():
    late = list(tables().terms(np.array([3, ITEMS + 1]), np.array([0, 2]), ITEMS + 1))
    unknown = list(tables().terms(np.array([3, 0]), np.array([0, 2]), ITEMS + 1))
    for term_HI, other_HI in zip(late, unknown, strict=True):
        np.testing.assert_array_equal(term_HI, other_HI)


def test_what_is_added_is_the_weighted_sum():
    counts = ItemCounts(tables(), np.array([0.5, 2.0, 0.0, 1.0]), "")
    rules, _, own = tables().terms(*laid_out(), ITEMS)
    np.testing.assert_allclose(counts.added(*laid_out(), ITEMS), 2 * rules + own, rtol=1e-6)
    assert counts.pay and not replace(counts, weight_T=np.array([1.0, 0, 0, 0])).pay


def test_weights_and_tables_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 weights of a model and 3 tables"):
        ItemCounts(tables(), np.array([0.5, 2.0, 0.0]), "")
    with pytest.raises(ValueError, match="counts of 12 items"):
        replace(tables(), popularity_V1=POPULARITY[1:])


def test_a_table_of_nothing_loses_nothing():
    table, lost = pruned(sparse.csr_array((3, 3)), keep=1)
    assert table.nnz == 0 and lost == 0.0
