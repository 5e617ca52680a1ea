"""What is asked about from what context: decided here once, and read by training, evaluation and serving.

A question is about an event: its item, its action, or both. It sees the first n events of its user's history, n its
own, from where the window begins, and of the event itself what the layout shows. `EventRoles` holds every n.

Shape letters: U users.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Bool, Int64

from plait.layouts import Layout
from plait.layouts.arrange import Predictions, candidate_tokens, training_predictions
from plait.layouts.event_roles import (
    EventRoles,
    SameRequest,
    begin_of_last_request,
    history_alone,
    last_events_to_come,
    last_requests_to_come,
)
from plait.nn.positions import TimeAnchor
from plait.schema import EventBatch
from plait.window_rule import WindowRule
from plait.wording import setting

History = Literal["causal", "full"]
Supervise = Literal["all", "candidates"]
Sample = Literal["user", "part", "event"]


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What was exposed together, and what one event may know of another."""

    same_request: SameRequest = "causal"
    """Whether events of one request see each other in the order of the log, or not at all."""
    history: History = "causal"
    """full: the history sees all of itself, and only candidates can be supervised (GenRank paper, section 3.1)."""
    time_anchor: TimeAnchor = "current"
    """What a token takes for now, under positions that read times against it. current: its own event's time. next (rab
    alone): that of the event which it predicts, as in HSTU. request: when the candidates are asked about."""

    @property
    def needs_candidates(self) -> bool:
        """Whether the history sees all of itself, or knows when the candidates are asked about: whatever the layout,
        nothing but candidates can be asked about then."""
        return self.history == "full" or self.time_anchor == "request"

    @property
    def reads_requests(self) -> bool:
        """Whether it matters to every layout which events were exposed together."""
        return self.same_request == "blind" or self.needs_candidates


@dataclass(frozen=True, kw_only=True)
class QuestionPlan:
    """Which events are asked about in training, and where the context of every question ends.

    Raises:
        ValueError: questions of several moments would share a history that tells one what only another may know.
    """

    layout: Layout
    window: WindowRule  # of every context
    exposure: Exposure = Exposure()
    supervise: Supervise = "all"
    candidate_requests: int = 1
    sample: Sample = "user"
    requests_per_part: int = 1  # where a sample is a part of a user
    asked_from_s: int | None = None  # training asks about no event before it (unix seconds)

    def __post_init__(self) -> None:
        if self.requests_per_sample == 1:
            return
        for choice, is_set in (
            ("history = 'full'", self.exposure.history == "full"),
            ("time_anchor = 'request'", self.exposure.time_anchor == "request"),
        ):
            if is_set:
                raise ValueError(
                    f"{choice}: a history then tells what happened, or when, to everything asked about it before; ask "
                    f"about candidates that come after all of it ({setting('protocol.candidate_requests', 1)})"
                )

    @property
    def asks_candidates(self) -> bool:
        """Whether training asks about the last requests' events as candidates, instead of about every event where it
        stands: by choice, or because the tokens of the history show the answer (genrank), see it, or know when the
        candidates are asked about."""
        return self.supervise == "candidates" or bool(self.layout.candidate) or self.exposure.needs_candidates

    @property
    def context_ends_before(self) -> Literal["event", "request"]:
        """What ends the context of a question: the event that it is about, or the request of that event.

        >>> from plait.layouts import resolve
        >>> plans = [QuestionPlan(layout=resolve(name), window=WindowRule(9)) for name in ("lac", "genrank")]
        >>> [plan.context_ends_before for plan in plans]
        ['event', 'request']
        """
        return "request" if self.exposure.reads_requests or self.asks_candidates else "event"

    @property
    def reads_requests(self) -> bool:
        """Whether it matters which events were exposed together."""
        return self.context_ends_before == "request"

    @property
    def candidates_share_history(self) -> bool:
        """Whether the history is the same to all candidates that come after it: none tells it when it comes."""
        return self.exposure.time_anchor == "current"

    @property
    def sample_taken(self) -> Sample:
        """What is one sample: where every event is asked about where it stands, a user."""
        return self.sample if self.asks_candidates else "user"

    @property
    def requests_per_sample(self) -> int:
        """How many of a sample's last requests training asks about, where it asks about candidates. A sample of one
        event has a history that ends before its request, so the event is all of its last request."""
        match self.sample_taken:
            case "user":
                return self.candidate_requests
            case "part":
                return self.requests_per_part
            case "event":
                return 1
            case _:
                assert_never(self.sample)

    @property
    def lead(self) -> int:
        """How many events before its window a question may be told facts of, beside what it sees."""
        return self.layout.lag

    @property
    def tokens_to_come(self) -> int:
        """How many tokens what comes after a history takes at most: an event, or a candidate."""
        return max(self.layout.tokens_per_event, len(candidate_tokens(self.layout)))

    def training_roles(self, batch: EventBatch) -> EventRoles:
        """The roles of a batch of training windows."""
        if not self.asks_candidates:
            return history_alone(batch.start_U1, batch.lead_U, self._blind_requests(batch))
        return self._seen(
            last_requests_to_come(
                batch.start_U1,
                batch.lead_U,
                batch.request_E,
                self.requests_per_sample,
                self.exposure.same_request,
            )
        )

    def asked_in_training(self, batch: EventBatch, roles: EventRoles) -> tuple[Predictions, ...]:
        """What training asks about a batch of windows of these roles."""
        found = training_predictions(self.layout, roles)
        if self.asked_from_s is None:
            return found
        is_late_E = batch.time_s_E >= self.asked_from_s
        return tuple(each.of_labels(is_late_E[each.label_M]) for each in found)

    def history_roles(self, batch: EventBatch) -> EventRoles:
        """The roles of a batch of histories, of which nothing is asked yet."""
        return self._seen(history_alone(batch.start_U1, batch.lead_U, self._blind_requests(batch)))

    def query_roles(
        self, batch: EventBatch, num_candidates_U: Int64[np.ndarray, " U"] | None = None
    ) -> EventRoles:
        """The roles of a batch whose users' last events, or the last one, are to come after their context.

        The context has been cut where it ends: `end_of_context` says where.
        """
        requests_E = self._blind_requests(batch)
        return self._seen(last_events_to_come(batch.start_U1, batch.lead_U, num_candidates_U, requests_E))

    def end_of_context(
        self, history: EventBatch, is_of_last_request_U: Bool[np.ndarray, " U"]
    ) -> Int64[np.ndarray, " U"]:
        """Where the context ends of an event that comes after each history: the number, in the batch, of the first
        event that it does not see.

        Args:
            is_of_last_request_U: whether what comes is of the request of the history's last event.
        """
        end_U = history.start_U1[1:]
        match self.context_ends_before:
            case "event":
                return end_U
            case "request":
                begin_U = begin_of_last_request(history.start_U1, history.request_E)
                return np.where(is_of_last_request_U, begin_U, end_U)
            case _:
                assert_never(self.context_ends_before)

    def _blind_requests(self, batch: EventBatch) -> Int64[np.ndarray, " E"] | None:
        match self.exposure.same_request:
            case "causal":
                return None
            case "blind":
                return batch.request_E
            case _:
                assert_never(self.exposure.same_request)

    def _seen(self, roles: EventRoles) -> EventRoles:
        """What the events of the history see of it."""
        match self.exposure.history:
            case "causal":
                return roles
            case "full":
                return roles.with_full_history()
            case _:
                assert_never(self.exposure.history)
