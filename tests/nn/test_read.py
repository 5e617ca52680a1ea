"""Rows that nobody reads are left out where tokens attend last; those that are read are what they were.

Shape letters: R rows, L slots of a row, D width, M slots that are read.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from action_trunks import EVERY_KIND, EVERY_POSITION, FAMILIES, packed_rows, trunk_of
from tiny import assert_caught, assert_not_vacuous
from torch import Tensor

from plait.nn import read as read_module
from plait.nn.config import DLRM_V3
from plait.nn.read import Read, read_of
from plait.nn.trunk import Trunk
from plait.nn.visibility import Segments

EVERY_FAMILY = pytest.mark.parametrize("family", (*FAMILIES, "none"))


@pytest.fixture(autouse=True)
def no_rides(monkeypatch):
    monkeypatch.setitem(FAMILIES, "none", set())


def masks(segments: Segments) -> dict[str, np.ndarray]:
    is_token = segments.segment_RL.numpy() >= 0
    only_first_row = is_token & (np.arange(2) == 0)[:, None]
    last = np.zeros_like(is_token)
    last[[0, 0, 1], [4, 7, 6]] = True
    drawn = is_token & (np.random.default_rng(0).random(is_token.shape) < 0.4)
    return {"last": last, "some": drawn, "one row": only_first_row, "all": is_token, "none": is_token & False}


def relative(found: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return float(found.shape != expected.shape)
    with torch.no_grad():
        return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def check_parity(trunk: Trunk, of: Callable[[np.ndarray], Read] = Read.of) -> None:
    """States of the slots that are read, and the gradient of everything they were made of."""
    x, action, segments = packed_rows()
    given = [x.requires_grad_(), action.requires_grad_(), *trunk.parameters()]
    whole_RLD = trunk(x, segments, action)
    upstream_RLD = torch.randn(whole_RLD.shape, generator=torch.Generator().manual_seed(3))
    met = {"read": 0, "unread": 0}
    for is_read_RL in masks(segments).values():
        read = of(is_read_RL)
        found_1MD, expected_MD = trunk(x, segments, action, read), whole_RLD[torch.from_numpy(is_read_RL)]
        assert relative(found_1MD[0], expected_MD) <= 1e-6
        sides = ((found_1MD[0], upstream_RLD[torch.from_numpy(is_read_RL)]),)
        sides += ((expected_MD, sides[0][1]),)
        one, other = (
            torch.autograd.grad((state * up).sum(), given, retain_graph=True, allow_unused=True)
            for state, up in sides
        )
        for slope, expected in zip(one, other, strict=True):
            none = [each is None or not each.any() for each in (slope, expected)]
            assert none[0] == none[1] and (none[0] or relative(slope, expected) <= 1e-5)
        met["read"] += int(is_read_RL.sum())
        met["unread"] += int((~is_read_RL & (segments.segment_RL.numpy() >= 0)).sum())
    assert_not_vacuous(met, above=10)


@EVERY_FAMILY
@EVERY_KIND
@EVERY_POSITION
def test_what_is_read_is_what_it_was(family, kind, positions):
    check_parity(trunk_of(family, positions, kind=kind))


@pytest.mark.parametrize("family", ["mvp_early", "none"])
def test_what_is_read_of_dlrm_v3_is_what_it_was(family):
    check_parity(trunk_of(family, "rab", kind="hstu", hstu=DLRM_V3))


def without_the_last(is_read_RL: np.ndarray) -> Read:
    """One row too few: the last slot that is read stands as the one before it."""
    read = Read.of(is_read_RL)
    if len(read.cell_M) < 2:
        return read
    return replace(read, number_RQ=read.number_RQ.clamp(max=len(read.cell_M) - 2))


def one_slot_before(is_read_RL: np.ndarray) -> Read:
    read = Read.of(is_read_RL)
    return replace(read, slot_RQ=(read.slot_RQ - 1).clamp(min=0))


@pytest.mark.parametrize("family", ["lfa", "mvp_early", "none"])
@EVERY_KIND
@pytest.mark.parametrize("mutant", [without_the_last, one_slot_before])
def test_a_row_too_few_is_caught(family, kind, mutant):
    assert_caught(check_parity, trunk_of(family, kind=kind), mutant)


def test_some_slots_by_hand():
    """Rows of users 4, 4, 7 and 9 and padding; the last slots of 4 and of 7 are read, and nothing of the second row."""
    segment_RL = np.array([[4, 4, 7], [9, -1, -1]])
    read = Read.some_of([np.array([2]), np.array([1, 2])], segment_RL)
    assert read is not None and read.cell_M.tolist() == [1, 2]
    assert read.slot_RQ[0].tolist() == [1, 2] and read.numbers(torch.tensor([2, 2, 1])).tolist() == [1, 1, 0]
    x_RLD = torch.arange(6.0).view(2, 3, 1)
    assert read_of(x_RLD, read).flatten().tolist() == [1, 2]
    heads = read_of(x_RLD, read)[:, None]
    assert torch.equal(read.out_of_rows(read.in_rows(heads)), heads)
    assert read.in_rows(heads)[0].flatten().tolist() == [1, 2]


def test_where_as_good_as_all_is_read_nothing_is_told_apart(monkeypatch):
    segment_RL = np.array([[0, 0, 0, 1, -1, -1]])
    assert Read.some_of([np.array([0, 1, 3])], segment_RL) is None, "three of four tokens"
    assert Read.some_of([np.array([0, 1])], segment_RL) is not None
    x_RLD = torch.zeros(1, 2, 3)
    assert read_of(x_RLD, None) is x_RLD
    monkeypatch.setattr(read_module, "LARGEST_SHARE", 1.0)
    assert Read.some_of([np.array([0, 1, 3])], segment_RL) is not None
