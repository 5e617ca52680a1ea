"""The block of the `gpt` trunk: causal softmax attention and a GELU MLP, pre-norm, built as GPT-2's is.

Shape letters: R rows, L slots of a row, r and l those that are read (`Read`), D width, N heads, H head width.
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
from plait.nn.read import Read, read_of
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
    ) -> Float[Tensor, "r l D"]:
        """The residual stream after the block. Strict where something is mixed into values (`project`)."""
        qkv = self.project(x_RLD, where.angles, mixed_RLD, where.read)
        attended_rNlH = where.softmax(qkv, self.bias, strict=mixed_RLD is not None)
        return self.merge(read_of(x_RLD, where.read), attended_rNlH)

    def project(
        self,
        x_RLD: Float[Tensor, "R L D"],
        angles: Angles | None,
        mixed_RLD: Float[Tensor, "R L D"] | None = None,
        read: Read | None = None,
    ) -> Heads:
        """Queries, keys and values; with `angles`, queries and keys turned to their positions.

        Args:
            mixed_RLD: is added to the normalised states that values are made from.
            read: which slots have queries; by default all.
        """
        own_RLD, dim = self.attention_norm(x_RLD), x_RLD.shape[-1]
        of_values_RLD = own_RLD if mixed_RLD is None else own_RLD + mixed_RLD
        if read is not None:
            q_rlD = part_of(self.qkv, slice(dim), read.of_cells(own_RLD))
            k_RLD = part_of(self.qkv, slice(dim, 2 * dim), own_RLD)
            v_RLD = part_of(self.qkv, slice(2 * dim, None), of_values_RLD)
        elif mixed_RLD is None:
            q_rlD, k_RLD, v_RLD = self.qkv(own_RLD).chunk(3, dim=-1)
        else:
            q_rlD, k_RLD = part_of(self.qkv, slice(2 * dim), own_RLD).chunk(2, dim=-1)
            v_RLD = part_of(self.qkv, slice(2 * dim, None), of_values_RLD)
        return heads_of(q_rlD, k_RLD, v_RLD, self.num_heads, angles, read)

    def merge(
        self, x_RLD: Float[Tensor, "R L D"], attended_RNLH: Float[Tensor, "R N L H"]
    ) -> Float[Tensor, "R L D"]:
        """The residual stream after the attention branch and the MLP branch."""
        x_RLD = x_RLD + self.dropout(self.attention_out(attended_RNLH.transpose(1, 2).flatten(2)))
        return x_RLD + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_RLD)))))


def heads_of(
    q_rlD: Float[Tensor, "r l D"],
    k_RLD: Float[Tensor, "R L D"],
    v_RLD: Float[Tensor, "R L D"],
    num_heads: int,
    angles: Angles | None,
    read: Read | None = None,
) -> Heads:
    """Queries, keys and values, split into heads and turned.

    Args:
        angles: of all slots.
        read: which of them have queries; by default all.
    """
    q_rNlH, k_RNLH, v_RNLH = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q_rlD, k_RLD, v_RLD))
    if angles is not None:
        q_rNlH = rope(q_rNlH, angles if read is None else read.angles(angles))
        k_RNLH = rope(k_RNLH, angles)
    return q_rNlH, k_RNLH, v_RNLH
