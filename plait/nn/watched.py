"""Attention that is watched: what one slot of every row gives to the slots that it sees, wherever a trunk attends.

Shape letters: R rows, L slots of a row, N heads, H head width.
"""

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float, Int64
from torch import Tensor

from plait.nn.attention import softmax_weights
from plait.nn.block import Heads, Where
from plait.nn.hstu import silu_weights
from plait.nn.packed import Packed
from plait.nn.positions import Angles
from plait.nn.relative import RelativeBias
from plait.nn.visibility import Segments


@final
@dataclass(frozen=True, eq=False)
class Watching(Where):
    """Attends as `inner` says, and keeps the weights of one query of every row, by the plain references."""

    segments: Segments
    angles: Angles | None
    inner: Packed
    slot_R1: Int64[Tensor, "R 1"]  # the queries that are watched
    weights: list[Float[Tensor, "R N L"]] = field(
        default_factory=list
    )  # of every place, in the trunk's order
    is_softmax: list[bool] = field(default_factory=list)  # of the same places

    @classmethod
    def of(cls, inner: Packed, slot_R1: Int64[Tensor, "R 1"]) -> "Watching":
        return cls(inner.segments, inner.angles, inner, slot_R1)

    def softmax(self, qkv: Heads, bias: RelativeBias | None, *, strict: bool) -> Float[Tensor, "R N L H"]:
        asked = self.segments.at(self.slot_R1)
        weight_RN1L = softmax_weights(
            self._query(qkv),
            qkv[1],
            asked,
            keys=self.segments,
            slopes_N=None if bias is not None else self.inner.slopes_N,
            bias_RQK=None if bias is None else bias(asked, self.segments),
            strict=strict,
        )
        self._keep(weight_RN1L, is_softmax=True)
        return self.inner.softmax(qkv, bias, strict=strict)

    def silu(
        self, qkv: Heads, bias: RelativeBias | None, *, scale: float, norm_len: int, strict: bool
    ) -> Float[Tensor, "R N L H"]:
        weight_RN1L = silu_weights(
            self._query(qkv),
            qkv[1],
            self.segments.at(self.slot_R1),
            norm_len=norm_len,
            scale=scale,
            keys=self.segments,
            slopes_N=self.inner.slopes_N,
            bias=bias,
            strict=strict,
        )
        self._keep(weight_RN1L, is_softmax=False)
        return self.inner.silu(qkv, bias, scale=scale, norm_len=norm_len, strict=strict)

    def _keep(self, weight_RN1L: Float[Tensor, "R N 1 L"], is_softmax: bool) -> None:
        self.weights.append(weight_RN1L.squeeze(2))
        self.is_softmax.append(is_softmax)

    def _query(self, qkv: Heads) -> Float[Tensor, "R N 1 H"]:
        q_RNLH = qkv[0]
        index_RN1H = self.slot_R1[:, None, :, None].expand(-1, q_RNLH.shape[1], -1, q_RNLH.shape[3])
        return q_RNLH.gather(2, index_RN1H)
