"""Which events of a batch are history and which are candidates, and where the context of each ends.

Everything is the index of an event. Shape letters: U users, E events of all users end to end, C candidates.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int64

SameRequest = Literal["causal", "blind"]


@dataclass(frozen=True)
class EventRoles:
    """The parts that a batch's events play. History emits the tokens of an event, a candidate those of a candidate.

    Each event has a context: the events of its user before its context end, and no other. Its tokens stand where
    those of the event at its context end would, and its older offsets count back from there. So an event is the
    same to itself in training, where others of its request may lie around it, and in serving, where it comes next.
    The context ends before the window where the request began there: then nothing is seen, and older offsets still
    skip the request.
    """

    start_U1: Int64[np.ndarray, " U1"]  # user u's events are start_U1[u] : start_U1[u + 1]
    first_U: Int64[np.ndarray, " U"]  # the first event that emits tokens; older ones only serve older offsets
    history_end_U: Int64[np.ndarray, " U"]  # after the last event of the history
    context_end_E: Int64[np.ndarray, " E"]
    visible_end_E: Int64[np.ndarray, " E"]  # the same, but where the history sees all of itself
    candidate_C: Int64[np.ndarray, " C"]  # users in order
    user_C: Int64[np.ndarray, " C"]
    context_end_C: Int64[np.ndarray, " C"]
    same_request: SameRequest

    @property
    def num_users(self) -> int:
        return len(self.first_U)

    @property
    def num_history_U(self) -> Int64[np.ndarray, " U"]:
        return self.history_end_U - self.first_U

    def with_full_history(self) -> "EventRoles":
        """The same, where every event of the history sees the whole history (GenRank paper, section 3.1). Its tokens
        stand where they stood. Nothing of the history may then be asked about."""
        return replace(self, visible_end_E=_by_event(self.start_U1, self.history_end_U))

    @property
    def is_plain(self) -> bool:
        """Every token sees all tokens of its user before it: causality says it all."""
        alone = len(self.user_C) == len(np.unique(self.user_C))
        at_end = bool((self.context_end_C == self.history_end_U[self.user_C]).all())
        looks_back = np.array_equal(self.visible_end_E, self.context_end_E)
        return self.same_request == "causal" and alone and at_end and looks_back


def history_alone(
    start_U1: Int64[np.ndarray, " U1"],
    lead_U: Int64[np.ndarray, " U"],
    request_E: Int64[np.ndarray, " E"] | None = None,
) -> EventRoles:
    """No candidates: every event of the windows is asked about where it stands.

    Args:
        lead_U: how many of a user's first events lie before the window.
        request_E: with it the events of one request do not see each other (same_request = "blind").
    """
    nobody = np.zeros(0, dtype=np.int64)
    return _roles(start_U1, lead_U, start_U1[1:], nobody, nobody, nobody, request_E)


def last_events_to_come(
    start_U1: Int64[np.ndarray, " U1"],
    lead_U: Int64[np.ndarray, " U"],
    num_candidates_U: Int64[np.ndarray, " U"] | None = None,
    request_E: Int64[np.ndarray, " E"] | None = None,
) -> EventRoles:
    """The last events of every user (one, where no numbers are given) are candidates, the rest is history.

    >>> last_events_to_come(np.array([0, 4]), np.array([1]), np.array([2])).context_end_C.tolist()
    [2, 2]
    """
    if num_candidates_U is None:
        num_candidates_U = np.ones_like(lead_U)
    history_end_U = start_U1[1:] - num_candidates_U
    assert (history_end_U >= start_U1[:-1] + lead_U).all(), "a window holds its lead and its candidates"
    user_C = np.repeat(np.arange(len(lead_U)), num_candidates_U)
    nth_C = np.arange(len(user_C)) - (np.cumsum(num_candidates_U) - num_candidates_U)[user_C]
    candidate_C = history_end_U[user_C] + nth_C
    context_end_C = history_end_U[user_C]
    if request_E is not None:
        context_end_C = np.minimum(context_end_C, begin_of_request(start_U1, request_E)[candidate_C])
    return _roles(start_U1, lead_U, history_end_U, candidate_C, user_C, context_end_C, request_E)


def last_requests_to_come(
    start_U1: Int64[np.ndarray, " U1"],
    lead_U: Int64[np.ndarray, " U"],
    request_E: Int64[np.ndarray, " E"],
    num_requests: int,
    same_request: SameRequest = "causal",
) -> EventRoles:
    """The events of each user's last `num_requests` requests are candidates, each of what lay before its request.

    The history ends where the last request begins. An event of the window may be both: history to a later
    request, candidate in its own (GenRank paper, section 4.1: the loss is on candidates).

    >>> roles = last_requests_to_come(np.array([0, 5]), np.array([0]), np.array([7, 7, 8, 9, 9]), 2)
    >>> roles.history_end_U.tolist(), roles.candidate_C.tolist(), roles.context_end_C.tolist()
    ([3], [2, 3, 4], [2, 3, 3])
    """
    first_U = start_U1[:-1] + lead_U
    begin_E = begin_of_request(start_U1, request_E)
    last_E = _by_event(start_U1, start_U1[1:] - 1)
    opens_E = begin_E == np.arange(len(begin_E))
    nth_E = np.cumsum(opens_E)  # of the request, over all users
    is_candidate_E = nth_E > nth_E[last_E] - num_requests
    is_candidate_E &= np.arange(len(begin_E)) >= _by_event(start_U1, first_U)
    candidate_C = np.flatnonzero(is_candidate_E)
    user_E = np.repeat(np.arange(len(lead_U)), np.diff(start_U1))
    history_end_U = np.maximum(begin_E[start_U1[1:] - 1], first_U)
    blind_E = request_E if same_request == "blind" else None
    return _roles(
        start_U1, lead_U, history_end_U, candidate_C, user_E[candidate_C], begin_E[candidate_C], blind_E
    )


def _roles(
    start_U1: Int64[np.ndarray, " U1"],
    lead_U: Int64[np.ndarray, " U"],
    history_end_U: Int64[np.ndarray, " U"],
    candidate_C: Int64[np.ndarray, " C"],
    user_C: Int64[np.ndarray, " C"],
    context_end_C: Int64[np.ndarray, " C"],
    request_E: Int64[np.ndarray, " E"] | None,
) -> EventRoles:
    first_U = start_U1[:-1] + lead_U
    end_E = np.arange(start_U1[-1]) if request_E is None else begin_of_request(start_U1, request_E)
    same_request: SameRequest = "causal" if request_E is None else "blind"
    return EventRoles(
        start_U1, first_U, history_end_U, end_E, end_E, candidate_C, user_C, context_end_C, same_request
    )


def begin_of_request(
    start_U1: Int64[np.ndarray, " U1"], request_E: Int64[np.ndarray, " E"]
) -> Int64[np.ndarray, " E"]:
    """The first event of each event's request."""
    opens_E = np.ones(len(request_E), dtype=bool)
    opens_E[1:] = request_E[1:] != request_E[:-1]
    opens_E[start_U1[:-1][np.diff(start_U1) > 0]] = True
    return np.maximum.accumulate(np.where(opens_E, np.arange(len(request_E)), 0))


def begin_of_last_request(
    start_U1: Int64[np.ndarray, " U1"], request_E: Int64[np.ndarray, " E"]
) -> Int64[np.ndarray, " U"]:
    """The first event of each user's last request; every user has an event."""
    return begin_of_request(start_U1, request_E)[start_U1[1:] - 1]


def _by_event(
    start_U1: Int64[np.ndarray, " U1"], value_U: Int64[np.ndarray, " U"]
) -> Int64[np.ndarray, " E"]:
    return np.repeat(value_U, np.diff(start_U1))
