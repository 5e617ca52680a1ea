"""Slots of packed rows that attend to one another: training, and histories as they are encoded."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from plait.nn.attention import attend
from plait.nn.block import Heads, Where
from plait.nn.hstu import attend_silu
from plait.nn.positions import Angles
from plait.nn.relative import RelativeBias, attend_biased
from plait.nn.visibility import Segments


@final
@dataclass(frozen=True, eq=False)
class Packed(Where):
    """Every slot attends to the slots of its user that it sees.

    Shape letters: R rows, L slots of a row, N heads, H head width.
    """

    segments: Segments
    angles: Angles | None = None
    slopes_N: Float[Tensor, " N"] | None = None  # of ALiBi

    def softmax(self, qkv: Heads, bias: RelativeBias | None, *, strict: bool) -> Float[Tensor, "R N L H"]:
        if bias is not None:
            return attend_biased(*qkv, self.segments, bias, strict=strict)
        return attend(*qkv, self.segments, slopes_N=self.slopes_N, strict=strict)

    def silu(
        self, qkv: Heads, bias: RelativeBias | None, *, scale: float, norm_len: int, strict: bool
    ) -> Float[Tensor, "R N L H"]:
        return attend_silu(
            *qkv,
            self.segments,
            norm_len=norm_len,
            scale=scale,
            slopes_N=self.slopes_N,
            bias=bias,
            strict=strict,
        )
