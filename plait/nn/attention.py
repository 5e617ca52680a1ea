"""Softmax attention within the segments of packed rows: one function, two exact ways, one reference.

Shape letters: R rows, N heads, L slots of a row, H head width; X = R * N matrices of one batched product,
Q queries and K keys of one block.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from plait.nn.visibility import Segments

# Queries scored at a time; keys after the block are skipped. 64 was slower, and so was 256 up to 512 slots.
QUERY_BLOCK = 128
MAX_BLOCKED_SLOTS = 1024  # longer rows would store too many probabilities: R * N * L * L / 2 in each layer


def attend(
    q_RNLH: Float[Tensor, "R N L H"],
    k_RNLH: Float[Tensor, "R N L H"],
    v_RNLH: Float[Tensor, "R N L H"],
    segments: Segments,
    *,
    slopes_N: Float[Tensor, "N"] | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N L H"]:
    """Softmax attention of every slot over what it sees (`Segments`), scores scaled by H ** -0.5.

    Takes the way that measured best (forward and backward, two CPU cores with AVX-512): blocks for bf16 and
    wherever a mask is needed; SDPA with `is_causal`, as fast and without stored probabilities, for fp32 with
    one user per row; SDPA for long rows. Other devices get SDPA, which the tests do not cover there.

    Args:
        slopes_N: ALiBi: slope * distance in positions is taken from each score. No gradient flows to it.
        strict: a slot does not see its own event; where nothing is left to see, the result is 0.

    Returns:
        Finite everywhere; what stands at padding has no meaning.
    """
    short_on_cpu = q_RNLH.device.type == "cpu" and q_RNLH.shape[2] <= MAX_BLOCKED_SLOTS
    masked = not (segments.shift_is_strict if strict else segments.causality_is_all)
    if short_on_cpu and not segments.looks_ahead and (masked or q_RNLH.dtype != torch.float32):
        return attend_blocked(q_RNLH, k_RNLH, v_RNLH, segments, slopes_N=slopes_N, strict=strict)
    return attend_fused(q_RNLH, k_RNLH, v_RNLH, segments, slopes_N=slopes_N, strict=strict)


def attend_reference(
    q_RNLH: Float[Tensor, "R N L H"],
    k_RNLH: Float[Tensor, "R N L H"],
    v_RNLH: Float[Tensor, "R N L H"],
    segments: Segments,
    *,
    slopes_N: Float[Tensor, "N"] | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N L H"]:
    """What `attend` must equal, written plainly: all scores in fp32, a dense mask."""
    score_RNLL = q_RNLH.float() @ k_RNLH.float().transpose(-1, -2) * q_RNLH.shape[-1] ** -0.5
    if slopes_N is not None:
        position_R1L = segments.position_RL[:, None]
        distance_R1LL = position_R1L[..., :, None] - position_R1L[..., None, :]
        score_RNLL = score_RNLL - slopes_N[:, None, None] * distance_R1LL
    visible_RQK = segments.strictly_visible_RQK if strict else segments.visible_RQK
    weight_RNLL = score_RNLL.masked_fill(~visible_RQK[:, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    return (weight_RNLL @ v_RNLH.float()).to(v_RNLH.dtype)


def attend_fused(
    q_RNLH: Float[Tensor, "R N L H"],
    k_RNLH: Float[Tensor, "R N L H"],
    v_RNLH: Float[Tensor, "R N L H"],
    segments: Segments,
    *,
    slopes_N: Float[Tensor, "N"] | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N L H"]:
    """Torch's fused kernels. Never stores scores; in bf16 its backward pass is slow on a CPU."""
    scale, head_width = q_RNLH.shape[-1] ** -0.5, q_RNLH.shape[-1]
    if slopes_N is not None:
        q_RNLH, k_RNLH, v_RNLH = _fold_alibi(q_RNLH, k_RNLH, v_RNLH, segments, slopes_N)
    if strict and segments.shift_is_strict:  # queries one step to the left make the kernels' causality strict
        shifted_RNLH = F.scaled_dot_product_attention(
            q_RNLH[:, :, 1:], k_RNLH[:, :, :-1], v_RNLH[:, :, :-1], is_causal=True, scale=scale
        )
        return F.pad(shifted_RNLH, (0, 0, 1, 0))[..., :head_width]
    if not strict and segments.causality_is_all:
        out_RNLH = F.scaled_dot_product_attention(q_RNLH, k_RNLH, v_RNLH, is_causal=True, scale=scale)
        return out_RNLH[..., :head_width]
    mask_B1QK = segments.softmax_mask(strict)[:, None]
    out_RNLH = F.scaled_dot_product_attention(q_RNLH, k_RNLH, v_RNLH, attn_mask=mask_B1QK, scale=scale)
    return segments.zeroed(out_RNLH, strict)[..., :head_width]


def attend_blocked(
    q_RNLH: Float[Tensor, "R N L H"],
    k_RNLH: Float[Tensor, "R N L H"],
    v_RNLH: Float[Tensor, "R N L H"],
    segments: Segments,
    *,
    slopes_N: Float[Tensor, "N"] | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N L H"]:
    """Plain batched products over blocks of queries, with the probabilities stored for the backward pass."""
    assert not segments.looks_ahead, "a block skips the keys after it"
    bias_B1QK = segments.mask_bias(q_RNLH.dtype, strict)
    alibi = None if slopes_N is None else (slopes_N.to(q_RNLH.dtype), segments.position_RL)
    out_RNLH: Tensor = _BlockedAttention.apply(q_RNLH, k_RNLH, v_RNLH, bias_B1QK, alibi)
    return segments.zeroed(out_RNLH, strict)


def _fold_alibi(
    q_RNLH: Tensor, k_RNLH: Tensor, v_RNLH: Tensor, segments: Segments, slopes_N: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """ALiBi as two more dimensions of queries (1) and keys (slope * position), without an L x L matrix.

    -slope * (i - j) is slope * j but for a term of the query alone, which cancels in the softmax. Two
    dimensions, because the mantissa of bf16 does not hold slope * j: the second one carries the remainder.
    """
    undo_scale = q_RNLH.shape[-1] ** 0.5
    exact_RNL1 = (slopes_N[:, None] * segments.position_RL[:, None] * undo_scale)[..., None]
    rounded_RNL1 = exact_RNL1.to(k_RNLH.dtype)
    remainder_RNL1 = (exact_RNL1 - rounded_RNL1).to(k_RNLH.dtype)
    ones_RNL2 = q_RNLH.new_ones(*q_RNLH.shape[:3], 2)
    return (
        torch.cat([q_RNLH, ones_RNL2], dim=-1),
        torch.cat([k_RNLH, rounded_RNL1, remainder_RNL1], dim=-1),
        F.pad(v_RNLH, (0, 2)),  # the kernels want values as wide as keys
    )


class _BlockedAttention(torch.autograd.Function):
    """Written out because autograd pads the gradient of every slice, and is up to 1.6 times slower for it."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias_B1QK: Tensor, alibi: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        scale = q.shape[-1] ** -0.5
        q_XLH, k_XLH, v_XLH = (q * scale).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        out_XLH = torch.empty_like(v_XLH)
        weights_XQK = []
        with torch.autocast(q.device.type, enabled=False):
            for start, stop in _blocks(q.shape[2]):
                score_XQK = torch.bmm(q_XLH[:, start:stop], k_XLH[:, :stop].transpose(1, 2))
                score_RNQK = score_XQK.unflatten(0, q.shape[:2]).add_(bias_B1QK[:, :, start:stop, :stop])
                if (
                    alibi is not None
                ):  # distances, not folded products: bf16 would round those of far positions
                    slopes_N, position_RL = alibi
                    nearness_RQK = position_RL[:, None, :stop] - position_RL[:, start:stop, None]
                    score_RNQK.addcmul_(slopes_N[:, None, None], nearness_RQK[:, None].to(q.dtype))
                weight_XQK = torch.softmax(score_XQK, dim=-1)
                out_XLH[:, start:stop] = torch.bmm(weight_XQK, v_XLH[:, :stop])
                weights_XQK.append(weight_XQK)
        ctx.save_for_backward(q_XLH, k_XLH, v_XLH, *weights_XQK)
        ctx.scale = scale
        return out_XLH.unflatten(0, q.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_XLH, k_XLH, v_XLH, *weights_XQK = ctx.saved_tensors
        grad_XLH = grad_out.flatten(0, 1)
        dq_XLH, dk_XLH, dv_XLH = torch.empty_like(q_XLH), torch.zeros_like(k_XLH), torch.zeros_like(v_XLH)
        with torch.autocast(grad_out.device.type, enabled=False):
            for (start, stop), weight_XQK in zip(_blocks(q_XLH.shape[1]), weights_XQK, strict=True):
                grad_XQH = grad_XLH[:, start:stop]
                dv_XLH[:, :stop] += torch.bmm(weight_XQK.transpose(1, 2), grad_XQH)
                dweight_XQK = torch.bmm(grad_XQH, v_XLH[:, :stop].transpose(1, 2))
                dscore_XQK = torch.ops.aten._softmax_backward_data(
                    dweight_XQK, weight_XQK, -1, weight_XQK.dtype
                )
                dq_XLH[:, start:stop] = torch.bmm(dscore_XQK, k_XLH[:, :stop])
                dk_XLH[:, :stop] += torch.bmm(dscore_XQK.transpose(1, 2), q_XLH[:, start:stop])
        heads = grad_out.shape[:2]
        dq_XLH.mul_(ctx.scale)
        return dq_XLH.unflatten(0, heads), dk_XLH.unflatten(0, heads), dv_XLH.unflatten(0, heads), None, None


def _blocks(num_slots: int) -> list[tuple[int, int]]:
    return [(start, min(start + QUERY_BLOCK, num_slots)) for start in range(0, num_slots, QUERY_BLOCK)]
