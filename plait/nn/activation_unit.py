"""DIN's local activation: how much each event of a history counts for a candidate.

Shape letters: M questions, N events, D width, E inner width of the unit; B, C, H as in `candidate_blocks`; P pairs of a
question and an event that it sees.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.candidate_blocks import CandidateBlock, CandidateBlocks
from plait.nn.dice import Dice
from plait.nn.initialising import Linear, normal


class ActivationUnit(nn.Module):
    """a(k, q) = w Dice(W [q, k, q - k, q * k] + b) + c, and the interest sum over k of a(k, q) k.

    No softmax: the sum keeps how strong an interest is.

    Source: DIN (Zhou et al., KDD 2018), section 4.3, equation 3, with Dice for PReLU; the difference and the product
    are those of the authors' published code, where the paper has an outer product.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.inner = Linear(4 * dim, width, normal((4 * dim) ** -0.5))
        self.dice = Dice(width)
        self.outer = Linear(width, 1, normal(width**-0.5))

    def forward(
        self, query_MD: Float[Tensor, "M D"], key_ND: Float[Tensor, "N D"], blocks: CandidateBlocks
    ) -> Float[Tensor, "M D"]:
        """The interest in every candidate; zero where it sees no event.

        The first layer is linear, so what it makes of q, k and q - k is computed once for every question and event:
        W [q, k, q - k, q * k] = (W1 + W3) q + (W2 - W3) k + (W4 diag(q)) k. Only the last term is of pairs.
        """
        of_query, of_key, of_difference, of_product_ED = self.inner.weight.split(self.dim, dim=1)
        query_ME = F.linear(query_MD, of_query + of_difference, self.inner.bias)
        key_NE = F.linear(key_ND, of_key - of_difference)
        inner = [
            self._of_pairs(block, query_MD, key_ND, query_ME, key_NE, of_product_ED)
            for block in blocks.blocks
        ]
        sizes = [len(inner_PE) for inner_PE in inner]
        weights = self.outer(self.dice(torch.cat(inner))).squeeze(1).split(sizes)
        pooled = [
            _pooled(block, weight_P, block.of_events(key_ND))
            for block, weight_P in zip(blocks.blocks, weights, strict=True)
        ]
        return blocks.joined(pooled)

    def _of_pairs(
        self,
        block: CandidateBlock,
        query_MD: Tensor,
        key_ND: Tensor,
        query_ME: Tensor,
        key_NE: Tensor,
        of_product_ED: Tensor,
    ) -> Float[Tensor, "P E"]:
        query_BCD, key_BHD = block.of_questions(query_MD), block.of_events(key_ND)
        steered_BCED = query_BCD.unsqueeze(2) * of_product_ED
        inner_BHCE = torch.matmul(key_BHD, steered_BCED.flatten(1, 2).transpose(1, 2)).unflatten(
            2, steered_BCED.shape[1:3]
        )
        inner_BHCE = inner_BHCE + block.of_questions(query_ME).unsqueeze(1)
        inner_BHCE = inner_BHCE + block.of_events(key_NE).unsqueeze(2)
        return inner_BHCE[block.sees_BCH.transpose(1, 2)]

    def plain(self, query_D: Float[Tensor, " D"], key_HD: Float[Tensor, "H D"]) -> Float[Tensor, " D"]:
        """One candidate's interest as the paper writes it: the reference of `forward`."""
        interest_D = torch.zeros_like(query_D)
        for key_D in key_HD:
            read = torch.cat([query_D, key_D, query_D - key_D, query_D * key_D])
            weight = self.outer(self.dice(self.inner(read)[None]))[0]
            interest_D = interest_D + weight * key_D
        return interest_D


def _pooled(
    block: CandidateBlock, weight_P: Float[Tensor, " P"], key_BHD: Float[Tensor, "B H D"]
) -> Float[Tensor, "B C D"]:
    sees_BHC = block.sees_BCH.transpose(1, 2)
    weight_BHC = weight_P.new_zeros(sees_BHC.shape).masked_scatter(sees_BHC, weight_P)
    return torch.matmul(weight_BHC.transpose(1, 2), key_BHD.to(weight_BHC.dtype))
