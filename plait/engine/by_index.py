"""Retrieval by an index of items: exact scores of some candidates, and the whole catalogue where these are too few.

Shape letters: U users, K items returned, I rows of the item table, G columns of conditions, D width. Small ones count
those of a step.
"""

from collections.abc import Hashable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64

from plait.engine import asking, steps
from plait.engine.item_index import AGAIN, ItemIndex, best_by_index, recall_of
from plait.engine.one_pass import item_states, retrieve
from plait.engine.ranking import beside_of, catalogue_of
from plait.engine.state import State
from plait.models.generative import GenerativeRecommender


@torch.no_grad()
def retrieve_by_index(
    model: GenerativeRecommender,
    state: State,
    k: int,
    filter_seen: bool,
    index: ItemIndex,
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
    kept_I: Bool[np.ndarray, " I"] | None = None,
    condition_UG: Int64[np.ndarray, "U G"] | None = None,
) -> tuple[Int64[np.ndarray, "U K"], Float32[np.ndarray, "U K"], int]:
    """As `retrieve`, of the candidates that an index finds: scores are exact, and items may be missed.

    Returns:
        Items, scores, and of how many users the candidates were too few behind the filters: those are answered from the
        whole catalogue.

    Raises:
        ValueError: as `retrieve`, or the index is of another model.
    """
    if not index.is_of(model):
        raise ValueError(f"the index is of another model, whose items lie elsewhere; {AGAIN}")
    filters = asking.checked_filters(model, state, k, filter_seen, kept_I)
    coming = asking.coming_of(model, "i", state, at_s, request_name)
    found, catalogue, num_exact = [], None, 0
    for step, state_uD in item_states(model, state, coming, condition_UG):
        for part in steps.even(len(state_uD), steps.rows_per_step(model.config.num_items)):
            users = slice(step.start + part.start, step.start + part.stop)
            events, query_uD = coming.of(users).events, model.retrieval.queries(state_uD[part])
            item_uK, score_uK = best_by_index(index, query_uD, k, filters.of(users), beside_of(model, events))
            short = np.flatnonzero(~np.isfinite(score_uK).all(axis=1))
            if len(short):
                catalogue = catalogue or catalogue_of(model)
                for user in short.tolist():
                    one, at = slice(users.start + user, users.start + user + 1), slice(user, user + 1)
                    ((item_uK[at], score_uK[at]),) = asking.best_of_users(
                        model, catalogue, coming.of(one).events, state_uD[part][at], k, filters.of(one)
                    )
            num_exact += len(short)
            found.append((item_uK, score_uK))
    item_UK, score_UK = (np.concatenate(each) for each in zip(*found, strict=True))
    return item_UK, score_UK, num_exact


@torch.no_grad()
def measured_recall(
    model: GenerativeRecommender, state: State, k: int, index: ItemIndex, *, at_s: int | None = None
) -> float:
    """The share of each user's exact best `k`, seen items included, that the index finds: the mean over users.

    Raises:
        ValueError: as `retrieve`.
    """
    condition_UG = asking.no_condition(state.events)
    found_UK, _, _ = retrieve_by_index(model, state, k, False, index, at_s=at_s, condition_UG=condition_UG)
    exact_UK, _ = retrieve(model, state, k, False, at_s=at_s, condition_UG=condition_UG)
    return recall_of(found_UK, exact_UK)
