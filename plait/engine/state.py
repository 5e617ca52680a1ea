"""A user's encoded history, ready for candidates.

Shape letters: U users, E events, A action columns, C candidates of a user.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int64

from plait.layouts.event_roles import begin_of_last_request
from plait.schema import EventBatch
from plait.window_rule import WindowRule, events_before_request

if TYPE_CHECKING:
    from plait.engine.one_pass import Kept


@dataclass(frozen=True)
class State:
    """The events that a model may be asked from: `window` says which it looks at, of those up to the last, and of those
    before the last request."""

    events: EventBatch
    seen_U: tuple[Int64[np.ndarray, " _"], ...]  # every item of each user's whole history, once
    id_U: tuple[Hashable, ...]  # what the caller calls the users; None: of a history that names none
    unknown_items: tuple[
        Hashable, ...
    ] = ()  # ids met so far that the model does not know: UNKNOWN_ITEM in the events
    request_name_U: tuple[Hashable, ...] | None = None  # as `encode` takes it, like the next
    place_U: tuple[tuple[Any, ...], ...] | None = None
    kept: "Kept | None" = None  # keys of the histories (`plait.engine.one_pass`)

    @property
    def nbytes(self) -> int:
        """What the keys take in memory; 0 where none are kept, and histories are encoded when they are asked about."""
        return 0 if self.kept is None else self.kept.encoded.nbytes


def encode(
    history: EventBatch,
    window_rule: WindowRule | int,
    lag: int,
    id_U: Sequence[Hashable] | None = None,
    unknown_items: Sequence[Hashable] = (),
    request_name_U: Sequence[Hashable] | None = None,
    place_U: Sequence[tuple[Any, ...]] | None = None,
) -> State:
    """The events that questions are answered from: windows by the rule, and `lag` more events where there are.

    Args:
        window_rule: of a number, windows are the last so many events.
        id_U: what the caller calls the users; by default their dense numbers.
        unknown_items: what the caller calls the items that are UNKNOWN_ITEM in the history.
        request_name_U: what tells each user's last request from others, such as its id in the log; None for a user of
            whom that is not known, and for all where it is the time.
        place_U: where each user's last event stands in the log, such as its time and what breaks ties of time: events
            are in the order of their places. Without them, in the order of their whole seconds.

    Raises:
        ValueError: a user has no events, or there is no user. Or a user has events before its history, and some of them
            are in its window.
    """
    if not history.num_users:
        raise ValueError("the history has no events; recommend popular items to users without history")
    ids = tuple(history.user_U.tolist() if id_U is None else id_U)
    empty_U = np.flatnonzero(history.num_events_U == 0)
    if len(empty_U):
        raise ValueError(
            f"{called(ids[empty_U[0]])} has no events; recommend popular items to users without history"
        )
    seen_U = tuple(
        np.unique(history.item_E[a:b])
        for a, b in zip(history.start_U1[:-1], history.start_U1[1:], strict=True)
    )
    rule = WindowRule.of(window_rule)
    _check_reaches(history, rule, lag, history.start_U1[1:], ids)
    events = _kept(history, rule, lag)
    return State(events, seen_U, ids, tuple(unknown_items), _tuple(request_name_U), _tuple(place_U))


def append(
    state: State,
    event: EventBatch,
    window_rule: WindowRule | int,
    lag: int,
    id_U: Sequence[Hashable] | None = None,
    unknown_items: Sequence[Hashable] = (),
    request_name_U: Sequence[Hashable] | None = None,
    place_U: Sequence[tuple[Any, ...]] | None = None,
) -> State:
    """The state after one more event per user: encoding the longer history again, by construction.

    The event's own numbers mean nothing here: it is the next of its user, and `in_last_request` says whose request it
    is of.

    Args:
        id_U: whose events these are, in the order of `event`; by default those of the state, in its order.
        unknown_items: what the caller calls the items that are UNKNOWN_ITEM in the events.
        request_name_U, place_U: what tells the requests of the events from others, and where the events stand, as in
            `encode`.

    Raises:
        ValueError: not exactly one event for every user of the state, or one that stands before the last.
    """
    if id_U is not None and tuple(id_U) != state.id_U:
        raise ValueError(f"append: events of the users {tuple(id_U)}, and the state is of {state.id_U}")
    _check_one_each(state, event)
    _check_not_before_last(state, event, place_U)
    last_U = state.events.start_U1[1:] - 1
    is_later_U = ~in_last_request(state, event.time_s_E, request_name_U)
    event = replace(
        event,
        request_E=state.events.request_E[last_U] + is_later_U,
        number_E=state.events.number_E[last_U] + 1,
    )
    seen_U = tuple(map(_with_item, state.seen_U, event.item_E.tolist()))
    met = tuple(dict.fromkeys((*state.unknown_items, *unknown_items)))
    events = _kept(joined_histories(state.events, event), WindowRule.of(window_rule), lag)
    return State(events, seen_U, state.id_U, met, _tuple(request_name_U), _tuple(place_U))


def in_last_request(
    state: State, time_s_U: Int64[np.ndarray, " U"], request_name_U: Sequence[Hashable] | None = None
) -> Bool[np.ndarray, " U"]:
    """Whether what comes at these times is of the request of each user's last event.

    It is where both have the same `request_name_U`, as in preparation. Where either side gives none, times tell, which
    an `EventBatch` knows in whole seconds.
    """
    if state.request_name_U is None or request_name_U is None:
        return time_s_U == state.events.time_s_E[state.events.start_U1[1:] - 1]
    pairs = zip(state.request_name_U, request_name_U, strict=True)
    return np.array([last is not None and last == coming for last, coming in pairs])


def called(id: Hashable) -> str:
    """A user in a message.

    >>> called("u03"), called(None)
    ("user 'u03'", 'the user')
    """
    return "the user" if id is None else f"user {id!r}"


def window(
    events: EventBatch,
    window_rule: WindowRule | int,
    lag: int,
    end_U: Int64[np.ndarray, " U"] | None = None,
) -> EventBatch:
    """What a model looks at: the window of every user, and `lag` more events before it where there are.

    Args:
        window_rule: of a number, windows are the last so many events.
        end_U: the first event of each user that is not looked at; by default all are.

    Raises:
        ValueError: a user has events before these, and some of them are in its window.
    """
    rule = WindowRule.of(window_rule)
    if end_U is None:
        end_U = events.start_U1[1:]
    _check_reaches(events, rule, lag, end_U)
    first_U = _first_in_window(events, rule, end_U)
    lead_U = np.minimum(first_U - events.start_U1[:-1], lag)
    return _taken(events, np.arange(events.num_users), first_U - lead_U, lead_U, end_U)


def joined_histories(history: EventBatch, more: EventBatch) -> EventBatch:
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
        condition_EG=both("condition_EG"),
        number_E=both("number_E"),
    )


def repeated(events: EventBatch, times: int) -> EventBatch:
    """Every user `times` times in a row."""
    return chosen_users(events, np.repeat(np.arange(events.num_users), times))


def before(events: EventBatch, count_U: Int64[np.ndarray, " U"]) -> EventBatch:
    """Every user without its last `count_U` events."""
    first_U, end_U = events.start_U1[:-1], events.start_U1[1:] - count_U
    return _taken(events, np.arange(events.num_users), first_U, events.lead_U, end_U)


def behind(events: EventBatch, count_U: Int64[np.ndarray, " U"]) -> EventBatch:
    """Every user's last `count_U` events alone."""
    end_U = events.start_U1[1:]
    return _taken(events, np.arange(events.num_users), end_U - count_U, np.zeros_like(count_U), end_U)


def some_users(events: EventBatch, users: slice) -> EventBatch:
    """These users alone."""
    return chosen_users(events, np.arange(events.num_users)[users])


def _with_item(seen: Int64[np.ndarray, " _"], item: int) -> Int64[np.ndarray, " _"]:
    """
    >>> _with_item(np.array([2, 5]), 3).tolist(), _with_item(np.array([2, 5]), 5).tolist()
    ([2, 3, 5], [2, 5])
    """
    at = int(np.searchsorted(seen, item))
    is_there = at < len(seen) and seen[at] == item
    return seen if is_there else np.concatenate([seen[:at], [item], seen[at:]])


def _check_one_each(state: State, event: EventBatch) -> None:
    users = state.events.num_users
    wrong_U = np.flatnonzero(event.num_events_U != 1)
    found = f"events of {event.num_users} users"
    if event.num_users == users and len(wrong_U):
        found = f"{event.num_events_U[wrong_U[0]]} of {called(state.id_U[wrong_U[0]])}"
    if event.num_users != users or len(wrong_U):
        raise ValueError(f"append takes one event for each of the state's {users} users, got {found}")


def _check_not_before_last(
    state: State, event: EventBatch, place_U: Sequence[tuple[Any, ...]] | None
) -> None:
    """Raises ValueError where an event stands before the last one of its user: the longer history would hold it in
    between."""
    last_U, by = state.place_U, "place in the log"
    if last_U is None or place_U is None:
        last_U, by = _seconds(state.events, state.events.start_U1[1:] - 1), "unix seconds"
        place_U = _seconds(event, event.start_U1[:-1])
    for id, place, last in zip(state.id_U, place_U, last_U, strict=True):
        try:
            is_before = place < last
        except TypeError as error:
            raise ValueError(
                f"append: the event of {called(id)} cannot be put in order with the last of its history: {place} and "
                f"{last}, by {by} ({error}); write both in one way"
            ) from None
        if is_before:
            raise ValueError(
                f"append: the event of {called(id)} lies before the last of its history ({_spelled(place)} < "
                f"{_spelled(last)}, by {by}); encode the history again"
            )


def _seconds(events: EventBatch, event_U: Int64[np.ndarray, " U"]) -> tuple[tuple[int], ...]:
    return tuple((time_s,) for time_s in events.time_s_E[event_U].tolist())


def _spelled(place: tuple[Any, ...]) -> str:
    return ", ".join(map(str, place))


def _tuple(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _number_before(events: EventBatch, end_U: Int64[np.ndarray, " U"]) -> Int64[np.ndarray, " U"]:
    """How many events each user ever had before its event `end_U` here; 0 where that is its first one here."""
    last_U = np.maximum(end_U - 1, 0)
    return np.where(end_U > events.start_U1[:-1], events.number_E[last_U] + 1, 0)


def _first_in_window(
    events: EventBatch, rule: WindowRule, end_U: Int64[np.ndarray, " U"]
) -> Int64[np.ndarray, " U"]:
    start_U = events.start_U1[:-1]
    first_U = np.maximum(start_U, end_U - rule.length(_number_before(events, end_U)))
    if rule.opens_within == 1:
        return first_U
    return first_U + events_before_request(first_U, start_U, end_U, events.request_E, rule.opens_within)


def _check_reaches(
    events: EventBatch,
    rule: WindowRule,
    lag: int,
    end_U: Int64[np.ndarray, " U"],
    id_U: Sequence[Hashable] | None = None,
) -> None:
    """Raises ValueError where a window, or the events before it that are read, begins before the events at hand. (The
    last events, where a step is one event, are those that there are.)"""
    if rule.step == 1:
        return
    begin_U = rule.begin(_number_before(events, end_U))
    needed_U = np.maximum(0, begin_U - _read_before(rule, lag))
    before_U = events.number_E[np.minimum(events.start_U1[:-1], len(events.number_E) - 1)]
    short_U = np.flatnonzero((before_U > needed_U) & (end_U > events.start_U1[:-1]))
    if len(short_U):
        user = int(short_U[0])
        raise ValueError(
            f"the history of {called(int(events.user_U[user]) if id_U is None else id_U[user])} begins behind "
            f"{before_U[user]} earlier events, and what is asked is answered from all behind the first "
            f"{needed_U[user]}: give a longer history, or do not say that it had earlier ones"
        )


def _read_before(rule: WindowRule, lag: int) -> int:
    """How many events before b(n) are read: by the layout's lag, and to see whether the next one opens a request."""
    return max(lag, int(rule.opens_within > 1))


def _kept(events: EventBatch, rule: WindowRule, lag: int) -> EventBatch:
    """What `window` may need, now or after appending: of every user the last events, and the last before the last
    request. What lies between them, in a long request, is out of reach already, and stays so when the request grows."""
    reach = rule.longest + _read_before(rule, lag)
    length_U = events.num_events_U
    event_E, end_E = np.arange(len(events.item_E)), np.repeat(events.start_U1[1:], length_U)
    begin_E = np.repeat(begin_of_last_request(events.start_U1, events.request_E), length_U)
    is_last_E = event_E >= end_E - reach
    is_before_E = (event_E >= begin_E - reach) & (event_E < begin_E)
    index_E = np.flatnonzero(is_last_E | is_before_E)
    start_U1 = np.searchsorted(index_E, events.start_U1)
    num_seen_U = events.start_U1[1:] - _first_in_window(events, rule, events.start_U1[1:])
    lead_U = np.diff(start_U1) - num_seen_U
    return _gathered(events, np.arange(events.num_users), start_U1, lead_U, index_E)


def chosen_users(events: EventBatch, user_W: Int64[np.ndarray, " W"]) -> EventBatch:
    """The users chosen, in this order."""
    return _taken(
        events, user_W, events.start_U1[:-1][user_W], events.lead_U[user_W], events.start_U1[1:][user_W]
    )


def _taken(
    events: EventBatch,
    user_W: Int64[np.ndarray, " W"],
    first_W: Int64[np.ndarray, " W"],
    lead_W: Int64[np.ndarray, " W"],
    end_W: Int64[np.ndarray, " W"],
) -> EventBatch:
    """The events from `first_W` to `end_W` of the users chosen."""
    length_W = end_W - first_W
    start_W1 = np.concatenate([[0], np.cumsum(length_W)])
    index_E = np.arange(start_W1[-1]) + np.repeat(first_W - start_W1[:-1], length_W)
    return _gathered(events, user_W, start_W1, lead_W, index_E)


def _gathered(
    events: EventBatch,
    user_W: Int64[np.ndarray, " W"],
    start_W1: Int64[np.ndarray, " W1"],
    lead_W: Int64[np.ndarray, " W"],
    index_E: Int64[np.ndarray, " E"],
) -> EventBatch:
    return EventBatch(
        user_U=events.user_U[user_W],
        start_U1=start_W1,
        lead_U=lead_W,
        item_E=events.item_E[index_E],
        action_EA=events.action_EA[index_E],
        time_s_E=events.time_s_E[index_E],
        request_E=events.request_E[index_E],
        context_EF=events.context_EF[index_E],
        condition_EG=events.condition_EG[index_E],
        user_code_UK=events.user_code_UK[user_W],
        number_E=events.number_E[index_E],
    )


def _alternate(
    start_U1: Int64[np.ndarray, " U1"], other_U1: Int64[np.ndarray, " U1"]
) -> Int64[np.ndarray, " E"]:
    """The order that puts each user's `other` events behind its own, in two arrays laid end to end."""
    user_E = np.concatenate([np.repeat(np.arange(len(s) - 1), np.diff(s)) for s in (start_U1, other_U1)])
    return np.argsort(user_E, kind="stable")
