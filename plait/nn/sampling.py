"""Negative items for a sampled softmax.

Shape letters: V rows of the item table (row 0 the unknown item), S samples.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from plait.schema import UNKNOWN_ITEM


@dataclass(frozen=True, eq=False)
class Sampler:
    """Draws items independently, with replacement, from fixed probabilities."""

    cumulative_V: Float64[Tensor, " V"]  # probability of this row or an earlier one
    log_q_V: Float[Tensor, " V"]  # log probability of a row; -inf: never drawn
    generator: torch.Generator  # of the training that draws; on the device of both

    def draw(self, num: int) -> Int64[Tensor, " S"]:
        """`num` items."""
        device = self.cumulative_V.device
        point_S = torch.rand(num, dtype=torch.float64, device=device, generator=self.generator)
        return torch.searchsorted(self.cumulative_V, point_S, right=True)


def uniform(num_items: int, generator: torch.Generator) -> Sampler:
    """Every item but the unknown one alike.

    >>> uniform(4, torch.Generator()).log_q_V.exp()
    tensor([0.0000, 0.2500, 0.2500, 0.2500, 0.2500])
    """
    weight_V = torch.ones(num_items + 1, dtype=torch.float64, device=generator.device)
    return _sampler(weight_V, generator)


def by_popularity(count_V: Int64[Tensor, " V"], generator: torch.Generator) -> Sampler:
    """In proportion to the training events of each item, plus one, so that no item is impossible."""
    return _sampler(count_V.double() + 1, generator)


def _sampler(weight_V: Tensor, generator: torch.Generator) -> Sampler:
    weight_V[UNKNOWN_ITEM] = 0
    probability_V = weight_V / weight_V.sum()
    cumulative_V = probability_V.cumsum(0)
    return Sampler(cumulative_V / cumulative_V[-1], probability_V.log().float(), generator)
