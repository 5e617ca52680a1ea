"""The relative attention bias: what position and time between a query and a key add to their score.

Shape letters: R rows, N heads, L slots of a row, H head width, P entries of a table; of one block: G rows,
Q queries, K keys.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from plait.nn.blockwise import SOFTMAX, Block, Lookup, attend_blockwise
from plait.nn.config import Rab
from plait.nn.initialising import unset
from plait.nn.positions import TIME_BUCKETS, time_bucket
from plait.nn.visibility import Segments


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

    def forward(self, segments: Segments) -> Float[Tensor, "R L L"]:
        """The bias of all pairs, visible or not, written plainly: the reference of `lookups`."""
        position_RL, clock = segments.position_RL, segments.clock
        bias_RLL = torch.zeros(())
        if self.position_P is not None:
            step_RLL = position_RL[:, None, :] - position_RL[:, :, None]
            bias_RLL = bias_RLL + self.position_P[self.max_positions - 1 + step_RLL]
        if self.time_P is not None:
            assert clock is not None, "a bias that reads time takes inputs with a clock"
            gap_s_RLL = clock.anchor_s_RL[:, :, None] - clock.time_s_RL[:, None, :]
            bias_RLL = bias_RLL + self.time_P[time_bucket(gap_s_RLL)]
        return bias_RLL

    def lookups(self, segments: Segments) -> tuple[Lookup, ...]:
        """What attention adds to scores, block by block. Positions must be below max_positions."""
        found = []
        if self.position_P is not None:
            query_RL = segments.position_RL.int()
            key_RL = query_RL + (self.max_positions - 1)

            def steps(block: Block) -> Tensor:
                return key_RL[block.rows, None, block.keys] - query_RL[block.rows, block.queries, None]

            found.append(Lookup(self.position_P, steps))
        if self.time_P is not None:
            bucket_RQK = segments.kept("time buckets", lambda: _time_buckets(segments))

            def buckets(block: Block) -> Tensor:
                return bucket_RQK[block].int()

            found.append(Lookup(self.time_P, buckets))
        return tuple(found)


def attend_biased(
    q_RNLH: Float[Tensor, "R N L H"],
    k_RNLH: Float[Tensor, "R N L H"],
    v_RNLH: Float[Tensor, "R N L H"],
    segments: Segments,
    bias: RelativeBias,
    *,
    strict: bool = False,
) -> Float[Tensor, "R N L H"]:
    """Softmax attention with scores scaled by H ** -0.5 and a trained bias added; `strict` as in `attend`."""
    scale = q_RNLH.shape[-1] ** -0.5
    return attend_blockwise(
        q_RNLH, k_RNLH, v_RNLH, segments, SOFTMAX, scale=scale, lookups=bias.lookups(segments), strict=strict
    )


def attend_biased_reference(
    q_RNLH: Float[Tensor, "R N L H"],
    k_RNLH: Float[Tensor, "R N L H"],
    v_RNLH: Float[Tensor, "R N L H"],
    segments: Segments,
    bias: RelativeBias,
    *,
    strict: bool = False,
) -> Float[Tensor, "R N L H"]:
    """What `attend_biased` must equal, written plainly: all scores in fp32, a dense bias and a dense mask."""
    score_RNLL = q_RNLH.float() @ k_RNLH.float().transpose(-1, -2) * q_RNLH.shape[-1] ** -0.5
    score_RNLL = score_RNLL + bias(segments)[:, None]
    visible_RQK = segments.strictly_visible_RQK if strict else segments.visible_RQK
    weight_RNLL = score_RNLL.masked_fill(~visible_RQK[:, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    return (weight_RNLL @ v_RNLH.float()).to(v_RNLH.dtype)


def _time_buckets(segments: Segments) -> UInt8[Tensor, "R L L"]:
    """One byte for every pair, because all layers need them and a logarithm costs more than the product beside it."""
    assert segments.clock is not None, "a bias that reads time takes inputs with a clock"
    rows = zip(segments.clock.anchor_s_RL, segments.clock.time_s_RL, strict=True)
    return torch.stack([time_bucket(anchor_s_L[:, None] - time_s_L).byte() for anchor_s_L, time_s_L in rows])
