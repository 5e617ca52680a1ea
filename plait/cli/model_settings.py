"""The settings of a model as verbs take and change them."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from plait.models.generative import ModelSettings
from plait.nn.config import TrunkKind


@dataclass(frozen=True, kw_only=True)
class VerbModelSettings(ModelSettings):
    """A model's settings with the defaults of verbs: what trains for use takes what counting knows."""

    counts: Literal["none", "auto"] = "auto"


def model_of_verb(given: VerbModelSettings, kind: TrunkKind | None) -> ModelSettings:
    """The settings that a verb was given, with another kind of trunk where one is named."""
    model = ModelSettings(**{field.name: getattr(given, field.name) for field in fields(ModelSettings)})
    return model if kind is None else replace(model, trunk=replace(model.trunk, kind=kind))
