"""Recommenders that are asked and were never trained: weights are random, and answers what they may be."""

from dataclasses import replace

import numpy as np
import polars as pl
from tiny import ACTIONS, NUM_ITEMS, batch_of, model_of

from plait.data.history import Columns
from plait.data.vocabulary import Vocabulary
from plait.engine.state import State
from plait.models.generative import ModelSettings
from plait.recommender import Recommender
from plait.schema import Action, Feature

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
    from plait.layouts import resolve

    columns = Columns(user="user", item="item", time="time", time_unit="s", user_ids="text", context=context)
    model = model_of(resolve(layout), actions=actions, settings=settings, context=context)
    return Recommender(model, Vocabulary.of_items(pl.Series("item_id", ITEMS)), columns)


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
