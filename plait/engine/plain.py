"""Scoring and retrieval, the plain way: one sequence per candidate. The reference for every faster way.

Shape letters: U users, C candidates of a user, F context features, M questions, K items returned, V catalogue items.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, Int64

from plait.engine.state import State, joined, repeated
from plait.layouts import audit
from plait.layouts.audit import reader
from plait.layouts.facts import Field
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Inputs, query_inputs
from plait.schema import MISSING_VALUE, UNKNOWN_ITEM, EventBatch

CANDIDATES_PER_STEP = 256


@torch.no_grad()
def score(
    model: GenerativeRecommender,
    state: State,
    item_UC: Int64[np.ndarray, "U C"],
    *,
    at_s: int | None = None,
    context_F: Int64[np.ndarray, "F"] | None = None,
) -> dict[str, Float32[np.ndarray, "U C ..."]]:
    """The expected actions of every user on its candidates, in the log's units; a category's probabilities.

    Args:
        at_s: when the candidates are shown, in unix seconds; only models that know the time look at it.
        context_F: codes of what is known of that moment; without it all are missing.

    Raises:
        ValueError: the layout cannot score a given candidate, there are no candidates, or the time is needed and not
            given, or lies before the last event of a user.
    """
    verdict = audit(model.layout)
    if verdict.can_score == "no":
        raise ValueError(f"layout '{model.layout}' cannot score a given item: {verdict.why_not_score}")
    if not item_UC.size:
        raise ValueError(f"no candidates to score: {item_UC.shape[1]} items for {len(item_UC)} users")
    time_s_U = _request_times(model, "a", state, at_s)
    if context_F is None:
        context_F = np.full(state.events.context_EF.shape[1], MISSING_VALUE)
    found = [
        _score_step(model, state, step_UC, time_s_U, context_F)
        for step_UC in _steps(item_UC, max(1, CANDIDATES_PER_STEP // len(item_UC)))
    ]
    return {name: np.concatenate([step[name] for step in found], axis=1) for name in found[0]}


@torch.no_grad()
def retrieve(
    model: GenerativeRecommender, state: State, k: int, filter_seen: bool, *, at_s: int | None = None
) -> tuple[Int64[np.ndarray, "U K"], Float32[np.ndarray, "U K"]]:
    """The `k` items most likely to come next for every user, best first, and their logits.

    Args:
        at_s: when they are shown, in unix seconds; only models that know the time look at it.

    Raises:
        ValueError: the layout predicts no item, fewer than `k` items are left, or the time is needed and not given, or
            lies before the last event of a user.
    """
    if not audit(model.layout).can_retrieve:
        raise ValueError(f"layout '{model.layout}' cannot retrieve: it predicts no item")
    time_s_U = _request_times(model, "i", state, at_s)
    (state_UD,) = model(_inputs(model, before_the_next(state.events, time_s_U), "i"))
    score_UV = model.item_scores(state_UD)
    if filter_seen:
        for user, seen in enumerate(state.seen_U):
            score_UV[user, torch.from_numpy(seen).to(score_UV.device)] = -torch.inf
    left = int((score_UV[:, UNKNOWN_ITEM + 1 :] > -torch.inf).sum(1).min())
    if not 0 < k <= left:
        raise ValueError(f"k = {k}: expected 1 to {left}, the items of the catalogue that were not seen yet")
    top_UK = score_UV.topk(k)
    return top_UK.indices.cpu().numpy(), top_UK.values.cpu().numpy()


def needs_time(model: GenerativeRecommender, field: Field) -> bool:
    """Whether the answer about the `field` of an event to come depends on when it comes."""
    config, found = model.config.settings, reader(model.layout, field)
    anchor = config.exposure.time_anchor
    if found is None or not config.trunk.reads_time:
        return False
    if found.target.offset == 0 or anchor == "request":
        return True
    token = model.layout.tokens[found.token]
    return anchor == "next" and all(target.offset > 0 for target in token.predicted)


def before_the_next(events: EventBatch, time_s_U: Int64[np.ndarray, "U"] | None = None) -> EventBatch:
    """The histories, each with one event to come of which nothing is known, or only when; by default as if it came
    with the last one."""
    if time_s_U is None:
        time_s_U = _last_times(events)
    context_F = np.full(events.context_EF.shape[1], MISSING_VALUE)
    unknown_U1 = np.full((events.num_users, 1), UNKNOWN_ITEM)
    return joined(events, _candidates(events, unknown_U1, time_s_U, context_F))


def _request_times(
    model: GenerativeRecommender, field: Field, state: State, at_s: int | None
) -> Int64[np.ndarray, "U"]:
    """When each user is asked about; the time of its last event where the model does not look at it.

    Raises:
        ValueError: the model looks at it, and there is none, or it lies before the last event of a user.
    """
    last_s_U = _last_times(state.events)
    if not needs_time(model, field):
        return last_s_U
    settings, asked = model.config.settings, "action" if field == "a" else "next item"
    what = (
        f"layout '{model.layout}' with positions = '{settings.trunk.positions}' and time_anchor = "
        f"'{settings.exposure.time_anchor}' knows when the {asked} that it predicts happens"
    )
    if at_s is None:
        raise ValueError(f"{what}: say when, with at (--at)")
    early_U = np.flatnonzero(last_s_U > at_s)
    if len(early_U):
        raise ValueError(
            f"{what}, and {at_s} lies before the last event of user {state.id_U[early_U[0]]!r} "
            f"({last_s_U[early_U[0]]}, unix seconds): give a later time, or a shorter history"
        )
    return np.full_like(last_s_U, at_s)


def _last_times(events: EventBatch) -> Int64[np.ndarray, "U"]:
    return events.time_s_E[events.start_U1[1:] - 1]


def _inputs(model: GenerativeRecommender, batch: EventBatch, field: Field) -> Inputs:
    device = next(model.parameters()).device
    exposure, late = model.config.settings.exposure, model.late_statistics()
    return query_inputs(model.layout, batch, (field,), device=device, exposure=exposure, late=late)


def _steps(item_UC: Int64[np.ndarray, "U C"], size: int) -> Iterator[Int64[np.ndarray, "U c"]]:
    return (item_UC[:, at : at + size] for at in range(0, item_UC.shape[1], size))


def _score_step(
    model: GenerativeRecommender,
    state: State,
    item_UC: Int64[np.ndarray, "U C"],
    time_s_U: Int64[np.ndarray, "U"],
    context_F: Int64[np.ndarray, "F"],
) -> dict[str, Float32[np.ndarray, "U C ..."]]:
    shape = item_UC.shape
    candidates = _candidates(state.events, item_UC, time_s_U, context_F)
    inputs = _inputs(model, joined(repeated(state.events, shape[1]), candidates), "a")
    (state_MD,) = model(inputs)
    predicted = model.heads.predict(state_MD, inputs.asked[0].late_MF)
    return {name: value.unflatten(0, shape).cpu().numpy() for name, value in predicted.items()}


def _candidates(
    events: EventBatch,
    item_UC: Int64[np.ndarray, "U C"],
    time_s_U: Int64[np.ndarray, "U"],
    context_F: Int64[np.ndarray, "F"],
) -> EventBatch:
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
        time_s_E=np.repeat(time_s_U, candidates),
        request_E=np.repeat(events.request_E[last_U] + 1, candidates),
        context_EF=np.tile(context_F, (count, 1)),
    )
