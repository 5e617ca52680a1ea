"""The settings of a model as verbs change them."""

from dataclasses import replace

from plait.models.generative import ModelSettings
from plait.nn.config import TrunkKind


def with_trunk(model: ModelSettings, kind: TrunkKind | None) -> ModelSettings:
    """The settings with another kind of trunk, where one is given."""
    return model if kind is None else replace(model, trunk=replace(model.trunk, kind=kind))
