"""The block of the `gpt` trunk: causal softmax attention and a GELU MLP, pre-norm, built as GPT-2's is.

Shape letters: R rows, L slots of a row, D width, E = 2 D, N heads, H head width.
"""

from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from plait.nn.block import Heads, Layer, Where
from plait.nn.config import TrunkConfig
from plait.nn.dropout import Dropout
from plait.nn.initialising import layer_norm
from plait.nn.linear import linear, part_of
from plait.nn.positions import Angles, rope
from plait.nn.relative import relative_bias


@final
class GptBlock(Layer):
    """One layer, cut where attention happens, so that a caller may attend in its own way (cached keys)."""

    def __init__(self, config: TrunkConfig, max_positions: int) -> None:
        super().__init__(config, max_positions)
        dim, inner = config.dim, config.mlp_multiple * config.dim
        residual_std = 0.02 / (2 * config.num_layers) ** 0.5  # 2 * num_layers branches add up in the stream
        self.num_heads = config.num_heads
        self.attention_norm = layer_norm(dim)
        self.qkv = linear(dim, 3 * dim)
        self.attention_out = linear(dim, dim, residual_std)
        self.bias = relative_bias(config, max_positions)
        self.mlp_norm = layer_norm(dim)
        self.mlp_in = linear(dim, inner)
        self.mlp_out = linear(inner, dim, residual_std)
        self.dropout = Dropout(config.dropout)

    @staticmethod
    def learned_std(config: TrunkConfig, max_positions: int) -> float:
        return 0.02

    @staticmethod
    def input_scale(config: TrunkConfig) -> float | None:
        return None

    @staticmethod
    def has_final_norm(config: TrunkConfig) -> bool:
        return True

    def update(
        self, x_RLD: Float[Tensor, "R L D"], where: Where, mixed_RLD: Float[Tensor, "R L D"] | None = None
    ) -> Float[Tensor, "R L D"]:
        """The residual stream after the block. Strict where something is mixed into values (`project`)."""
        qkv = self.project(x_RLD, where.angles, mixed_RLD)
        return self.merge(x_RLD, where.softmax(qkv, self.bias, strict=mixed_RLD is not None))

    def project(
        self,
        x_RLD: Float[Tensor, "R L D"],
        angles: Angles | None,
        mixed_RLD: Float[Tensor, "R L D"] | None = None,
    ) -> Heads:
        """Queries, keys and values; with `angles`, queries and keys turned to their positions.

        Args:
            mixed_RLD: is added to the normalised states that values are made from.
        """
        own_RLD, dim = self.attention_norm(x_RLD), x_RLD.shape[-1]
        if mixed_RLD is None:
            qk_RLE, v_RLD = self.qkv(own_RLD).split((2 * dim, dim), dim=-1)
        else:
            qk_RLE = part_of(self.qkv, slice(2 * dim), own_RLD)
            v_RLD = part_of(self.qkv, slice(2 * dim, None), own_RLD + mixed_RLD)
        return heads_of(qk_RLE, v_RLD, self.num_heads, angles)

    def merge(
        self, x_RLD: Float[Tensor, "R L D"], attended_RNLH: Float[Tensor, "R N L H"]
    ) -> Float[Tensor, "R L D"]:
        """The residual stream after the attention branch and the MLP branch."""
        x_RLD = x_RLD + self.dropout(self.attention_out(attended_RNLH.transpose(1, 2).flatten(2)))
        return x_RLD + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_RLD)))))


def heads_of(
    qk_RLE: Float[Tensor, "R L E"], v_RLD: Float[Tensor, "R L D"], num_heads: int, angles: Angles | None
) -> Heads:
    """Queries and keys, side by side in E = 2 D, and values, split into heads and turned."""
    q_RNLH, k_RNLH = qk_RLE.unflatten(-1, (2, num_heads, -1)).permute(2, 0, 3, 1, 4)
    v_RNLH = v_RLD.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    if angles is not None:
        q_RNLH, k_RNLH = rope(q_RNLH, angles), rope(k_RNLH, angles)
    return q_RNLH, k_RNLH, v_RNLH
