"""The block of the `gpt` trunk: causal softmax attention and a GELU MLP, pre-norm, built as GPT-2's is.

Shape letters: R rows, L slots of a row, D width, N heads, H head width.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.attention import attend
from plait.nn.block import Streams, Where
from plait.nn.config import TrunkConfig
from plait.nn.dropout import Dropout
from plait.nn.linear import linear
from plait.nn.positions import Angles, rope
from plait.nn.relative import RelativeBias, attend_biased


class GptBlock(nn.Module):
    """One layer, cut where attention happens, so that a caller may attend in its own way (cached keys)."""

    num_attentions = 1

    def __init__(self, config: TrunkConfig, max_positions: int) -> None:
        super().__init__()
        dim, inner = config.dim, config.mlp_multiple * config.dim
        residual_std = 0.02 / (2 * config.num_layers) ** 0.5  # 2 * num_layers branches add up in the stream
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = linear(dim, 3 * dim)
        self.attention_out = linear(dim, dim, residual_std)
        self.bias = RelativeBias(max_positions, config.rab) if config.positions == "rab" else None
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = linear(dim, inner)
        self.mlp_out = linear(inner, dim, residual_std)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_RLD: Float[Tensor, "R L D"], ride_RLD: Tensor | None, where: Where) -> Streams:
        q_RNLH, k_RNLH, v_RNLH = self.project(x_RLD, where.angles)
        if self.bias is not None:
            attended_RNLH = attend_biased(q_RNLH, k_RNLH, v_RNLH, where.segments, self.bias)
        else:
            attended_RNLH = attend(q_RNLH, k_RNLH, v_RNLH, where.segments, slopes_N=where.slopes_N)
        return self.merge(x_RLD, attended_RNLH), ride_RLD

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
