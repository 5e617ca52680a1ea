from decimal import ROUND_CEILING, Decimal, localcontext

import pytest
import torch
from tiny import started

from plait.nn.positions import (
    LearnedPositions,
    MomentPositions,
    RequestPositions,
    alibi_slopes,
    rope,
    rope_angles,
    time_bucket,
)
from plait.nn.visibility import NO_REQUEST_BEFORE, Clock

H = 10


def turned(x_H: torch.Tensor, position: int) -> torch.Tensor:
    return rope(x_H.view(1, 1, 1, H), rope_angles(torch.tensor([[position]]), H)).flatten()


def test_a_product_of_turned_vectors_depends_on_the_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, H)
    products = [turned(query, 3 + shift) @ turned(key, shift) for shift in (0, 1, 7, 101)]
    torch.testing.assert_close(torch.stack(products), products[0].expand(4), rtol=1e-4, atol=1e-4)
    assert abs(turned(query, 4) @ turned(key, 0) - products[0]) > 0.1, "another distance, another product"


def test_rope_turns_and_does_not_stretch():
    torch.manual_seed(0)
    vector = torch.randn(H)
    assert torch.equal(turned(vector, 0), vector)
    assert turned(vector, 13).norm().item() == pytest.approx(vector.norm().item(), rel=1e-5)
    first, last = (torch.eye(H)[0], torch.eye(H)[4])
    assert turned(first, 1)[0].item() == pytest.approx(
        torch.tensor(1.0).cos().item()
    )  # 1 radian per position
    assert turned(last, 1)[4].item() == pytest.approx(torch.tensor(10_000 ** (-8 / H)).cos().item())


def test_rope_keeps_the_type():
    angles = rope_angles(torch.tensor([[0, 1, 2]]), H)
    assert rope(torch.randn(1, 2, 3, H, dtype=torch.bfloat16), angles).dtype == torch.bfloat16


def test_rope_needs_pairs():
    with pytest.raises(ValueError, match="a head width of 7 is odd"):
        rope_angles(torch.tensor([[0]]), 7)


def test_alibi_slopes_as_published():
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    twelve = alibi_slopes(12)
    assert twelve[:8].tolist() == alibi_slopes(8).tolist()
    assert twelve[8:].tolist() == pytest.approx([2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
    assert alibi_slopes(1).tolist() == [2.0**-8]


def test_learned_positions_end():
    learned = LearnedPositions(5, 3)
    assert learned(torch.tensor([[0, 4, 0]])).shape == (1, 3, 3)
    with pytest.raises(
        ValueError, match=r"a sequence of 6 tokens, but there are learned positions for 5 .*'rope'"
    ):
        learned(torch.tensor([[0, 5, 0]]))


def test_a_request_is_its_number_plus_the_bucket_of_the_time_since_the_one_before():
    """GenRank paper, section 4.2; buckets of ln(seconds) / 0.301, with one more for the first request."""
    positions = started(RequestPositions(max_requests=5, dim=3))
    request = torch.tensor([[1, 1, 2, 3, 4, 5]])
    gap_s = torch.tensor([[NO_REQUEST_BEFORE, NO_REQUEST_BEFORE, 1, 60, 120, 86_400]])
    none = torch.zeros_like(gap_s)
    found_RLD = positions(Clock(none, none, request, gap_s, none))
    bucket = torch.tensor([[0, 0, 1 + 0, 1 + 13, 1 + 15, 1 + 37]])
    assert torch.equal(found_RLD, positions.index.weight[request] + positions.gap.weight[bucket])
    assert len(found_RLD[0].unique(dim=0)) == 5, "all differ but the two of the first request"


def test_a_moment_is_as_far_as_tokens_and_the_root_of_minutes_say():
    """Distance from the end, and floor(sqrt(minutes)) up to 2,048."""
    positions = started(MomentPositions(max_positions=4, dim=3))
    left, none = torch.tensor([[4, 3, 1, 0, 0]]), torch.zeros(1, 5).long()
    back_s = torch.tensor(
        [[10**9, 16 * 60, 59, 0, -5]]
    )  # a candidate may come a little after its request opened
    found_RLD = positions(Clock(10**9 - back_s, torch.full_like(left, 10**9), none, none, left))
    bucket = torch.tensor([[2048, 4, 0, 0, 0]])
    assert torch.equal(found_RLD, positions.left.table.weight[left] + positions.time.weight[bucket])
    with pytest.raises(ValueError, match="a sequence of 6 tokens, but there are learned positions for 5"):
        positions(Clock(none, none, none, none, left + 1))


def test_time_buckets_have_exact_integer_thresholds():
    """The least gap of each bucket by arithmetic of fifty digits: no rounding of a logarithm moves one, up to gaps of
    a million years."""
    with localcontext() as context:
        context.prec = 50
        exact = [
            (Decimal.from_float(0.301) * bucket).exp().to_integral_value(ROUND_CEILING)
            for bucket in range(129)
        ]
    thresholds = torch.tensor([int(gap_s) for gap_s in exact])
    thresholds[0] = 0
    million_years_s = 10**6 * 366 * 86_400
    near = (thresholds[:, None] + torch.arange(-3, 4)).flatten()
    gaps_s = torch.cat([near[near < million_years_s], torch.arange(200_000), torch.tensor([2**62])])
    expected = torch.bucketize(gaps_s.abs(), thresholds, right=True) - 1
    assert torch.equal(time_bucket(gaps_s), expected) and torch.equal(time_bucket(-gaps_s), expected)
    assert len(expected.unique()) > 100
