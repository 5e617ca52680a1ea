"""Attention block by block, with the scores computed again in the backward pass: between the two passes only
queries, keys and values are kept, nothing quadratic in the length of a row.

Shape letters: R rows, N heads, Y = R * N, L slots of a row, H head width, P entries of a table; of one block:
G rows, X = G * N matrices of a batched product, Q queries, K keys.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from plait.nn.visibility import Segments

# Measured, forward and backward, on one CPU core with AVX-512: keys after a block of queries are skipped, so
# smaller blocks waste less of the triangle; scores that leave the cache between two steps cost twice as much.
QUERY_BLOCK = 128
SCORES_PER_BLOCK = 1 << 19

# Weighs exactly 0 after a SiLU as after a softmax, and has a gradient of exactly 0. SiLU makes nan of -inf.
MASKED = -1e30


class Weighing(NamedTuple):
    """How scores become weights, and the gradient of scores from that of weights."""

    weigh: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor, Tensor], Tensor]  # of (the gradient of weights, weights, scores)


SILU = Weighing(F.silu, lambda dweight, weight, score: torch.ops.aten.silu_backward(dweight, score))
SOFTMAX = Weighing(
    lambda score: torch.softmax(score, dim=-1),
    lambda dweight, weight, score: torch.ops.aten._softmax_backward_data(dweight, weight, -1, weight.dtype),
)


class Block(NamedTuple):
    """Some rows' queries, and the keys that one of them may see."""

    rows: slice
    queries: slice
    keys: slice


class Lookup(NamedTuple):
    """One trained term of scores, the same for all heads: the table, and which entry each pair of a block takes."""

    table_P: Float[Tensor, "P"]
    entries: Callable[[Block], Tensor]  # Int32[G Q K]


def attend_blockwise(
    q_RNLH: Float[Tensor, "R N L H"],
    k_RNLH: Float[Tensor, "R N L H"],
    v_RNLH: Float[Tensor, "R N L H"],
    segments: Segments,
    weighing: Weighing,
    *,
    scale: float,
    slopes_N: Float[Tensor, "N"] | None = None,
    lookups: tuple[Lookup, ...] = (),
    strict: bool = False,
) -> Float[Tensor, "R N L H"]:
    """Every slot's weighted sum of what it sees (`Segments`), with weights made from the scores
    `scale * q.k - slope * distance + lookups`.

    Args:
        slopes_N: no gradient flows to it.
        strict: a slot does not see its own event; where nothing is left to see, the result is 0.

    Returns:
        Finite everywhere; what stands at padding has no meaning.
    """
    entries = tuple(lookup.entries for lookup in lookups)
    scoring = _Scoring(segments, weighing, scale, slopes_N, entries, strict)
    tables = (lookup.table_P for lookup in lookups)
    out_RNLH: Tensor = _Blockwise.apply(scoring, q_RNLH, k_RNLH, v_RNLH, *tables)
    return segments.zeroed(out_RNLH, strict)


@dataclass(frozen=True, eq=False)
class _Scoring:
    """What scores are made of, beside queries, keys and tables."""

    segments: Segments
    weighing: Weighing
    scale: float
    slopes_N: Tensor | None
    entries: tuple[Callable[[Block], Tensor], ...]
    strict: bool = False

    def blocks(self, num_heads: int) -> Iterator[Block]:
        num_rows, num_slots = self.segments.segment_RL.shape
        for start in range(0, num_slots, QUERY_BLOCK):
            stop = min(start + QUERY_BLOCK, num_slots)
            num_keys = num_slots if self.segments.looks_ahead else stop
            step = max(1, SCORES_PER_BLOCK // (num_heads * (stop - start) * num_keys))
            for row in range(0, num_rows, step):
                yield Block(slice(row, min(row + step, num_rows)), slice(start, stop), slice(0, num_keys))

    def scores(
        self,
        q_XQH: Tensor,
        k_XKH: Tensor,
        block: Block,
        entries: Sequence[Tensor],
        tables: Sequence[Tensor],
    ) -> Tensor:
        """Of one block. What none may see is MASKED; trained terms and mask are added up for one head first."""
        score_XQK = torch.bmm(q_XQH, k_XKH.transpose(1, 2))
        score_GNQK = score_XQK.unflatten(0, (block.rows.stop - block.rows.start, -1))
        term_GQK = None
        for table_P, entry_GQK in zip(tables, entries, strict=True):
            looked_up_GQK = table_P.index_select(0, entry_GQK.flatten()).view(entry_GQK.shape)
            term_GQK = looked_up_GQK if term_GQK is None else term_GQK.add_(looked_up_GQK)
        if self.segments.causality_is_all and not self.strict:
            triangle_QQ = score_XQK.new_full((score_XQK.shape[1],) * 2, MASKED).triu_(1)
            (score_GNQK if term_GQK is None else term_GQK)[..., block.queries].add_(triangle_QQ)
        else:
            visible_BQK = self.segments.softmax_mask(self.strict)
            rows = block.rows if len(visible_BQK) > 1 else slice(1)
            visible_GQK = visible_BQK[rows, block.queries, block.keys]
            term_GQK = torch.where(visible_GQK, 0.0 if term_GQK is None else term_GQK, MASKED)
        if term_GQK is not None:
            score_GNQK.add_(term_GQK.to(score_XQK.dtype)[:, None])
        if self.slopes_N is not None:
            position_GL = self.segments.position_RL[block.rows]
            nearness_GQK = position_GL[:, None, block.keys] - position_GL[:, block.queries, None]
            slopes_N11 = self.slopes_N.to(score_XQK.dtype)[:, None, None]
            score_GNQK.addcmul_(slopes_N11, nearness_GQK[:, None].to(score_XQK.dtype))
        return score_XQK


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scoring: _Scoring, q: Tensor, k: Tensor, v: Tensor, *tables: Tensor) -> Tensor:
        num_heads = q.shape[1]
        q_YLH, k_YLH, v_YLH = (x.flatten(0, 1) for x in (q * scoring.scale, k, v))
        out_YLH = torch.empty_like(v_YLH)
        with torch.autocast(q.device.type, enabled=False):
            for block in scoring.blocks(num_heads):
                queries, keys = _places(block, num_heads)
                entries = [find(block) for find in scoring.entries]
                score_XQK = scoring.scores(q_YLH[queries], k_YLH[keys], block, entries, tables)
                weight_XQK = scoring.weighing.weigh(score_XQK)
                out_YLH[queries] = torch.bmm(weight_XQK, v_YLH[keys])
        ctx.save_for_backward(q_YLH, k_YLH, v_YLH, *tables)
        ctx.scoring, ctx.num_heads = scoring, num_heads
        return out_YLH.unflatten(0, (-1, num_heads))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        scoring, num_heads = ctx.scoring, ctx.num_heads
        q_YLH, k_YLH, v_YLH, *tables = ctx.saved_tensors
        grad_YLH = grad_out.flatten(0, 1)
        dq_YLH = torch.empty_like(q_YLH)
        # Sums over blocks, and over pairs, are made in fp32 whatever the inputs are.
        dk_YLH, dv_YLH = (torch.zeros_like(x, dtype=torch.float32) for x in (k_YLH, v_YLH))
        dtables = [torch.zeros_like(table, dtype=torch.float32) for table in tables]
        with torch.autocast(grad_out.device.type, enabled=False):
            for block in scoring.blocks(num_heads):
                queries, keys = _places(block, num_heads)
                q_XQH, k_XKH, grad_XQH = q_YLH[queries], k_YLH[keys], grad_YLH[queries]
                entries = [find(block) for find in scoring.entries]
                score_XQK = scoring.scores(q_XQH, k_XKH, block, entries, tables)
                weight_XQK = scoring.weighing.weigh(score_XQK)
                dv_YLH[keys] += torch.bmm(weight_XQK.transpose(1, 2), grad_XQH)
                dweight_XQK = torch.bmm(grad_XQH, v_YLH[keys].transpose(1, 2))
                dscore_XQK = scoring.weighing.gradient(dweight_XQK, weight_XQK, score_XQK)
                dq_YLH[queries] = torch.bmm(dscore_XQK, k_XKH)
                dk_YLH[keys] += torch.bmm(dscore_XQK.transpose(1, 2), q_XQH)
                if entries:
                    dterm_GQK = dscore_XQK.unflatten(0, (-1, num_heads)).sum(1, dtype=torch.float32)
                for dtable_P, entry_GQK in zip(dtables, entries, strict=True):
                    dtable_P += torch.bincount(entry_GQK.flatten(), dterm_GQK.flatten(), len(dtable_P))
        dq_YLH.mul_(scoring.scale)
        dqkv = (x.to(grad_out.dtype).unflatten(0, (-1, num_heads)) for x in (dq_YLH, dk_YLH, dv_YLH))
        return None, *dqkv, *dtables


def _places(block: Block, num_heads: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the queries of a block stand in Y x L slots, and where its keys do."""
    matrices = slice(block.rows.start * num_heads, block.rows.stop * num_heads)
    return (matrices, block.queries), (matrices, block.keys)
