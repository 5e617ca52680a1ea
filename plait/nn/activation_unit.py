"""DIN's local activation: how much each event of a history counts for a candidate.

Shape letters: M questions, N events, D width, E inner width of the unit; B, C, H as in `candidate_blocks`, X = C * E;
P pairs of a question and an event that it sees.
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

        The first layer is linear, so one product of every pair is enough, not four:
        W [q, k, q - k, q * k] = (W1 + W3) q + (W2 - W3 + W4 diag(q)) k.
        """
        of_query, of_key, of_difference, of_product = self.inner.weight.split(self.dim, dim=1)
        query_ME = F.linear(query_MD, of_query + of_difference, self.inner.bias)
        of_key_ED = of_key - of_difference
        inner = []
        for block in blocks.blocks:
            query_BC1D = block.of_questions(query_MD).unsqueeze(2)
            steered_BXD = torch.addcmul(of_key_ED, query_BC1D, of_product).flatten(1, 2)
            inner_BHX = torch.baddbmm(
                block.of_questions(query_ME).flatten(1).unsqueeze(1),
                block.of_events(key_ND),
                steered_BXD.transpose(1, 2),
            )
            inner_BHCE = inner_BHX.unflatten(2, (-1, len(of_key_ED)))
            inner.append(inner_BHCE[block.sees_BCH.transpose(1, 2)])
        sizes = [len(inner_PE) for inner_PE in inner]
        weights = self.outer(self.dice(torch.cat(inner))).squeeze(1).split(sizes)
        pooled = [
            _pooled(block, weight_P, block.of_events(key_ND))
            for block, weight_P in zip(blocks.blocks, weights, strict=True)
        ]
        return blocks.joined(pooled)

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
