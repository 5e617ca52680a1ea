"""What a kind of trunk and a choice of positions say of themselves, once, and nobody else again."""

import ast
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from tiny import assert_caught

import plait
from plait.nn.config import TRUNKS, TrunkConfig, TrunkKind, settings_of_kind
from plait.nn.positions import Positions, TimeAnchor, scheme_of
from plait.nn.trunk import Trunk

PACKAGE = Path(plait.__file__).parent
HOMES = {"nn/config.py", "nn/positions.py", "nn/trunk.py"}  # where a kind or a choice is written
WORDS = {*get_args(TrunkKind), *get_args(Positions)} - {"learned"}


@pytest.mark.parametrize("positions", get_args(Positions))
def test_a_choice_of_positions_has_a_scheme_and_builds(positions: Positions) -> None:
    scheme = scheme_of(positions)
    assert set(scheme.time_anchors) <= set(get_args(TimeAnchor)) and scheme.time_anchors
    for named in TRUNKS.values():
        trunk = Trunk(replace(named, positions=positions), max_positions=7)
        assert (trunk.slopes_N is not None) == scheme.falls_with_distance
        assert (trunk.positions.learned is not None) == scheme.adds_learned
        assert (trunk.blocks[0].bias is not None) == scheme.has_relative_bias


def test_every_kind_of_trunk_has_a_name_and_settings_that_are_there() -> None:
    assert {config.kind for config in TRUNKS.values()} == set(get_args(TrunkKind))
    own = [name for kind in get_args(TrunkKind) for name in settings_of_kind(kind)]
    assert own and set(own) <= {field.name for field in fields(TrunkConfig)} and len(set(own)) == len(own)


def compared_words(source: str) -> set[str]:
    """The kinds and positions that some code compares with, or matches."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        sides += [node.value] if isinstance(node, ast.MatchValue) else []
        parts = [part for side in sides for part in ast.walk(side) if isinstance(part, ast.Constant)]
        found |= {part.value for part in parts if isinstance(part.value, str)}
    return found & WORDS


def check_nobody_compares(sources: dict[str, str]) -> None:
    for place, source in sources.items():
        assert not compared_words(source), (
            f"{place} compares with {compared_words(source)}: ask its scheme, or its layer"
        )


def test_no_other_file_asks_which_kind_or_which_positions() -> None:
    sources = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert any(compared_words(sources[home]) for home in HOMES), "nothing would be found"
    elsewhere = {place: source for place, source in sources.items() if place not in HOMES}
    assert len(elsewhere) > 100
    check_nobody_compares(elsewhere)
    assert_caught(
        check_nobody_compares, elsewhere | {"nn/gpt.py": 'has = config.positions in ("rab", "alibi")'}
    )
