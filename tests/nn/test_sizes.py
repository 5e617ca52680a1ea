"""Sizes with names: on the meta device, so that nothing is allocated."""

from typing import get_args

import pytest
import torch
from tiny import CONDITIONS, assert_caught, started

from plait.layouts import CATALOGUE
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.nn.config import TINY, TrunkConfig, TrunkKind, TrunkSize, trunk_of_size
from plait.nn.trunk import Trunk

NAMED = [size for size in get_args(TrunkSize) if size != "tiny"]


def check_size(kind: TrunkKind, size: str, trunk: TrunkConfig) -> None:
    with torch.device("meta"):
        built = started(Trunk(trunk, max_positions=1))
    millions = sum(parameter.numel() for parameter in built.parameters()) / 1e6
    assert trunk.kind == kind and trunk.head_width == 64
    assert millions == pytest.approx(int(size.removesuffix("m")), rel=0.02)


@pytest.mark.parametrize("kind", get_args(TrunkKind))
@pytest.mark.parametrize("size", NAMED)
def test_sizes_are_what_they_are_called(kind, size):
    trunk = trunk_of_size(TrunkConfig(kind=kind, positions="rope"), size)
    check_size(kind, size, trunk)
    other = trunk_of_size(TrunkConfig(kind="hstu" if kind == "gpt" else "gpt", positions="rope"), size)
    assert_caught(check_size, kind, size, TrunkConfig(kind=kind, positions="rope", dim=other.dim,
                  num_layers=other.num_layers, num_heads=other.num_heads))  # fmt: skip


def test_the_tiny_size_is_the_default():
    assert trunk_of_size(TrunkConfig(), "tiny") == TINY


@pytest.mark.parametrize("given", ({"dim": 32}, {"num_layers": 3}, {"num_heads": 4}))
def test_a_size_and_a_width_are_refused(given):
    [name] = given
    with pytest.raises(ValueError, match=rf"size.*{name}.*leave out one of the two"):
        trunk_of_size(TrunkConfig(**given), "85m")


@pytest.mark.parametrize("kind", get_args(TrunkKind))
@pytest.mark.parametrize("size", ("tiny", "300m"))
def test_a_large_user_model_is_built_in_every_size(kind, size):
    """LUM paper, section 5.5; on the meta device whole, its item table and its heads among it."""
    model = ModelSettings(trunk=trunk_of_size(TrunkConfig(kind=kind), size), interest_dim=64)
    config = ModelConfig(
        layout=str(CATALOGUE["lum"].layout),
        settings=model,
        num_items=1_000,
        actions=(),
        conditions=CONDITIONS,
        max_events=256,
    )
    with torch.device("meta"):
        built = GenerativeRecommender(config)
    assert sum(parameter.numel() for parameter in built.trunk.parameters()) > (
        290e6 if size == "300m" else 1e4
    )
