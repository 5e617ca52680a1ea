"""The block of the `hstu` trunk: attention with SiLU for a softmax, gated by a projection of its own input. No MLP.

Shape letters: R rows, L slots of a row (Q queries and K keys, the same or others), r and l those that are read
(`Read`), D width, N heads, H head width.
"""

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.block import Layer, Where
from plait.nn.blockwise import SILU, attend_blockwise
from plait.nn.config import TrunkConfig
from plait.nn.dropout import Dropout
from plait.nn.gpt import heads_of
from plait.nn.initialising import Linear, layer_norm, normal
from plait.nn.linear import part_of
from plait.nn.positions import Angles
from plait.nn.read import Read, read_of
from plait.nn.relative import RelativeBias, relative_bias
from plait.nn.visibility import Segments, Visibility

EPS = 1e-6  # of both norms, in every published block


@final
class HstuBlock(Layer):
    """One layer, cut where attention happens, so that a caller may attend in its own way (cached keys).

    With the default switches it is the research block, with `DLRM_V3` that of Meta's DLRM-v3: they differ in
    all that `HstuSwitches` names. No attention weights are dropped, as in both.

    Source: Zhai et al., Actions Speak Louder than Words, 2024, section 3, and their published code.

    Args:
        max_positions: the normaliser, where the switches name none.
    """

    def __init__(self, config: TrunkConfig, max_positions: int) -> None:
        super().__init__(config, max_positions)
        dim, switches = config.dim, config.hstu
        self.num_heads = config.num_heads
        self.silu_all = switches.silu == "all"
        self.concatenates = switches.out == "concat3"
        self.scale = config.head_width**-0.5 if switches.scale == "rsqrt" else 1.0
        self.norm_len = switches.norm_len or max_positions
        self.norm = layer_norm(dim, EPS, switches.ln_affine)
        self.uvqk = Linear(dim, 4 * dim, normal(0.02), bias=switches.bias)
        self.bias = relative_bias(config, max_positions)
        self.attended_norm = layer_norm(dim, EPS, switches.ln_affine)
        self.dropout = Dropout(config.dropout)
        num_in = 3 * dim if self.concatenates else dim
        self.out = Linear(num_in, dim, nn.init.xavier_uniform_, bias=not self.concatenates)

    @staticmethod
    def learned_std(config: TrunkConfig, max_positions: int) -> float:
        # Xavier's, as the published research model starts, whatever its own initialiser of this table says.
        return (2 / (max_positions + config.dim)) ** 0.5

    @staticmethod
    def input_scale(config: TrunkConfig) -> float | None:
        return config.dim**0.5 if config.hstu.scale_input else None

    @staticmethod
    def has_final_norm(config: TrunkConfig) -> bool:
        return config.hstu.final_norm == "layer"

    def update(
        self, x_RLD: Float[Tensor, "R L D"], where: Where, mixed_RLD: Float[Tensor, "R L D"] | None = None
    ) -> Float[Tensor, "r l D"]:
        """The residual stream after the block. Strict where something is mixed into values (`project`)."""
        u_rlD, *qkv = self.project(x_RLD, where.angles, mixed_RLD, where.read)
        attended_rNlH = where.silu(
            (qkv[0], qkv[1], qkv[2]),
            self.bias,
            scale=self.scale,
            norm_len=self.norm_len,
            strict=mixed_RLD is not None,
        )
        return self.merge(read_of(x_RLD, where.read), u_rlD, attended_rNlH)

    def project(
        self,
        x_RLD: Float[Tensor, "R L D"],
        angles: Angles | None,
        mixed_RLD: Float[Tensor, "R L D"] | None = None,
        read: Read | None = None,
    ) -> tuple[
        Float[Tensor, "r l D"], Float[Tensor, "r N l H"], Float[Tensor, "R N L H"], Float[Tensor, "R N L H"]
    ]:
        """The gate, queries, keys and values; with `angles`, queries and keys turned to their positions.

        Args:
            mixed_RLD: is added to the normalised states that values are made from.
            read: which slots have gates and queries; by default all.
        """
        u_rlD, v_RLD, q_rlD, k_RLD = self._uvqk(self.norm(x_RLD), mixed_RLD, read)
        return u_rlD, *heads_of(q_rlD, k_RLD, v_RLD, self.num_heads, angles, read)

    def _uvqk(
        self, own_RLD: Tensor, mixed_RLD: Tensor | None, read: Read | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if mixed_RLD is None and read is None:
            uvqk_RLD4 = self.uvqk(own_RLD)
            u_RLD, v_RLD, q_RLD, k_RLD = (F.silu(uvqk_RLD4) if self.silu_all else uvqk_RLD4).chunk(4, dim=-1)
            return u_RLD if self.silu_all else F.silu(u_RLD), v_RLD, q_RLD, k_RLD
        read_rlD, of_values_RLD = (
            read_of(own_RLD, read),
            own_RLD if mixed_RLD is None else own_RLD + mixed_RLD,
        )
        u_rlD, v_RLD, q_rlD, k_RLD = (
            part_of(self.uvqk, slice(part * own_RLD.shape[-1], (part + 1) * own_RLD.shape[-1]), x)
            for part, x in enumerate((read_rlD, of_values_RLD, read_rlD, own_RLD))
        )
        if not self.silu_all:
            return F.silu(u_rlD), v_RLD, q_rlD, k_RLD
        return F.silu(u_rlD), F.silu(v_RLD), F.silu(q_rlD), F.silu(k_RLD)

    def merge(
        self,
        x_RLD: Float[Tensor, "R L D"],
        u_RLD: Float[Tensor, "R L D"],
        attended_RNLH: Float[Tensor, "R N L H"],
    ) -> Float[Tensor, "R L D"]:
        """The residual stream after the block."""
        attended_RLD = attended_RNLH.transpose(1, 2).flatten(2)
        gated_RLD = u_RLD * self.attended_norm(attended_RLD)
        if self.concatenates:
            gated_RLD = torch.cat([u_RLD, attended_RLD, gated_RLD], dim=-1)
        return x_RLD + self.out(self.dropout(gated_RLD))


def attend_silu(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    v_RNKH: Float[Tensor, "R N K H"],
    segments: Segments,
    *,
    norm_len: int,
    scale: float,
    keys: Segments | None = None,
    slopes_N: Float[Tensor, " N"] | None = None,
    bias: RelativeBias | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N Q H"]:
    """sum_j SiLU(scale * q_i.k_j - slope * (p_i - p_j) + b_ij) / norm_len * v_j, over the j that i sees; with `strict`
    those of its own event left out.

    Weights are neither positive nor do they sum to 1. The division stands behind the sum.

    Args:
        segments: the places of the queries.
        keys: the places of the keys, where they are others (`Visibility`); else the queries look at themselves.

    Returns:
        Finite everywhere; what stands at padding has no meaning.
    """
    visibility = Visibility(segments, keys or segments)
    lookups = () if bias is None else bias.lookups(visibility)
    summed_RNQH = attend_blockwise(
        q_RNQH,
        k_RNKH,
        v_RNKH,
        visibility,
        SILU,
        scale=scale,
        slopes_N=slopes_N,
        lookups=lookups,
        strict=strict,
    )
    return summed_RNQH / norm_len


def attend_silu_reference(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    v_RNKH: Float[Tensor, "R N K H"],
    segments: Segments,
    *,
    norm_len: int,
    scale: float,
    keys: Segments | None = None,
    slopes_N: Float[Tensor, " N"] | None = None,
    bias: RelativeBias | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N Q H"]:
    """What `attend_silu` must equal, in the published order: bias, SiLU, division, mask; all in fp32."""
    Visibility(segments, keys or segments).check(q_RNQH, k_RNKH, v_RNKH)
    weight_RNQK = silu_weights(
        q_RNQH,
        k_RNKH,
        segments,
        norm_len=norm_len,
        scale=scale,
        keys=keys,
        slopes_N=slopes_N,
        bias=bias,
        strict=strict,
    )
    return (weight_RNQK @ v_RNKH.float()).to(v_RNKH.dtype)


def silu_weights(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    segments: Segments,
    *,
    norm_len: int,
    scale: float,
    keys: Segments | None = None,
    slopes_N: Float[Tensor, " N"] | None = None,
    bias: RelativeBias | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N Q K"]:
    """The weight of every key for every query, divided by norm_len. They have any sign, and any sum."""
    visibility = Visibility(segments, keys or segments)
    score_RNQK = q_RNQH.float() @ k_RNKH.float().transpose(-1, -2) * scale
    if slopes_N is not None:
        score_RNQK = score_RNQK - slopes_N[:, None, None] * visibility.distance_RQK[:, None]
    if bias is not None:
        score_RNQK = score_RNQK + bias(segments, keys)[:, None]
    return F.silu(score_RNQK) / norm_len * visibility.dense(strict)[:, None]
