"""The `gpt` trunk: pre-norm blocks of causal softmax attention and a GELU MLP, built as GPT-2 is.

Shape letters: R rows, L slots of a row, D width, N heads, H head width.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from plait.nn.attention import Segments, attend
from plait.nn.dropout import Dropout
from plait.nn.linear import linear
from plait.nn.positions import Angles, LearnedPositions, alibi_slopes, rope, rope_angles


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The shape of a trunk. The defaults are the tiny size, which trains in minutes on a CPU."""

    dim: int = 64
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.2
    """Of the input and of both branches of a block, not of attention weights."""
    positions: Literal["learned", "rope", "alibi"] = "learned"
    mlp_multiple: int = 4
    """The MLP's inner width over dim."""

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "mlp_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrunkConfig({name}={getattr(self, name)}): expected at least 1")
        if self.dim % self.num_heads:
            raise ValueError(
                f"TrunkConfig(dim={self.dim}, num_heads={self.num_heads}): dim must divide into equal heads"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"TrunkConfig(dropout={self.dropout}): expected a share from 0 to below 1")
        if self.positions == "rope" and self.head_width % 2:
            raise ValueError(
                f"TrunkConfig(dim={self.dim}, num_heads={self.num_heads}, positions='rope'): "
                f"rope turns pairs of dimensions, and a head width of {self.head_width} is odd"
            )

    @property
    def head_width(self) -> int:
        return self.dim // self.num_heads

    @property
    def num_parameters(self) -> int:
        """Trained numbers of the trunk without learned positions; embeddings and heads come on top, too.

        >>> f"{SIZE_85M.num_parameters / 1e6:.1f} million"
        '85.1 million'
        """
        inner = self.mlp_multiple * self.dim
        attention = 4 * self.dim * (self.dim + 1)
        mlp = 2 * self.dim * inner + inner + self.dim
        norms = 4 * self.dim
        return self.num_layers * (attention + mlp + norms) + 2 * self.dim


# 85M is GPT-2 small's trunk, as in the LAC paper. 355M and 774M are GPT-2's own totals, word embeddings
# included; here the widths are GPT-2's, and more layers (28 for 24, 39 for 36) stand for those embeddings.
TINY = TrunkConfig()
SIZE_50M = TrunkConfig(dim=512, num_layers=16, num_heads=8)
SIZE_85M = TrunkConfig(dim=768, num_layers=12, num_heads=12)
SIZE_355M = TrunkConfig(dim=1024, num_layers=28, num_heads=16)
SIZE_774M = TrunkConfig(dim=1280, num_layers=39, num_heads=20)


class GptBlock(nn.Module):
    """One layer, cut where attention happens, so that a caller may attend in its own way (cached keys)."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        dim, inner = config.dim, config.mlp_multiple * config.dim
        residual_std = 0.02 / (2 * config.num_layers) ** 0.5  # 2 * num_layers branches add up in the stream
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = linear(dim, 3 * dim)
        self.attention_out = linear(dim, dim, residual_std)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = linear(dim, inner)
        self.mlp_out = linear(inner, dim, residual_std)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x_RLD: Float[Tensor, "R L D"],
        segments: Segments,
        angles: Angles | None,
        slopes_N: Float[Tensor, "N"] | None,
    ) -> Float[Tensor, "R L D"]:
        q_RNLH, k_RNLH, v_RNLH = self.project(x_RLD, angles)
        return self.merge(x_RLD, attend(q_RNLH, k_RNLH, v_RNLH, segments, slopes_N=slopes_N))

    def project(
        self, x_RLD: Float[Tensor, "R L D"], angles: Angles | None
    ) -> tuple[Float[Tensor, "R N L H"], Float[Tensor, "R N L H"], Float[Tensor, "R N L H"]]:
        """Queries, keys and values; with `angles`, queries and keys turned to their positions."""
        qkv_RL3NH = self.qkv(self.attention_norm(x_RLD)).unflatten(-1, (3, self.num_heads, -1))
        q_RNLH, k_RNLH, v_RNLH = qkv_RL3NH.permute(2, 0, 3, 1, 4)
        if angles is not None:
            q_RNLH, k_RNLH = rope(q_RNLH, angles), rope(k_RNLH, angles)
        return q_RNLH, k_RNLH, v_RNLH

    def merge(
        self, x_RLD: Float[Tensor, "R L D"], attended_RNLH: Float[Tensor, "R N L H"]
    ) -> Float[Tensor, "R L D"]:
        """The residual stream after the attention branch and the MLP branch."""
        x_RLD = x_RLD + self.dropout(self.attention_out(attended_RNLH.transpose(1, 2).flatten(2)))
        return x_RLD + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_RLD)))))


class GptTrunk(nn.Module):
    """The stack of blocks. `forward` is `enter`, then every block, then `norm`: the parts serve callers that
    encode a history once and attend to it later.

    Args:
        max_positions: tokens of the longest sequence; only learned positions are limited by it.
    """

    slopes_N: Tensor | None

    def __init__(self, config: TrunkConfig, max_positions: int) -> None:
        super().__init__()
        self.config = config
        learned = config.positions == "learned"
        self.positions = LearnedPositions(max_positions, config.dim) if learned else None
        alibi = config.positions == "alibi"
        self.register_buffer("slopes_N", alibi_slopes(config.num_heads) if alibi else None, persistent=False)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(GptBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x_RLD: Float[Tensor, "R L D"], segments: Segments) -> Float[Tensor, "R L D"]:
        """Hidden states of every slot, normalised.

        Args:
            x_RLD: the tokens' embeddings, without positions.

        Raises:
            ValueError: a user has more tokens than there are learned positions.
        """
        x_RLD = self.enter(x_RLD, segments.position_RL)
        angles = self.angles(segments.position_RL)
        for block in self.blocks:
            x_RLD = block(x_RLD, segments, angles, self.slopes_N)
        return self.norm(x_RLD)

    def enter(
        self, x_RLD: Float[Tensor, "R L D"], position_RL: Int64[Tensor, "R L"]
    ) -> Float[Tensor, "R L D"]:
        """The residual stream before the first block: positions added where they are learned, dropout."""
        if self.positions is not None:
            x_RLD = x_RLD + self.positions(position_RL)
        return self.dropout(x_RLD)

    def angles(self, position_RL: Int64[Tensor, "R L"]) -> Angles | None:
        """RoPE's angles for `GptBlock.project`; None where positions enter otherwise."""
        if self.config.positions != "rope":
            return None
        return rope_angles(position_RL, self.config.head_width)
