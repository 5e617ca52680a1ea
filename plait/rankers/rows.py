"""Rankers as rows of a comparison: beside layouts, under one protocol, with and without interests of a user model.

A row is named by its ranker and what it is told: `din`, `din+lum`, `din+feature`, `din+match`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Literal, assert_never, get_args

from plait.compare.variants import Variant
from plait.evaluation.protocol_line import changed
from plait.evaluation.settings import Optim, Protocol
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkConfig
from plait.nn.interests import InterestSettings
from plait.nn.ranker_settings import RankerSettings, settings_of_ranker
from plait.nn.towers import TowerConfig
from plait.nn.two_tower import TwoTowerSettings
from plait.rankers.interests import Interests
from plait.rankers.settings import RankerName, of_every_request, run_settings
from plait.rankers.two_tower import is_two_tower_row, of_positions, two_tower_row
from plait.wording import setting

Told = Literal["", "lum", "feature", "match"]
_SHARED = "dim", "dropout"  # of the trunk's settings, those that all rankers read


def ranker_rows(
    names: Sequence[str],
    model: ModelSettings,
    optim: Optim,
    protocol: Protocol,
    interests: Interests | None = None,
    beside_layouts: bool = True,
) -> list[Variant]:
    """A row for each name. It takes the settings that its ranker reads; the others keep their defaults.

    Every training event is asked about, from what lay before its request, as far back as the comparison's window
    reaches. Where windows are random, those of a window are.

    Args:
        names: a ranker, or a ranker and what it is told. `+lum`: as `model.ranker.interests` says. `+feature`: the
            vectors of users and items (direct feature). `+match`: how well they match (interest matching).
        beside_layouts: whether layouts stand beside them, which read the settings of trunks.

    Raises:
        ValueError: a name is none, interests are missing or told to no row, or a setting is read by no row.
    """
    retrievers = [name for name in names if is_two_tower_row(name)]
    others = [name for name in names if not is_two_tower_row(name)]
    told = [_told(name) for name in others]
    if interests is not None and not any("+" in name for name in names):
        plain = next(iter(names), "din")
        raise ValueError(f"{setting('interests')}: no row is told of them; name one, such as {plain}+lum")
    rows = [
        Variant(
            name,
            run_settings(
                kind,
                _read(model, kind, of),
                optim,
                of_every_request(protocol),
                interests=interests if of else None,
            ),
            _given(name, interests) if of else None,
        )
        for name, (kind, of) in zip(others, told, strict=True)
    ]
    rows += [two_tower_row(name, model, optim, of_positions(protocol), interests) for name in retrievers]
    _check_all_read(model, rows, beside_layouts)
    by_name = {row.name: row for row in rows}
    return [by_name[name] for name in names]


def layout_settings(model: ModelSettings, has_rankers: bool) -> ModelSettings:
    """What layouts take of a comparison's settings: where rankers stand beside them, not the rankers' own."""
    return replace(model, ranker=RankerSettings(), two_tower=TwoTowerSettings()) if has_rankers else model


def _told(name: str) -> tuple[RankerName, Told]:
    kind, plus, told = name.partition("+")
    if kind not in get_args(RankerName) or (plus and told not in get_args(Told)[1:]):
        raise ValueError(
            f"{setting('rankers')} names {name!r}; expected {', '.join(get_args(RankerName))}, alone or with +lum, "
            "+feature or +match"
        )
    return kind, told  # type: ignore[return-value]


def _given(name: str, interests: Interests | None) -> Interests:
    if interests is None:
        raise ValueError(
            f"{name} is told interests of a user model, and none are given; give {setting('interests')} and "
            f"{setting('item_interests')}, or name the ranker alone"
        )
    return interests


def _read(model: ModelSettings, kind: RankerName, told: Told) -> ModelSettings:
    """With the defaults of what this ranker does not read. Before its heads stand layers of its own, so the tower is
    linear, as `plait rank train` has it."""
    plain, own = RankerSettings(), settings_of_ranker(kind)
    shared = (*_SHARED, "num_heads") if replace(plain, kind=kind).reads_time else _SHARED
    trunk = TrunkConfig(**{name: getattr(model.trunk, name) for name in shared})
    values = {name: getattr(model.ranker, name) for name in own}
    ranker = RankerSettings(**values | {"interests": _switched(model.ranker.interests, told)})
    return replace(
        model, trunk=trunk, ranker=ranker, two_tower=TwoTowerSettings(), tower=TowerConfig(kind="linear")
    )


def _switched(interests: InterestSettings, told: Told) -> InterestSettings:
    match told:
        case "":
            return InterestSettings()
        case "lum":
            return interests
        case "feature":
            return InterestSettings(match=False)
        case "match":
            return InterestSettings(user=False, item=False)
        case _:
            assert_never(told)


def _check_all_read(model: ModelSettings, rows: Sequence[Variant], beside_layouts: bool) -> None:
    read = {name for row in rows for name, _ in changed(row.settings.model, "model")}
    for name, value in changed(model, "model"):
        if name not in read and name.startswith(tuple(_read_by_rankers(beside_layouts))):
            raise ValueError(f"{setting(name, value)} is read by no row of this comparison; leave it out")


def _read_by_rankers(beside_layouts: bool) -> Iterator[str]:
    """Where settings begin that only rankers read; where they stand alone, those of trunks and towers, too."""
    yield from (f"model.two_tower.{field.name}" for field in fields(TwoTowerSettings) if field.name != "kind")
    yield from (f"model.ranker.{field.name}" for field in fields(RankerSettings) if field.name != "kind")
    if not beside_layouts:
        yield from ("model.trunk.", "model.tower.")
