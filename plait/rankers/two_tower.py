"""A two-tower retriever as a run and as a row of a comparison, with and without interests of a user model.

A row is named by what it is told: `ebr`, `ebr+lum`, `ebr+user` (the user's tower alone), `ebr+item` (the item's).
"""

from dataclasses import replace
from typing import Literal, assert_never

from plait.compare.variants import Variant
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.models.two_tower import RETRIEVED_LAYOUT
from plait.nn.config import TrunkConfig
from plait.nn.losses import RetrievalLoss
from plait.nn.ranker_settings import RankerSettings
from plait.nn.towers import TowerConfig
from plait.nn.two_tower import TowerInterests
from plait.rankers.interests import Interests
from plait.wording import setting

EBR = "ebr"
TowersTold = Literal["", "lum", "user", "item"]
TEMPERATURE = 0.2  # of a cosine, where nobody chose one: that of a user model's pretraining in the studies


def is_two_tower_row(name: str) -> bool:
    """
    >>> is_two_tower_row("ebr+lum"), is_two_tower_row("din+lum")
    (True, False)
    """
    return name.partition("+")[0] == EBR


def two_tower_settings(
    model: ModelSettings,
    optim: Optim,
    protocol: Protocol,
    interests: Interests | None = None,
) -> RunSettings:
    """Everything that decides a retriever's run. Events of a history show their items alone.

    Args:
        model: `model.two_tower` holds the towers' own settings; its `kind` is set here. Where `model.retrieval`
            compares by the inner product, its default, the towers are compared by their cosine.
        interests: what it is told beside; `model.two_tower.interests` says what of it is read.
    """
    told = model.two_tower.interests
    if interests is not None:
        told = replace(told, num_conditions=len(interests.conditions), width=interests.width)
    retrieval = model.retrieval
    if not retrieval.l2_norm:
        temperature = (
            TEMPERATURE if retrieval.temperature == RetrievalLoss().temperature else retrieval.temperature
        )
        retrieval = replace(retrieval, l2_norm=True, temperature=temperature)
    towers = replace(model.two_tower, kind="ebr", interests=told)
    its = replace(model, two_tower=towers, retrieval=retrieval)
    return RunSettings(layout=str(resolve(RETRIEVED_LAYOUT)), model=its, optim=optim, protocol=protocol)


def two_tower_row(
    name: str, model: ModelSettings, optim: Optim, protocol: Protocol, interests: Interests | None
) -> Variant:
    """The row of a name. It takes the settings that towers read; the others keep their defaults.

    Raises:
        ValueError: the name is none, or interests are missing.
    """
    _, plus, told = name.partition("+")
    if plus and told not in ("lum", "user", "item"):
        raise ValueError(
            f"{setting('rankers')} names {name!r}; expected {EBR}, alone or with +lum, +user or +item"
        )
    if plus and interests is None:
        raise ValueError(
            f"{name} is told interests of a user model, and none are given; give {setting('interests')} and "
            f"{setting('item_interests')}, or name {EBR} alone"
        )
    switched = _towers_told(model.two_tower.interests, told)  # type: ignore[arg-type]
    its_model = replace(
        model,
        trunk=TrunkConfig(dim=model.trunk.dim),
        tower=TowerConfig(),
        ranker=RankerSettings(),
        two_tower=replace(model.two_tower, interests=switched),
    )
    given = interests if plus else None
    return Variant(name, two_tower_settings(its_model, optim, protocol, given), given)


def _towers_told(interests: TowerInterests, told: TowersTold) -> TowerInterests:
    match told:
        case "":
            return TowerInterests()
        case "lum":
            return interests
        case "user":
            return TowerInterests(item=False)
        case "item":
            return TowerInterests(user=False)
        case _:
            assert_never(told)


def of_positions(protocol: Protocol) -> Protocol:
    """A retriever is asked about every event where it stands, as a layout that predicts items is."""
    return replace(protocol, supervise="all", candidate_requests=1, sample="user")
