"""Dice, the activation of DIN. Shape letters: M rows, W width."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.initialising import unset

EPSILON = 1e-8
MOMENTUM = 0.1  # of the running mean and variance


class Dice(nn.Module):
    """f(s) = p(s) s + (1 - p(s)) alpha s, p(s) = sigmoid((s - E[s]) / sqrt(Var[s] + eps)), for each unit.

    Mean and variance are the batch's in training, and running ones after it, so that no answer depends on others.
    alpha is trained and starts at 0. Computed in fp32: the variance of a batch does not fit bf16.

    Source: DIN (Zhou et al., KDD 2018), section 5.3, equation 9.
    """

    mean_W: Tensor
    variance_W: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha_W = unset(width)
        self.register_buffer("mean_W", torch.zeros(width, dtype=torch.float32))
        self.register_buffer("variance_W", torch.ones(width, dtype=torch.float32))

    def init_weights(self, generator: torch.Generator) -> None:
        nn.init.zeros_(self.alpha_W)

    def forward(self, x_MW: Float[Tensor, "M W"]) -> Float[Tensor, "M W"]:
        x_MW = x_MW.float()
        by_batch = self.training and len(x_MW) > 1  # of a single row, the variance is 0
        unit_MW = F.batch_norm(
            x_MW, self.mean_W, self.variance_W, training=by_batch, momentum=MOMENTUM, eps=EPSILON
        )
        share_MW = unit_MW.sigmoid()
        return x_MW * torch.addcmul(self.alpha_W, share_MW, 1 - self.alpha_W)
