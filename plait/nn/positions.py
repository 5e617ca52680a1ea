"""Where a token stands: learned positions, RoPE, ALiBi.

Shape letters: R rows, L slots of a row, D width, N heads, H head width, F = H / 2 rotation frequencies.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """One trained vector per token position."""

    def __init__(self, max_positions: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_positions, dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, position_RL: Int64[Tensor, "R L"]) -> Float[Tensor, "R L D"]:
        """Raises ValueError where a position has no vector."""
        num_found, num_learned = int(position_RL.max()) + 1, self.table.num_embeddings
        if num_found > num_learned:
            raise ValueError(
                f"a sequence of {num_found} tokens, but there are learned positions for {num_learned} "
                "(max_positions): shorten it, train with more, or use positions='rope' or 'alibi'"
            )
        return self.table(position_RL)


class Angles(NamedTuple):
    """RoPE's rotations of every slot, computed once per batch and used by all layers."""

    cos_R1LF: Float[Tensor, "R 1 L F"]
    sin_R1LF: Float[Tensor, "R 1 L F"]


def rope_angles(position_RL: Int64[Tensor, "R L"], head_width: int, base: float = 10_000.0) -> Angles:
    """The angle `position * base ** (-2f / H)` of each frequency f.

    Raises:
        ValueError: the head width is odd, so its dimensions do not form pairs.

    Source: Su et al., RoFormer, 2021, section 3.2.
    """
    if head_width % 2:
        raise ValueError(f"rope turns pairs of dimensions: a head width of {head_width} is odd")
    exponent_F = torch.arange(0, head_width, 2, device=position_RL.device) / head_width
    angle_R1LF = position_RL[:, None, :, None] * base**-exponent_F
    return Angles(angle_R1LF.cos(), angle_R1LF.sin())


def rope(x_RNLH: Float[Tensor, "R N L H"], angles: Angles) -> Float[Tensor, "R N L H"]:
    """Queries or keys turned by their positions, so that their product depends on the difference alone.

    Dimension f turns together with dimension f + H / 2. The turn is made in fp32, the result in x's type.
    """
    first, second = x_RNLH.float().chunk(2, dim=-1)
    cos, sin = angles
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x_RNLH.dtype)


def alibi_slopes(num_heads: int) -> Float[Tensor, "{num_heads}"]:
    """How fast each head's attention falls with distance, per position.

    Source: Press et al., 2022, section 3, and their published code where num_heads is no power of two:
    the slopes of the next lower power, then every second one of the next higher.

    >>> alibi_slopes(4)
    tensor([0.2500, 0.0625, 0.0156, 0.0039])
    >>> alibi_slopes(3)
    tensor([0.0625, 0.0039, 0.2500])
    """
    lower = 1 << (num_heads.bit_length() - 1)
    slopes = _geometric(lower) + _geometric(2 * lower)[::2][: num_heads - lower]
    return torch.tensor(slopes)


def _geometric(num_heads: int) -> list[float]:
    return [2 ** (-8 * (head + 1) / num_heads) for head in range(num_heads)]
