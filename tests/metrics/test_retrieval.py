import math
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import assert_caught, assert_not_vacuous

from plait.metrics import retrieval
from plait.metrics.retrieval import (
    NEVER,
    Places,
    among_others,
    hr_at,
    ndcg_at,
    places_of,
    ranks_of,
    recall_at,
    reciprocal_rank,
    sample_negatives,
)
from plait.metrics.statistic import mean_over_users


@st.composite
def rankings(draw):
    """Few different scores, so that ties are common."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_queries, num_candidates = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    score_QC = rng.integers(0, draw(st.integers(1, 9)), (num_queries, num_candidates)) / 8
    allowed_QC = rng.random((num_queries, num_candidates)) < draw(st.floats(0, 1, allow_subnormal=False))
    return rng.integers(0, num_candidates, num_queries), score_QC, allowed_QC


def one_each(rank_Q: np.ndarray) -> Places:
    """Lists of one answer."""
    list_Q = np.arange(len(rank_Q))
    return places_of(list_Q, list_Q, list_Q, rank_Q)


def rank_by_hand(answer, score_C, allowed_C):
    better = [c for c, s in enumerate(score_C) if c != answer and allowed_C[c] and s >= score_C[answer]]
    return 1 + len(better)


@given(rankings())
def test_rank_counts_every_competitor_that_is_not_behind(ranking):
    answer_Q, score_QC, allowed_QC = ranking
    by_hand = [rank_by_hand(*query) for query in zip(*ranking, strict=True)]
    assert ranks_of(answer_Q, score_QC, allowed_QC).tolist() == by_hand
    everything = ranks_of(answer_Q, score_QC)
    assert everything.tolist() == ranks_of(answer_Q, score_QC, np.ones_like(allowed_QC)).tolist()
    assert (everything >= by_hand).all(), "filtering a competitor cannot push the answer down"


def test_a_kinder_tie_rule_would_be_noticed():
    """The mutant: ties in favour of the answer. A constant scorer then looks perfect."""
    answer_Q, score_QC = np.array([0, 3, 6]), np.full((3, 7), 0.5)
    kind = 1 + (score_QC > np.take_along_axis(score_QC, answer_Q[:, None], 1)).sum(1)
    assert hr_at(1, one_each(kind)).mean() == 1
    assert hr_at(6, one_each(ranks_of(answer_Q, score_QC))).mean() == 0


def test_infinite_scores_rank_and_nan_does_not():
    assert ranks_of(np.array([1]), np.array([[-np.inf, -np.inf, np.inf]])).tolist() == [3]
    with pytest.raises(ValueError, match=r"query 1 has NaN for 2 of 3 scores"):
        ranks_of(np.array([0, 0]), np.array([[0.1, 0.2, 0.3], [0.1, np.nan, np.nan]]))


def test_an_answer_that_is_no_candidate_is_refused():
    with pytest.raises(ValueError, match="query 1 names column 3, expected one of the 3 candidates"):
        ranks_of(np.array([0, 3]), np.zeros((2, 3)))


@pytest.mark.parametrize(
    "metric", [partial(hr_at, 10), partial(recall_at, 10), partial(ndcg_at, 10), reciprocal_rank]
)
def test_metrics_fall_with_the_rank_and_refuse_nonsense(metric):
    value_Q = metric(one_each(np.arange(1, 30)))
    assert value_Q[0] == 1 and (np.diff(value_Q) <= 0).all() and value_Q[-1] < value_Q[0]
    with pytest.raises(ValueError, match="no queries"):
        metric(one_each(np.array([], dtype=int)))
    with pytest.raises(ValueError, match="ranks start at 1, got 0"):
        metric(one_each(np.array([0, 1])))


def test_a_list_of_no_items_is_refused():
    with pytest.raises(ValueError, match="k=0"):
        hr_at(0, one_each(np.array([1])))


@st.composite
def questions(draw):
    """Lists of several answers among few scores, some of them of one item twice, some never to be recommended."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_lists, num_items = draw(st.integers(1, 5)), draw(st.integers(2, 12))
    score_LV = rng.integers(0, draw(st.integers(1, 9)), (num_lists, num_items)) / 8
    never_LV = rng.random((num_lists, num_items)) < draw(st.floats(0, 0.5, allow_subnormal=False))
    list_Q = rng.permutation(np.repeat(np.arange(num_lists), draw(st.integers(1, 6))))
    return score_LV, never_LV, list_Q, rng.integers(0, num_items, len(list_Q))


def ranks_among_others(score_LV, never_LV, list_Q, item_Q) -> np.ndarray:
    found = []
    for list_, item in zip(list_Q, item_Q, strict=True):
        taken = set(item_Q[list_Q == list_].tolist())
        others = [v for v in range(score_LV.shape[1]) if v not in taken and not never_LV[list_, v]]
        ahead = sum(score_LV[list_, v] >= score_LV[list_, item] for v in others)
        found.append(NEVER if never_LV[list_, item] else 1 + ahead)
    return np.array(found)


def lists_by_hand(score_LV, never_LV, list_Q, item_Q) -> list[tuple[list[bool], int]]:
    """Of each list whether an answer stands at each place, and how many answers there are. The answers are last among
    equal scores."""
    found = []
    for list_ in np.unique(list_Q):
        taken = set(item_Q[list_Q == list_].tolist())
        shown = [v for v in range(score_LV.shape[1]) if not never_LV[list_, v]]
        shown.sort(key=lambda v: (-score_LV[list_, v], v in taken))
        found.append(([v in taken for v in shown], len(taken)))
    return found


def by_formula(name: str, k: int, is_answer: list[bool], answers: int) -> float:
    """As ranx defines it, over one list."""
    top = [place for place, hit in enumerate(is_answer[:k], start=1) if hit]
    match name:
        case "hit_rate":
            return float(bool(top))
        case "recall":
            return len(top) / answers
        case "ndcg":
            ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, answers) + 1))
            return sum(1 / math.log2(place + 1) for place in top) / ideal
        case "mrr":
            first = next((place for place, hit in enumerate(is_answer, start=1) if hit), math.inf)
            return 1 / first
    raise AssertionError(name)


OURS = {"hit_rate": hr_at, "recall": recall_at, "ndcg": ndcg_at}


def check_formulas(num_examples: int = 300) -> None:
    met = Counter()

    @settings(max_examples=num_examples)
    @given(questions(), st.integers(1, 12))
    def check(question, k):
        _, _, list_Q, item_Q = question
        rank_Q, by_hand = ranks_among_others(*question), lists_by_hand(*question)
        places = retrieval.places_of(list_Q, list_Q, item_Q, rank_Q)
        for name, metric in OURS.items():
            expected = [by_formula(name, k, *one) for one in by_hand]
            np.testing.assert_allclose(metric(k, places), expected, rtol=1e-12, atol=1e-12)
        expected = [by_formula("mrr", k, *one) for one in by_hand]
        np.testing.assert_allclose(reciprocal_rank(places), expected, rtol=1e-12, atol=1e-12)
        met["several answers"] += int((places.answers_L > 1).any())
        met["an item twice"] += int(places.answers_L.sum() < len(item_Q))
        met["never"] += int((rank_Q == NEVER).any())

    check()
    assert_not_vacuous(met, above=9)


def test_lists_of_several_answers_are_judged_as_ranx_does():
    check_formulas()


def test_a_list_in_which_answers_share_a_place_is_caught(monkeypatch):
    """The mutant: every answer ranked as if it were alone."""
    right = retrieval.places_of

    def alone(user_Q, list_Q, item_Q, rank_Q):
        found = right(user_Q, list_Q, item_Q, rank_Q)
        ahead_A = np.arange(len(found.place_A)) - np.repeat(found.start_L1[:-1], found.answers_L)
        return replace(found, place_A=found.place_A - ahead_A)

    monkeypatch.setattr(retrieval, "places_of", alone)
    assert_caught(check_formulas)


@given(questions())
def test_ranks_that_count_answers_become_ranks_among_the_others(question):
    score_LV, never_LV, list_Q, item_Q = question
    shown_QV = ~never_LV[list_Q]
    ahead_QV = shown_QV & (score_LV[list_Q] >= score_LV[list_Q, item_Q][:, None])
    rank_Q = np.where(never_LV[list_Q, item_Q], NEVER, ahead_QV.sum(1))
    assert among_others(list_Q, item_Q, rank_Q).tolist() == ranks_among_others(*question).tolist()


@pytest.mark.filterwarnings("ignore")  # numba's
def test_agrees_with_ranx(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling would take the better part of a minute
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(0)
    num_lists, num_items = 41, 67
    score_LV = rng.permuted(np.tile(np.arange(num_items) / 67, (num_lists, 1)), axis=1)  # ranx: no ties
    list_Q = np.repeat(np.arange(num_lists), rng.integers(1, 18, num_lists))
    item_Q = rng.integers(0, num_items, len(list_Q))
    qrels = ranx.Qrels({f"{q}": {f"{a}": 1 for a in item_Q[list_Q == q]} for q in range(num_lists)})
    run = ranx.Run(
        {f"{q}": {f"{c}": s for c, s in enumerate(row.tolist())} for q, row in enumerate(score_LV)}
    )
    theirs = ranx.evaluate(qrels, run, ["hit_rate@10", "ndcg@10", "recall@10", "mrr"])
    rank_Q = ranks_among_others(score_LV, np.zeros_like(score_LV, dtype=bool), list_Q, item_Q)
    places = places_of(list_Q, list_Q, item_Q, rank_Q)
    values = [hr_at(10, places), ndcg_at(10, places), recall_at(10, places), reciprocal_rank(places)]
    assert 0 < values[0].mean() < 1 and (places.answers_L > 10).any()
    np.testing.assert_allclose([value_L.mean() for value_L in values], list(theirs.values()), rtol=1e-12)


def test_users_count_alike_however_many_queries_they_have():
    user_Q, value_Q = np.array([5, 2, 5, 5]), np.array([1.0, 0.5, 0.0, 0.0])
    statistic = mean_over_users(user_Q, value_Q)
    assert statistic.user_U.tolist() == [2, 5]
    assert statistic.value == pytest.approx((0.5 + 1 / 3) / 2)
    assert statistic.value != pytest.approx(value_Q.mean()), "the mean over queries would be another number"


def histories(rng, num_items, num_queries):
    lengths = rng.integers(0, num_items // 2, num_queries)
    seen_S = rng.integers(0, num_items + 1, lengths.sum())  # 0, the unknown item, among them
    return rng.integers(1, num_items + 1, num_queries), np.concatenate([[0], np.cumsum(lengths)]), seen_S


@given(st.integers(0, 2**32), st.integers(7, 40), st.integers(1, 6))
def test_negatives_are_different_unseen_items(seed, num_items, num_queries):
    rng = np.random.default_rng(seed)
    answer_Q, start_Q1, seen_S = histories(rng, num_items, num_queries)
    left = [
        set(range(1, num_items + 1)) - set(seen_S[start_Q1[q] : start_Q1[q + 1]]) - {answer_Q[q]}
        for q in range(num_queries)
    ]
    count = min(map(len, left))
    negative_QN = sample_negatives(num_items, answer_Q, start_Q1, seen_S, count, rng)
    assert negative_QN.shape == (num_queries, count)
    for q, row in enumerate(negative_QN.tolist()):
        assert len(set(row)) == count and set(row) <= left[q]
        assert count < len(left[q]) or set(row) == left[q], "all that are left, when all are asked for"


def test_negatives_are_uniform():
    num_items, num_queries, count = 13, 40_000, 3
    rng = np.random.default_rng(1)
    answer_Q = np.full(num_queries, 7)
    start_Q1, seen_S = np.arange(num_queries + 1) * 4, np.tile([1, 2, 13, 2], num_queries)
    negative_QN = sample_negatives(num_items, answer_Q, start_Q1, seen_S, count, rng)
    share_I = np.bincount(negative_QN.ravel(), minlength=num_items + 1) / num_queries
    left = [3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert share_I.sum() == pytest.approx(count) and share_I[left].sum() == pytest.approx(count)
    np.testing.assert_allclose(
        share_I[left], count / len(left), atol=4 * (1 / 3 * 2 / 3 / num_queries) ** 0.5
    )
    pair_share = np.mean((negative_QN == 3).any(1) & (negative_QN == 12).any(1))
    assert pair_share == pytest.approx(3 * 2 / (9 * 8), abs=0.006), (
        "pairs too: the items are drawn without repeats"
    )


def test_negatives_refuse_what_cannot_be_done():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="query 1 has 2 unseen items of 5, asked for 3"):
        sample_negatives(5, np.array([1, 1]), np.array([0, 0, 2]), np.array([2, 3]), 3, rng)
    with pytest.raises(ValueError, match="item 6 is not one of the items 1 to 5"):
        sample_negatives(5, np.array([6]), np.array([0, 0]), np.array([], dtype=int), 1, rng)
    with pytest.raises(ValueError, match="expected 2 offsets from 0 to 1"):
        sample_negatives(5, np.array([1]), np.array([0, 2]), np.array([2]), 1, rng)
