"""Attention of a candidate over the events that a search has found in its history: SIM's and TWIN's.

Scores are computed for all pairs that are seen, a product of matrices, and those that the search leaves out get no
weight. To gather what is found for every candidate would move more than it saves as long as histories are as long as
matrices are wide. What depends on the time gap of a pair goes through its bucket: one number for each bucket, not one
vector for each pair.

Shape letters: M questions, N events, D width, A heads, K width of a head, G buckets of time gaps; B, C, H as in
`candidate_blocks`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from plait.nn.candidate_blocks import CandidateBlock, CandidateBlocks
from plait.nn.evolving import seen_softmax
from plait.nn.initialising import Linear, VectorTable, normal
from plait.nn.positions import TIME_BUCKETS, time_bucket

GAP_WIDTH = 8  # of a time gap's vector, as TWIN has it


@dataclass(frozen=True, eq=False)
class Moments:
    """When questions are asked and events happened."""

    time_s_M: Int64[Tensor, " M"]
    time_s_N: Int64[Tensor, " N"]

    def gaps(self, block: CandidateBlock) -> Int64[Tensor, "B C H"]:
        """The bucket of every pair's gap."""
        gap_s_BCH = block.of_questions(self.time_s_M)[:, :, None] - block.of_events(self.time_s_N)[:, None]
        return time_bucket(gap_s_BCH)


class SearchedAttention(nn.Module):
    """SIM's exact search: attention of several heads over events with their time gaps, z = [k, gap].

    head_a = softmax over z of (W_a z . V_a q) z, all heads side by side. Scores are divided by the root of a head's
    width, which the paper does not say.

    Source: SIM (Pi et al., CIKM 2020), section 3.2.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.of_query = Linear(dim, dim, normal(dim**-0.5), bias=False)
        self.of_key = Linear(dim, dim, normal(dim**-0.5), bias=False)
        self.gaps = VectorTable(TIME_BUCKETS, GAP_WIDTH)
        self.of_gap = Linear(GAP_WIDTH, dim, normal(GAP_WIDTH**-0.5), bias=False)
        self.num_out = num_heads * (dim + GAP_WIDTH)

    def forward(
        self,
        query_MD: Float[Tensor, "M D"],
        key_ND: Float[Tensor, "N D"],
        moments: Moments,
        found: tuple[Bool[Tensor, "_ _ _"], ...],
        blocks: CandidateBlocks,
    ) -> Float[Tensor, "M X"]:
        """The interest in every candidate; zero where nothing is found.

        Args:
            found: of each block, the pairs that a search has found.
        """
        query_MD, of_key_ND = self.of_query(query_MD) * self.scale, self.of_key(key_ND)
        key_of_gap_GD = self.of_gap(self.gaps.weight)
        pooled = []
        for block, found_BCH in zip(blocks.blocks, found, strict=True):
            query_BACK = self._heads(block.of_questions(query_MD))
            score_BACH = query_BACK @ self._heads(block.of_events(of_key_ND)).transpose(2, 3)
            bucket_BACH = moments.gaps(block)[:, None].expand(score_BACH.shape)
            of_gap_BACG = query_BACK @ self._heads(key_of_gap_GD[None]).transpose(2, 3)
            score_BACH = (score_BACH + of_gap_BACG.gather(3, bucket_BACH)).float()
            weight_BACH = seen_softmax(score_BACH, found_BCH[:, None])
            value_BACD = weight_BACH @ block.of_events(key_ND)[:, None].to(weight_BACH.dtype)
            gap_BACX = by_bucket(weight_BACH, bucket_BACH) @ self.gaps.weight
            pooled.append(torch.cat([value_BACD, gap_BACX], dim=-1).transpose(1, 2).flatten(2))
        return blocks.joined(pooled)

    def flops(self, num_tokens: int, num_questions: int, num_pairs: int) -> float:
        """FLOPs of a forward pass: every matrix product."""
        dim, heads = len(self.of_key.weight), self.num_heads
        of_gaps = 2.0 * dim * TIME_BUCKETS + 2.0 * heads * TIME_BUCKETS * GAP_WIDTH
        of_each = 2.0 * dim**2 * (num_tokens + num_questions) + of_gaps * num_questions
        return of_each + 2.0 * GAP_WIDTH * dim * TIME_BUCKETS + (2.0 * dim + 2.0 * heads * dim) * num_pairs

    def _heads(self, x_BLD: Tensor) -> Float[Tensor, "B A L K"]:
        return x_BLD.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def plain(
        self, query_D: Float[Tensor, " D"], key_HD: Float[Tensor, "H D"], gap_s_H: Int64[Tensor, " H"]
    ) -> Float[Tensor, " X"]:
        """One candidate over what was found for it, head by head: the reference of `forward`."""
        heads = []
        for of_query, of_key, of_gap in zip(
            *(layer.weight.chunk(self.num_heads) for layer in (self.of_query, self.of_key, self.of_gap)),
            strict=True,
        ):
            scores, values = [], []
            for key_D, gap_s in zip(key_HD, gap_s_H, strict=True):
                gap_X = self.gaps.weight[time_bucket(gap_s)]
                scores.append((of_query @ query_D) @ (of_key @ key_D + of_gap @ gap_X) * self.scale)
                values.append(torch.cat([key_D, gap_X]))
            if not scores:
                return query_D.new_zeros(self.num_out)
            heads.append(torch.stack(scores).softmax(0) @ torch.stack(values))
        return torch.cat(heads)


class TwinAttention(nn.Module):
    """TWIN's attention, which both searches a history and attends to what is found.

    An event's features are split: those of the item, which it has whoever met it, are projected as usual; each cross
    feature of a user and an item (its actions, its time gap) becomes one number. alpha = (W_h k)(W_q q) / sqrt(K) +
    beta . (w_c c), for each head. A head searches for itself: its `top_k` highest alpha; softmax over these weighs
    W_v [k, c]. W_o joins the heads.

    Source: TWIN (Chang et al., KDD 2023), sections 4.2 to 4.4. Two stages with one alpha, so what the second would
    weigh most is what the first finds.
    """

    def __init__(self, dim: int, num_heads: int, reads_actions: bool) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.of_query = Linear(dim, dim, normal(dim**-0.5), bias=False)
        self.of_item = Linear(dim, dim, normal(dim**-0.5), bias=False)
        self.value_of_item = Linear(dim, dim, normal(dim**-0.5), bias=False)
        self.gaps = VectorTable(TIME_BUCKETS, GAP_WIDTH)
        self.number_of_gap = Linear(GAP_WIDTH, 1, normal(GAP_WIDTH**-0.5), bias=False)
        self.value_of_gap = Linear(GAP_WIDTH, dim, normal(GAP_WIDTH**-0.5), bias=False)
        self.number_of_actions = Linear(dim, 1, normal(dim**-0.5), bias=False) if reads_actions else None
        self.value_of_actions = Linear(dim, dim, normal(dim**-0.5), bias=False) if reads_actions else None
        self.beta = Linear(1 + reads_actions, num_heads, normal(1.0), bias=False)
        self.out = Linear(dim, dim, normal(dim**-0.5), bias=False)

    def forward(
        self,
        query_MD: Float[Tensor, "M D"],
        item_ND: Float[Tensor, "N D"],
        action_ND: Float[Tensor, "N D"] | None,
        moments: Moments,
        top_k: int,
        blocks: CandidateBlocks,
    ) -> Float[Tensor, "M D"]:
        """The interest in every candidate; zero where it sees no event."""
        query_MD, key_ND = self.of_query(query_MD) * self.scale, self.of_item(item_ND)
        value_ND = self.value_of_item(item_ND)
        beta_gap_AG = self.beta.weight[:, :1] * self.number_of_gap(self.gaps.weight).T
        beta_action_NA = None
        if self.number_of_actions is not None and self.value_of_actions is not None:
            assert action_ND is not None, "an attention that reads actions is given them"
            beta_action_NA = self.number_of_actions(action_ND) * self.beta.weight[:, 1]
            value_ND = value_ND + self.value_of_actions(action_ND)
        value_of_gap_GD = self.value_of_gap(self.gaps.weight)
        pooled = []
        for block in blocks.blocks:
            query_BACK = self._heads(block.of_questions(query_MD))
            alpha_BACH = (query_BACK @ self._heads(block.of_events(key_ND)).transpose(2, 3)).float()
            bucket_BCH = moments.gaps(block)
            alpha_BACH = alpha_BACH + beta_gap_AG[:, bucket_BCH].transpose(0, 1)
            if beta_action_NA is not None:
                alpha_BACH = alpha_BACH + block.of_events(beta_action_NA).transpose(1, 2)[:, :, None]
            sees_BACH = block.sees_BCH[:, None].expand(alpha_BACH.shape)
            weight_BACH = seen_softmax(alpha_BACH, highest(alpha_BACH, sees_BACH, top_k))
            bucket_BACH = bucket_BCH[:, None].expand(alpha_BACH.shape)
            value_BACK = weight_BACH @ self._heads(block.of_events(value_ND)).to(weight_BACH.dtype)
            gap_BACK = by_bucket(weight_BACH, bucket_BACH) @ self._heads(value_of_gap_GD[None])
            pooled.append((value_BACK + gap_BACK).transpose(1, 2).flatten(2))
        return self.out(blocks.joined(pooled))

    def _heads(self, x_BLD: Tensor) -> Float[Tensor, "B A L K"]:
        return x_BLD.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def plain(
        self,
        query_D: Float[Tensor, " D"],
        item_HD: Float[Tensor, "H D"],
        action_HD: Float[Tensor, "H D"] | None,
        gap_s_H: Int64[Tensor, " H"],
        top_k: int,
    ) -> Float[Tensor, " D"]:
        """One candidate, head by head and event by event: the reference of `forward`."""
        heads = []
        width = len(query_D) // self.num_heads
        for head in range(self.num_heads):
            of_head = slice(head * width, (head + 1) * width)
            alphas, values = [], []
            for event, item_D in enumerate(item_HD):
                gap_X = self.gaps.weight[time_bucket(gap_s_H[event])]
                cross, value = (
                    [self.number_of_gap(gap_X)[0]],
                    self.value_of_item(item_D) + self.value_of_gap(gap_X),
                )
                if self.number_of_actions is not None and self.value_of_actions is not None:
                    assert action_HD is not None
                    cross.append(self.number_of_actions(action_HD[event])[0])
                    value = value + self.value_of_actions(action_HD[event])
                matched = self.of_item(item_D)[of_head] @ self.of_query(query_D)[of_head] * self.scale
                alphas.append(matched + self.beta.weight[head] @ torch.stack(cross))
                values.append(value[of_head])
            if not alphas:
                return torch.zeros_like(query_D)
            best = torch.stack(alphas).argsort(descending=True)[:top_k]
            heads.append(torch.stack(alphas)[best].softmax(0) @ torch.stack(values)[best])
        return self.out(torch.cat(heads))


class SoftSearch(nn.Module):
    """SIM's general search by inner product, r = (W_b k) . (W_a q), trained by a task of its own: the actions, from the
    sum over the whole history of r k.

    Source: SIM (Pi et al., CIKM 2020), section 3.1, equation 2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_query = Linear(dim, dim, normal(dim**-0.5), bias=False)
        self.of_key = Linear(dim, dim, normal(dim**-0.5), bias=False)

    def forward(
        self,
        query_MD: Float[Tensor, "M D"],
        key_ND: Float[Tensor, "N D"],
        top_k: int,
        blocks: CandidateBlocks,
    ) -> tuple[tuple[Bool[Tensor, "_ _ _"], ...], Float[Tensor, "M D"]]:
        """The `top_k` events of each candidate, block by block, and what the search's own task reads."""
        query_MD, of_key_ND = self.of_query(query_MD), self.of_key(key_ND)
        found, sums = [], []
        for block in blocks.blocks:
            relevance_BCH = block.of_questions(query_MD) @ block.of_events(of_key_ND).transpose(1, 2)
            relevance_BCH = relevance_BCH.masked_fill(~block.sees_BCH, 0.0)
            found.append(highest(relevance_BCH.detach(), block.sees_BCH, top_k))
            sums.append(relevance_BCH @ block.of_events(key_ND).to(relevance_BCH.dtype))
        return tuple(found), blocks.joined(sums)


def highest(
    score: Float[Tensor, "*rest H"], sees: Bool[Tensor, "*rest H"], k: int
) -> Bool[Tensor, "*rest H"]:
    """The `k` highest of what is seen, or all of it where there are fewer.

    >>> sees = torch.tensor([True, True, False, True])
    >>> highest(torch.tensor([0.5, 2.0, 9.0, 1.0]), sees, 2).tolist()
    [False, True, False, True]
    """
    if score.shape[-1] <= k:
        return sees
    best = score.detach().masked_fill(~sees, -torch.inf).topk(k, dim=-1).indices
    return torch.zeros_like(sees).scatter(-1, best, torch.ones_like(best, dtype=torch.bool)) & sees


def latest_alike(
    code_MK: Int64[Tensor, "M K"], code_NK: Int64[Tensor, "N K"], top_k: int, blocks: CandidateBlocks
) -> tuple[Bool[Tensor, "_ _ _"], ...]:
    """SIM's hard search: the last `top_k` events whose item shares a value of a feature with the candidate.

    Args:
        code_MK, code_NK: the values of both, as codes from 0; below 0 nothing is known, which is nothing to share.

    Source: SIM (Pi et al., CIKM 2020), section 3.1.
    """
    found = []
    for block in blocks.blocks:
        alike_BCH = torch.zeros_like(block.sees_BCH)
        for asked_BC in block.of_questions(code_MK).unbind(-1):
            for code_BH in block.of_events(code_NK).unbind(-1):
                alike_BCH |= (asked_BC[:, :, None] == code_BH[:, None]) & (asked_BC >= 0)[:, :, None]
        alike_BCH &= block.sees_BCH
        from_end_BCH = alike_BCH.long().flip(-1).cumsum(-1).flip(-1)
        found.append(alike_BCH & (from_end_BCH <= top_k))
    return tuple(found)


def by_bucket(weight: Float[Tensor, "*rest H"], bucket: Int64[Tensor, "*rest H"]) -> Float[Tensor, "*rest G"]:
    """How much weight each bucket has in all."""
    sums = weight.new_zeros((*weight.shape[:-1], TIME_BUCKETS))
    return sums.scatter_add(-1, bucket, weight)
