"""The model of a configuration: over a trunk, or a ranker."""

from plait.models.generative import GenerativeRecommender, ModelConfig
from plait.models.ranker import Ranker


def built(config: ModelConfig) -> GenerativeRecommender:
    """A model whose weights wait for `initialised`, or for saved ones.

    Raises:
        ValueError: the layout and the settings do not go together; says what does.
    """
    return Ranker(config) if config.settings.ranker.is_on else GenerativeRecommender(config)
