"""How weights start: one pass over a module, with a generator of its own. Building a module draws nothing.

A module that owns weights says in `init_weights` how they start. Until that pass, or until saved ones are loaded, they
are NaN, so that none is forgotten in silence. Norms start at one and zero, as torch makes them.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Draw = Callable[..., Tensor]  # fills a tensor in place; takes `generator`, as torch.nn.init's do
Module = TypeVar("Module", bound=nn.Module)


@runtime_checkable
class OwnsWeights(Protocol):
    """A module with parameters of its own, beside those of its parts."""

    def init_weights(self, generator: torch.Generator) -> None: ...


def initialised(module: Module, generator: torch.Generator) -> Module:
    """The same module, all its weights drawn anew: a function of the generator's state alone.

    >>> first, again = (initialised(VectorTable(2, 3), torch.Generator().manual_seed(0)) for _ in range(2))
    >>> torch.equal(first.weight, again.weight)
    True
    """
    for part in module.modules():
        if isinstance(part, OwnsWeights):
            part.init_weights(generator)
    return module


def normal(std: float) -> Draw:
    return partial(nn.init.normal_, std=std)


def unset(*shape: int) -> nn.Parameter:
    """Weights that `init_weights` will draw. fp32 whatever the process's default is."""
    return nn.Parameter(torch.full(shape, torch.nan, dtype=torch.float32))


def layer_norm(dim: int, eps: float = 1e-5, affine: bool = True) -> nn.LayerNorm:
    """In fp32 whatever the process's default is."""
    return nn.LayerNorm(dim, eps, elementwise_affine=affine, dtype=torch.float32)


class Linear(nn.Linear):
    """A linear layer that says how its weights start; its bias starts at zero."""

    def __init__(self, num_in: int, num_out: int, draw: Draw, bias: bool = True) -> None:
        super().__init__(num_in, num_out, bias, dtype=torch.float32)
        self.draw = draw

    def reset_parameters(self) -> None:
        """What torch calls when the layer is built: it would draw from the process's generator."""
        for parameter in self.parameters():
            nn.init.constant_(parameter, torch.nan)

    def init_weights(self, generator: torch.Generator) -> None:
        self.draw(self.weight, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class VectorTable(nn.Embedding):
    """A trained vector per row, from N(0, std).

    Args:
        zero_rows: those that start at zero.
    """

    def __init__(
        self,
        num_rows: int,
        width: int,
        std: float = 0.02,
        zero_rows: tuple[int, ...] = (),
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(num_rows, width, padding_idx, dtype=torch.float32)
        self.std, self.zero_rows = std, zero_rows

    def reset_parameters(self) -> None:
        """What torch calls when the table is built: it would draw from the process's generator."""
        nn.init.constant_(self.weight, torch.nan)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.weight, std=self.std, generator=generator)
        self.weight[list(self.zero_rows)] = 0.0


def init_columns(
    weight_ED: Float[Tensor, "E D"], num_first: int, std: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """A matrix whose first columns start at another scale than the others."""
    nn.init.normal_(weight_ED[:, :num_first], std=std[0], generator=generator)
    return nn.init.normal_(weight_ED[:, num_first:], std=std[1], generator=generator)
