"""A model that answers: questions in, answers out, many at a time, with the states of users in memory.

Shape letters: Q questions, M candidates, C those that the model knows, K items of a list.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, assert_never, final

import numpy as np

from plait.engine.asking import answers_conditions, needs_time, reads_condition
from plait.engine.filters import Filters
from plait.engine.state import State
from plait.engine.state_parts import joined_states
from plait.engine.value import Value
from plait.layouts import audit
from plait.models.ranker import Ranker
from plait.models.two_tower import UNTOLD_ADVICE, TwoTower
from plait.recommender import VALUE, Recommender
from plait.schema import UNKNOWN_ITEM
from plait.service.conditioned import interests, nearest
from plait.service.fallback import Fallback, dense_items
from plait.service.problems import Problem, refused
from plait.service.rows import Rows, unpacked
from plait.service.states import CachedState, StateCache
from plait.service.told import ItemInterests, Told, ToldOfPass
from plait.service.why import why
from plait.service.wire import (
    Asked,
    Conditioned,
    InterestsRequest,
    QueryRequest,
    RetrieveRequest,
    ScoreRequest,
    WhyRequest,
)
from plait.store.history import Head, Store

BY_MODEL, BY_COUNTS = "model", "fallback"
EPOCH = "epoch"  # of the history, in an answer to a question that wants to know it
Found = dict[str, Any]  # members of an answer


@dataclass(frozen=True)
class Question:
    """A request, and when it came by the log's clock."""

    asked: Asked
    now: Any = None  # as the log writes times; None where it has none
    told: Told = Told()  # to a ranker that reads interests
    wants_epoch: bool = False  # of the history that is read

    @property
    def user(self) -> str | None:
        return None if self.asked.user is None else str(self.asked.user)


@dataclass(frozen=True)
class _Ready:
    """A question with its state, and what may be answered together."""

    place: int
    question: Question
    state: State
    k: int = 0
    kept_V: Any = None
    item_C: Any = None  # those candidates of a score that the model knows
    known_M: Any = None  # which they are

    @property
    def kind(self) -> Hashable:
        asked = self.question.asked
        if isinstance(asked, RetrieveRequest):
            filters = asked.filter_seen, asked.allow, asked.deny
            return ("retrieve", self.k, filters, asked.at, _ordered(asked.condition))
        assert isinstance(asked, ScoreRequest), "all others are answered one by one"
        return ("score", asked.at, _ordered(asked.context), _ordered(asked.condition), asked.value)


def check_needs_no_lookup(recommender: Recommender) -> None:
    """Raises ValueError where two towers look up interests of users: nobody tells them here, and they would answer as
    if nobody had any. Vectors of items are saved with the model, so the item's tower alone may read them."""
    model = recommender.model
    if isinstance(model, TwoTower) and model.reads_interests:
        raise ValueError(
            "the model's two towers read interests of users, and the service tells those to rankers alone; "
            f"{UNTOLD_ADVICE}, or serve a ranker"
        )


@final
class Deployed:
    """One version of a model. It answers one thread at a time.

    Args:
        rows: how it reads and keeps events; by default those of this model alone.
        hash: `plait.models.saving.model_hash` of its folder, whose beginning is the version of its interests.
    """

    def __init__(
        self,
        name: str,
        version: str,
        recommender: Recommender,
        store: Store,
        fallback: Fallback | None,
        state_bytes: int,
        rows: Rows | None = None,
        hash: str = "",
    ) -> None:
        self.name, self.version, self.recommender = name, version, recommender
        self.store, self.fallback, self.states = store, fallback, StateCache(state_bytes)
        self.rows, self.hash = rows or Rows(recommender), hash
        self.reads_condition = reads_condition(recommender.model.layout)
        self.answers_conditions = answers_conditions(recommender.model.layout)
        verdict = audit(recommender.model.layout)
        self.item_interests: ItemInterests | None = None  # of the user model that a ranker was trained with
        self.can_retrieve, self.can_score = verdict.can_retrieve, verdict.can_score != "no"
        settings = recommender.model.config.settings
        self.needs_time = {
            RetrieveRequest: self.can_retrieve and needs_time(recommender.model.layout, settings, "i"),
            ScoreRequest: self.can_score and needs_time(recommender.model.layout, settings, "a"),
        }
        self.most_appended = 1  # events that are appended one by one; more are encoded anew: see `practise`
        self._values: dict[str, Value] = {}
        self._answering = threading.Lock()

    @property
    def reads_interests(self) -> bool:
        """Whether it is a ranker that a user model is asked for."""
        return isinstance(self.recommender.model, Ranker) and self.recommender.model.reads_interests

    def check_can(self, asked: Asked) -> None:
        """Raises Problem where the layout has no such answer."""
        lacking = self._lacking(asked)
        if lacking:
            raise Problem(
                422, "not this model", f"the model's layout {lacking}; GET /v1/models says what it can"
            )

    def can(self, asked: Asked) -> bool:
        """Whether the layout has such an answer."""
        return not self._lacking(asked)

    def _lacking(self, asked: Asked) -> str:
        """What stands in the way of an answer; empty where nothing does."""
        if isinstance(asked, Conditioned):
            return "" if self.answers_conditions else "is not asked under conditions"
        if isinstance(asked, WhyRequest) and self.reads_condition:
            return "is asked under conditions, and why it answers so is not told"
        if not isinstance(asked, WhyRequest) and (asked.condition is not None) != self.reads_condition:
            return (
                "is asked under a condition: name one"
                if self.reads_condition
                else "is asked under no condition"
            )
        if _answers_as(asked) is RetrieveRequest and not self.can_retrieve:
            return "cannot retrieve"
        needs_score = _answers_as(asked) is ScoreRequest or (
            isinstance(asked, RetrieveRequest) and asked.with_actions
        )
        return "cannot score" if needs_score and not self.can_score else ""

    def answer(self, questions: Sequence[Question]) -> list[Found | Exception]:
        """An answer to each, or why there is none; questions that go together are asked together."""
        with self._answering:  # a shadow is asked by another thread, and may be asked by name
            return self._answers(questions)

    def _answers(self, questions: Sequence[Question]) -> list[Found | Exception]:
        answers: list[Found | Exception | None] = [None] * len(questions)
        groups: dict[Hashable, list[_Ready]] = {}
        for place, question in enumerate(questions):
            try:
                ready = self._ready(place, question)
            except Exception as error:
                answers[place] = self._told(error)
                continue
            if isinstance(ready, _Ready):
                groups.setdefault(ready.kind, []).append(ready)
            else:
                answers[place] = ready
        for group in groups.values():
            for one, found in zip(group, self._together(group), strict=True):
                answers[one.place] = found
        assert all(found is not None for found in answers), "every question has an answer"
        return answers  # type: ignore[return-value]

    def fall_back(self, question: Question, reason: str) -> Found:
        """What counts say, without the model.

        Raises:
            Problem: there are no counts, or they say nothing of that.
        """
        if isinstance(question.asked, WhyRequest | InterestsRequest):
            raise Problem(503, "no answer in time", f"{reason}, and only the model knows; give it more time")
        if self.fallback is None:
            raise Problem(
                503,
                "no answer in time",
                f"{reason}, and the service has no counts to fall back on; try again",
            )
        asked, said = question.asked, {"answered_by": BY_COUNTS, "why": reason}
        if isinstance(asked, QueryRequest):
            item_K, score_K = self.fallback.retrieve(asked.k, self._left_out(question), None)
            lists = [{"items": self._ids(item_K), "scores": score_K}] * len(asked.conditions)
            return {**said, "conditions": asked.conditions, "lists": lists}
        if isinstance(asked, RetrieveRequest):
            kept = None if asked.allow is None else frozenset(self._dense(asked.allow))
            item_K, score_K = self.fallback.retrieve(asked.k, self._left_out(question), kept)
            found = {"items": self._ids(item_K), "scores": score_K}
            return {
                **said,
                **found,
                **({"actions": self.fallback.score(item_K)} if asked.with_actions else {}),
            }
        item_M = dense_items(self.recommender, asked.items)
        actions = self.fallback.score(item_M)
        for value_M in actions.values():
            value_M[item_M == UNKNOWN_ITEM] = np.nan
        return {
            **said,
            "items": asked.items,
            "status": _status(item_M),
            "actions": actions,
            **_no_value(asked),
        }

    def warm(self, users: Sequence[str], keep_on: Callable[[], bool]) -> int:
        """Encodes histories ahead, the first ones first, as long as they fit; how many."""
        for done, user in enumerate(users):
            if not keep_on() or self.states.nbytes > 0.9 * self.states.most_bytes:
                return done
            self.state_of(user)
        return len(users)

    def state_of(self, user: str) -> CachedState | None:
        """The state of a user's whole history as it is now; None where there is none."""
        num_forgotten = self.states.num_forgotten
        head = self.store.head(user)
        if head is None or not head.count:
            self.states.forget(user)
            return None
        entry = self._caught_up(user, head)
        if entry is None:
            entry = self._encoded(user)
        if entry is not None:
            self.states.put(user, entry, num_forgotten)
        return entry

    def _caught_up(self, user: str, head: Head) -> CachedState | None:
        """The cached state with the events that came since; None where it is of another history, or far behind."""
        entry = self.states.get(user)
        if entry is None or entry.epoch != head.epoch or head.version - entry.version > self.most_appended:
            self.states.misses += 1
            return None
        if head.version == entry.version:
            self.states.hits += 1
            return entry
        later = self.store.history(user, after=entry.last)
        if later is None or later.head.epoch != entry.epoch:
            self.states.misses += 1
            return None
        state = entry.state
        for event in later.events:
            state = self.recommender.append(state, self.rows.frame([unpacked(event.content)]))
            self.states.appended += 1
        self.states.hits += 1
        return CachedState(entry.epoch, later.head.version, later.head.last, state)

    def _encoded(self, user: str) -> CachedState | None:
        kept = self.store.history(user)
        if kept is None or not kept.events:
            return None
        rows = [unpacked(event.content) for event in kept.events]
        state = self.encoded(rows, kept.head.before, user)
        return CachedState(kept.head.epoch, kept.head.version, kept.head.last, state)

    def encoded(self, rows: Sequence[dict[str, Any]], before: int = 0, user: str | None = None) -> State:
        """The state of events that are spelled as they are kept; it is not kept in memory."""
        state = self.recommender.encode(self.rows.frame(rows), before=before)
        return replace(state, id_U=(user,))

    def _ready(self, place: int, question: Question) -> _Ready | Found:
        asked, epoch = question.asked, {}
        if question.user is not None:
            entry = self.state_of(question.user)
            if entry is None and isinstance(asked, WhyRequest | InterestsRequest):
                raise Problem(404, "no history", "the user has no history to read; append events first")
            if entry is None:
                return self.fall_back(question, "the user has no history")
            state, epoch = entry.state, {EPOCH: entry.epoch} if question.wants_epoch else {}
        else:
            assert asked.history is not None, "a user or a history is given"
            state = self.encoded([self.rows.spelled(row) for row in asked.history], asked.before)
        if self.needs_time[_answers_as(asked)] and asked.at is None:
            question = replace(question, asked=_at(asked, question.now))
        if isinstance(question.asked, WhyRequest | QueryRequest | InterestsRequest):
            return {"answered_by": BY_MODEL, **epoch, **self._by_itself(question.asked, state)}
        if isinstance(asked, ScoreRequest):
            item_M = dense_items(self.recommender, asked.items)
            known_M = item_M != UNKNOWN_ITEM
            if not known_M.any():
                return {
                    "answered_by": BY_MODEL,
                    "items": asked.items,
                    "status": _status(known_M),
                    **self._no_actions(asked),
                }
            return _Ready(place, question, state, item_C=item_M[known_M], known_M=known_M)
        assert isinstance(asked, RetrieveRequest), "the other two are answered above"
        kept_V = self._kept(asked)
        kept_I = None if kept_V is None else np.concatenate([[False], kept_V])
        left = Filters.joined(len(self.recommender.items), state.seen_U, asked.filter_seen, kept_I).left_U
        if not left[0]:
            return {
                "answered_by": BY_MODEL,
                "items": [],
                "scores": [],
                **({"actions": {}} if asked.with_actions else {}),
            }
        return _Ready(place, question, state, k=int(min(asked.k, left[0])), kept_V=kept_V)

    def _by_itself(self, asked: WhyRequest | Conditioned, state: State) -> Found:
        match asked:
            case WhyRequest():
                return why(self.recommender, state, asked)
            case QueryRequest():
                return nearest(self.recommender, state, asked)
            case InterestsRequest():
                return interests(self.recommender, state, asked)
            case _:
                assert_never(asked)

    def _together(self, group: Sequence[_Ready]) -> list[Found | Exception]:
        try:
            first = group[0].question.asked
            return self._retrieved(group) if isinstance(first, RetrieveRequest) else self._scored(group)
        except Exception as error:
            if len(group) == 1:
                return [self._told(error)]
            return [found for one in group for found in self._together([one])]

    def _retrieved(self, group: Sequence[_Ready]) -> list[Found | Exception]:
        asked, k = group[0].question.asked, group[0].k
        assert isinstance(asked, RetrieveRequest)
        state = _joined(group)
        found = self.recommender.retrieve(
            state,
            k,
            filter_seen=asked.filter_seen,
            at=asked.at,
            condition=asked.condition,
            mask=group[0].kept_V,
        )
        items, scores = found["item"].to_list(), found["score"].to_numpy()
        answers: list[Found | Exception] = []
        for nth, one in enumerate(group):
            part = slice(nth * k, (nth + 1) * k)
            answer: Found = {"answered_by": BY_MODEL, "items": items[part], "scores": scores[part]}
            mine = one.question.asked
            if isinstance(mine, RetrieveRequest) and mine.with_actions:
                at = one.question.now if mine.at is None and self.needs_time[ScoreRequest] else mine.at
                item_K = dense_items(self.recommender, items[part])
                columns = self.recommender.score_dense(
                    one.state, item_K, np.array([len(item_K)]), at=at, condition=mine.condition
                )
                answer["actions"] = columns
            answers.append(answer)
        return answers

    def _scored(self, group: Sequence[_Ready]) -> list[Found | Exception]:
        asked = group[0].question.asked
        assert isinstance(asked, ScoreRequest)
        with self._telling(group):
            found = self.recommender.score_dense(
                _joined(group),
                np.concatenate([one.item_C for one in group]),
                np.array([len(one.item_C) for one in group]),
                at=asked.at,
                context=asked.context,
                condition=asked.condition,
                value=None if asked.value is None else self._value(asked.value),
            )
        answers: list[Found | Exception] = []
        begin = 0
        for one in group:
            mine = one.question.asked
            assert isinstance(mine, ScoreRequest)
            part, begin = slice(begin, begin + len(one.item_C)), begin + len(one.item_C)
            columns = {name: _spread(value_M[part], one.known_M) for name, value_M in found.items()}
            value = {} if mine.value is None else {VALUE: columns.pop(VALUE)}
            answers.append(
                {
                    "answered_by": BY_MODEL,
                    "items": mine.items,
                    "status": _status(one.known_M),
                    "actions": columns,
                    **value,
                    **({"interests": one.question.told.source} if self.reads_interests else {}),
                }
            )
        return answers

    @contextmanager
    def _telling(self, group: Sequence[_Ready]) -> Iterator[None]:
        """A ranker looks up what is known of the users of this pass, for the time inside."""
        model, items = self.recommender.model, self.item_interests
        if items is None or not isinstance(model, Ranker):
            yield
            return
        told = [one.question.told for one in group]
        with model.told(ToldOfPass.of_questions(told, len(model.config.told_conditions), items)):
            yield

    def _value(self, formula: str) -> Value:
        if formula not in self._values:
            if len(self._values) > 64:
                self._values.clear()
            self._values[formula] = self.recommender.value(formula)
        return self._values[formula]

    def _no_actions(self, asked: ScoreRequest) -> Found:
        if asked.value is not None:
            self._value(asked.value)
        names = [name for a in self.recommender.actions for name in a.kind.answer_columns(a.name)]
        none = [None] * len(asked.items)
        return {"actions": dict.fromkeys(names, none), **_no_value(asked)}

    def _kept(self, asked: RetrieveRequest) -> np.ndarray | None:
        """Whether each of the model's items may be answered; ids that it does not know change nothing."""
        if asked.allow is None and asked.deny is None:
            return None
        kept_I = np.full(len(self.recommender.items) + 1, asked.allow is None)
        kept_I[self._dense(asked.allow or ())] = True
        kept_I[self._dense(asked.deny or ())] = False
        return kept_I[1:]

    def _dense(self, ids: Sequence[str | int]) -> list[int]:
        return [] if not ids else dense_items(self.recommender, ids).tolist()

    def _left_out(self, question: Question) -> list[int]:
        """Items that a fallback leaves out: those denied, and those of the history, read without encoding it."""
        asked = question.asked
        assert isinstance(asked, RetrieveRequest | QueryRequest)
        found = self._dense(asked.deny or ()) if isinstance(asked, RetrieveRequest) else []
        if not asked.filter_seen:
            return found
        item = self.recommender.columns.item
        if asked.history is not None:
            return found + self._dense([str(row[item]) for row in asked.history if row.get(item) is not None])
        kept = self.store.history(str(asked.user))
        return found + self._dense([unpacked(event.content)[item] for event in kept.events] if kept else [])

    def _ids(self, item_K: np.ndarray) -> list[Any]:
        return self.recommender.vocabulary.ids_at(item_K).to_list()

    def _told(self, error: Exception) -> Exception:
        if isinstance(error, ValueError):
            return refused(error, self.rows.known)
        return error


def _answers_as(asked: Asked) -> type[RetrieveRequest] | type[ScoreRequest]:
    """Which of the two answers it is about."""
    match asked:
        case WhyRequest():
            return RetrieveRequest if asked.item is None else ScoreRequest
        case ScoreRequest():
            return ScoreRequest
        case RetrieveRequest() | QueryRequest() | InterestsRequest():
            return RetrieveRequest
        case _:
            assert_never(asked)


def _ordered(values: Mapping[str, Any] | None) -> Hashable:
    return None if values is None else tuple(sorted(values.items(), key=str))


def _at(asked: Any, now: Any) -> Any:
    return type(asked)(**{name: getattr(asked, name) for name in asked.__struct_fields__} | {"at": now})


def _joined(group: Sequence[_Ready]) -> State:
    """Users are numbered as they stand in the group."""
    state = group[0].state if len(group) == 1 else joined_states([one.state for one in group])
    return replace(state, events=replace(state.events, user_U=np.arange(len(group))))


def _spread(value: np.ndarray, known_M: np.ndarray) -> np.ndarray:
    """The values of known candidates at their places, NaN at the others."""
    spread_M = np.full(len(known_M), np.nan, dtype=value.dtype)
    spread_M[known_M] = value
    return spread_M


def _status(known_M: np.ndarray) -> list[str]:
    return ["ok" if known else "unknown item" for known in known_M.tolist()]


def _no_value(asked: ScoreRequest) -> Found:
    return {} if asked.value is None else {VALUE: [None] * len(asked.items)}
