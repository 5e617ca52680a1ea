"""States of some of a state's users, and of the users of several.

Shape letters: U users.
"""

import reprlib
from collections.abc import Hashable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from plait.engine.one_pass import Kept
from plait.engine.state import State, called, some_users
from plait.nn.encoded import Encoded
from plait.schema import EventBatch


def some_of_state(state: State, users: slice) -> State:
    """These users alone. Keys that were kept are not copied."""
    events, kept = some_users(state.events, users), None
    if state.kept is not None:
        earlier = state.events.start_U1[users.start]
        kept = replace(
            state.kept, encoded=state.kept.encoded.of(users), first_U=state.kept.first_U[users] - earlier
        )
    return State(
        events,
        state.seen_U[users],
        state.id_U[users],
        state.unknown_items,
        None if state.request_name_U is None else state.request_name_U[users],
        None if state.place_U is None else state.place_U[users],
        kept,
    )


def state_of_users(state: State, users: Sequence[Hashable]) -> State:
    """The state of these users, in this order. Keys are copied, unless the users stand side by side in the state.

    Args:
        users: what the state calls them (`state.id_U`).

    Raises:
        ValueError: no user is named, one is named twice, or the state has none of that name, or two.

    Example: `plait.state_of_users(state, ["u03", "u01"])`
    """
    users = list(users)
    if not users or len(set(users)) < len(users):
        raise ValueError(f"users = {reprlib.repr(users)}: expected users of the state, each once")
    place = {id: nth for nth, id in enumerate(state.id_U)}
    if len(place) < len(state.id_U):
        raise ValueError("the state has a user twice, and neither can be told from the other")
    strange = [user for user in users if user not in place]
    if strange:
        raise ValueError(f"{called(strange[0])} is not of the state's {len(place)} users")
    parts = [some_of_state(state, run) for run in _runs([place[user] for user in users])]
    return parts[0] if len(parts) == 1 else joined_states(parts)


def _runs(places: Sequence[int]) -> list[slice]:
    """
    >>> _runs([2, 3, 4, 0])
    [slice(2, 5, None), slice(0, 1, None)]
    """
    begins = [n for n, place in enumerate(places) if not n or place != places[n - 1] + 1]
    ends = [*begins[1:], len(places)]
    return [slice(places[a], places[b - 1] + 1) for a, b in zip(begins, ends, strict=True)]


def joined_states(states: Sequence[State]) -> State:
    """The users of all states, in order. Keys stay where every state keeps some of the same model; what is known of
    requests and places, where every state knows it.

    Raises:
        ValueError: there is no state.
    """
    if not states:
        raise ValueError("joined_states: expected one state or more, found none")
    return State(
        _joined_events([state.events for state in states]),
        tuple(seen for state in states for seen in state.seen_U),
        tuple(id for state in states for id in state.id_U),
        tuple(dict.fromkeys(item for state in states for item in state.unknown_items)),
        _all([state.request_name_U for state in states]),
        _all([state.place_U for state in states]),
        _joined_keys(states),
    )


def _joined_events(parts: Sequence[EventBatch]) -> EventBatch:
    start_U1 = np.cumsum([0, *np.concatenate([part.num_events_U for part in parts])])
    names = [field.name for field in fields(EventBatch) if field.name != "start_U1"]
    return EventBatch(
        start_U1=start_U1,
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
    )


def _all(parts: Sequence[tuple[Any, ...] | None]) -> tuple[Any, ...] | None:
    known = [part for part in parts if part is not None]
    return sum(known, ()) if len(known) == len(parts) else None


def _joined_keys(states: Sequence[State]) -> Kept | None:
    keys = [state.kept for state in states if state.kept is not None]
    if len(keys) < len(states) or any(
        each.model is not keys[0].model or each.version != keys[0].version for each in keys
    ):
        return None
    earlier = np.cumsum([0, *(len(state.events.item_E) for state in states)])
    first_U = np.concatenate([each.first_U + begin for each, begin in zip(keys, earlier, strict=False)])
    return replace(keys[0], encoded=Encoded.joined([each.encoded for each in keys]), first_U=first_U)
