"""How attention is cut into blocks, what is masked in them, and how sums over them are made."""

import pytest
import torch
from biased import EVERY, H, N, bias_of, inputs, out_and_gradients, settled, timed
from test_attention import rows
from tiny import assert_caught, assert_not_vacuous, started

from plait.nn import blockwise
from plait.nn.hstu import attend_silu, attend_silu_reference
from plait.nn.relative import RelativeBias, attend_biased
from plait.nn.visibility import Visibility


@pytest.mark.parametrize("query_block", (1, 4, 128))
@pytest.mark.parametrize("scores", (1, 1 << 20))
def test_the_size_of_blocks_does_not_matter(query_block, scores, monkeypatch):
    segments, bias = EVERY["packed"], bias_of()
    expected = out_and_gradients(attend_biased, inputs(), segments, bias)
    monkeypatch.setattr(blockwise, "QUERY_BLOCK", query_block)
    monkeypatch.setattr(blockwise, "SCORES_PER_BLOCK", scores)
    for name, found in out_and_gradients(attend_biased, inputs(), segments, bias).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-5, atol=1e-5)


def test_every_pair_that_is_seen_is_in_exactly_one_block(small_blocks):
    met = {"blocks": 0, "blocks of several rows": 0, "skipped pairs": 0}
    for segments in EVERY.values():
        scoring = blockwise._Scoring(Visibility(segments, segments), blockwise.SILU, 1.0, None, ())
        times = torch.zeros_like(segments.visible_RQK, dtype=torch.int64)
        for block in scoring.blocks(N):
            times[block] += 1
            met["blocks"] += 1
            met["blocks of several rows"] += block.rows.stop - block.rows.start > 1
        assert times.max() == 1 and (times[segments.visible_RQK] == 1).all()
        met["skipped pairs"] += int((times == 0).sum())
    assert_not_vacuous(met)


def check_long_sums() -> None:
    """Keys' and values' gradients, from a hundred blocks, are hardly further off than a bf16's own rounding, 0.4 %."""
    length = 400
    torch.manual_seed(0)
    q, k, v = torch.rand(3, 1, 2, length, H).bfloat16().unbind(0)
    segments, bias = timed(rows((length,), length=length)), started(RelativeBias(length))
    expected = out_and_gradients(
        settled(attend_silu_reference), [q.float(), k.float(), v.float()], segments, bias
    )
    found = out_and_gradients(settled(attend_silu), [q, k, v], segments, bias)
    for name in ("k", "v"):
        assert (found[name] - expected[name]).norm() < 0.007 * expected[name].norm(), name


def test_sums_over_blocks_are_made_in_fp32(small_blocks, monkeypatch):
    check_long_sums()
    zeros_like = torch.zeros_like
    monkeypatch.setattr(torch, "zeros_like", lambda x, **_: zeros_like(x))
    assert_caught(check_long_sums)


def test_a_masked_score_weighs_nothing_and_has_no_gradient():
    """In both types, and whatever else is added to it."""
    for dtype in (torch.float32, torch.bfloat16):
        score = torch.tensor(
            [blockwise.MASKED, blockwise.MASKED + 900.0, blockwise.MASKED - 900.0], dtype=dtype
        )
        score.requires_grad_()
        for weighing in (blockwise.SILU, blockwise.SOFTMAX):
            row = torch.cat([score, torch.ones(1, dtype=dtype)])
            weight = weighing.weigh(row)
            gradient = weighing.gradient(torch.full_like(row, 7.0), weight, row)
            assert not weight[:3].any() and not gradient[:3].any()
            assert weight[3] > 0.7
