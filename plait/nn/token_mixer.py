"""RankMixer's blocks: all that a ranker reads of a candidate, as a few tokens that exchange parts of themselves.

Shape letters: M questions (candidates), X width of what is read, T tokens, S width of a slice, D width of a token, H
heads of a token (as many as tokens), W = D / H width of a head.
"""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.limits import DEPTH, WIDTH, Between, check_numbers
from plait.nn.dropout import Dropout
from plait.nn.initialising import layer_norm
from plait.nn.towers import GroupedLinear
from plait.wording import setting


@dataclass(frozen=True, kw_only=True)
class MixerSettings:
    """The shape of rankmixer's layers."""

    num_tokens: Annotated[int, Between(2, 1_024, "each has layers of its own")] = 8
    """What is read of a candidate is cut into so many slices."""
    token_width: Annotated[int, WIDTH] = 64
    """Width of a token; a multiple of num_tokens, since each head of a token goes to another one."""
    num_layers: Annotated[int, DEPTH] = 2
    """Blocks."""
    expansion: Annotated[int, Between(1, 64, "of the width")] = 2
    """Inner width of a token's own layers over its width."""

    def __post_init__(self) -> None:
        check_numbers("model.ranker.mixer.", self)
        if self.token_width % self.num_tokens:
            raise ValueError(
                f"{setting('model.ranker.mixer.token_width', self.token_width)}: expected a multiple of "
                f"{setting('model.ranker.mixer.num_tokens', self.num_tokens)}"
            )


def mixed(x_MTD: Float[Tensor, "M T D"]) -> Float[Tensor, "M T D"]:
    """Token h of the outcome is head h of every token, one after another. Twice is nothing.

    >>> import torch
    >>> mixed(torch.tensor([[[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]])).tolist()
    [[[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 7.0, 8.0]]]
    """
    return x_MTD.unflatten(2, (x_MTD.shape[1], -1)).transpose(1, 2).flatten(2)


class MixerBlock(nn.Module):
    """S = norm(mixed(X) + X), then norm(FFN(S) + S), with layers of its own for each token."""

    def __init__(self, settings: MixerSettings, dropout: float) -> None:
        super().__init__()
        tokens, width = settings.num_tokens, settings.token_width
        self.mixed_norm, self.out_norm = layer_norm(width), layer_norm(width)
        self.inner = GroupedLinear(tokens, width, settings.expansion * width)
        self.outer = GroupedLinear(tokens, settings.expansion * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x_MTD: Float[Tensor, "M T D"]) -> Float[Tensor, "M T D"]:
        s_MTD = self.mixed_norm(mixed(x_MTD) + x_MTD)
        return self.out_norm(self.dropout(self.outer(F.gelu(self.inner(s_MTD)))) + s_MTD)


class TokenMixer(nn.Module):
    """Slices of what is read, each projected to a token of its own; blocks; the mean over tokens.

    Slices are equally wide, in the order in which parts are read, and the last one is filled up with zeros. The paper's
    sparse mixtures of experts are left out.

    Source: RankMixer (Zhu et al., CIKM 2025).
    """

    def __init__(self, num_in: int, settings: MixerSettings, dropout: float) -> None:
        super().__init__()
        tokens = settings.num_tokens
        self.num_missing = -num_in % tokens
        self.slices = GroupedLinear(tokens, (num_in + self.num_missing) // tokens, settings.token_width)
        self.blocks = nn.Sequential(*(MixerBlock(settings, dropout) for _ in range(settings.num_layers)))

    def forward(self, read_MX: Float[Tensor, "M X"]) -> Float[Tensor, "M D"]:
        slice_MTS = F.pad(read_MX, (0, self.num_missing)).unflatten(1, (self.slices.num_groups, -1))
        return self.blocks(self.slices(slice_MTS)).mean(1)
