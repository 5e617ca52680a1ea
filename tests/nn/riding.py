"""Trunks in which actions ride, and packed rows for them.

Shape letters: R rows, L slots of a row, D width.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plait.nn.config import Positions, TrunkConfig
from plait.nn.trunk import Trunk
from plait.nn.visibility import Segments

SMALL = TrunkConfig(dim=24, num_layers=2, num_heads=4, dropout=0.0)
POSITIONS = ("learned", "rope", "alibi")
FAMILIES = {
    "lfa": {"pool"},
    "mvp_early": {"values"},
    "mvp": {"values", "pool"},
    "dhn": {"helix", "pool"},
}
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
EVERY_POSITION = pytest.mark.parametrize("positions", POSITIONS)
USERS = {  # user: row and slots; the rest is padding
    0: (0, slice(0, 5)),
    1: (0, slice(5, 8)),
    2: (1, slice(0, 7)),
}


def trunk_of(family: str, positions: Positions = "learned", **changes) -> Trunk:
    torch.manual_seed(0)
    trunk = Trunk(replace(SMALL, positions=positions, **changes), 7, frozenset(FAMILIES[family]))
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # attention far from uniform, so that every path shows
    return trunk.eval()


def packed() -> tuple[Tensor, Tensor, Segments]:
    """Embeddings of tokens, of the actions that ride, and whose they are."""
    segment, position = torch.full((2, 8), -1), torch.zeros(2, 8, dtype=torch.int64)
    for user, (row, slots) in USERS.items():
        segment[row, slots] = user
        position[row, slots] = torch.arange(slots.stop - slots.start)
    torch.manual_seed(1)
    x_RLD, ride_RLD = torch.randn(2, 2, 8, SMALL.dim)
    return x_RLD, ride_RLD, Segments(segment, position)


def alone(num_tokens: int) -> Segments:
    return Segments(torch.zeros(1, num_tokens, dtype=torch.int64), torch.arange(num_tokens)[None])
