"""The bias against its formula pair by pair; softmax attention with it, block by block, against the plain one."""

import math
from functools import partial

import pytest
import torch
from biased import CASES, EVERY, MAX_POSITIONS, READS, L, bias_of, inputs, out_and_gradients, timed
from test_attention import STRICT, rows
from tiny import assert_caught, started

from plait.nn import blockwise
from plait.nn.config import TrunkConfig
from plait.nn.positions import time_bucket
from plait.nn.relative import RelativeBias, attend_biased, attend_biased_reference
from plait.nn.trunk import Trunk
from plait.nn.visibility import Block, Clock, Segments, Visibility

# ------------------------------------------------------------------------------------------------- the bias itself


def plain_bias(
    bias: RelativeBias, segments: Segments, log=math.log, late: int = 0, sign: int = 1
) -> torch.Tensor:
    """b[i, j] from the formula; with another logarithm, anchors of `late` slots later, or backward steps."""
    clock, position_RL = segments.clock, segments.position_RL
    found = torch.zeros(len(position_RL), L, L)
    for row in range(len(position_RL)):
        for i in range(L):
            for j in range(L):
                step = sign * int(position_RL[row, j] - position_RL[row, i])
                gap_s = abs(int(clock.anchor_s_RL[row, min(i + late, L - 1)] - clock.time_s_RL[row, j]))
                bucket = min(max(math.floor(log(max(gap_s, 1)) / 0.301), 0), 128)
                found[row, i, j] = bias.position_P[MAX_POSITIONS - 1 + step] + bias.time_P[bucket]
    return found.detach()


def test_equals_its_formula():
    bias = bias_of()
    for segments in EVERY.values():
        torch.testing.assert_close(bias(segments).detach(), plain_bias(bias, segments), rtol=0, atol=0)


@pytest.mark.parametrize(
    "changed",
    ({"log": math.log2}, {"late": 1}, {"late": -1}, {"sign": -1}),
    ids=("log2", "late", "early", "backward"),
)
def test_another_formula_would_be_noticed(changed):
    bias, segments = bias_of(), EVERY["packed"]
    differs = (bias(segments).detach() - plain_bias(bias, segments, **changed)).abs() > 1e-3
    assert (differs & segments.visible_RQK).any()


def test_a_packed_pair_by_hand():
    """Two tokens a minute apart; the second looks from an hour later."""
    clock = Clock(*(torch.tensor([[*pair]]) for pair in ((0, 60), (60, 3660), (1, 2), (0, 60), (2, 1))))
    bias = started(RelativeBias(2))
    bias.position_P.data, bias.time_P.data = torch.tensor([1.0, 2.0, 3.0]), torch.arange(129) * 100.0
    found = bias(Segments(torch.zeros(1, 2).long(), torch.tensor([[0, 1]]), clock=clock))
    assert found.tolist() == [[[1302.0, 3.0], [2701.0, 2702.0]]]  # 13: 60 s; 27: 3600 s and 3660 s; 0: none


@pytest.mark.parametrize("reads", READS)
def test_blocks_look_up_what_the_whole_bias_holds(reads):
    bias, segments = bias_of(reads), EVERY["packed"]
    block = Block(slice(1, 3), slice(4, 9), slice(0, 9))
    lookups = bias.lookups(Visibility(segments, segments))
    found = sum(lookup.table_P[lookup.entries(block)] for lookup in lookups)
    assert torch.equal(found, bias(segments)[block])
    assert len(lookups) == len(list(bias.parameters())) == (2 if reads == "both" else 1)


def test_starts_small_and_has_an_entry_for_every_step_and_bucket():
    torch.manual_seed(0)
    bias = started(RelativeBias(1000))
    assert (len(bias.position_P), len(bias.time_P)) == (1999, 129)
    assert bias.position_P.std().item() == pytest.approx(0.02, rel=0.1)
    assert bias.time_P.std().item() == pytest.approx(0.02, rel=0.2)
    assert time_bucket(torch.tensor([2**62])).item() == 128
    assert bias_of()(timed(rows((L,)))).shape == (1, L, L)


# --------------------------------------------------------------------------------------------- attention with bias


@pytest.mark.parametrize("segments", CASES)
@pytest.mark.parametrize("reads", READS)
@STRICT
def test_equals_the_reference_in_fp32(segments, reads, strict, small_blocks):
    bias = bias_of(reads)
    found = out_and_gradients(partial(attend_biased, strict=strict), inputs(), segments, bias)
    expected = out_and_gradients(partial(attend_biased_reference, strict=strict), inputs(), segments, bias)
    for name, slow in expected.items():
        torch.testing.assert_close(
            found[name], slow, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
        assert slow.abs().max() > 0.1, "a comparison of zeros proves nothing"


@pytest.mark.parametrize("segments", CASES)
def test_is_near_the_reference_in_bf16(segments, small_blocks):
    """bf16 holds 8 bits: 2 % of the norm, forward and backward, against the fp32 reference on the same inputs."""
    bias, rounded = bias_of(), inputs(torch.bfloat16)
    expected = out_and_gradients(attend_biased_reference, [x.float() for x in rounded], segments, bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = out_and_gradients(attend_biased, rounded, segments, bias)
    for name, slow in expected.items():
        assert (found[name] - slow).norm() < 0.02 * slow.norm(), name


def test_the_parity_tests_can_fail(monkeypatch, small_blocks):
    segments, bias = EVERY["candidates packed"], bias_of()
    expected = out_and_gradients(attend_biased_reference, inputs(), segments, bias)

    def check(strict: bool = False) -> None:
        found = out_and_gradients(partial(attend_biased, strict=strict), inputs(), segments, bias)
        assert all(torch.allclose(found[name], slow, rtol=1e-5, atol=1e-5) for name, slow in expected.items())

    check()
    assert_caught(check, True)
    summed = blockwise.torch.bincount
    with monkeypatch.context() as broken:  # a table's gradient from the last block alone
        broken.setattr(
            torch.Tensor, "__iadd__", lambda old, new: old.copy_(new) if old.dim() == 1 else old.add_(new)
        )
        assert_caught(check)
    with monkeypatch.context() as broken:
        broken.setattr(torch, "bincount", lambda entry, weights, size: summed(entry.flip(0), weights, size))
        assert_caught(check)
    with monkeypatch.context() as broken:
        broken.setattr(Segments, "causality_is_all", True)
        assert_caught(check)
    with monkeypatch.context() as broken:
        broken.setattr(blockwise, "MASKED", -3.0)
        assert_caught(check)


def test_what_stands_at_padding_does_not_reach_users(small_blocks):
    (q, k, v), segments, bias = inputs(), EVERY["padding"], bias_of()
    padding = (segments.segment_RL < 0)[:, None, :, None]
    before = attend_biased(q, k, v, segments, bias)
    after = attend_biased(q, k + 9 * padding, v + 9 * padding, segments, bias)
    torch.testing.assert_close(before * ~padding, after * ~padding, rtol=0, atol=0)
    assert before.isfinite().all() and not torch.equal(before, after)


# -------------------------------------------------------------------------------------------------- the gpt trunk


def test_a_gpt_trunk_adds_the_bias_of_each_layer():
    torch.manual_seed(0)
    config = TrunkConfig(dim=12, num_layers=2, num_heads=3, dropout=0.0, positions="rab")
    trunk, x = started(Trunk(config, max_positions=L)), torch.randn(3, L, 12)
    before = trunk(x, EVERY["packed"])
    trunk.blocks[1].bias.time_P.data[:] = torch.randn(129) * 5
    assert not torch.allclose(before, trunk(x, EVERY["packed"]), atol=1e-3)
    trunk(x, EVERY["packed"]).square().mean().backward()
    for block in trunk.blocks:
        assert block.bias.position_P.grad.any() and block.bias.time_P.grad.any()
    assert trunk.blocks[0].bias is not trunk.blocks[1].bias


def test_a_bias_of_other_positions_is_refused():
    with pytest.raises(
        ValueError,
        match=r"model.trunk.rab = 'time': is read by .*positions = 'rab' alone, and these are rope",
    ):
        TrunkConfig(positions="rope", rab="time")
