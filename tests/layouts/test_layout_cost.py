"""Costs: the LAC paper's section 5.4, from its limits and from a count of what is multiplied."""

from collections.abc import Set

import numpy as np
import pytest
import torch
from random_layouts import LAYOUTS
from tiny import started
from torch import nn

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
from plait.layouts.facts import Ride
from plait.nn import packed
from plait.nn.config import TrunkConfig
from plait.nn.trunk import Trunk
from plait.nn.visibility import Segments

INTERLEAVED, LAC, PC = (resolve(name) for name in ("interleaved", "lac", "pc"))
PLAIN: tuple[Set[Ride], ...] = (set(), {"pool"})  # layers in which an event sees itself


def test_a_block_by_counting_its_multiplications():
    tokens, dim = 7, 11
    qkv, out, mlp = 3 * (dim * dim), dim * dim, 2 * (dim * 4 * dim)
    attention = 2 * tokens * tokens * dim  # scores and values of every pair
    assert trunk_flops(tokens, float(tokens**2), dim, num_layers=3) == 3 * 2 * (
        tokens * (qkv + out + mlp) + attention
    )


def edges(flops: float, num_tokens: int, dim: int, rides: Set[Ride]) -> float:
    """Per attention, of which a single layer has up to three."""
    attentions = 1 + ("helix" in rides) + ("pool" in rides)
    return (flops - trunk_flops(num_tokens, 0.0, dim, 1, rides)) / (4 * dim * attentions)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_pairs_that_are_paid_for_are_those_of_the_mask(layout: Layout):
    """Up to the papers' n^2 / 2 for n (n + 1) / 2, or n (n - 1) / 2 where no event sees itself, and candidates' few
    pairs of their own."""
    events, candidates, dim = 5, 3, 13
    history, own = events * layout.tokens_per_event, len(candidate_tokens(layout))
    mask = mask_of(layout, events, candidates)
    assert len(mask) == history + candidates * own
    training = edges(train_flops(layout, events, dim, num_layers=1), history, dim, layout.rides)
    scoring = edges(scoring_flops(layout, events, candidates, dim, 1), len(mask), dim, layout.rides)
    if layout.rides in PLAIN:
        assert mask[:history].sum() == training + history / 2
        assert mask.sum() == scoring + history / 2 + candidates * own * (own + 1) / 2
    else:
        assert mask[:history].sum() == training - history / 2 and mask.sum() == scoring - history / 2


RIDING = [p for p in LAYOUTS if p.values[0].rides]


def check_rides(layout: Layout, dim: int = 12, num_layers: int = 3) -> None:
    """Against the matrices that a trunk holds, and its attentions, called one by one."""
    trunk = started(Trunk(TrunkConfig(dim=dim, num_layers=num_layers, num_heads=2), 5, layout.rides))
    called: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "attend", lambda q, k, v, *_, **__: called.append(0) or q + k + v)
        segments = Segments(torch.zeros(1, 5, dtype=torch.int64), torch.arange(5)[None])
        trunk(torch.zeros(1, 5, dim), segments, torch.zeros(1, 5, dim))
    weights = sum(m.weight.numel() for m in trunk.modules() if isinstance(m, nn.Linear))
    assert trunk_flops(7, 11.0, dim, num_layers, layout.rides) == 2 * weights * 7 + len(called) * 4 * dim * 11


@pytest.mark.parametrize("layout", RIDING)
def test_rides_cost_what_a_trunk_multiplies(layout: Layout):
    check_rides(layout)


def test_a_ride_that_is_left_out_is_noticed(monkeypatch):
    right = trunk_flops
    for name in ("attn_dhn", "attn_lfa"):
        monkeypatch.setitem(globals(), "trunk_flops", lambda *of, name=name: right(*of[:4]))
        with pytest.raises(AssertionError):
            check_rides(resolve(name))


def test_what_rides_cost_against_items():
    T, d, L = 100, 256, 12
    block, pooling = 24 * d + 2 * T, 8 * d + 2 * T
    for name, blocks, pools in (
        ("attn_mvp_early", 1, 0), ("attn_lfa", 1, 1), ("attn_mvp", 1, 1), ("attn_dhn", 2, 1)
    ):  # fmt: skip
        expected = (L * blocks * block + pools * pooling) / (L * block)
        assert relative_to_items(resolve(name), T, d, L) == pytest.approx(expected)
        assert scoring_relative_to_items(resolve(name), T, 1000, d, L) >= expected - 0.01


@pytest.mark.parametrize("dim", [1, 64, 1024])
@pytest.mark.parametrize("num_events", [1, 100, 10_000])
def test_two_tokens_per_event_cost_two_to_four_times_one(num_events, dim):
    assert 2 <= relative_to_items(INTERLEAVED, num_events, dim, num_layers=12) <= 4
    assert relative_to_items(LAC, num_events, dim, 12) == relative_to_items(PC, num_events, dim, 12) == 1


def test_the_limits_of_equation_1():
    assert relative_to_items(INTERLEAVED, num_events=1, dim=10**6, num_layers=2) == pytest.approx(2, rel=1e-4)
    assert relative_to_items(INTERLEAVED, num_events=10**6, dim=1, num_layers=2) == pytest.approx(4, rel=1e-4)


@pytest.mark.parametrize(("num_events", "num_candidates"), [(100, 1), (100, 1000), (3, 100_000)])
def test_scoring_by_equations_4_and_5(num_events, num_candidates):
    T, C = num_events, num_candidates
    attention = scoring_relative_to_items(
        INTERLEAVED, T * 10**6, C * 10**6, dim=1, num_layers=2
    )  # where edges are all that counts
    assert attention == pytest.approx((2 * T**2 + 2 * C * T) / (T**2 / 2 + C * T), rel=1e-4)
    linear = scoring_relative_to_items(INTERLEAVED, T, C, dim=10**9, num_layers=2)  # where tokens are
    assert linear == pytest.approx((2 * T + C) / (T + C), rel=1e-4)
    assert scoring_relative_to_items(LAC, T, C, dim=256, num_layers=2) == 1


def test_scoring_at_the_head_costs_the_trunk_no_candidate():
    costs = [scoring_flops(PC, 100, num_candidates, 256, num_layers=2) for num_candidates in (0, 1, 1000)]
    assert len(set(costs)) == 1 and costs[0] == train_flops(PC, 100, 256, num_layers=2)
    assert (
        np.diff([scoring_flops(LAC, 100, c, 256, num_layers=2) for c in (0, 1, 2)]).tolist()
        == [2 * (24 * 256**2 + 4 * 256 * 100)] * 2
    )
