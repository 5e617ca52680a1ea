"""Scoring and retrieval, the plain way: one sequence per candidate. The reference for every faster way.

Shape letters: U users, C candidates of a user, M questions, K items returned, V catalogue items.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, Int64

from plait.engine.state import State, joined, repeated
from plait.layouts import audit
from plait.layouts.facts import Fact
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import query_inputs
from plait.schema import UNKNOWN_ITEM, EventBatch

CANDIDATES_PER_STEP = 256


@torch.no_grad()
def score(
    model: GenerativeRecommender, state: State, item_UC: Int64[np.ndarray, "U C"]
) -> dict[str, Float32[np.ndarray, "U C ..."]]:
    """The expected actions of every user on its candidates, in the log's units; a category's probabilities.

    Raises:
        ValueError: the layout cannot score a given candidate, or there are no candidates.
    """
    verdict = audit(model.layout)
    if verdict.can_score == "no":
        raise ValueError(f"layout '{model.layout}' cannot score a given item: {verdict.why_not_score}")
    if not item_UC.size:
        raise ValueError(f"no candidates to score: {item_UC.shape[1]} items for {len(item_UC)} users")
    found = [
        _score_step(model, state, step_UC)
        for step_UC in _steps(item_UC, max(1, CANDIDATES_PER_STEP // len(item_UC)))
    ]
    return {name: np.concatenate([step[name] for step in found], axis=1) for name in found[0]}


@torch.no_grad()
def retrieve(
    model: GenerativeRecommender, state: State, k: int, filter_seen: bool
) -> tuple[Int64[np.ndarray, "U K"], Float32[np.ndarray, "U K"]]:
    """The `k` items most likely to come next for every user, best first, and their logits.

    Raises:
        ValueError: the layout predicts no item, or fewer than `k` items are left.
    """
    if not audit(model.layout).can_retrieve:
        raise ValueError(f"layout '{model.layout}' cannot retrieve: it predicts no item")
    # Where the item is read at its own event's token, before it is shown, that event is there with no item.
    coming = _candidates(state.events, np.full((state.events.num_users, 1), UNKNOWN_ITEM))
    at_own_token = Fact("i") in (target.fact for token in model.layout.tokens for target in token.predicted)
    events = joined(state.events, coming) if at_own_token else state.events
    inputs = query_inputs(model.layout, events, ("i",), hypothetical=at_own_token)
    (state_UD,) = model(inputs)
    score_UV = model.item_scores(state_UD)
    if filter_seen:
        for user, seen in enumerate(state.seen_U):
            score_UV[user, torch.from_numpy(seen)] = -torch.inf
    left = int((score_UV[:, UNKNOWN_ITEM + 1 :] > -torch.inf).sum(1).min())
    if not 0 < k <= left:
        raise ValueError(f"k = {k}: expected 1 to {left}, the items of the catalogue that were not seen yet")
    top_UK = score_UV.topk(k)
    return top_UK.indices.numpy(), top_UK.values.numpy()


def _steps(item_UC: Int64[np.ndarray, "U C"], size: int) -> Iterator[Int64[np.ndarray, "U c"]]:
    return (item_UC[:, at : at + size] for at in range(0, item_UC.shape[1], size))


def _score_step(
    model: GenerativeRecommender, state: State, item_UC: Int64[np.ndarray, "U C"]
) -> dict[str, Float32[np.ndarray, "U C ..."]]:
    shape = item_UC.shape
    batch = joined(repeated(state.events, shape[1]), _candidates(state.events, item_UC))
    inputs = query_inputs(model.layout, batch, ("a",), hypothetical=True)
    (state_MD,) = model(inputs)
    predicted = model.heads.predict(state_MD)
    return {name: value.unflatten(0, shape).numpy() for name, value in predicted.items()}


def _candidates(events: EventBatch, item_UC: Int64[np.ndarray, "U C"]) -> EventBatch:
    """One event for every candidate: its item, no action yet, in a request of its own after the history."""
    last_U = events.start_U1[1:] - 1
    candidates = item_UC.shape[1]
    count = item_UC.size
    return EventBatch(
        user_U=np.repeat(events.user_U, candidates),
        start_U1=np.arange(count + 1),
        lead_U=np.zeros(count, dtype=np.int64),
        item_E=item_UC.reshape(-1),
        action_EA=np.full((count, events.action_EA.shape[1]), np.nan, dtype=np.float32),
        time_s_E=np.repeat(events.time_s_E[last_U], candidates),
        request_E=np.repeat(events.request_E[last_U] + 1, candidates),
    )
