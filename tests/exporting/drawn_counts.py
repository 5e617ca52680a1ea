"""Counts for models of tests, drawn."""

import numpy as np
from scipy import sparse
from tiny import NUM_ITEMS

from plait.counts.actions import ActionCounts, CountedAction, CountedPart, WeighedPart
from plait.counts.beside import Counts, ItemCounts, Tables
from plait.counts.effects import Damping, ItemTotals
from plait.counts.kinds import counted
from plait.counts.weighing import TermWeights
from plait.exporting.comparing import drawn_histories
from plait.models.generative import GenerativeRecommender

COUNTED_ITEMS = NUM_ITEMS - 2  # the catalogue has grown since


def item_counts(*, ease: bool = True, reads_own: bool = True, seed: int = 0) -> ItemCounts:
    rng, size = np.random.default_rng(seed), COUNTED_ITEMS + 1
    popularity = rng.integers(0, 9, size).astype(np.float64)
    popularity[[0, 3]] = 0.0
    rules, weights = (
        sparse.random_array((size, size), density=0.4, rng=rng, dtype=np.float32).tocsr() for _ in range(2)
    )
    tables = Tables(popularity, rules, 3, 0.7, weights if ease else None, reads_own)
    return ItemCounts(tables, np.array([0.6, 0.9, 0.5, 0.4])[: 2 + ease + reads_own], "")


def action_counts(model: GenerativeRecommender, *, reads_item: bool = True) -> ActionCounts:
    events, found = drawn_histories(model, 30, seed=7), []
    item_E = np.minimum(events.item_E, COUNTED_ITEMS)
    weights = TermWeights(np.array([0.7, 0.8, 0.6]) if reads_item else np.array([0.7, 0.6]), 0.1)
    for column, action in enumerate(model.config.actions):
        parts = []
        for part in counted(action.kind).parts:
            y_EK = part.columns(events.action_EA[:, column].astype(np.float64))
            known_E = ~np.isnan(y_EK[:, 0])
            totals = ItemTotals.of(part.scale, y_EK[known_E], item_E[known_E], COUNTED_ITEMS)
            of_part = CountedPart(part, column, totals, Damping(2.0, 1.5, 0.8), reads_item)
            parts.append(WeighedPart(of_part, weights))
        found.append(CountedAction(action.kind, tuple(parts), ""))
    return ActionCounts(tuple(found))


def counting(model: GenerativeRecommender) -> GenerativeRecommender:
    model.counts = Counts(item_counts(), action_counts(model), "causal")
    return model
