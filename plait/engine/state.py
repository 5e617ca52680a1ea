"""A user's encoded history, ready for candidates.

Shape letters: U users, E events, A action columns, C candidates of a user.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64

from plait.layouts.casting import begin_of_request
from plait.schema import EventBatch


@dataclass(frozen=True)
class State:
    """The events that a model looks at. Beyond the window only those that older offsets still need are kept."""

    events: EventBatch
    seen_U: tuple[Int64[np.ndarray, "_"], ...]  # every item of each user's whole history, once
    id_U: tuple[Hashable, ...]  # what the caller calls the users
    unknown_items: tuple[
        Hashable, ...
    ] = ()  # ids met so far that the model does not know: UNKNOWN_ITEM in the events
    exposure_U: tuple[Hashable, ...] | None = None  # as `encode` takes it


def encode(
    history: EventBatch,
    max_events: int,
    lag: int,
    id_U: Sequence[Hashable] | None = None,
    unknown_items: Sequence[Hashable] = (),
    exposure_U: Sequence[Hashable] | None = None,
) -> State:
    """The last `max_events` events of every user, and `lag` more where there are.

    Args:
        id_U: what the caller calls the users; by default their dense numbers.
        unknown_items: what the caller calls the items that are UNKNOWN_ITEM in the history.
        exposure_U: what tells each user's last request from others, such as its id in the log; None for a user of whom
            that is not known, and for all where it is the time.

    Raises:
        ValueError: a user has no events, or there is no user.
    """
    if not history.num_users:
        raise ValueError("the history has no events; recommend popular items to users without history")
    ids = tuple(history.user_U.tolist() if id_U is None else id_U)
    empty_U = np.flatnonzero(history.num_events_U == 0)
    if len(empty_U):
        raise ValueError(
            f"user {ids[empty_U[0]]!r} has no events; recommend popular items to users without history"
        )
    seen_U = tuple(
        np.unique(history.item_E[a:b])
        for a, b in zip(history.start_U1[:-1], history.start_U1[1:], strict=True)
    )
    exposures = None if exposure_U is None else tuple(exposure_U)
    return State(_window(history, max_events, lag), seen_U, ids, tuple(unknown_items), exposures)


def append(
    state: State,
    event: EventBatch,
    max_events: int,
    lag: int,
    id_U: Sequence[Hashable] | None = None,
    unknown_items: Sequence[Hashable] = (),
    exposure_U: Sequence[Hashable] | None = None,
) -> State:
    """The state after one more event per user: encoding the longer history again, by construction.

    The event's own request number means nothing here: `in_last_request` says whose request it is of.

    Args:
        id_U: whose events these are, in the order of `event`; by default those of the state, in its order.
        unknown_items: what the caller calls the items that are UNKNOWN_ITEM in the events.
        exposure_U: what tells the requests of the events from others, as in `encode`.

    Raises:
        ValueError: not exactly one event for every user of the state, or one before the last.
    """
    if id_U is not None and tuple(id_U) != state.id_U:
        raise ValueError(f"append: events of the users {tuple(id_U)}, and the state is of {state.id_U}")
    _check_one_each(state, event)
    last_U = state.events.start_U1[1:] - 1
    early_U = np.flatnonzero(event.time_s_E < state.events.time_s_E[last_U])
    if len(early_U):
        raise ValueError(
            f"append: the event of user {state.id_U[early_U[0]]!r} lies before the last of its history "
            f"({event.time_s_E[early_U[0]]} < {state.events.time_s_E[last_U[early_U[0]]]}); encode the history again"
        )
    is_later_U = ~in_last_request(state, event.time_s_E, exposure_U)
    event = replace(event, request_E=state.events.request_E[last_U] + is_later_U)
    seen_U = tuple(
        np.union1d(seen, item) for seen, item in zip(state.seen_U, event.item_E[:, None], strict=True)
    )
    met = tuple(dict.fromkeys((*state.unknown_items, *unknown_items)))
    exposures = None if exposure_U is None else tuple(exposure_U)
    return State(_window(joined(state.events, event), max_events, lag), seen_U, state.id_U, met, exposures)


def in_last_request(
    state: State, time_s_U: Int64[np.ndarray, "U"], exposure_U: Sequence[Hashable] | None = None
) -> Bool[np.ndarray, "U"]:
    """Whether what comes at these times is of the request of each user's last event.

    It is where the same `exposure_U` tells of both, as in preparation. Where either side gives none, times tell, which
    an `EventBatch` knows in whole seconds.
    """
    if state.exposure_U is None or exposure_U is None:
        return time_s_U == state.events.time_s_E[state.events.start_U1[1:] - 1]
    pairs = zip(state.exposure_U, exposure_U, strict=True)
    return np.array([last is not None and last == coming for last, coming in pairs])


def before_last_request(events: EventBatch, which_U: Bool[np.ndarray, "U"]) -> EventBatch:
    """Without the last request of the users that are named; what lay before their windows still does."""
    begin_E = begin_of_request(events.start_U1, events.request_E)
    last_U = events.start_U1[1:] - 1
    end_U = np.where(which_U, begin_E[last_U], events.start_U1[1:])
    lead_U = np.minimum(events.lead_U, end_U - events.start_U1[:-1])
    return _taken(events, np.arange(events.num_users), events.start_U1[:-1], lead_U, end_U)


def joined(history: EventBatch, more: EventBatch) -> EventBatch:
    """Each user's events of `more` after those of `history`."""
    order = _alternate(history.start_U1, more.start_U1)

    def both(name: str) -> np.ndarray:
        return np.concatenate([getattr(history, name), getattr(more, name)])[order]

    return replace(
        history,
        start_U1=history.start_U1 + more.start_U1,
        item_E=both("item_E"),
        action_EA=both("action_EA"),
        time_s_E=both("time_s_E"),
        request_E=both("request_E"),
        context_EF=both("context_EF"),
    )


def repeated(events: EventBatch, times: int) -> EventBatch:
    """Every user `times` times in a row."""
    user_W = np.repeat(np.arange(events.num_users), times)
    return _taken(events, user_W, events.start_U1[:-1][user_W], events.lead_U[user_W])


def _check_one_each(state: State, event: EventBatch) -> None:
    users = state.events.num_users
    wrong_U = np.flatnonzero(event.num_events_U != 1)
    found = f"events of {event.num_users} users"
    if event.num_users == users and len(wrong_U):
        found = f"{event.num_events_U[wrong_U[0]]} of user {state.id_U[wrong_U[0]]!r}"
    if event.num_users != users or len(wrong_U):
        raise ValueError(f"append takes one event for each of the state's {users} users, got {found}")


def _window(events: EventBatch, max_events: int, lag: int) -> EventBatch:
    end_U = events.start_U1[1:]
    first_U = np.maximum(events.start_U1[:-1], end_U - max_events - lag)
    lead_U = np.maximum(0, end_U - first_U - max_events)
    return _taken(events, np.arange(events.num_users), first_U, lead_U)


def _taken(
    events: EventBatch,
    user_W: Int64[np.ndarray, "W"],
    first_W: Int64[np.ndarray, "W"],
    lead_W: Int64[np.ndarray, "W"],
    end_W: Int64[np.ndarray, "W"] | None = None,
) -> EventBatch:
    """The events from `first_W` to `end_W`, by default each chosen user's end."""
    length_W = (events.start_U1[1:][user_W] if end_W is None else end_W) - first_W
    start_W1 = np.concatenate([[0], np.cumsum(length_W)])
    index_E = np.arange(start_W1[-1]) + np.repeat(first_W - start_W1[:-1], length_W)
    return EventBatch(
        user_U=events.user_U[user_W],
        start_U1=start_W1,
        lead_U=lead_W,
        item_E=events.item_E[index_E],
        action_EA=events.action_EA[index_E],
        time_s_E=events.time_s_E[index_E],
        request_E=events.request_E[index_E],
        context_EF=events.context_EF[index_E],
        user_code_UK=events.user_code_UK[user_W],
    )


def _alternate(
    start_U1: Int64[np.ndarray, "U1"], other_U1: Int64[np.ndarray, "U1"]
) -> Int64[np.ndarray, "E"]:
    """The order that puts each user's `other` events behind its own, in two arrays laid end to end."""
    user_E = np.concatenate([np.repeat(np.arange(len(s) - 1), np.diff(s)) for s in (start_U1, other_U1)])
    return np.argsort(user_E, kind="stable")
