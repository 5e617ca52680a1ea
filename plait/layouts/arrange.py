"""From events to tokens: which facts each token shows, which it predicts, and where it stands.

The same function serves training, evaluation and serving, so their tokens cannot differ. Everything is an
index: no value of the log passes through here, and no tensor.

Shape letters: U users, E events of the windows of all users end to end (without the leads), N tokens of all
users end to end (each user's in order), M tokens with one kind of target.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from plait.layouts.audit import reader
from plait.layouts.facts import FIELD_NAMES, Fact, Field, Target, Token
from plait.layouts.notation import Layout

# A source points into a table of special facts followed by the events: SPECIALS + e is event e.
NOTHING, START, MASK, SPECIALS = 0, 1, 2, 3


@dataclass(frozen=True)
class Shown:
    """One fact per token, of one field; NOTHING where a token shows none."""

    field: Field
    source_N: Int64[np.ndarray, "N"]


@dataclass(frozen=True)
class Supervised:
    """The tokens that one target of the layout supervises, their labels and what their heads are given."""

    target: Target
    row_M: Int64[np.ndarray, "M"]  # which token predicts
    label_M: Int64[np.ndarray, "M"]  # which event holds the answer
    given_M: tuple[tuple[Field, Int64[np.ndarray, "M"]], ...]  # sources, as in `Shown`


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch of users."""

    length_U: Int64[np.ndarray, "U"]  # tokens of each user
    position_N: Int64[np.ndarray, "N"]  # restarts at 0 for every user
    shown: tuple[Shown, ...]


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


def arrange(
    layout: Layout,
    start_U1: Int64[np.ndarray, "U1"],
    lead_U: Int64[np.ndarray, "U"],
    *,
    hypothetical: bool = False,
) -> Tokens:
    """The tokens of every user's events from the lead on.

    Args:
        start_U1: user u's events are start_U1[u] : start_U1[u + 1].
        lead_U: how many of a user's first events emit no tokens and only serve older offsets.
        hypothetical: the last event of each user is a candidate: it emits candidate tokens, which see the
            history and their own facts.
    """
    count = _Counts.of(layout, start_U1, lead_U, hypothetical)
    user_N = np.repeat(np.arange(len(lead_U)), count.length_U)
    position_N = np.arange(len(user_N)) - count.row_U[user_N]
    history_N = count.history_U[user_N]
    stride = layout.tokens_per_event
    is_candidate_N = position_N >= history_N * stride
    slot_N = np.where(is_candidate_N, stride + position_N - history_N * stride, position_N % stride)
    first_N = (start_U1[:-1] + lead_U)[user_N]
    event_N = first_N + np.where(is_candidate_N, history_N, position_N // stride)
    slots = (*layout.tokens, *candidate_tokens(layout))
    shown = tuple(
        Shown(field, _sources(column, slot_N, event_N, start_U1[user_N])) for field, column in _columns(slots)
    )
    return Tokens(count.length_U, position_N, shown)


def supervise(
    layout: Layout, start_U1: Int64[np.ndarray, "U1"], lead_U: Int64[np.ndarray, "U"]
) -> tuple[Supervised, ...]:
    """Every target whose event lies in the window, for training: the tokens are those of `arrange`."""
    count = _Counts.of(layout, start_U1, lead_U, hypothetical=False)
    user_E = np.repeat(np.arange(len(lead_U)), count.history_U)
    nth_E = np.arange(len(user_E)) - (np.cumsum(count.history_U) - count.history_U)[user_E]
    event_E = (start_U1[:-1] + lead_U)[user_E] + nth_E
    found = []
    for slot, token in enumerate(layout.tokens):
        row_E = count.row_U[user_E] + nth_E * layout.tokens_per_event + slot
        for target in token.predicted:
            inside_E = event_E + target.offset < start_U1[1:][user_E]
            event_M = event_E[inside_E]
            given_M = _given(target, event_M, start_U1[user_E[inside_E]])
            found.append(Supervised(target, row_E[inside_E], event_M + target.offset, given_M))
    return tuple(found)


def read(
    layout: Layout,
    field: Field,
    start_U1: Int64[np.ndarray, "U1"],
    lead_U: Int64[np.ndarray, "U"],
    *,
    hypothetical: bool,
) -> Supervised | None:
    """Where `field` of the event after each user's history is predicted; None if no token predicts it.

    One row per user. Without a hypothetical event the one read about is not in the batch: `label_M`, and the
    sources of what heads are given of that event, then point one past the user's events.

    Raises:
        ValueError: some user's history is too short to hold the token that predicts.
    """
    found = reader(layout, field)
    if found is None:
        return None
    target = found.target
    assert hypothetical or target.offset, f"{target.fact} is read at a candidate's own token; give candidates"
    count = _Counts.of(layout, start_U1, lead_U, hypothetical)
    label_U = start_U1[1:] - hypothetical
    short = np.flatnonzero(count.history_U < target.offset)
    if len(short):
        raise ValueError(
            f"user {short[0]} of the batch has {count.history_U[short[0]]} events of history; predicting "
            f"{target.fact} needs {target.offset}. Recommend popular items to users without history."
        )
    row_U = count.row_U + (count.history_U - target.offset) * layout.tokens_per_event + found.token
    given_U = _given(target, label_U - target.offset, start_U1[:-1])
    return Supervised(target, row_U, label_U, given_U)


@dataclass(frozen=True)
class _Counts:
    history_U: Int64[np.ndarray, "U"]  # events that emit the history's tokens
    length_U: Int64[np.ndarray, "U"]  # tokens
    row_U: Int64[np.ndarray, "U"]  # number of each user's first token

    @classmethod
    def of(
        cls,
        layout: Layout,
        start_U1: Int64[np.ndarray, "U1"],
        lead_U: Int64[np.ndarray, "U"],
        hypothetical: bool,
    ) -> "_Counts":
        history_U = np.diff(start_U1) - lead_U - hypothetical
        assert (history_U >= 0).all(), "a window holds its candidate, and no more lead than events"
        own = len(candidate_tokens(layout)) if hypothetical else 0
        length_U = history_U * layout.tokens_per_event + own
        return cls(history_U, length_U, np.cumsum(length_U) - length_U)


def _columns(slots: tuple[Token, ...]) -> Iterator[tuple[Field, list[Fact | None]]]:
    """For every field, its facts by slot; several columns where a token shows several facts of one field."""
    for field in FIELD_NAMES:
        by_slot = [[fact for fact in token.shown if fact.field == field] for token in slots]
        for n in range(max(map(len, by_slot))):
            yield field, [facts[n] if n < len(facts) else None for facts in by_slot]


def _sources(
    column: list[Fact | None],
    slot_N: Int64[np.ndarray, "N"],
    event_N: Int64[np.ndarray, "N"],
    first_N: Int64[np.ndarray, "N"],
) -> Int64[np.ndarray, "N"]:
    offset_N = np.array([fact.offset or 0 if fact else 0 for fact in column])[slot_N]
    source_N = _event_or_start(event_N + offset_N, first_N)
    for special, slots in (
        (NOTHING, [fact is None for fact in column]),
        (MASK, [fact is not None and fact.offset is None for fact in column]),
    ):
        source_N[_at(slots, slot_N)] = special
    return source_N


def _at(slots: list[bool], slot_N: Int64[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    return np.array(slots, dtype=bool)[slot_N]


def _given(
    target: Target, event_M: Int64[np.ndarray, "M"], first_M: Int64[np.ndarray, "M"]
) -> tuple[tuple[Field, Int64[np.ndarray, "M"]], ...]:
    assert all(fact.offset is not None for fact in target.given)
    return tuple(
        (fact.field, _event_or_start(event_M + (fact.offset or 0), first_M)) for fact in target.given
    )


def _event_or_start(
    event_M: Int64[np.ndarray, "M"], first_M: Int64[np.ndarray, "M"]
) -> Int64[np.ndarray, "M"]:
    """Sources of events; before a user's first known event stands the learned start."""
    return np.where(event_M >= first_M, event_M + SPECIALS, START)
