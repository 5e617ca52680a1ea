"""The linear layer of every module here: GPT-2's initialisation.

Shape letters: D inputs, E outputs, P some of the outputs.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.initialising import Linear, normal


def linear(num_in: int, num_out: int, std: float = 0.02) -> Linear:
    """A linear layer with weights from N(0, std) and, at the start, no bias."""
    return Linear(num_in, num_out, normal(std))


def part_of(layer: nn.Linear, outputs: slice, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows P"]:
    """Some of a layer's outputs, for layers that project more than one input.

    >>> import torch
    >>> from plait.nn.initialising import initialised
    >>> x, layer = torch.ones(2, 3), initialised(linear(3, 6), torch.Generator())
    >>> torch.equal(part_of(layer, slice(4, 6), x), layer(x)[:, 4:])
    True
    """
    return F.linear(x, layer.weight[outputs], None if layer.bias is None else layer.bias[outputs])
