"""Scoring and retrieval, the plain way: one sequence per candidate. The reference for every faster way.

Shape letters: U users, C candidates of a user, F context features, M questions, K items returned, V catalogue items.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from plait.engine.state import State, before_last_request, in_last_request, joined, repeated
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
    exposure: Hashable = None,
    context_F: Int64[np.ndarray, "F"] | None = None,
) -> dict[str, Float32[np.ndarray, "U C ..."]]:
    """The expected actions of every user on its candidates, in the log's units; a category's probabilities.

    Args:
        at_s: when the candidates are shown, in unix seconds; only models that know the time or requests look at it.
        exposure: what tells the candidates' request from others, as `encode` takes it of the history's. Candidates of
            the last event's request are asked about as they were trained; without `at_s`, they are of a later one.
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
    coming = _coming(model, "a", state, at_s, exposure)
    if context_F is None:
        context_F = _no_context(state.events)
    found = [
        _score_step(model, coming, step_UC, context_F)
        for step_UC in _steps(item_UC, max(1, CANDIDATES_PER_STEP // len(item_UC)))
    ]
    return {name: np.concatenate([step[name] for step in found], axis=1) for name in found[0]}


@torch.no_grad()
def retrieve(
    model: GenerativeRecommender,
    state: State,
    k: int,
    filter_seen: bool,
    *,
    at_s: int | None = None,
    exposure: Hashable = None,
) -> tuple[Int64[np.ndarray, "U K"], Float32[np.ndarray, "U K"]]:
    """The `k` items most likely to come next for every user, best first, and their logits.

    Args:
        at_s, exposure: when they are shown, and in which request, as in `score`.

    Raises:
        ValueError: the layout predicts no item, fewer than `k` items are left, or the time is needed and not given, or
            lies before the last event of a user.
    """
    if not audit(model.layout).can_retrieve:
        raise ValueError(f"layout '{model.layout}' cannot retrieve: it predicts no item")
    coming = _coming(model, "i", state, at_s, exposure)
    to_come = _candidates(coming, _unknown(coming.events), _no_context(coming.events))
    (state_UD,) = model(_inputs(model, joined(coming.events, to_come), "i"))
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
    with the last one, but in a request of its own."""
    last_U = events.start_U1[1:] - 1
    time_s_U = events.time_s_E[last_U] if time_s_U is None else time_s_U
    coming = _Coming(events, time_s_U, events.request_E[last_U] + 1)
    return joined(events, _candidates(coming, _unknown(events), _no_context(events)))


@dataclass(frozen=True)
class _Coming:
    """What an event to come is asked about from, when it comes, and the number of its request."""

    events: EventBatch
    time_s_U: Int64[np.ndarray, "U"]
    request_U: Int64[np.ndarray, "U"]


def _coming(
    model: GenerativeRecommender, field: Field, state: State, at_s: int | None, exposure: Hashable
) -> _Coming:
    """An event of the last event's request comes as in training: in a request that is blind to itself, or asked about
    as candidates are, after what lay before the request; else after all events.

    Raises:
        ValueError: as `_request_times`.
    """
    time_s_U = _request_times(model, field, state, at_s)
    request_U = state.events.request_E[state.events.start_U1[1:] - 1]
    if at_s is None:
        return _Coming(state.events, time_s_U, request_U + 1)
    exposure_U = None if exposure is None else (exposure,) * len(time_s_U)
    at_s_U = np.full_like(time_s_U, at_s)
    in_last_U = in_last_request(state, at_s_U, exposure_U)
    events = state.events
    if model.config.settings.exposure.same_request == "blind" or model.asks_candidates:
        events = before_last_request(events, in_last_U)
    return _Coming(events, time_s_U, request_U + ~in_last_U)


def _request_times(
    model: GenerativeRecommender, field: Field, state: State, at_s: int | None
) -> Int64[np.ndarray, "U"]:
    """When each user is asked about; the time of its last event where the model does not look at it.

    Raises:
        ValueError: the model looks at it, and there is none, or it lies before the last event of a user.
    """
    last_s_U = state.events.time_s_E[state.events.start_U1[1:] - 1]
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


def _unknown(events: EventBatch) -> Int64[np.ndarray, "U 1"]:
    return np.full((events.num_users, 1), UNKNOWN_ITEM)


def _no_context(events: EventBatch) -> Int64[np.ndarray, "F"]:
    return np.full(events.context_EF.shape[1], MISSING_VALUE)


def _inputs(model: GenerativeRecommender, batch: EventBatch, field: Field) -> Inputs:
    device = next(model.parameters()).device
    exposure, late = model.config.settings.exposure, model.late_statistics()
    return query_inputs(model.layout, batch, (field,), device=device, exposure=exposure, late=late)


def _steps(item_UC: Int64[np.ndarray, "U C"], size: int) -> Iterator[Int64[np.ndarray, "U c"]]:
    return (item_UC[:, at : at + size] for at in range(0, item_UC.shape[1], size))


def _score_step(
    model: GenerativeRecommender,
    coming: _Coming,
    item_UC: Int64[np.ndarray, "U C"],
    context_F: Int64[np.ndarray, "F"],
) -> dict[str, Float32[np.ndarray, "U C ..."]]:
    shape = item_UC.shape
    candidates = _candidates(coming, item_UC, context_F)
    inputs = _inputs(model, joined(repeated(coming.events, shape[1]), candidates), "a")
    (state_MD,) = model(inputs)
    predicted = model.heads.predict(state_MD, inputs.asked[0].late_MF)
    return {name: value.unflatten(0, shape).cpu().numpy() for name, value in predicted.items()}


def _candidates(
    coming: _Coming, item_UC: Int64[np.ndarray, "U C"], context_F: Int64[np.ndarray, "F"]
) -> EventBatch:
    """One event for every candidate, each by itself: its item, no action yet."""
    candidates = item_UC.shape[1]
    count = item_UC.size
    return EventBatch(
        user_U=np.repeat(coming.events.user_U, candidates),
        start_U1=np.arange(count + 1),
        lead_U=np.zeros(count, dtype=np.int64),
        item_E=item_UC.reshape(-1),
        action_EA=np.full((count, coming.events.action_EA.shape[1]), np.nan, dtype=np.float32),
        time_s_E=np.repeat(coming.time_s_U, candidates),
        request_E=np.repeat(coming.request_U, candidates),
        context_EF=np.tile(context_F, (count, 1)),
    )
