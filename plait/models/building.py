"""The model of a configuration: over a trunk, a ranker, or two towers."""

from plait.models.generative import GenerativeRecommender, ModelConfig
from plait.models.ranker import Ranker
from plait.models.two_tower import TwoTower


def built(config: ModelConfig) -> GenerativeRecommender:
    """A model whose weights wait for `initialised`, or for saved ones.

    Raises:
        ValueError: the layout and the settings do not go together; says what does.
    """
    if config.settings.two_tower.is_on:
        return TwoTower(config)
    return Ranker(config) if config.settings.ranker.is_on else GenerativeRecommender(config)
