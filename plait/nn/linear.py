"""The linear layer of every module here: GPT-2's initialisation."""

from torch import nn


def linear(num_in: int, num_out: int, std: float = 0.02) -> nn.Linear:
    """A linear layer with weights from N(0, std) and, at the start, no bias."""
    layer = nn.Linear(num_in, num_out)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
