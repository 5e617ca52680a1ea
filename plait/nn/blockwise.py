"""Attention block by block, with the scores computed again in the backward pass: between the two passes only
queries, keys and values are kept and, where a caller allows it, weights up to a number of bytes: nothing that grows
with the square of a row's length.

Shape letters: R rows, N heads, Y = R * N, L slots of a row (Q queries and K keys, the same or others), H head width,
P entries of a table; of one block: G rows, X = G * N matrices of a batched product, Q queries, K keys.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from plait.nn.visibility import Block, Visibility

# Measured, forward and backward, on one CPU core with AVX-512: keys after a block of queries are skipped, so
# smaller blocks waste less of the triangle; scores that leave the cache between two steps cost twice as much.
QUERY_BLOCK = 128
SCORES_PER_BLOCK = 1 << 19
SCORES_PER_BLOCK_ELSEWHERE = 1 << 24  # other devices want fewer, larger products

# Weighs exactly 0 after a SiLU as after a softmax, and has a gradient of exactly 0. SiLU makes nan of -inf.
MASKED = -1e30


class Weighing(NamedTuple):
    """How scores become weights, and the gradient of scores from that of weights."""

    weigh: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """From the gradient of weights, weights and scores; scores are None where the weights were kept."""


def _silu_gradient(dweight: Tensor, weight: Tensor, score: Tensor | None) -> Tensor:
    assert score is not None, "SiLU's gradient is made from scores: keep no weights"
    return torch.ops.aten.silu_backward(dweight, score)


def _softmax_gradient(dweight: Tensor, weight: Tensor, score: Tensor | None) -> Tensor:
    return torch.ops.aten._softmax_backward_data(dweight, weight, -1, weight.dtype)


SILU = Weighing(F.silu, _silu_gradient)
SOFTMAX = Weighing(lambda score: torch.softmax(score, dim=-1), _softmax_gradient)


class Lookup(NamedTuple):
    """One trained term of scores, the same for all heads: the table, and which entry each pair of a block takes."""

    table_P: Float[Tensor, " P"]
    entries: Callable[[Block], Tensor]  # Int32[G Q K]


def attend_blockwise(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    v_RNKH: Float[Tensor, "R N K H"],
    visibility: Visibility,
    weighing: Weighing,
    *,
    scale: float,
    slopes_N: Float[Tensor, " N"] | None = None,
    lookups: tuple[Lookup, ...] = (),
    strict: bool = False,
    kept_bytes: int = 0,
) -> Float[Tensor, "R N Q H"]:
    """Every query's weighted sum of the keys that it sees, with weights made from the scores
    `scale * q.k - slope * distance + lookups`.

    Args:
        slopes_N: no gradient flows to it.
        strict: a slot does not see its own event; where nothing is left to see, the result is 0.
        kept_bytes: weights of the first blocks are kept for the backward pass, up to so many bytes.

    Returns:
        Finite everywhere; what stands at padding has no meaning.
    """
    visibility.check(q_RNQH, k_RNKH, v_RNKH)
    entries = tuple(lookup.entries for lookup in lookups)
    scoring = _Scoring(visibility, weighing, scale, slopes_N, entries, strict)
    tables = (lookup.table_P for lookup in lookups)
    room = kept_bytes if torch.is_grad_enabled() else 0
    out_RNQH: Tensor = _Blockwise.apply(scoring, room, q_RNQH, k_RNKH, v_RNKH, *tables)
    if not strict and visibility.is_self:  # every slot sees itself
        return out_RNQH
    return out_RNQH.masked_fill((visibility.num_seen(strict) == 0)[:, None, :, None], 0.0)


@dataclass(frozen=True, eq=False)
class _Scoring:
    """What scores are made of, beside queries, keys and tables."""

    visibility: Visibility
    weighing: Weighing
    scale: float
    slopes_N: Tensor | None
    entries: tuple[Callable[[Block], Tensor], ...]
    strict: bool = False

    def blocks(self, num_heads: int) -> Iterator[Block]:
        """Keys that no query of a block sees are left out where order tells: later slots, and those of users before."""
        queries, in_order = self.visibility.queries, self.visibility.in_order
        num_rows, num_queries = queries.segment_RL.shape
        starts = range(0, num_queries, QUERY_BLOCK)
        scores = SCORES_PER_BLOCK if queries.segment_RL.is_cpu else SCORES_PER_BLOCK_ELSEWHERE
        first_BR = (
            queries.first_RL.T[::QUERY_BLOCK].tolist() if in_order else [[0] * num_rows for _ in starts]
        )
        for start, first_R in zip(starts, first_BR, strict=True):
            stop = min(start + QUERY_BLOCK, num_queries)
            last = stop if in_order else self.visibility.keys.segment_RL.shape[1]
            step = max(1, scores // (num_heads * (stop - start) * last))
            for row in range(0, num_rows, step):
                rows = slice(row, min(row + step, num_rows))
                yield Block(rows, slice(start, stop), slice(min(first_R[rows]), last))

    def scores(
        self,
        q_XQH: Tensor,
        k_XKH: Tensor,
        block: Block,
        entries: Sequence[Tensor],
        tables: Sequence[Tensor],
    ) -> Tensor:
        """One block's scores. What none may see is MASKED; trained terms and mask are added up for one head first."""
        score_XQK = torch.bmm(q_XQH, k_XKH.transpose(1, 2))
        score_GNQK = score_XQK.unflatten(0, (block.rows.stop - block.rows.start, -1))
        term_GQK = None
        for table_P, entry_GQK in zip(tables, entries, strict=True):
            looked_up_GQK = table_P.index_select(0, entry_GQK.flatten()).view(entry_GQK.shape)
            term_GQK = looked_up_GQK if term_GQK is None else term_GQK.add_(looked_up_GQK)
        if self.visibility.is_causality(self.strict):
            num_queries = score_XQK.shape[1]  # the last keys are the queries' own slots
            triangle_QQ = score_XQK.new_full((num_queries, num_queries), MASKED).triu_(
                0 if self.strict else 1
            )
            (score_GNQK if term_GQK is None else term_GQK)[..., -num_queries:].add_(triangle_QQ)
        else:
            visible_GQK = self.visibility.visible(block, self.strict)
            term_GQK = torch.where(visible_GQK, 0.0 if term_GQK is None else term_GQK, MASKED)
        if term_GQK is not None:
            score_GNQK.add_(term_GQK.to(score_XQK.dtype)[:, None])
        if self.slopes_N is not None:
            position_GQ1 = self.visibility.queries.position_RL[block.rows, block.queries, None]
            nearness_GQK = self.visibility.keys.position_RL[block.rows, None, block.keys] - position_GQ1
            slopes_N11 = self.slopes_N.to(score_XQK.dtype)[:, None, None]
            score_GNQK.addcmul_(slopes_N11, nearness_GQK[:, None].to(score_XQK.dtype))
        return score_XQK


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scoring: _Scoring, room: int, q: Tensor, k: Tensor, v: Tensor, *tables: Tensor
    ) -> Tensor:
        num_heads = q.shape[1]
        q_YQH, k_YKH, v_YKH = (x.flatten(0, 1) for x in (q * scoring.scale, k, v))
        out_YQH = torch.empty_like(q_YQH, dtype=v.dtype)
        kept: list[Tensor] = []
        with torch.autocast(q.device.type, enabled=False):
            for block in scoring.blocks(num_heads):
                queries, keys = _places(block, num_heads)
                entries = [find(block) for find in scoring.entries]
                score_XQK = scoring.scores(q_YQH[queries], k_YKH[keys], block, entries, tables)
                weight_XQK = scoring.weighing.weigh(score_XQK)
                out_YQH[queries] = torch.bmm(weight_XQK, v_YKH[keys])
                room -= weight_XQK.nbytes
                if room >= 0:
                    kept.append(weight_XQK)
        ctx.save_for_backward(q_YQH, k_YKH, v_YKH, *tables, *kept)
        ctx.scoring, ctx.num_heads, ctx.num_tables = scoring, num_heads, len(tables)
        return out_YQH.unflatten(0, (-1, num_heads))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        scoring, num_heads = ctx.scoring, ctx.num_heads
        q_YQH, k_YKH, v_YKH, *rest = ctx.saved_tensors
        tables, kept = rest[: ctx.num_tables], rest[ctx.num_tables :]
        grad_YQH = grad_out.flatten(0, 1)
        dq_YQH = torch.empty_like(q_YQH)
        # Sums over blocks, and over pairs, are made in fp32 whatever the inputs are.
        dk_YKH, dv_YKH = (torch.zeros_like(x, dtype=torch.float32) for x in (k_YKH, v_YKH))
        dtables = [torch.zeros_like(table, dtype=torch.float32) for table in tables]
        with torch.autocast(grad_out.device.type, enabled=False):
            for block, weight in zip_longest(scoring.blocks(num_heads), kept):
                queries, keys = _places(block, num_heads)
                q_XQH, k_XKH, grad_XQH = q_YQH[queries], k_YKH[keys], grad_YQH[queries]
                entries = [find(block) for find in scoring.entries]
                score_XQK = None
                if weight is None:
                    score_XQK = scoring.scores(q_XQH, k_XKH, block, entries, tables)
                    weight = scoring.weighing.weigh(score_XQK)
                dv_YKH[keys] += torch.bmm(weight.transpose(1, 2), grad_XQH)
                dweight_XQK = torch.bmm(grad_XQH, v_YKH[keys].transpose(1, 2))
                dscore_XQK = scoring.weighing.gradient(dweight_XQK, weight, score_XQK)
                dq_YQH[queries] = torch.bmm(dscore_XQK, k_XKH)
                dk_YKH[keys] += torch.bmm(dscore_XQK.transpose(1, 2), q_XQH)
                if not entries:
                    continue
                dterm_GQK = dscore_XQK.unflatten(0, (-1, num_heads)).sum(1, dtype=torch.float32)
                for dtable_P, entry_GQK in zip(dtables, entries, strict=True):
                    dtable_P += torch.bincount(entry_GQK.flatten(), dterm_GQK.flatten(), len(dtable_P))
        dq_YQH.mul_(scoring.scale)
        dqkv = (x.to(grad_out.dtype).unflatten(0, (-1, num_heads)) for x in (dq_YQH, dk_YKH, dv_YKH))
        return None, None, *dqkv, *dtables


def _places(block: Block, num_heads: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where the queries of a block stand in Y x Q slots, and where its keys do."""
    matrices = slice(block.rows.start * num_heads, block.rows.stop * num_heads)
    return (matrices, block.queries), (matrices, block.keys)
