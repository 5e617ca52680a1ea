"""Softmax attention within the segments of packed rows: one function, two exact ways, one reference.

Shape letters: R rows, N heads, L slots of a row, H head width; Q queries and K keys, which are the same slots or
others.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from plait.nn.blockwise import SOFTMAX, attend_blockwise
from plait.nn.visibility import Segments, Visibility

# Of one layer: what 4 rows of 1,024 slots and 4 heads take. The backward pass makes the others again, which is one of
# its five products.
KEPT_PROBABILITIES_BYTES = 40 << 20


def attend(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    v_RNKH: Float[Tensor, "R N K H"],
    segments: Segments,
    *,
    keys: Segments | None = None,
    slopes_N: Float[Tensor, " N"] | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N Q H"]:
    """Softmax attention of every query over the keys that it sees, scores scaled by H ** -0.5.

    Takes the way that measured best (forward and backward, two CPU cores with AVX-512): SDPA with `is_causal`, which
    stores no probabilities, for one user per row in fp32; blocks wherever a mask is needed, and for bf16 on a CPU. No
    way holds anything that grows with Q * K beyond a stated number of bytes. The tests cover CPUs alone.

    Args:
        segments: the places of the queries.
        keys: the places of the keys, where they are others (`Visibility`); else the queries look at themselves.
        slopes_N: ALiBi: slope * distance in positions is taken from each score. No gradient flows to it.
        strict: a slot does not see its own event; where nothing is left to see, the result is 0.

    Returns:
        Finite everywhere; what stands at padding has no meaning.
    """
    visibility = Visibility(segments, keys or segments)
    fused = q_RNQH.device.type != "cpu" or q_RNQH.dtype == torch.float32
    way = attend_fused if fused and visibility.is_causality(strict) else attend_blocked
    return way(q_RNQH, k_RNKH, v_RNKH, segments, keys=keys, slopes_N=slopes_N, strict=strict)


def attend_reference(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    v_RNKH: Float[Tensor, "R N K H"],
    segments: Segments,
    *,
    keys: Segments | None = None,
    slopes_N: Float[Tensor, " N"] | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N Q H"]:
    """What `attend` must equal, written plainly: all scores in fp32, a dense mask."""
    Visibility(segments, keys or segments).check(q_RNQH, k_RNKH, v_RNKH)
    weight_RNQK = softmax_weights(q_RNQH, k_RNKH, segments, keys=keys, slopes_N=slopes_N, strict=strict)
    return (weight_RNQK @ v_RNKH.float()).to(v_RNKH.dtype)


def softmax_weights(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    segments: Segments,
    *,
    keys: Segments | None = None,
    slopes_N: Float[Tensor, " N"] | None = None,
    bias_RQK: Float[Tensor, "R Q K"] | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N Q K"]:
    """The weight of every key for every query, written plainly. Each query's sum to 1, or to 0 where it sees nothing.

    Args:
        bias_RQK: what is added to the scores of all heads.
    """
    visibility = Visibility(segments, keys or segments)
    score_RNQK = q_RNQH.float() @ k_RNKH.float().transpose(-1, -2) * q_RNQH.shape[-1] ** -0.5
    if slopes_N is not None:
        score_RNQK = score_RNQK - slopes_N[:, None, None] * visibility.distance_RQK[:, None]
    if bias_RQK is not None:
        score_RNQK = score_RNQK + bias_RQK[:, None]
    hidden_R1QK = ~visibility.dense(strict)[:, None]
    return score_RNQK.masked_fill(hidden_R1QK, -torch.inf).softmax(-1).nan_to_num(0.0)


def attend_fused(
    q_RNLH: Float[Tensor, "R N L H"],
    k_RNLH: Float[Tensor, "R N L H"],
    v_RNLH: Float[Tensor, "R N L H"],
    segments: Segments,
    *,
    keys: Segments | None = None,
    slopes_N: Float[Tensor, " N"] | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N L H"]:
    """Torch's fused kernels, where causality is all. In bf16 their backward pass is slow on a CPU."""
    visibility = Visibility(segments, keys or segments)
    visibility.check(q_RNLH, k_RNLH, v_RNLH)
    assert visibility.is_causality(strict), "the kernels take a mask of all pairs, or mere causality"
    scale, head_width = q_RNLH.shape[-1] ** -0.5, q_RNLH.shape[-1]
    if slopes_N is not None:
        q_RNLH, k_RNLH, v_RNLH = _fold_alibi(q_RNLH, k_RNLH, v_RNLH, segments, slopes_N)
    if strict:  # queries one step to the left make the kernels' causality strict
        shifted_RNLH = F.scaled_dot_product_attention(
            q_RNLH[:, :, 1:], k_RNLH[:, :, :-1], v_RNLH[:, :, :-1], is_causal=True, scale=scale
        )
        return F.pad(shifted_RNLH, (0, 0, 1, 0))[..., :head_width]
    out_RNLH = F.scaled_dot_product_attention(q_RNLH, k_RNLH, v_RNLH, is_causal=True, scale=scale)
    return out_RNLH[..., :head_width]


def attend_blocked(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    v_RNKH: Float[Tensor, "R N K H"],
    segments: Segments,
    *,
    keys: Segments | None = None,
    slopes_N: Float[Tensor, " N"] | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N Q H"]:
    """Plain batched products over blocks of queries (`attend_blockwise`)."""
    return attend_blockwise(
        q_RNQH,
        k_RNKH,
        v_RNKH,
        Visibility(segments, keys or segments),
        SOFTMAX,
        scale=q_RNQH.shape[-1] ** -0.5,
        slopes_N=slopes_N,
        strict=strict,
        kept_bytes=KEPT_PROBABILITIES_BYTES,
    )


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
