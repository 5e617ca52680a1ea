"""Scoring and retrieval, the plain way: one sequence per candidate. The reference for every faster way.

Shape letters: U users, C candidates of a user, F context features, M questions, K items returned, V catalogue items.
D width. Small ones count those of a step: u users, c candidates.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from plait.engine import steps
from plait.engine.ranking import Catalogue, Seen, beside_of, best_of_parts, catalogue_of, without
from plait.engine.state import State, called, in_last_request, joined_histories, repeated, some_users, window
from plait.layouts import Layout, audit
from plait.layouts.audit import reader
from plait.layouts.facts import Field
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import Inputs, query_inputs
from plait.models.late import LateStatistics
from plait.schema import MISSING_VALUE, UNKNOWN_ITEM, EventBatch
from plait.wording import setting


@torch.no_grad()
def score(
    model: GenerativeRecommender,
    state: State,
    item_UC: Int64[np.ndarray, "U C"],
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
    context_F: Int64[np.ndarray, " F"] | None = None,
) -> dict[str, Float32[np.ndarray, "U C ..."]]:
    """The expected actions of every user on its candidates, in the log's units; a category's probabilities.

    Args:
        at_s: when the candidates are shown, in unix seconds; only models that know the time or requests look at it.
        request_name: what tells the candidates' request from others, as `encode` takes it of the history's. Candidates
            of the last event's request are asked about as they were trained; without `at_s`, they are of a later one.
        context_F: codes of what is known of that moment; without it all are missing.

    Raises:
        ValueError: the layout cannot score a given candidate, there are no candidates, the time is needed and not
            given, or lies before the last event of a user, or nothing is left of a history from which to ask.
    """
    verdict = audit(model.layout)
    if verdict.can_score == "no":
        raise ValueError(f"layout '{model.layout}' cannot score a given item: {verdict.why_not_score}")
    if not item_UC.size:
        raise ValueError(f"no candidates to score: {item_UC.shape[1]} items for {len(item_UC)} users")
    coming = _coming(model, "a", state, at_s, request_name)
    if context_F is None:
        context_F = _no_context(state.events)
    late = model.late_statistics()
    most, tokens_U = steps.tokens_per_step(model), steps.tokens_of(model, coming.events.num_events_U)
    found = []
    for users in steps.within(tokens_U * item_UC.shape[1], most):
        item_uC, some = item_UC[users], coming.of(users)
        parts = steps.even(item_uC.shape[1], max(1, most // int(tokens_U[users].sum())))
        found.append(
            _joined([_score_step(model, some, item_uC[:, c], context_F, late) for c in parts], axis=1)
        )
    return _joined(found, axis=0)


@torch.no_grad()
def retrieve(
    model: GenerativeRecommender,
    state: State,
    k: int,
    filter_seen: bool,
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
) -> tuple[Int64[np.ndarray, "U K"], Float32[np.ndarray, "U K"]]:
    """The `k` items most likely to come next for every user, best first, and their scores: logits, or their
    weighted sum with what counts say.

    Equal scores are in the catalogue's order, and no score depends on `k`: a longer list begins with the shorter one.
    Items that are described alike have equal ones, unless counts tell them apart. Others that differ by less than
    rounding, about a millionth of the largest, may change places when the user is asked about in other company.

    Args:
        at_s, request_name: when they are shown, and in which request, as in `score`.

    Raises:
        ValueError: the layout predicts no item, fewer than `k` items are left to a user, the time is needed and not
            given, or lies before the last event of a user, or nothing is left of a history from which to ask.
    """
    if not audit(model.layout).can_retrieve:
        raise ValueError(f"layout '{model.layout}' cannot retrieve: it predicts no item")
    seen_U = state.seen_U if filter_seen else ()
    check_left(model.config.num_items, state, k, seen_U)
    coming = _coming(model, "i", state, at_s, request_name)
    tokens_U = steps.tokens_of(model, coming.events.num_events_U)
    catalogue, found = catalogue_of(model), []
    for users in steps.within(tokens_U, steps.tokens_per_step(model)):
        some = coming.of(users)
        found += _best(model, catalogue, some.events, _retrieve_step(model, some), k, seen_U[users])
    item_UK, score_UK = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return item_UK, score_UK


def needs_time(layout: Layout, settings: ModelSettings, field: Field) -> bool:
    """Whether the answer about the `field` of an event to come depends on when it comes."""
    found, anchor = reader(layout, field), settings.exposure.time_anchor
    if found is None or not settings.trunk.reads_time:
        return False
    if found.target.offset == 0 or anchor == "request":
        return True
    token = layout.tokens[found.token]
    return anchor == "next" and all(target.offset > 0 for target in token.predicted)


@dataclass(frozen=True)
class _Coming:
    """What an event to come is asked about from, when it comes, and the number of its request."""

    events: EventBatch
    time_s_U: Int64[np.ndarray, " U"]
    request_U: Int64[np.ndarray, " U"]

    def of(self, users: slice) -> "_Coming":
        return _Coming(some_users(self.events, users), self.time_s_U[users], self.request_U[users])


def _coming(
    model: GenerativeRecommender, field: Field, state: State, at_s: int | None, request_name: Hashable
) -> _Coming:
    """An event comes after the context that the model's plan gives it, as in training.

    Raises:
        ValueError: as `_request_times`, or a history is too short to be asked from.
    """
    time_s_U = _request_times(model, field, state, at_s)
    request_U = state.events.request_E[state.events.start_U1[1:] - 1]
    in_last_U = np.zeros(state.events.num_users, dtype=bool)
    if at_s is not None:
        name_U = None if request_name is None else (request_name,) * len(in_last_U)
        in_last_U = in_last_request(state, np.full_like(time_s_U, at_s), name_U)
    plan = model.plan
    events = window(state.events, plan.max_events, plan.lead, plan.end_of_context(state.events, in_last_U))
    _check_long_enough(model, field, state, events)
    return _Coming(events, time_s_U, request_U + ~in_last_U)


def _check_long_enough(model: GenerativeRecommender, field: Field, state: State, events: EventBatch) -> None:
    found = reader(model.layout, field)
    assert found is not None, "the layout predicts what it is asked about"
    length_U = events.num_events_U - events.lead_U
    short_U = np.flatnonzero(length_U < found.target.offset)
    if len(short_U):
        raise ValueError(
            f"{called(state.id_U[short_U[0]])} has {length_U[short_U[0]]} events before what is asked about; "
            f"predicting {found.target.fact} needs {found.target.offset}. Recommend popular items to users without "
            "history"
        )


def check_left(num_items: int, state: State, k: int, seen_U: Sequence[Int64[np.ndarray, " _"]]) -> None:
    """Raises ValueError where `k` items of the catalogue are not left to every user.

    Args:
        seen_U: what is filtered.
    """
    seen = [int((item_S != UNKNOWN_ITEM).sum()) for item_S in seen_U]
    most = int(np.argmax(seen)) if seen else None
    left = num_items - (0 if most is None else seen[most])
    if 0 < k <= left:
        return
    if most is not None and left <= 0:
        raise ValueError(
            f"{called(state.id_U[most])} has seen all {num_items} items of the catalogue, so none is left to "
            f"recommend; keep the seen ones with {setting('filter_seen', False)}"
        )
    if most is not None:
        whose = f"the items of the catalogue that {called(state.id_U[most])} has not seen, of {num_items}"
        raise ValueError(
            f"{setting('k', k)}: expected 1 to {left}, {whose}; ask for fewer, or do not filter the seen ones"
        )
    raise ValueError(f"{setting('k', k)}: expected 1 to {left}, the items of the catalogue")


def _request_times(
    model: GenerativeRecommender, field: Field, state: State, at_s: int | None
) -> Int64[np.ndarray, " U"]:
    """When each user is asked about; the time of its last event where the model does not look at it.

    Raises:
        ValueError: the model looks at it, and there is none, or it lies before the last event of a user.
    """
    last_s_U = state.events.time_s_E[state.events.start_U1[1:] - 1]
    if not needs_time(model.layout, model.config.settings, field):
        return last_s_U
    settings = model.config.settings
    what = (
        f"layout '{model.layout}' with positions = '{settings.trunk.positions}' and time_anchor = "
        f"'{settings.exposure.time_anchor}' knows when the {_named(field)} that it predicts happens"
    )
    if at_s is None:
        raise ValueError(f"{what}: say when, with {setting('at')}")
    early_U = np.flatnonzero(last_s_U > at_s)
    if len(early_U):
        raise ValueError(
            f"{what}, and {at_s} lies before the last event of {called(state.id_U[early_U[0]])} "
            f"({last_s_U[early_U[0]]}, unix seconds): give a later time, or a shorter history"
        )
    return np.full_like(last_s_U, at_s)


def _named(field: Field) -> str:
    match field:
        case "i":
            return "next item"
        case "a":
            return "action"
        case "c":
            raise AssertionError("no condition is asked about")
        case _:
            assert_never(field)


def _unknown(events: EventBatch) -> Int64[np.ndarray, "U 1"]:
    return np.full((events.num_users, 1), UNKNOWN_ITEM)


def _no_context(events: EventBatch) -> Int64[np.ndarray, " F"]:
    return np.full(events.context_EF.shape[1], MISSING_VALUE)


def _inputs(
    model: GenerativeRecommender, batch: EventBatch, field: Field, late: LateStatistics | None
) -> Inputs:
    device = next(model.parameters()).device
    return query_inputs(model.plan, batch, (field,), device=device, late=late, counting=model.counting)


def _joined(parts: Sequence[dict[str, np.ndarray]], axis: int) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts], axis=axis) for name in parts[0]}


def _score_step(
    model: GenerativeRecommender,
    coming: _Coming,
    item_uc: Int64[np.ndarray, "u c"],
    context_F: Int64[np.ndarray, " F"],
    late: LateStatistics | None,
) -> dict[str, Float32[np.ndarray, "u c ..."]]:
    shape = item_uc.shape
    candidates = _candidates(coming, item_uc, context_F)
    inputs = _inputs(model, joined_histories(repeated(coming.events, shape[1]), candidates), "a", late)
    (state_MD,) = model(inputs)
    assert model.heads is not None, "a layout that scores has heads"
    predicted = model.heads.expected(model.action_outputs(inputs.questions[0], state_MD))
    return {name: value.unflatten(0, shape).cpu().numpy() for name, value in predicted.items()}


def _retrieve_step(model: GenerativeRecommender, coming: _Coming) -> Float32[Tensor, "u D"]:
    to_come = _candidates(coming, _unknown(coming.events), _no_context(coming.events))
    (state_uD,) = model(_inputs(model, joined_histories(coming.events, to_come), "i", late=None))
    return state_uD


def _best(
    model: GenerativeRecommender,
    catalogue: Catalogue,
    histories: EventBatch,
    state_uD: Float32[Tensor, "u D"],
    k: int,
    seen_u: Sequence[Int64[np.ndarray, " _"]],
) -> list[tuple[np.ndarray, np.ndarray]]:
    seen = Seen.joined(seen_u) if seen_u else None
    found = []
    for users in steps.even(len(state_uD), catalogue.users_per_step):
        of_some = None if seen is None else seen.of(users)
        beside = beside_of(model, some_users(histories, users))
        parts = (without(part, of_some) for part in catalogue.parts(state_uD[users], beside))
        score_UK, item_UK = best_of_parts(parts, k)
        found.append((item_UK.cpu().numpy(), score_UK.cpu().numpy()))
    return found


def _candidates(
    coming: _Coming, item_UC: Int64[np.ndarray, "U C"], context_F: Int64[np.ndarray, " F"]
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
