"""The relative attention bias: what position and time between a query and a key add to their score.

Shape letters: R rows, N heads, Q queries and K keys, H head width, P entries of a table.
"""

from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from plait.nn.attention import softmax_weights
from plait.nn.blockwise import SOFTMAX, Lookup, attend_blockwise
from plait.nn.config import Rab, TrunkConfig
from plait.nn.initialising import unset
from plait.nn.positions import TIME_BUCKETS, time_bucket
from plait.nn.visibility import Block, Segments, Visibility


class RelativeBias(nn.Module):
    """b[i, j] = position[(n - 1) + p_j - p_i] + time[bucket(anchor_i - time_j)], for n positions; all heads share
    it. What a slot takes for "now" is its anchor (`Clock`).

    Source: the HSTU paper (Zhai et al., 2024), equation 2, with the bucket function of its published code.
    """

    def __init__(self, max_positions: int, reads: Rab = "both") -> None:
        super().__init__()
        self.max_positions = max_positions
        self.position_P = unset(2 * max_positions - 1) if reads != "time" else None
        self.time_P = unset(TIME_BUCKETS) if reads != "position" else None

    def init_weights(self, generator: torch.Generator) -> None:
        for table_P in self.parameters(recurse=False):
            nn.init.normal_(table_P, std=0.02, generator=generator)

    def forward(self, segments: Segments, keys: Segments | None = None) -> Float[Tensor, "R Q K"]:
        """The bias of all pairs, visible or not, written plainly: the reference of `lookups`.

        Args:
            segments: the places of the queries.
            keys: the places of the keys, where they are others.
        """
        visibility = Visibility(segments, keys or segments)
        gap_s_RQK = None
        if self.time_P is not None:
            anchor_s_RQ, time_s_RK = _times(visibility)
            gap_s_RQK = anchor_s_RQ[:, :, None] - time_s_RK[:, None, :]
        return self.of_pairs(visibility.distance_RQK, gap_s_RQK)

    def of_pairs(
        self, distance: Int64[Tensor, "*pairs"], gap_s: Int64[Tensor, "*pairs"] | None
    ) -> Float[Tensor, "*pairs"]:
        """The bias of queries and keys so many positions apart, with such gaps from a key to what its query takes for
        now; without gaps where the bias reads no time."""
        bias = torch.zeros((), device=distance.device)
        if self.position_P is not None:
            bias = bias + self.position_P[self.max_positions - 1 - distance]
        if self.time_P is not None:
            assert gap_s is not None, "a bias that reads time is told gaps"
            bias = bias + self.time_P[time_bucket(gap_s)]
        return bias

    def lookups(self, visibility: Visibility) -> tuple[Lookup, ...]:
        """What attention adds to scores, block by block. Positions must be below max_positions."""
        found = []
        if self.position_P is not None:
            query_RQ = visibility.queries.position_RL.int()
            key_RK = visibility.keys.position_RL.int() + (self.max_positions - 1)
            found.append(Lookup(self.position_P, partial(_steps, query_RQ, key_RK)))
        if self.time_P is not None:
            found.append(Lookup(self.time_P, partial(_time_buckets, visibility)))
        return tuple(found)


def relative_bias(config: TrunkConfig, max_positions: int) -> RelativeBias | None:
    """A bias for one place where tokens attend; None where positions have none."""
    return RelativeBias(max_positions, config.rab) if config.scheme.has_relative_bias else None


def attend_biased(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    v_RNKH: Float[Tensor, "R N K H"],
    segments: Segments,
    bias: RelativeBias,
    *,
    keys: Segments | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N Q H"]:
    """Softmax attention with scores scaled by H ** -0.5 and a trained bias added; the rest as in `attend`."""
    scale, visibility = q_RNQH.shape[-1] ** -0.5, Visibility(segments, keys or segments)
    lookups = bias.lookups(visibility)
    return attend_blockwise(
        q_RNQH, k_RNKH, v_RNKH, visibility, SOFTMAX, scale=scale, lookups=lookups, strict=strict
    )


def attend_biased_reference(
    q_RNQH: Float[Tensor, "R N Q H"],
    k_RNKH: Float[Tensor, "R N K H"],
    v_RNKH: Float[Tensor, "R N K H"],
    segments: Segments,
    bias: RelativeBias,
    *,
    keys: Segments | None = None,
    strict: bool = False,
) -> Float[Tensor, "R N Q H"]:
    """What `attend_biased` must equal, written plainly: all scores in fp32, a dense bias and a dense mask."""
    Visibility(segments, keys or segments).check(q_RNQH, k_RNKH, v_RNKH)
    weight_RNQK = softmax_weights(
        q_RNQH, k_RNKH, segments, keys=keys, bias_RQK=bias(segments, keys), strict=strict
    )
    return (weight_RNQK @ v_RNKH.float()).to(v_RNKH.dtype)


def _steps(query_RQ: Tensor, key_RK: Tensor, block: Block) -> Tensor:
    query_GQ1, key_G1K = block.pairs(query_RQ, key_RK)
    return key_G1K - query_GQ1


def _time_buckets(visibility: Visibility, block: Block) -> Tensor:
    """Kept where there is room, as bytes: a logarithm costs more than the product beside it."""
    return visibility.kept("time buckets", block, partial(_bytes_of_buckets, visibility, block)).int()


def _bytes_of_buckets(visibility: Visibility, block: Block) -> Tensor:
    anchor_s_GQ1, time_s_G1K = block.pairs(*_times(visibility))
    return time_bucket(anchor_s_GQ1 - time_s_G1K).byte()


def _times(visibility: Visibility) -> tuple[Tensor, Tensor]:
    """What every query takes for "now", and the time of every key, in seconds."""
    now, then = visibility.queries.clock, visibility.keys.clock
    assert now is not None and then is not None, "a bias that reads time takes inputs with a clock"
    return now.anchor_s_RL, then.time_s_RL
