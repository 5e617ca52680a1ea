"""Slots of packed rows that attend to one another: training, and histories as they are encoded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import final

from jaxtyping import Float
from torch import Tensor

from plait.nn.attention import attend
from plait.nn.block import Heads, Where
from plait.nn.hstu import attend_silu
from plait.nn.positions import Angles
from plait.nn.read import Read
from plait.nn.relative import RelativeBias, attend_biased
from plait.nn.visibility import Segments


@final
@dataclass(frozen=True, eq=False)
class Packed(Where):
    """Every slot attends to the slots of its user that it sees.

    Shape letters: R rows, L slots of a row, r and l those that are read (`Read`), N heads, H head width.
    """

    segments: Segments
    angles: Angles | None = None
    slopes_N: Float[Tensor, " N"] | None = None  # of ALiBi
    read: Read | None = None

    def reading(self, read: Read) -> "Packed":
        """The same, where only some slots are read."""
        return replace(self, read=read)

    def softmax(self, qkv: Heads, bias: RelativeBias | None, *, strict: bool) -> Float[Tensor, "r N l H"]:
        if bias is not None:
            return self._of_read(qkv, partial(attend_biased, bias=bias, strict=strict))
        return self._of_read(qkv, partial(attend, slopes_N=self.slopes_N, strict=strict))

    def silu(
        self, qkv: Heads, bias: RelativeBias | None, *, scale: float, norm_len: int, strict: bool
    ) -> Float[Tensor, "r N l H"]:
        attends = partial(
            attend_silu, norm_len=norm_len, scale=scale, slopes_N=self.slopes_N, bias=bias, strict=strict
        )
        return self._of_read(qkv, attends)

    def _of_read(self, qkv: Heads, attends: Callable[..., Tensor]) -> Float[Tensor, "r N l H"]:
        """Attention of the slots that are read to all."""
        q_rNlH, k_RNLH, v_RNLH = qkv
        if self.read is None:
            return attends(*qkv, self.segments)
        if self.read.is_nothing:
            return q_rNlH
        asking = self.segments.at(self.read.slot_RQ)
        q_RNQH = self.read.in_rows(q_rNlH)
        return self.read.out_of_rows(attends(q_RNQH, k_RNLH, v_RNLH, segments=asking, keys=self.segments))
