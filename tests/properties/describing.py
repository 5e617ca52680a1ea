"""Features of every kind, as fitted, for the conformance suite: of items, of users, of moments, and late ones.

Shape letters: E events, U users, V rows of the item table, F context columns, K columns of codes.
"""

from dataclasses import replace

import numpy as np
from tiny import NUM_ITEMS, model_of

from plait.layouts import Layout
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.late import LateSettings
from plait.schema import (
    FIRST_VALUE,
    MISSING_VALUE,
    PADDING,
    Categories,
    Category,
    EventBatch,
    Feature,
    FeatureTable,
    Number,
    Vector,
)

GENRE = Feature("genre", Categories("|", ("a", "b", "c", "d"), 2))
FEATURES = {
    "item_features": (GENRE, Feature("year", Number(3, (1970.0, 1990.0))), Feature("text", Vector(width=3))),
    "user_features": (Feature("plan", Category(("free", "paid"))),),
    "context": (Feature("device", Category(("phone", "tv"))), Feature("hour", Number(3, (8.0, 16.0)))),
}
CODES_OF_CONTEXT = np.array([feature.num_codes for feature in FEATURES["context"]])
LATE = LateSettings(windows=(1, 3), similar="genre")


def describing_model(layout: Layout, settings: ModelSettings) -> GenerativeRecommender:
    """A model of all features, late ones too, with a catalogue of which every third item is new."""
    model = model_of(layout, settings=replace(settings, late=LATE), **FEATURES)
    rng, rows = np.random.default_rng(17), NUM_ITEMS + 1
    code_VK = rng.integers(FIRST_VALUE, FIRST_VALUE + np.array((4, 4, 3)), (rows, 3), dtype=np.int32)
    code_VK[1::4, 1], code_VK[2::5, 2], code_VK[0] = PADDING, MISSING_VALUE, (MISSING_VALUE, PADDING, 0)
    vector_VW = rng.normal(size=(rows, 3)).astype(np.float32)
    table = FeatureTable(FEATURES["item_features"], code_VK, vector_VW)
    model.items.describe(table, np.arange(rows) % 3)
    return model


def described(batch: EventBatch) -> EventBatch:
    """The batch with contexts that follow from items, and with features that follow from users' numbers."""
    context_EF = batch.item_E[:, None] * (1, 3) % CODES_OF_CONTEXT
    return replace(batch, context_EF=context_EF, user_code_UK=batch.user_U[:, None] % 4)
