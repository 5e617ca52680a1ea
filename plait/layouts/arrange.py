"""From events to tokens: which facts each token shows, which it predicts, where it stands and what it sees.

The same functions serve training, evaluation and serving, so their tokens cannot differ. Everything is an
index: no value of the log passes through here, and no tensor.

Shape letters: U users, E events of all users end to end, C candidates, N tokens of all users end to end (each
user's in order: its history's, then its candidates'), M tokens with one kind of target.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from plait.layouts.audit import reader
from plait.layouts.event_roles import EventRoles
from plait.layouts.facts import FIELD_NAMES, Fact, Field, Target, Token
from plait.layouts.notation import Layout

# A source points into a table of special facts followed by the events: SPECIALS + e is event e.
NOTHING, START, MASK, SPECIALS = 0, 1, 2, 3


@dataclass(frozen=True)
class Shown:
    """One fact per token, of one field; NOTHING where a token shows none."""

    field: Field
    source_N: Int64[np.ndarray, " N"]


@dataclass(frozen=True)
class Predictions:
    """The tokens that predict one target of the layout, their labels and what their heads are given."""

    target: Target
    token_M: Int64[np.ndarray, " M"]  # which token predicts
    label_M: Int64[np.ndarray, " M"]  # which event holds the answer
    # Where the label's context ends, in the window: what lay before may be told to the head.
    context_end_M: Int64[np.ndarray, " M"]
    given_M: tuple[tuple[Field, Int64[np.ndarray, " M"]], ...]  # sources, as in `Shown`

    def of_labels(self, is_kept_M: Bool[np.ndarray, " M"]) -> "Predictions":
        """Those of some labels alone."""
        return Predictions(
            self.target,
            self.token_M[is_kept_M],
            self.label_M[is_kept_M],
            self.context_end_M[is_kept_M],
            tuple((field, source_M[is_kept_M]) for field, source_M in self.given_M),
        )


@dataclass(frozen=True)
class TokenVisibility:
    """What tokens see where causality does not say it all: the tokens of their own event up to themselves, and the
    first `seen_N` tokens of their user."""

    owner_N: Int64[np.ndarray, " N"]  # a number for every event in one part: history or candidate
    seen_N: Int64[np.ndarray, " N"]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch of users."""

    length_U: Int64[np.ndarray, " U"]  # tokens of each user
    position_N: Int64[np.ndarray, " N"]  # restarts at 0 for every user
    shown: tuple[Shown, ...]
    event_N: Int64[np.ndarray, " N"]  # whose token it is
    context_end_N: Int64[np.ndarray, " N"]  # where its context ends: `EventRoles.context_end_E`
    slot_N: Int64[np.ndarray, " N"]  # which token: its number in layout.tokens, followed by the candidate's
    visibility: TokenVisibility | None  # None: every token sees all tokens of its user before it

    @property
    def nth_N(self) -> Int64[np.ndarray, " N"]:
        """Number of the token within its user's."""
        return _nth(self.length_U)

    def only(self, chosen_N: Bool[np.ndarray, " N"]) -> "Tokens":
        """Some of the tokens, standing and seeing as they did."""
        user_N = np.repeat(np.arange(len(self.length_U)), self.length_U)
        seen = self.visibility
        return Tokens(
            length_U=np.bincount(user_N[chosen_N], minlength=len(self.length_U)),
            position_N=self.position_N[chosen_N],
            shown=tuple(Shown(each.field, each.source_N[chosen_N]) for each in self.shown),
            event_N=self.event_N[chosen_N],
            context_end_N=self.context_end_N[chosen_N],
            slot_N=self.slot_N[chosen_N],
            visibility=seen and TokenVisibility(seen.owner_N[chosen_N], seen.seen_N[chosen_N]),
        )


def candidate_tokens(layout: Layout) -> tuple[Token, ...]:
    """The tokens of a candidate: as spelled, else those of an event up to the last that predicts it.

    >>> from plait.layouts.catalogue import resolve
    >>> [len(candidate_tokens(resolve(name))) for name in ("lac", "interleaved", "pc")]
    [1, 1, 0]
    """
    if layout.candidate:
        return layout.candidate
    own = [any(target.offset == 0 for target in token.predicted) for token in layout.tokens]
    return layout.tokens[: max((index + 1 for index, is_own in enumerate(own) if is_own), default=0)]


def arrange(layout: Layout, roles: EventRoles) -> Tokens:
    """The tokens of every user: those of its history, then those of its candidates."""
    slots = (*layout.tokens, *candidate_tokens(layout))
    origin = _TokenOrigins.of(layout, roles)
    stride, user_N = layout.tokens_per_event, origin.user_N
    slot_N = np.where(origin.is_candidate_N, stride + origin.nth_token_N, origin.nth_token_N)
    before_N = np.maximum(origin.context_end_N - roles.first_U[user_N], 0) * stride
    shown = tuple(
        Shown(field, _sources(column, slot_N, origin.event_N, origin.context_end_N, roles.start_U1[user_N]))
        for field, column in _columns(slots)
    )
    visibility = None
    if not roles.is_plain:
        visible_N = np.maximum(roles.visible_end_E[origin.event_N] - roles.first_U[user_N], 0) * stride
        visibility = TokenVisibility(origin.owner_N, np.where(origin.is_candidate_N, before_N, visible_N))
    position_N = before_N + origin.nth_token_N
    return Tokens(
        origin.length_U, position_N, shown, origin.event_N, origin.context_end_N, slot_N, visibility
    )


def training_predictions(layout: Layout, roles: EventRoles) -> tuple[Predictions, ...]:
    """What training supervises: the targets of candidates where there are any, else every one whose event lies in
    the window."""
    if len(roles.candidate_C):
        return tuple(
            _predicted_for_candidates(layout, roles, target, index, in_candidate)
            for tokens, in_candidate in ((layout.tokens, False), (layout.candidate, True))
            for index, token in enumerate(tokens)
            for target in token.predicted
            if layout.answers(target, in_candidate)
        )
    return tuple(
        _predicted_in_history(layout, roles, target, index)
        for index, token in enumerate(layout.tokens)
        for target in token.predicted
    )


def candidate_predictions(layout: Layout, field: Field, roles: EventRoles) -> Predictions | None:
    """Where `field` of every candidate is predicted, candidates in order; None if no token predicts it.

    Raises:
        ValueError: some user's history is too short to hold the token that predicts.
    """
    found = reader(layout, field)
    if found is None:
        return None
    predictions = _predicted_for_candidates(layout, roles, found.target, found.token, found.in_candidate)
    if len(predictions.label_M) < len(roles.candidate_C):
        lost = np.setdiff1d(roles.candidate_C, predictions.label_M)[0]
        user = roles.user_C[roles.candidate_C == lost][0]
        events = max(0, roles.context_end_C[roles.candidate_C == lost][0] - roles.first_U[user])
        raise ValueError(
            f"user {user} of the batch has {events} events of history; predicting {found.target.fact} needs "
            f"{found.target.offset}. Recommend popular items to users without history."
        )
    return predictions


def _predicted_in_history(layout: Layout, roles: EventRoles, target: Target, slot: int) -> Predictions:
    """A target where it stands in the history. One of a later event is asked about where its own event ends a request:
    inside of it, what was exposed beside it is not yet known."""
    user_E = np.repeat(np.arange(roles.num_users), roles.num_history_U)
    nth_E = _nth(roles.num_history_U)
    event_E = roles.first_U[user_E] + nth_E
    label_E = event_E + target.offset
    is_asked_E = label_E < roles.start_U1[1:][user_E]
    if target.offset:
        next_E = np.minimum(event_E + 1, len(roles.context_end_E) - 1)
        is_asked_E &= roles.context_end_E[next_E] == next_E
    length_U = roles.num_history_U * layout.tokens_per_event
    token_E = (np.cumsum(length_U) - length_U)[user_E] + nth_E * layout.tokens_per_event + slot
    context_end_M, first_M = roles.context_end_E[event_E[is_asked_E]], roles.start_U1[user_E[is_asked_E]]
    given_M = _given(target, event_E[is_asked_E], context_end_M, label_E[is_asked_E], first_M)
    known_M = np.maximum(roles.context_end_E[label_E[is_asked_E]], roles.first_U[user_E[is_asked_E]])
    return Predictions(target, token_E[is_asked_E], label_E[is_asked_E], known_M, given_M)


def _predicted_for_candidates(
    layout: Layout, roles: EventRoles, target: Target, slot: int, in_candidate: bool
) -> Predictions:
    """A target of the candidates: at their own tokens, or at the history's event that many before."""
    origin = _TokenOrigins.of(layout, roles)
    user_C, event_C = roles.user_C, roles.context_end_C - target.offset
    has_event_C = (event_C >= roles.first_U[user_C]) | (target.offset == 0)
    nth_C = _nth(np.bincount(user_C, minlength=roles.num_users))
    own = len(candidate_tokens(layout))
    if target.offset == 0:
        assert in_candidate or slot < own, f"{target.fact} is read at a candidate's own token"
        num_before_C = roles.num_history_U[user_C] * layout.tokens_per_event + nth_C * own
        token_C = origin.first_token_U[user_C] + num_before_C + slot
        event_C = roles.candidate_C
    else:
        token_C = (
            origin.first_token_U[user_C] + (event_C - roles.first_U[user_C]) * layout.tokens_per_event + slot
        )
    c = np.flatnonzero(has_event_C)
    context_end_C = roles.context_end_C if target.offset == 0 else roles.context_end_E[np.maximum(event_C, 0)]
    given_M = _given(target, event_C[c], context_end_C[c], roles.candidate_C[c], roles.start_U1[user_C[c]])
    known_M = np.maximum(roles.context_end_C, roles.first_U[user_C])[c]
    return Predictions(target, token_C[c], roles.candidate_C[c], known_M, given_M)


@dataclass(frozen=True)
class _TokenOrigins:
    """Every token's part: which event's it is, as what, and the how-manieth of that event."""

    length_U: Int64[np.ndarray, " U"]
    first_token_U: Int64[np.ndarray, " U"]  # number of each user's first token
    user_N: Int64[np.ndarray, " N"]
    is_candidate_N: Bool[np.ndarray, " N"]
    event_N: Int64[np.ndarray, " N"]
    context_end_N: Int64[np.ndarray, " N"]
    nth_token_N: Int64[np.ndarray, " N"]
    owner_N: Int64[np.ndarray, " N"]

    @classmethod
    def of(cls, layout: Layout, roles: EventRoles) -> "_TokenOrigins":
        stride, own = layout.tokens_per_event, len(candidate_tokens(layout))
        candidates_U = np.bincount(roles.user_C, minlength=roles.num_users)
        history_U = roles.num_history_U * stride
        length_U = history_U + candidates_U * own
        user_N = np.repeat(np.arange(roles.num_users), length_U)
        at_N = _nth(length_U)
        is_candidate_N = at_N >= history_U[user_N]
        behind_N = at_N - history_U[user_N]  # of a candidate's tokens
        each = max(own, 1)
        first_candidate_U = np.cumsum(candidates_U) - candidates_U
        candidate_N = np.where(is_candidate_N, first_candidate_U[user_N] + behind_N // each, 0)
        event_N = np.where(is_candidate_N, 0, roles.first_U[user_N] + at_N // stride)
        last = max(len(roles.context_end_E) - 1, 0)
        context_end_N = roles.context_end_E[np.minimum(event_N, last)] if len(event_N) else event_N
        owner_N = event_N
        if is_candidate_N.any():
            event_N = np.where(is_candidate_N, roles.candidate_C[candidate_N], event_N)
            context_end_N = np.where(is_candidate_N, roles.context_end_C[candidate_N], context_end_N)
            owner_N = np.where(is_candidate_N, len(roles.context_end_E) + candidate_N, owner_N)
        nth_token_N = np.where(is_candidate_N, behind_N % each, at_N % stride)
        first_token_U = np.cumsum(length_U) - length_U
        return cls(
            length_U, first_token_U, user_N, is_candidate_N, event_N, context_end_N, nth_token_N, owner_N
        )


def _nth(count_U: Int64[np.ndarray, " U"]) -> Int64[np.ndarray, " N"]:
    """0, 1, ... for every user.

    >>> _nth(np.array([2, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(count_U.sum()) - np.repeat(np.cumsum(count_U) - count_U, count_U)


def _columns(slots: tuple[Token, ...]) -> Iterator[tuple[Field, list[Fact | None]]]:
    """For every field, its facts by slot; several columns where a token shows several facts of one field."""
    for field in FIELD_NAMES:
        by_slot = [[fact for fact in token.shown if fact.field == field] for token in slots]
        for n in range(max(map(len, by_slot))):
            yield field, [facts[n] if n < len(facts) else None for facts in by_slot]


def _sources(
    column: list[Fact | None],
    slot_N: Int64[np.ndarray, " N"],
    event_N: Int64[np.ndarray, " N"],
    context_end_N: Int64[np.ndarray, " N"],
    first_N: Int64[np.ndarray, " N"],
) -> Int64[np.ndarray, " N"]:
    offset_N = np.array([fact.offset or 0 if fact else 0 for fact in column])[slot_N]
    source_N = _event_or_start(np.where(offset_N < 0, context_end_N + offset_N, event_N), first_N)
    for special, slots in (
        (NOTHING, [fact is None for fact in column]),
        (MASK, [fact is not None and fact.offset is None for fact in column]),
    ):
        source_N[_at(slots, slot_N)] = special
    return source_N


def _at(slots: list[bool], slot_N: Int64[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    return np.array(slots, dtype=bool)[slot_N]


def _given(
    target: Target,
    event_M: Int64[np.ndarray, " M"],
    context_end_M: Int64[np.ndarray, " M"],
    label_M: Int64[np.ndarray, " M"],
    first_M: Int64[np.ndarray, " M"],
) -> tuple[tuple[Field, Int64[np.ndarray, " M"]], ...]:
    """Sources of what a head is given: of the label's own event, of the token's, or of one before."""
    given = []
    for fact in target.given:
        assert fact.offset is not None, "no head is given a mask"
        of_M = event_M + fact.offset if fact.offset >= 0 else context_end_M + fact.offset
        given.append(
            (fact.field, _event_or_start(label_M if fact.offset == target.offset else of_M, first_M))
        )
    return tuple(given)


def _event_or_start(
    event_M: Int64[np.ndarray, " M"], first_M: Int64[np.ndarray, " M"]
) -> Int64[np.ndarray, " M"]:
    """Sources of events; before a user's first known event stands the learned start."""
    return np.where(event_M >= first_M, event_M + SPECIALS, START)
