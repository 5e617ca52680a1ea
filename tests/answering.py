"""Recommenders that are asked and were never trained: weights are random, and answers what they may be."""

from dataclasses import replace

import numpy as np
import polars as pl
from tiny import ACTIONS, NUM_ITEMS, batch_of, model_of, started, trunk_of

from plait.data import Dataset
from plait.data.history import Columns, columns_read
from plait.data.vocabulary import Vocabulary
from plait.engine.state import State
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Protocol
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.recommender import Recommender
from plait.schema import Action, Feature
from plait.training.run import config_of

ITEMS = [f"i{item:02d}" for item in range(NUM_ITEMS)]
USERS = ["u0", "u1", "u2"]
LENGTHS = (4, 9, 6)


def untrained(
    layout: str = "lac",
    actions: tuple[Action, ...] = ACTIONS,
    context: tuple[Feature, ...] = (),
    settings: ModelSettings | None = None,
) -> Recommender:
    """Knows the items i00, i01, ... and columns called user, item and time."""
    columns = Columns(user="user", item="item", time="time", time_unit="s", user_ids="text", context=context)
    model = model_of(resolve(layout), actions=actions, settings=settings, context=context)
    return Recommender(model, Vocabulary.of_items(pl.Series("item_id", ITEMS)), columns)


def asked_under(data: Dataset, layout: str) -> Recommender:
    """Of a dataset with conditions, with large weights; what is known of conditions is only what it reads of them."""
    asked = RunSettings(
        layout=str(resolve(layout)), model=ModelSettings(trunk=trunk_of()), protocol=Protocol(max_events=9)
    )
    model = started(GenerativeRecommender(config_of(data, asked))).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    model.items.describe(data.item_features, data.train_item_counts())
    return Recommender(model, data.items, columns_read(data))


def state_of(recommender: Recommender) -> State:
    """Three users' histories."""
    events = batch_of(LENGTHS)
    num_actions, num_context = len(recommender.actions), len(recommender.columns.context)
    events = replace(
        events,
        action_EA=np.full((len(events.item_E), num_actions), np.nan, dtype=np.float32),
        context_EF=np.zeros((len(events.item_E), num_context), dtype=np.int64),
    )
    return replace(recommender.encode(events), id_U=tuple(USERS))
