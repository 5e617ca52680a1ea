"""Trunks whose attention has actions in its values, and packed rows for them.

Shape letters: R rows, L slots of a row, D width.
"""

from dataclasses import replace

import pytest
import torch
from tiny import started
from torch import Tensor

from plait.nn.config import TrunkConfig
from plait.nn.positions import Positions
from plait.nn.trunk import Trunk
from plait.nn.visibility import Clock, Segments

SMALL = TrunkConfig(dim=24, num_layers=2, num_heads=4, dropout=0.0)
POSITIONS = ("learned", "rope", "alibi", "rab")
FAMILIES = {
    "lfa": {"pool"},
    "mvp_early": {"values"},
    "mvp": {"values", "pool"},
    "dhn": {"helix", "pool"},
}
MAX_POSITIONS = 7
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
EVERY_KIND = pytest.mark.parametrize("kind", ("gpt", "hstu"))
EVERY_POSITION = pytest.mark.parametrize("positions", POSITIONS)
USERS = {  # user: row and slots; the rest is padding
    0: (0, slice(0, 5)),
    1: (0, slice(5, 8)),
    2: (1, slice(0, 7)),
}


def trunk_of(family: str, positions: Positions = "learned", **changes) -> Trunk:
    torch.manual_seed(0)
    trunk = started(
        Trunk(replace(SMALL, positions=positions, **changes), MAX_POSITIONS, frozenset(FAMILIES[family]))
    )
    # hstu's states have no norm: were they larger, the pooling's softmax would see a single event.
    std = 0.2 if trunk.config.kind == "hstu" else 0.5
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=std)  # attention far from uniform, so that every path shows
    return trunk.eval()


def packed_rows() -> tuple[Tensor, Tensor, Segments]:
    """Embeddings of tokens, of the actions, and whose they are."""
    segment, position = torch.full((2, 8), -1), torch.zeros(2, 8, dtype=torch.int64)
    for user, (row, slots) in USERS.items():
        segment[row, slots] = user
        position[row, slots] = torch.arange(slots.stop - slots.start)
    torch.manual_seed(1)
    x_RLD, action_RLD = torch.randn(2, 2, 8, SMALL.dim)
    return x_RLD, action_RLD, timed(Segments(segment, position))


def timed(segments: Segments) -> Segments:
    """An hour more between any two events than between the two before; "now" is the time of the slot's own event."""
    time_s_RL = 1_600_000_000 + 1800 * segments.position_RL * (1 + segments.position_RL)
    none_RL = torch.zeros_like(time_s_RL)
    return replace(segments, clock=Clock(time_s_RL, time_s_RL, none_RL, none_RL, none_RL))


def alone(num_tokens: int) -> Segments:
    return timed(Segments(torch.zeros(1, num_tokens, dtype=torch.int64), torch.arange(num_tokens)[None]))
