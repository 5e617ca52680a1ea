"""Attention written for exporting: plain products and masks, whose shapes alone may change.

`plait.nn.packed` and `plait.nn.cached` cut their work by lengths that they read, which no exported program can.

Shape letters: U users, N heads, H head width, D width. L tokens of a history, and K keys, which are those; X = C * M
tokens of C candidates, M each. P places where the trunk attends.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from plait.nn.block import Heads, Where
from plait.nn.cached import pairwise_differences
from plait.nn.encoded import Keys
from plait.nn.positions import Angles
from plait.nn.relative import RelativeBias
from plait.nn.visibility import Segments


@dataclass(frozen=True)
class Terms:
    """What positions and times add to scores."""

    slopes_N: Float[Tensor, " N"] | None

    def of(
        self,
        bias: RelativeBias | None,
        distance_UQK: Int64[Tensor, "U Q K"],
        gap_s_UQK: Int64[Tensor, "U Q K"],
    ) -> Tensor | None:
        if bias is not None:
            return bias.of_pairs(distance_UQK, gap_s_UQK)[:, None]
        if self.slopes_N is not None:
            return -self.slopes_N[:, None, None] * distance_UQK[:, None]
        return None


@final
@dataclass(frozen=True, eq=False)
class AmongThemselves(Where):
    """A history's tokens attend to one another, and what later tokens need of them is kept."""

    segments: Segments
    angles: Angles | None
    terms: Terms
    sees_ULL: Bool[Tensor, "U L L"]
    sees_strictly_ULL: Bool[Tensor, "U L L"]
    kept: list[Keys] = field(default_factory=list)

    def softmax(self, qkv: Heads, bias: RelativeBias | None, *, strict: bool) -> Tensor:
        score_UNLL = self._scores(qkv, bias, qkv[0].shape[-1] ** -0.5)
        return _softmax(score_UNLL, ~self._sees(strict)[:, None]) @ qkv[2]

    def silu(
        self, qkv: Heads, bias: RelativeBias | None, *, scale: float, norm_len: int, strict: bool
    ) -> Tensor:
        weight_UNLL = F.silu(self._scores(qkv, bias, scale)).masked_fill(~self._sees(strict)[:, None], 0.0)
        return weight_UNLL @ qkv[2] / norm_len

    def keys_of_all(self) -> Float[Tensor, "U P 2 N L H"]:
        return torch.stack([torch.stack([k, v], dim=1) for k, v in self.kept], dim=1)

    def _sees(self, strict: bool) -> Tensor:
        return self.sees_strictly_ULL if strict else self.sees_ULL

    def _scores(self, qkv: Heads, bias: RelativeBias | None, scale: float) -> Float[Tensor, "U N L L"]:
        q_UNLH, k_UNLH, v_UNLH = qkv
        self.kept.append(Keys(k_UNLH, v_UNLH))
        clock = self.segments.clock
        assert clock is not None, "histories have a clock"
        position_UL = self.segments.position_RL
        term = self.terms.of(
            bias,
            pairwise_differences(position_UL, position_UL),
            pairwise_differences(clock.anchor_s_RL, clock.time_s_RL),
        )
        score_UNLL = q_UNLH @ k_UNLH.transpose(-1, -2) * scale
        return score_UNLL if term is None else score_UNLL + term


@final
@dataclass(frozen=True, eq=False)
class OverHistory(Where):
    """Candidates' tokens attend to a history's keys, and to the tokens of their own candidate up to themselves.

    All candidates of a user come at one moment, so positions and times are those of the first.
    """

    segments: Segments
    angles: Angles | None
    terms: Terms
    num_own: int  # M
    position_UK: Int64[Tensor, "U K"]  # of the keys
    time_s_UK: Int64[Tensor, "U K"]
    is_seen_UK: Bool[Tensor, "U K"]
    keys: Iterator[Float[Tensor, "U 2 N K H"]]  # of the places where the trunk attends, in its order

    def softmax(self, qkv: Heads, bias: RelativeBias | None, *, strict: bool) -> Tensor:
        kv_U2NKH, num_keys = next(self.keys), self.is_seen_UK.shape[1]
        scale = qkv[0].shape[-1] ** -0.5
        score_UNXK = self._scores_of_history(qkv[0], kv_U2NKH[:, 0], bias, scale)
        hidden_U11K = ~self.is_seen_UK[:, None, None]
        if strict:
            return _softmax(score_UNXK, hidden_U11K) @ kv_U2NKH[:, 1]
        score_UNXM, is_later_XM = self._scores_of_own(qkv, bias, scale).flatten(2, 3), self._is_later(qkv[0])
        hidden_UNXK = hidden_U11K.expand_as(score_UNXK)
        hidden_UNXM = is_later_XM.expand_as(score_UNXM)
        weight = _softmax(
            torch.cat([score_UNXK, score_UNXM], dim=-1), torch.cat([hidden_UNXK, hidden_UNXM], dim=-1)
        )
        return weight[..., :num_keys] @ kv_U2NKH[:, 1] + self._of_own(weight[..., num_keys:], qkv[2])

    def silu(
        self, qkv: Heads, bias: RelativeBias | None, *, scale: float, norm_len: int, strict: bool
    ) -> Tensor:
        kv_U2NKH = next(self.keys)
        weight_UNXK = F.silu(self._scores_of_history(qkv[0], kv_U2NKH[:, 0], bias, scale))
        out_UNXH = weight_UNXK.masked_fill(~self.is_seen_UK[:, None, None], 0.0) @ kv_U2NKH[:, 1]
        if not strict:
            weight_UNXM = F.silu(self._scores_of_own(qkv, bias, scale)).flatten(2, 3)
            weight_UNXM = weight_UNXM.masked_fill(self._is_later(qkv[0]), 0.0)
            out_UNXH = out_UNXH + self._of_own(weight_UNXM, qkv[2])
        return out_UNXH / norm_len

    def _scores_of_history(
        self, q_UNXH: Tensor, k_UNKH: Tensor, bias: RelativeBias | None, scale: float
    ) -> Float[Tensor, "U N X K"]:
        score_UNXK = q_UNXH @ k_UNKH.transpose(-1, -2) * scale
        position_UM, now_s_UM, _ = self._own_places()
        term_UNMK = self.terms.of(
            bias,
            pairwise_differences(position_UM, self.position_UK),
            pairwise_differences(now_s_UM, self.time_s_UK),
        )
        if term_UNMK is None:
            return score_UNXK
        return (score_UNXK.unflatten(2, (-1, self.num_own)) + term_UNMK[:, :, None]).flatten(2, 3)

    def _scores_of_own(
        self, qkv: Heads, bias: RelativeBias | None, scale: float
    ) -> Float[Tensor, "U N C M M"]:
        q_UNCMH, k_UNCMH = (x.unflatten(2, (-1, self.num_own)) for x in qkv[:2])
        score_UNCMM = q_UNCMH @ k_UNCMH.transpose(-1, -2) * scale
        position_UM, now_s_UM, time_s_UM = self._own_places()
        term_UNMM = self.terms.of(
            bias, pairwise_differences(position_UM, position_UM), pairwise_differences(now_s_UM, time_s_UM)
        )
        return score_UNCMM if term_UNMM is None else score_UNCMM + term_UNMM[:, :, None]

    def _of_own(self, weight_UNXM: Tensor, v_UNXH: Tensor) -> Float[Tensor, "U N X H"]:
        weight_UNCMM, v_UNCMH = (x.unflatten(2, (-1, self.num_own)) for x in (weight_UNXM, v_UNXH))
        return (weight_UNCMM @ v_UNCMH).flatten(2, 3)

    def _is_later(self, q_UNXH: Tensor) -> Bool[Tensor, "X M"]:
        """Whether a token of a candidate stands behind another of the same."""
        slot_M = torch.arange(self.num_own)
        return (slot_M[None] > slot_M[:, None]).repeat(q_UNXH.shape[2] // self.num_own, 1)

    def _own_places(self) -> tuple[Tensor, Tensor, Tensor]:
        clock = self.segments.clock
        assert clock is not None, "candidates have a clock"
        all_UX = (self.segments.position_RL, clock.anchor_s_RL, clock.time_s_RL)
        position_UM, now_s_UM, time_s_UM = (x[:, : self.num_own] for x in all_UX)
        return position_UM, now_s_UM, time_s_UM


def _softmax(score: Tensor, hidden: Tensor) -> Tensor:
    """Weights of what is seen; all 0 where nothing is."""
    return score.masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0.0)
