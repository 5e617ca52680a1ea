"""Costs: the LAC paper's section 5.4, from its limits and from a count of what is multiplied."""

import numpy as np
import pytest
from random_layouts import LAYOUTS

from plait.layouts import Layout, resolve
from plait.layouts.arrange import candidate_tokens
from plait.layouts.cost import (
    relative_to_items,
    scoring_flops,
    scoring_relative_to_items,
    train_flops,
    trunk_flops,
)
from plait.layouts.draw import mask_of

INTERLEAVED, LAC, PC = (resolve(name) for name in ("interleaved", "lac", "pc"))


def test_a_block_by_counting_its_multiplications():
    tokens, dim = 7, 11
    qkv, out, mlp = 3 * (dim * dim), dim * dim, 2 * (dim * 4 * dim)
    attention = 2 * tokens * tokens * dim  # scores and values of every pair
    assert trunk_flops(tokens, float(tokens**2), dim, num_layers=3) == 3 * 2 * (
        tokens * (qkv + out + mlp) + attention
    )


def edges(flops: float, num_tokens: int, dim: int) -> float:
    return (flops - trunk_flops(num_tokens, 0.0, dim, num_layers=1)) / (4 * dim)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_pairs_that_are_paid_for_are_those_of_the_mask(layout: Layout):
    """Up to the papers' n^2 / 2 for n (n + 1) / 2, and candidates' few pairs of their own."""
    events, candidates, dim = 5, 3, 13
    history, own = events * layout.tokens_per_event, len(candidate_tokens(layout))
    mask = mask_of(layout, events, candidates)
    assert len(mask) == history + candidates * own
    training = edges(train_flops(layout, events, dim, num_layers=1), history, dim)
    scoring = edges(scoring_flops(layout, events, candidates, dim, num_layers=1), len(mask), dim)
    assert mask[:history].sum() == training + history / 2
    assert mask.sum() == scoring + history / 2 + candidates * own * (own + 1) / 2


@pytest.mark.parametrize("dim", [1, 64, 1024])
@pytest.mark.parametrize("num_events", [1, 100, 10_000])
def test_two_tokens_per_event_cost_two_to_four_times_one(num_events, dim):
    assert 2 <= relative_to_items(INTERLEAVED, num_events, dim) <= 4
    assert relative_to_items(LAC, num_events, dim) == relative_to_items(PC, num_events, dim) == 1


def test_the_limits_of_equation_1():
    assert relative_to_items(INTERLEAVED, num_events=1, dim=10**6) == pytest.approx(2, rel=1e-4)
    assert relative_to_items(INTERLEAVED, num_events=10**6, dim=1) == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize(("num_events", "num_candidates"), [(100, 1), (100, 1000), (3, 100_000)])
def test_scoring_by_equations_4_and_5(num_events, num_candidates):
    T, C = num_events, num_candidates
    attention = scoring_relative_to_items(
        INTERLEAVED, T * 10**6, C * 10**6, dim=1
    )  # where edges are all that counts
    assert attention == pytest.approx((2 * T**2 + 2 * C * T) / (T**2 / 2 + C * T), rel=1e-4)
    linear = scoring_relative_to_items(INTERLEAVED, T, C, dim=10**9)  # where tokens are
    assert linear == pytest.approx((2 * T + C) / (T + C), rel=1e-4)
    assert scoring_relative_to_items(LAC, T, C, dim=256) == 1


def test_scoring_at_the_head_costs_the_trunk_no_candidate():
    costs = [scoring_flops(PC, 100, num_candidates, 256, num_layers=2) for num_candidates in (0, 1, 1000)]
    assert len(set(costs)) == 1 and costs[0] == train_flops(PC, 100, 256, num_layers=2)
    assert (
        np.diff([scoring_flops(LAC, 100, c, 256, num_layers=2) for c in (0, 1, 2)]).tolist()
        == [2 * (24 * 256**2 + 4 * 256 * 100)] * 2
    )
