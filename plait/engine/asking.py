"""What is asked about events to come: from which context, when, and whether it can be asked at all.

Shape letters: U users, C candidates of a user, B lists of candidates, M candidates of all lists, F context features, G
columns of conditions, K items returned, I rows of the item table, D width. Small ones count those of a step: u users.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from plait.engine import steps
from plait.engine.filters import Filters
from plait.engine.ranking import Catalogue, beside_of, best_of_parts
from plait.engine.state import State, called, in_last_request, some_users, window
from plait.layouts import Layout, audit
from plait.layouts.arrange import candidate_tokens
from plait.layouts.audit import reader
from plait.layouts.facts import Fact, Field
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.schema import MISSING_VALUE, UNKNOWN_ITEM, EventBatch
from plait.wording import setting


def check_can_score(model: GenerativeRecommender, item_UC: Int64[np.ndarray, "U C"]) -> None:
    """Raises ValueError where the layout cannot score a given candidate, or there are none."""
    verdict = audit(model.layout)
    if verdict.can_score == "no":
        raise ValueError(f"layout '{model.layout}' cannot score a given item: {verdict.why_not_score}")
    if not item_UC.size:
        raise ValueError(f"no candidates to score: {item_UC.shape[1]} items for {len(item_UC)} users")


def check_can_query(model: GenerativeRecommender, condition_UNG: Int64[np.ndarray, "U N G"]) -> None:
    """Raises ValueError where the layout does not answer under a condition, or there are none to ask under."""
    if not answers_conditions(model.layout):
        raise ValueError(
            f"layout '{model.layout}' is not asked under conditions: the token that predicts an item shows none; "
            "train layout 'lum'"
        )
    if not condition_UNG.size:
        raise ValueError(
            f"no conditions to ask under: {condition_UNG.shape[1]} for {len(condition_UNG)} users"
        )


def answers_conditions(layout: Layout) -> bool:
    """Whether the item of an event to come is predicted where its condition is shown."""
    found = reader(layout, "i")
    if found is None or found.target.offset:
        return False
    return any(
        fact == Fact("c") for token in candidate_tokens(layout)[: found.token + 1] for fact in token.shown
    )


def reads_condition(layout: Layout) -> bool:
    """Whether what comes is asked about under a condition of its own."""
    return any(fact == Fact("c") for token in candidate_tokens(layout) for fact in token.shown)


def checked_filters(
    model: GenerativeRecommender,
    state: State,
    k: int,
    filter_seen: bool,
    kept_I: Bool[np.ndarray, " I"] | None,
) -> Filters:
    """What lists may hold; raises ValueError where the layout predicts no item, or `k` items are not left to a user."""
    if not audit(model.layout).can_retrieve:
        raise ValueError(f"layout '{model.layout}' cannot retrieve: it predicts no item")
    filters = Filters.joined(model.config.num_items, state.seen_U, filter_seen, kept_I)
    filters.check_left(k, state.id_U)
    return filters


def needs_time(layout: Layout, settings: ModelSettings, field: Field) -> bool:
    """Whether the answer about the `field` of an event to come depends on when it comes."""
    found, anchor = reader(layout, field), settings.exposure.time_anchor
    if found is None or not settings.reads_time:
        return False
    if found.target.offset == 0 or anchor == "request":
        return True
    token = layout.tokens[found.token]
    return anchor == "next" and all(target.offset > 0 for target in token.predicted)


@dataclass(frozen=True)
class Coming:
    """What an event to come is asked about from, when it comes, and the number of its request."""

    events: EventBatch
    time_s_U: Int64[np.ndarray, " U"]
    request_U: Int64[np.ndarray, " U"]
    end_U: Int64[np.ndarray, " U"]  # where the context ends: the number of an event of the state's

    def of(self, users: slice) -> "Coming":
        events = some_users(self.events, users)
        return Coming(events, self.time_s_U[users], self.request_U[users], self.end_U[users])


def coming_of(
    model: GenerativeRecommender, field: Field, state: State, at_s: int | None, request_name: Hashable
) -> Coming:
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
    end_U = plan.end_of_context(state.events, in_last_U)
    events = window(state.events, plan.window, plan.lead, end_U)
    _check_long_enough(model, field, state, events)
    return Coming(events, time_s_U, request_U + ~in_last_U, end_U)


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
    reader_of_time = (
        f"ranker {settings.ranker.kind}"
        if settings.ranker.is_on
        else f"layout '{model.layout}' with positions = '{settings.trunk.positions}' and time_anchor = "
        f"'{settings.exposure.time_anchor}'"
    )
    what = f"{reader_of_time} knows when the {_named(field)} that it predicts happens"
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


def no_item(events: EventBatch) -> Int64[np.ndarray, "U 1"]:
    return np.full((events.num_users, 1), UNKNOWN_ITEM)


def no_context(events: EventBatch) -> Int64[np.ndarray, " F"]:
    return np.full(events.context_EF.shape[1], MISSING_VALUE)


def best_of_users(
    model: GenerativeRecommender,
    catalogue: Catalogue,
    histories: EventBatch,
    state_uD: Float32[Tensor, "u D"],
    k: int,
    filters: Filters,
) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for users in steps.even(len(state_uD), catalogue.users_per_step):
        beside = beside_of(model, some_users(histories, users))
        parts = map(filters.of(users).applied, catalogue.parts(state_uD[users], beside))
        score_UK, item_UK = best_of_parts(parts, k)
        found.append((item_UK.cpu().numpy(), score_UK.cpu().numpy()))
    return found


def no_condition(events: EventBatch) -> Int64[np.ndarray, "U G"]:
    """Nothing is known of the conditions of what comes."""
    return np.full((events.num_users, events.condition_EG.shape[1]), MISSING_VALUE)


def candidates_of(
    coming: Coming,
    item_UC: Int64[np.ndarray, "U C"],
    context_F: Int64[np.ndarray, " F"],
    condition_UG: Int64[np.ndarray, "U G"],
) -> EventBatch:
    """One event for every candidate, each by itself: its item and condition, no action yet."""
    num_users, count = len(item_UC), item_UC.size
    user_M = np.repeat(np.arange(num_users), item_UC.shape[1])
    context_UF = np.tile(context_F, (num_users, 1))
    return candidate_lists_of(
        coming,
        user_M,
        np.ones(count, dtype=np.int64),
        item_UC.reshape(-1),
        context_UF[user_M],
        condition_UG[user_M],
    )


def _next_numbers(events: EventBatch) -> Int64[np.ndarray, " U"]:
    """The number of the event that comes after each user's events here; 0 where there are none."""
    has_any_U, number_U = events.num_events_U > 0, np.zeros(events.num_users, dtype=np.int64)
    number_U[has_any_U] = events.number_E[events.start_U1[1:][has_any_U] - 1] + 1
    return number_U


def candidate_lists_of(
    coming: Coming,
    user_B: Int64[np.ndarray, " B"],
    count_B: Int64[np.ndarray, " B"],
    item_M: Int64[np.ndarray, " M"],
    context_BF: Int64[np.ndarray, "B F"],
    condition_MG: Int64[np.ndarray, "M G"],
) -> EventBatch:
    """Lists of candidates, of some of the users: their items and conditions, no actions yet."""
    user_M = np.repeat(user_B, count_B)
    number_U = _next_numbers(coming.events)
    return EventBatch(
        user_U=coming.events.user_U[user_B],
        start_U1=np.concatenate([[0], np.cumsum(count_B)]),
        lead_U=np.zeros(len(user_B), dtype=np.int64),
        item_E=item_M,
        action_EA=np.full((len(item_M), coming.events.action_EA.shape[1]), np.nan, dtype=np.float32),
        time_s_E=coming.time_s_U[user_M],
        request_E=coming.request_U[user_M],
        number_E=number_U[user_M],
        context_EF=np.repeat(context_BF, count_B, axis=0),
        condition_EG=condition_MG,
    )
