"""Attention of queries over keys that stand apart (a cached history): the rows that self-attention gives them."""

from functools import partial

import pytest
import torch
from biased import EVERY, H, L, N, bias_of, inputs
from tiny import assert_caught, assert_not_vacuous

from plait.nn.attention import attend, attend_blocked, attend_reference
from plait.nn.hstu import attend_silu, attend_silu_reference
from plait.nn.positions import alibi_slopes
from plait.nn.relative import attend_biased, attend_biased_reference
from plait.nn.visibility import Segments

SLOPES = alibi_slopes(N)
SILU = {"norm_len": 5, "scale": 0.7}
FAMILIES = {
    "softmax": (attend, attend_reference, {}),
    "blocks": (attend_blocked, attend_reference, {}),
    "alibi": (attend, attend_reference, {"slopes_N": SLOPES}),
    "rab": (attend_biased, attend_biased_reference, {"bias": bias_of()}),
    "silu": (attend_silu, attend_silu_reference, SILU),
    "silu alibi": (attend_silu, attend_silu_reference, SILU | {"slopes_N": SLOPES}),
    "silu rab": (attend_silu, attend_silu_reference, SILU | {"bias": bias_of()}),
}
STRICT = pytest.mark.parametrize("strict", (False, True), ids=("loose", "strict"))
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)


def picked(x_RNLH: torch.Tensor, slot_RQ: torch.Tensor) -> torch.Tensor:
    return x_RNLH.gather(2, slot_RQ[:, None, :, None].expand(-1, N, -1, H))


def check_rows_of_self_attention(family: str, strict: bool, segments: Segments, at=Segments.at) -> None:
    """Queries and keys each in an order of their own; out and the gradients of both sides."""
    way, reference, options = FAMILIES[family]
    qkv = [x.requires_grad_() for x in inputs()]
    q, k, v = qkv
    draw = torch.Generator().manual_seed(0)
    query = torch.stack([torch.randperm(L, generator=draw)[:6] for _ in range(3)])
    key = torch.stack([torch.randperm(L, generator=draw) for _ in range(3)])
    real = picked((segments.segment_RL >= 0)[:, None, :, None].expand(3, N, L, H), query)
    whole = picked(reference(q, k, v, segments, strict=strict, **options), query)
    sides = [picked(q, query), picked(k, key), picked(v, key), at(segments, query)]
    upstream = torch.randn(whole.shape, generator=draw) * real
    expected = [whole * real, *torch.autograd.grad((whole * upstream).sum(), qkv)]
    for attends in (way, reference):
        out = attends(*sides, keys=segments.at(key), strict=strict, **options)
        found = [out * real, *torch.autograd.grad((out * upstream).sum(), qkv, retain_graph=True)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert_not_vacuous(
        {"out": expected[0].abs().max().item(), "k": expected[2].abs().max().item()}, above=0.05
    )


@EVERY_FAMILY
@STRICT
@pytest.mark.parametrize("name", ("alone", "packed", "requests", "candidates packed", "history ahead packed"))
def test_some_queries_over_other_keys_are_rows_of_self_attention(family, strict, name, small_blocks):
    check_rows_of_self_attention(family, strict, EVERY[name])


@EVERY_FAMILY
def test_the_comparison_notices_queries_that_stand_elsewhere(family, small_blocks):
    """Places taken as if the queries began the row: their number, position and time are not theirs."""

    def from_the_first(segments: Segments, slot_RQ: torch.Tensor) -> Segments:
        first_RQ = torch.arange(slot_RQ.shape[1]).expand_as(slot_RQ)
        return segments.at(first_RQ)

    assert_caught(check_rows_of_self_attention, family, False, EVERY["packed"], from_the_first)


@EVERY_FAMILY
@STRICT
def test_a_candidate_that_no_key_belongs_to_finds_nothing(family, strict):
    """Zeros and not the first key's value; and no gradient flows."""
    way, _, options = FAMILIES[family]
    segments, (q, k, v) = EVERY["packed"], inputs()
    query = segments.at(torch.zeros(3, 1, dtype=torch.int64))
    stranger = Segments(query.segment_RL + 100, query.position_RL, None, None, query.clock, query.nth_RL)
    k, v = (x.requires_grad_() for x in (k, v))
    out = way(q[:, :, :1], k, v, stranger, keys=segments, strict=strict, **options)
    assert not out.any() and not any(g.any() for g in torch.autograd.grad(out.sum(), (k, v)))


def test_the_last_slot_of_a_history_reads_all_of_it():
    """By hand: one query over cached keys, which a kernel's causality would show the first of them alone."""
    segments = Segments(torch.zeros(1, 4, dtype=torch.int64), torch.arange(4)[None])
    values = torch.tensor([1.0, 3.0, 8.0, 5.0]).view(1, 1, 4, 1)
    nothing = torch.zeros(1, 1, 1, 1)
    last = segments.at(torch.tensor([[3]]))
    assert attend(nothing, values * 0, values, last, keys=segments).item() == pytest.approx(17 / 4)
    assert attend(nothing, values * 0, values, last, keys=segments, strict=True).item() == pytest.approx(4)


@EVERY_FAMILY
def test_lengths_that_do_not_fit_are_refused(family):
    """One query and L keys with the places of self-attention, in the fast ways and in the references."""
    segments, (q, k, v) = EVERY["packed"], inputs()
    for way in FAMILIES[family][:2]:
        attends = partial(way, **FAMILIES[family][2])
        one = segments.at(torch.zeros(3, 1, dtype=torch.int64))
        with pytest.raises(AssertionError, match=r"q has \(3, 1\) rows and slots, .* \(3, 11\)"):
            attends(q[:, :, :1], k, v, segments)
        with pytest.raises(AssertionError, match=r"k has \(3, 11\) rows and slots, .* \(3, 1\)"):
            attends(q[:, :, :1], k, v, one)
        with pytest.raises(AssertionError, match=r"q has \(2, 11\) rows and slots"):
            attends(q[:2], k[:2], v[:2], segments)
