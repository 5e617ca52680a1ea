"""Inputs, clocks and biases for the tests of attention with trained terms."""

from dataclasses import replace

import pytest
import torch
from test_attention import AHEAD, SEGMENTS
from tiny import started

from plait.nn.positions import alibi_slopes
from plait.nn.relative import RelativeBias
from plait.nn.visibility import Clock, Segments

N, H, L, MAX_POSITIONS = 3, 5, 11, 13
READS = ("position", "time", "both")
DAY_S = 86_400


def timed(segments: Segments, seed: int = 2) -> Segments:
    """The same slots with a clock: seconds to months between events, ties too; "now" is the time of the next slot."""
    torch.manual_seed(seed)
    gap_s_RL = torch.exp(torch.rand(segments.segment_RL.shape) * 16).long() * (
        torch.rand(segments.segment_RL.shape) > 0.2
    )
    time_s_RL = 1_600_000_000 + gap_s_RL.cumsum(1)
    anchor_s_RL = torch.cat([time_s_RL[:, 1:], time_s_RL[:, -1:] + DAY_S], dim=1)
    none_RL = torch.zeros_like(time_s_RL)
    return replace(segments, clock=Clock(time_s_RL, anchor_s_RL, none_RL, none_RL, none_RL))


EVERY = {name: timed(segments) for name, segments in (SEGMENTS | AHEAD).items()}
CASES = [pytest.param(segments, id=name) for name, segments in EVERY.items()]


def bias_of(reads: str = "both") -> RelativeBias:
    torch.manual_seed(3)
    bias = started(RelativeBias(MAX_POSITIONS, reads))
    for table in bias.parameters():
        torch.nn.init.normal_(table)
    return bias


def inputs(dtype: torch.dtype = torch.float32, num_rows: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return list(torch.randn(3, num_rows, N, L, H).to(dtype).unbind(0))


def out_and_gradients(attend, qkv, segments, bias) -> dict[str, torch.Tensor]:
    """What a way computes at real slots, and all gradients for a loss over real slots only."""
    qkv = [x.detach().clone().requires_grad_() for x in qkv]
    real = (segments.segment_RL >= 0)[:, None, :, None]
    out = attend(*qkv, segments, bias) * real
    torch.manual_seed(1)
    tables = {} if bias is None else dict(bias.named_parameters())
    wanted = {"q": qkv[0], "k": qkv[1], "v": qkv[2], **tables}
    gradients = torch.autograd.grad(out, list(wanted.values()), torch.randn(out.shape).to(out.dtype))
    return {"out": out.detach().float(), **{n: g.float() for n, g in zip(wanted, gradients, strict=True)}}


def settled(way, scale: float = 0.7, alibi: bool = False, strict: bool = False):
    """`way` with its settings, called as `out_and_gradients` calls."""
    slopes_N = alibi_slopes(N) if alibi else None

    def attend(q, k, v, segments, bias):
        return way(q, k, v, segments, norm_len=5, scale=scale, slopes_N=slopes_N, bias=bias, strict=strict)

    return attend
