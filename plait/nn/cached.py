"""Attention of later tokens over the keys of histories that were encoded once.

A later token attends to the first tokens of a history and, unless attention is strict, to its own event's up to
itself: two exact parts that are merged, and no token of another event to come among them.

Shape letters: S tokens of histories, each user's after the other's; R = 1 row of L later tokens; N heads, H head
width, D width. Of a run of lists: G lists, K keys of each, C events of each, M tokens of an event, X = C * M.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from plait.nn.block import Heads, Where
from plait.nn.blockwise import SCORES_PER_BLOCK, SCORES_PER_BLOCK_ELSEWHERE
from plait.nn.encoded import Encoded, Keys, starts
from plait.nn.packed import Packed
from plait.nn.positions import Angles
from plait.nn.read import Read
from plait.nn.relative import RelativeBias
from plait.nn.visibility import Segments

WIDENED_PER_STEP = 1 << 20  # numbers of keys, and as many of values: what is widened stays in the cache


@final
@dataclass(frozen=True, eq=False)
class Keeping(Where):
    """Attends as `inner` says, and keeps the keys and values of tokens."""

    segments: Segments
    angles: Angles | None
    inner: Where
    cell_S: Int64[Tensor, " S"]  # where in the rows the tokens stand that are kept
    kept: list[Keys] = field(default_factory=list)
    read: Read | None = None

    @classmethod
    def of(cls, inner: Where, cell_S: Int64[Tensor, " S"]) -> "Keeping":
        return cls(inner.segments, inner.angles, inner, cell_S)

    def reading(self, read: Read) -> "Keeping":
        """The same, where only some slots are read; what is kept is kept together."""
        assert isinstance(self.inner, Packed), "histories are encoded in rows"
        return replace(self, inner=self.inner.reading(read), read=read)

    def softmax(self, qkv: Heads, bias: RelativeBias | None, *, strict: bool) -> Tensor:
        self._keep(qkv)
        return self.inner.softmax(qkv, bias, strict=strict)

    def silu(
        self, qkv: Heads, bias: RelativeBias | None, *, scale: float, norm_len: int, strict: bool
    ) -> Tensor:
        self._keep(qkv)
        return self.inner.silu(qkv, bias, scale=scale, norm_len=norm_len, strict=strict)

    def encoded(
        self,
        hidden_rlD: Float[Tensor, "r l D"],
        start_U1: Int64[np.ndarray, " U1"],
        read: Read | None = None,
    ) -> Encoded:
        """All that was kept, with what the trunk returned; NaN where nothing is read.

        Args:
            read: of which slots the trunk returned something; by default of all.
        """
        hidden_CD = hidden_rlD.flatten(0, 1)
        if read is not None:
            num_cells = self.segments.segment_RL.numel()
            unread_CD = hidden_CD.new_full((num_cells, hidden_CD.shape[1]), torch.nan)
            hidden_CD = unread_CD.index_copy_(0, read.cell_M, hidden_CD)
        clock = self.segments.clock
        assert clock is not None, "histories are encoded from inputs, which have a clock"
        position_S, time_s_S = (
            x.flatten().index_select(0, self.cell_S) for x in (self.segments.position_RL, clock.time_s_RL)
        )
        hidden_SD = hidden_CD.index_select(0, self.cell_S)
        return Encoded.whole(start_U1, position_S, time_s_S, tuple(self.kept), hidden_SD)

    def _keep(self, qkv: Heads) -> None:
        k_SNH, v_SNH = (x.transpose(1, 2).flatten(0, 1).index_select(0, self.cell_S) for x in qkv[1:])
        self.kept.append(Keys(k_SNH, v_SNH))


@dataclass(frozen=True)
class Lists:
    """Events to come, list after list: the events of a list come at one moment of one user."""

    user_B: Int64[np.ndarray, " B"]  # whose history of those that were encoded
    num_seen_B: Int64[np.ndarray, " B"]  # the first tokens of it that the events see
    count_B: Int64[np.ndarray, " B"]  # events
    num_own: int  # tokens of each event


class RunOfLists(NamedTuple):
    """Lists that follow one another, as their histories do, with equally many keys and events: one batched product."""

    queries: slice  # of the row's slots
    keys: slice  # of the tokens of histories
    num_lists: int
    num_seen: int
    num_own: int

    def of_queries(self, x_1NLH: Float[Tensor, "1 N L H"]) -> Float[Tensor, "G N X H"]:
        return x_1NLH[0, :, self.queries].unflatten(1, (self.num_lists, -1)).transpose(0, 1)

    def with_keys(self, q_1NLH: Float[Tensor, "1 N L H"], keys: Keys) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and the keys and values that they attend to. Where these were made in another arithmetic, all are in
        the smaller type of the two."""
        dtype = min(q_1NLH.dtype, keys.k_SNH.dtype, key=lambda dtype: dtype.itemsize)
        k_GNKH, v_GNKH = (self.by_list(x)[:, : self.num_seen].transpose(1, 2).to(dtype) for x in keys)
        return self.of_queries(q_1NLH).to(dtype), k_GNKH, v_GNKH

    def by_list(self, x_S: Tensor) -> Tensor:
        return x_S[self.keys].unflatten(0, (self.num_lists, -1))

    def by_event(self, x_1L: Int64[Tensor, "1 L"]) -> Int64[Tensor, "G M"]:
        """Of a list's first event: of all its events, since they come at one moment."""
        return x_1L[0, self.queries].unflatten(0, (self.num_lists, -1, self.num_own))[:, 0]


def runs_of(lists: Lists, start_U1: Int64[np.ndarray, " U1"]) -> tuple[RunOfLists, ...]:
    """
    >>> lists = Lists(np.array([0, 1, 1]), np.array([4, 4, 4]), np.array([2, 2, 2]), num_own=1)
    >>> [(run.queries, run.keys) for run in runs_of(lists, np.array([0, 4, 8]))]
    [(slice(0, 4, None), slice(0, 8, None)), (slice(4, 6, None), slice(4, 8, None))]
    """
    length_B = np.diff(start_U1)[lists.user_B]
    shape_B3 = np.stack([length_B, lists.num_seen_B, lists.count_B], axis=1)
    goes_on_B = np.zeros(len(length_B), dtype=bool)
    goes_on_B[1:] = (np.diff(lists.user_B) == 1) & (shape_B3[1:] == shape_B3[:-1]).all(1)
    first_B1 = np.append(np.flatnonzero(~goes_on_B), len(length_B))
    query_B1 = starts(lists.count_B * lists.num_own)
    return tuple(
        RunOfLists(
            slice(int(query_B1[a]), int(query_B1[b])),
            slice(int(start_U1[lists.user_B[a]]), int(start_U1[lists.user_B[b - 1] + 1])),
            int(b - a),
            int(lists.num_seen_B[a]),
            lists.num_own,
        )
        for a, b in pairwise(first_B1)
        if lists.count_B[a]
    )


@final
@dataclass(frozen=True, eq=False)
class OverKeys(Where):
    """Later tokens in one row attend to histories, and to the tokens of their own event."""

    segments: Segments
    angles: Angles | None
    slopes_N: Float[Tensor, " N"] | None
    position_S: Int64[Tensor, " S"]
    time_s_S: Int64[Tensor, " S"]
    runs: tuple[RunOfLists, ...]
    keys: Iterator[Keys]  # of the places where the trunk attends, in its order

    @classmethod
    def of(
        cls,
        encoded: Encoded,
        lists: Lists,
        segments: Segments,
        angles: Angles | None,
        slopes_N: Float[Tensor, " N"] | None,
    ) -> "OverKeys":
        runs = runs_of(lists, encoded.start_U1)
        return cls(segments, angles, slopes_N, encoded.position_S, encoded.time_s_S, runs, iter(encoded.keys))

    def softmax(self, qkv: Heads, bias: RelativeBias | None, *, strict: bool) -> Tensor:
        keys, out_1NLH = next(self.keys), torch.zeros_like(qkv[2])
        for run in self.runs:
            parts = []
            if run.num_seen:
                parts.append(self._softmax_of_history(run, qkv[0], keys, bias))
            if not strict:
                parts.append(self._softmax_of_own(run, qkv, bias))
            if parts:
                _write(out_1NLH, run, _merged(parts))
        return out_1NLH

    def silu(
        self, qkv: Heads, bias: RelativeBias | None, *, scale: float, norm_len: int, strict: bool
    ) -> Tensor:
        keys, out_1NLH = next(self.keys), torch.zeros_like(qkv[2])
        for run in self.runs:
            if run.num_seen:
                _write(out_1NLH, run, self._silu_of_history(run, qkv[0] * scale, keys, bias))
            if not strict:
                _add(out_1NLH, run, self._silu_of_own(run, qkv, bias, scale))
        return out_1NLH / norm_len

    def _softmax_of_history(
        self, run: RunOfLists, q_1NLH: Tensor, keys: Keys, bias: RelativeBias | None
    ) -> tuple[Tensor, Tensor]:
        q_GNXH, k_GNKH, v_GNKH = run.with_keys(q_1NLH, keys)
        if bias is None and self.slopes_N is None:
            return softmax_and_sum(q_GNXH, k_GNKH, v_GNKH)
        found = [
            softmax_and_sum(q_GNXH[:, :, slot :: run.num_own], k_GNKH, v_GNKH, term_GN1K)
            for slot, term_GN1K in enumerate(self._terms_of_history(run, bias))
        ]
        out_GNXH, lse_GNX = (torch.stack(each, dim=3).flatten(2, 3) for each in zip(*found, strict=True))
        return out_GNXH, lse_GNX

    def _softmax_of_own(
        self, run: RunOfLists, qkv: Heads, bias: RelativeBias | None
    ) -> tuple[Tensor, Tensor]:
        score_GNCMM = self._scores_of_own(run, qkv, bias, qkv[0].shape[-1] ** -0.5).float()
        if run.num_own == 1:  # all the weight is its own
            return run.of_queries(qkv[2]), score_GNCMM.flatten(2)
        score_GNCMM = score_GNCMM.masked_fill(_later(score_GNCMM), -torch.inf)
        out_GNXH = _weighted(run, score_GNCMM.softmax(-1), qkv[2])
        return out_GNXH, score_GNCMM.logsumexp(-1).flatten(2)

    def _silu_of_history(
        self, run: RunOfLists, q_1NLH: Tensor, keys: Keys, bias: RelativeBias | None
    ) -> Float[Tensor, "G N X H"]:
        q_GNXH, k_GNKH, v_GNKH = run.with_keys(q_1NLH, keys)
        if bias is None and self.slopes_N is None:
            return silu_sum(q_GNXH, k_GNKH, v_GNKH)
        found = [
            silu_sum(q_GNXH[:, :, slot :: run.num_own], k_GNKH, v_GNKH, term_GN1K)
            for slot, term_GN1K in enumerate(self._terms_of_history(run, bias))
        ]
        return torch.stack(found, dim=3).flatten(2, 3)

    def _silu_of_own(
        self, run: RunOfLists, qkv: Heads, bias: RelativeBias | None, scale: float
    ) -> Float[Tensor, "G N X H"]:
        weight_GNCMM = F.silu(self._scores_of_own(run, qkv, bias, scale))
        if run.num_own == 1:
            return weight_GNCMM.flatten(2)[..., None] * run.of_queries(qkv[2])
        return _weighted(run, weight_GNCMM.masked_fill(_later(weight_GNCMM), 0.0), qkv[2])

    def _scores_of_own(
        self, run: RunOfLists, qkv: Heads, bias: RelativeBias | None, scale: float
    ) -> Float[Tensor, "G N C M M"]:
        """Of every event's tokens against one another, masks left to the caller."""
        q_GNCMH, k_GNCMH = (run.of_queries(x).unflatten(2, (-1, run.num_own)) for x in qkv[:2])
        score_GNCMM = (q_GNCMH[..., :, None, :] * k_GNCMH[..., None, :, :]).sum(-1) * scale
        if bias is None and run.num_own == 1:
            return score_GNCMM  # a token is at no distance from itself
        position_GM, (now_s_GM, time_s_GM) = run.by_event(self.segments.position_RL), self._times(run)
        term_GNMM = self._term(
            bias, pairwise_differences(position_GM, position_GM), pairwise_differences(now_s_GM, time_s_GM)
        )
        return score_GNCMM if term_GNMM is None else score_GNCMM + term_GNMM[:, :, None]

    def _terms_of_history(
        self, run: RunOfLists, bias: RelativeBias | None
    ) -> Iterator[Float[Tensor, "G N 1 K"]]:
        """What positions and times add to the scores, for each token of an event: it is the same for all events."""
        position_GK, time_s_GK = (run.by_list(x)[:, : run.num_seen] for x in (self.position_S, self.time_s_S))
        distance_GMK = pairwise_differences(run.by_event(self.segments.position_RL), position_GK)
        gap_s_GMK = pairwise_differences(self._times(run)[0], time_s_GK)
        for slot in range(run.num_own):
            term_GN1K = self._term(bias, distance_GMK[:, slot, None], gap_s_GMK[:, slot, None])
            assert term_GN1K is not None
            yield term_GN1K

    def _times(self, run: RunOfLists) -> tuple[Int64[Tensor, "G M"], Int64[Tensor, "G M"]]:
        """What the tokens of an event take for now, and when it comes."""
        clock = self.segments.clock
        assert clock is not None, "later tokens come from inputs, which have a clock"
        return run.by_event(clock.anchor_s_RL), run.by_event(clock.time_s_RL)

    def _term(
        self, bias: RelativeBias | None, distance_GQK: Tensor, gap_s_GQK: Tensor
    ) -> Float[Tensor, "G N Q K"] | None:
        if bias is not None:
            return bias.of_pairs(distance_GQK, gap_s_GQK)[:, None]
        if self.slopes_N is None:
            return None
        return -self.slopes_N[:, None, None] * distance_GQK[:, None]


def softmax_and_sum(
    q_GNXH: Float[Tensor, "G N X H"],
    k_GNKH: Float[Tensor, "G N K H"],
    v_GNKH: Float[Tensor, "G N K H"],
    term_GN1K: Float[Tensor, "G n 1 K"] | None = None,
) -> tuple[Float[Tensor, "G N X H"], Float[Tensor, "G N X"]]:
    """Softmax attention to all keys, and the logarithm of the sum that the weights were divided by.

    Args:
        term_GN1K: is added to the scores of every query alike.
    """
    if q_GNXH.device.type != "cpu":
        return softmax_and_sum_reference(q_GNXH, k_GNKH, v_GNKH, term_GN1K)
    if q_GNXH.shape[2] == 1 and q_GNXH.dtype != torch.float32:
        return _widened(q_GNXH, k_GNKH, v_GNKH, term_GN1K)
    return _fused(q_GNXH, k_GNKH, v_GNKH, term_GN1K)


def _widened(
    q_GN1H: Tensor, k_GNKH: Tensor, v_GNKH: Tensor, term_GN1K: Tensor | None
) -> tuple[Tensor, Tensor]:
    """In fp32, a few lists at a time: the kernel takes a single row of bf16 several times as long as this does."""
    step, found = max(1, WIDENED_PER_STEP // k_GNKH[0].numel()), []
    for at in range(0, len(q_GN1H), step):
        q, k, v = (x[at : at + step].float() for x in (q_GN1H, k_GNKH, v_GNKH))
        found.append(_fused(q, k, v, None if term_GN1K is None else term_GN1K[at : at + step]))
    out_GN1H, lse_GN1 = (torch.cat(each) for each in zip(*found, strict=True))
    return out_GN1H.to(q_GN1H.dtype), lse_GN1


def _fused(q_GNXH: Tensor, k_GNKH: Tensor, v_GNKH: Tensor, term_GN1K: Tensor | None) -> tuple[Tensor, Tensor]:
    """By torch's own kernel."""
    mask_GN1K = None if term_GN1K is None else term_GN1K.to(q_GNXH.dtype)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_GNXH, k_GNKH, v_GNKH, attn_mask=mask_GN1K
    )


def softmax_and_sum_reference(
    q_GNXH: Float[Tensor, "G N X H"],
    k_GNKH: Float[Tensor, "G N K H"],
    v_GNKH: Float[Tensor, "G N K H"],
    term_GN1K: Float[Tensor, "G n 1 K"] | None = None,
) -> tuple[Float[Tensor, "G N X H"], Float[Tensor, "G N X"]]:
    """What `softmax_and_sum` must equal, written plainly; so many queries at a time as fit into a block."""
    found = []
    for queries in _steps(q_GNXH, k_GNKH):
        score_GNxK = (q_GNXH[:, :, queries] @ k_GNKH.transpose(-1, -2)).float() * q_GNXH.shape[-1] ** -0.5
        score_GNxK = score_GNxK if term_GN1K is None else score_GNxK + term_GN1K
        out_GNxH = score_GNxK.softmax(-1).to(v_GNKH.dtype) @ v_GNKH
        found.append((out_GNxH, score_GNxK.logsumexp(-1)))
    out_GNXH, lse_GNX = (torch.cat(each, dim=2) for each in zip(*found, strict=True))
    return out_GNXH, lse_GNX


def silu_sum(
    q_GNXH: Float[Tensor, "G N X H"],
    k_GNKH: Float[Tensor, "G N K H"],
    v_GNKH: Float[Tensor, "G N K H"],
    term_GN1K: Float[Tensor, "G n 1 K"] | None = None,
) -> Float[Tensor, "G N X H"]:
    """The sum of all values weighted by SiLU(q.k + term)."""
    found = []
    for queries in _steps(q_GNXH, k_GNKH):
        score_GNxK = q_GNXH[:, :, queries] @ k_GNKH.transpose(-1, -2)
        score_GNxK = score_GNxK if term_GN1K is None else score_GNxK.add_(term_GN1K.to(score_GNxK.dtype))
        found.append(F.silu(score_GNxK, inplace=True) @ v_GNKH)
    return torch.cat(found, dim=2)


def _steps(q_GNXH: Tensor, k_GNKH: Tensor) -> Iterator[slice]:
    """Queries whose scores fit into a block."""
    most = SCORES_PER_BLOCK if q_GNXH.is_cpu else SCORES_PER_BLOCK_ELSEWHERE
    step = max(1, most // (k_GNKH.shape[0] * k_GNKH.shape[1] * k_GNKH.shape[2]))
    return (slice(at, at + step) for at in range(0, q_GNXH.shape[2], step))


def _merged(parts: list[tuple[Tensor, Tensor]]) -> Float[Tensor, "G N X H"]:
    """Softmax attention over two sets of keys from that over each: the second's share is its part of the sum."""
    (out_GNXH, lse_GNX), *others = parts
    for other_GNXH, other_GNX in others:
        share_GNX1 = torch.sigmoid(other_GNX - lse_GNX)[..., None].to(other_GNXH.dtype)
        out_GNXH = torch.lerp(out_GNXH.to(other_GNXH.dtype), other_GNXH, share_GNX1)
    return out_GNXH


def _weighted(run: RunOfLists, weight_GNCMM: Tensor, v_1NLH: Tensor) -> Float[Tensor, "G N X H"]:
    v_GNCMH = run.of_queries(v_1NLH).unflatten(2, (-1, run.num_own))
    weight_GNCMM = weight_GNCMM.to(v_GNCMH.dtype)
    return (weight_GNCMM[..., None] * v_GNCMH[..., None, :, :]).sum(-2).flatten(2, 3)


def _later(score_GNCMM: Tensor) -> Tensor:
    return torch.ones(score_GNCMM.shape[-2:], dtype=torch.bool, device=score_GNCMM.device).triu(1)


def _write(out_1NLH: Tensor, run: RunOfLists, part_GNXH: Tensor) -> None:
    out_1NLH[0, :, run.queries] = part_GNXH.transpose(0, 1).flatten(1, 2)


def _add(out_1NLH: Tensor, run: RunOfLists, part_GNXH: Tensor) -> None:
    out_1NLH[0, :, run.queries] += part_GNXH.transpose(0, 1).flatten(1, 2)


def pairwise_differences(x_GQ: Tensor, y_GK: Tensor) -> Int64[Tensor, "G Q K"]:
    return x_GQ[:, :, None] - y_GK[:, None, :]
