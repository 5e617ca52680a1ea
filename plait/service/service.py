"""What the routes share: the models that are served, the store, and the two threads that work for all requests."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

import msgspec

from plait.allocation import give_back_freed_memory
from plait.data.columns.times import PER_S
from plait.data.dataset import Dataset
from plait.data.history import Columns
from plait.data.log_rows import check_can_spell, log_rows
from plait.models.saving import model_hash
from plait.recommender import Recommender
from plait.service.answer_log import AnswerLog
from plait.service.asking import Answered, Asking
from plait.service.counters import Counters
from plait.service.deployed import BY_MODEL, Deployed, Found, Question, check_needs_no_lookup
from plait.service.fallback import Fallback
from plait.service.keys import read_keys
from plait.service.models import Model, Served, check_same_log, not_all_new
from plait.service.practice import practise
from plait.service.problems import Problem
from plait.service.rolling_files import RollingSettings
from plait.service.rows import Row, Rows, described_types, packed
from plait.service.settings import ServiceSettings
from plait.service.shadow import Shadow
from plait.service.spare import SpareThread
from plait.service.split import Split, Traffic
from plait.service.telling import Telling
from plait.service.told import InterestTable
from plait.service.wire import AppendRequest, Asked, RetrieveRequest, ScoreRequest, SentEvent
from plait.store.group_commit import Closed, GroupCommit
from plait.store.history import (
    Append,
    Outcome,
    Store,
    StoredEvent,
    StoredHistory,
    StoreFull,
    StoreUnavailable,
)

SEED = "\0seed"  # the user whose history says what the store began with; no request can name it
SEED_USERS = 64  # in one transaction
RANKING = 3.0  # mean times that a ranker keeps for itself, when it waits for interests
GIVE_BACK_S = 10.0  # between two times; each is paid with some 20 ms of processor time


@final
class Service:
    """Everything behind the routes.

    Args:
        models: all of one log; the first one's is the catalogue that the page searches.
        traffic: which of them answers whom; by default the first one all.
        clock_s: unix seconds, for questions that name no time.
        log: where answers and events are logged; None: nowhere.
        interests: of users, known from before, for rankers that read them.

    Raises:
        ValueError: a model cannot be served, or not beside the others.
    """

    def __init__(
        self,
        models: Sequence[Model],
        store: Store,
        settings: ServiceSettings,
        traffic: Traffic | None = None,
        clock_s: Callable[[], float] = time.time,
        log: RollingSettings | None = None,
        interests: InterestTable | None = None,
    ) -> None:
        self.store, self.settings, self.clock_s = store, settings, clock_s
        names = [model.name for model in models]
        self.traffic = traffic or Traffic(Split.all_to(names[0], names[1:]))
        self.traffic.check_names(names)
        self.keys = () if settings.keys is None else read_keys(settings.keys)
        self.counters = Counters()
        self.asking = Asking(settings.most_waiting, settings.most_together, settings.batch_wait_ms / 1e3)
        self.asking.observe = self._observe
        self.appending: GroupCommit[tuple[Rows, AppendRequest], list[Outcome]] = GroupCommit(
            self._append, refusals=(ValueError, Problem)
        )
        self.spare, self._given_back_s = SpareThread(), time.monotonic()
        self.is_ready, self.shadow = False, Shadow(self.counters)
        state_bytes = int(settings.state_memory_mb * 1e6) // len(models)
        self.served: dict[str, Served] = {}
        self.telling = Telling(self.served, self.asking.ask, store, self.counters, interests, clock_s)
        self._kept: dict[str, str] = {}  # the columns that any model reads, and how their values are kept
        try:
            for model in models:
                load = partial(self._loaded, state_bytes=state_bytes)
                self.served[model.name] = Served(model, load, self.asking.give_way)
                check_same_log(self.first.deployed, self.served[model.name].deployed)
            self.telling.introduce()
            self.answer_log = None if log is None else AnswerLog(log, self.counters, clock_s)
        except BaseException:
            self._close_threads()
            raise
        self.is_ready = True

    @property
    def first(self) -> Served:
        return next(iter(self.served.values()))

    # Questions

    async def answer(self, asked: Asked, deadline_s: float, request_id: str = "") -> Answered:
        """One answer of one version of the model.

        Args:
            request_id: by which a ranker will be asked about the same request.

        Raises:
            Problem: there is none.
        """
        deployed = self._chosen(asked)
        question = Question(asked, self._now(deployed.recommender.columns))
        if isinstance(asked, ScoreRequest) and deployed.reads_interests:
            wait_s = deadline_s - time.monotonic() - RANKING * self.asking.mean_s
            question = replace(question, told=await self.telling.told(deployed, asked, wait_s))
        query = self.telling.query_of(question)
        answering = asyncio.ensure_future(self.asking.ask(deployed, question, deadline_s))
        if query is not None:  # behind the question itself
            self.telling.begin(query, request_id, deadline_s)
        try:
            answered = await answering
        except StoreUnavailable as error:
            raise unavailable(error) from error
        self.counters.answered.labels(deployed.name, answered.found["answered_by"]).inc()
        if "interests" in answered.found and deployed.reads_interests:
            self.counters.told.labels(deployed.name, answered.found["interests"]).inc()
        self._shadowed(deployed, question, answered.found)
        return replace(
            answered,
            found={"model": deployed.name, "version": deployed.version, **answered.found},
            told=question.told,
        )

    def _chosen(self, asked: Asked) -> Deployed:
        """The version that answers: of the model that is named, else of the user's among those that can.

        Raises:
            Problem: no model is called so, or its layout has no such answer.
        """
        if asked.model is not None:
            deployed = self.of(asked.model).deployed
        else:
            able = [name for name, served in self.served.items() if served.deployed.can(asked)]
            name = self.traffic.split.model_of(None if asked.user is None else str(asked.user), able)
            deployed = self.first.deployed if name is None else self.served[name].deployed
        deployed.check_can(asked)
        return deployed

    def of(self, name: str | None) -> Served:
        """The model of a name; the first where none is given. Raises Problem where none is called so."""
        if name is None:
            return self.first
        if name not in self.served:
            raise Problem(404, "unknown model", f"no model is called so; served are {', '.join(self.served)}")
        return self.served[name]

    def _shadowed(self, answered_by: Deployed, question: Question, shown: Found) -> None:
        """Has the shadow asked the same in spare time, where there is one."""
        name = self.traffic.shadow
        if name is None or name == answered_by.name or shown["answered_by"] != BY_MODEL:
            return
        shadow = self.served[name].deployed
        if not isinstance(question.asked, RetrieveRequest | ScoreRequest) or not shadow.can(question.asked):
            return
        if not self.spare.take(partial(self.shadow.compare, shadow, question, shown)):
            self.shadow.dropped(shadow)

    async def append(self, asked: AppendRequest) -> list[Outcome]:
        """What became of each event, when it is safe.

        Raises:
            Problem: an event breaks a rule or is in conflict with a known one, or the store cannot take it.
        """
        try:
            outcomes = await asyncio.wrap_future(self.appending.submit((self._strictest_rows, asked)))
        except StoreUnavailable as error:
            raise unavailable(error) from error
        except Closed as error:
            raise Problem(503, "going down", str(error)) from error
        for outcome in outcomes:
            self.counters.events.labels(outcome).inc()
        if "conflict" in outcomes:
            raise Problem(
                409,
                "event in conflict",
                "an event of the same id and other content is known, so none of these was stored; give a new event an "
                "id of its own",
                events=outcomes,
            )
        return outcomes

    async def history(self, user: str) -> StoredHistory | None:
        """What is kept of a user.

        Raises:
            StoreUnavailable
        """
        return await asyncio.to_thread(self.store.history, user)

    async def forget(self, user: str) -> bool:
        """Whether anything was known of a user; nothing is from now on, on disk or in memory.

        Raises:
            StoreUnavailable
        """
        known = await asyncio.to_thread(self.store.delete, user)
        self.telling.forget(user)
        for served in self.served.values():
            served.forget(user)
        return known

    @property
    def _strictest_rows(self) -> Rows:
        """All models read the same columns, and some a request of every event."""
        of_all = [served.deployed for served in self.served.values()]
        return next((of for of in of_all if of.recommender.model.reads_requests), of_all[0]).rows

    def _append(self, asked: Sequence[tuple[Rows, AppendRequest]]) -> list[list[Outcome]]:
        """In the thread of the store."""
        rows = [[_row_of(rows, sent) for sent in request.events] for rows, request in asked]
        places = asked[-1][0].places([row for group in rows for row in group])
        groups, begin = [], 0
        for (_, request), group in zip(asked, rows, strict=True):
            ends = begin + len(group)
            groups.append(_appends(request, group, places[begin:ends]))
            begin = ends
        with self.counters.commit.time():
            return self.store.append(groups)

    def _now(self, columns: Columns) -> Any:
        """The time as the log writes it; None where nobody can tell how."""
        if columns.time is None or columns.time_format is not None or columns.time_offset is not None:
            return None
        return int(self.clock_s() * PER_S[columns.time_unit])

    def _observe(self, model: str, size: int, took_s: float) -> None:
        self.counters.together.labels(model).observe(size)
        self.counters.model.labels(model).observe(took_s)
        self._give_back()

    def _give_back(self) -> None:
        """What passes of many questions took and freed stays in the process otherwise (`plait.allocation`)."""
        now_s = time.monotonic()
        if now_s - self._given_back_s > GIVE_BACK_S and self.spare.take(give_back_freed_memory):
            self._given_back_s = now_s

    # Models

    def _loaded(self, model: Model, version: str, state_bytes: int) -> Deployed:
        recommender = Recommender.from_pretrained(model.folder, model.device)
        check_needs_no_lookup(recommender)
        self.asking.give_way()
        fallback = self._fallback_of(model, recommender)
        self.asking.give_way()
        rows = Rows(recommender, self._kept)
        self._kept.update(rows.types | self._kept)
        deployed = Deployed(
            model.name,
            version,
            recommender,
            self.store,
            fallback,
            state_bytes,
            rows,
            model_hash(model.folder),
        )
        practise(deployed, self.asking.in_its_thread)
        return deployed

    def _fallback_of(self, model: Model, recommender: Recommender) -> Fallback | None:
        """That of the version that answers, where the two know the same items: it counts the same events."""
        served = self.served.get(model.name)
        if served is not None and served.deployed.recommender.items.equals(recommender.items):
            return served.deployed.fallback
        return None if model.dataset is None else Fallback.of(model.dataset, recommender)

    def reload(self, name: str | None = None) -> list[dict[str, Any]]:
        """Takes the versions that lie in the folders now: of one model, or of all, one after the other.

        Raises:
            Problem: as `Served.reload`, when all were tried; `models` in it are those that did not fail.
        """
        done, failed = [], {}
        for served in self.served.values() if name is None else [self.of(name)]:
            try:
                done.append(served.reload())
            except Problem as problem:
                failed[served.model.name] = problem
                continue
            self.counters.swaps.labels(served.model.name).inc(done[-1]["swapped"])
        self.telling.introduce()
        if failed:
            raise not_all_new(failed, done)
        return done

    def close(self) -> None:
        """Answers and writes what waits."""
        self.is_ready = False
        self._close_threads()
        if self.answer_log is not None:
            self.answer_log.close()
        self.store.close()

    def _close_threads(self) -> None:
        self.asking.close()
        self.spare.close()
        self.appending.close()
        self.telling.close()


def unavailable(error: StoreUnavailable) -> Problem:
    if isinstance(error, StoreFull):
        return Problem(
            507, "store full", "the store has no room left, and nothing of this was stored; make room there"
        )
    return Problem(503, "store unavailable", "the store cannot be used now, and nothing of this was stored; try again",
                   {"Retry-After": "1"})  # fmt: skip


def seed(store: Store, dataset: Dataset, recommender: Recommender) -> int:
    """Fills a store with the histories of a prepared dataset, once; how many users it got. Killed, it goes on.

    Raises:
        ValueError: the dataset cannot be spelled as the log.
    """
    columns = recommender.columns
    rows = Rows(
        recommender, described_types(dataset.manifest.conditions)
    )  # another model may be asked under them
    mark = Append(SEED, StoredEvent(dataset.manifest.content_hash, b"", b""))
    done = store.history(SEED)
    if done is not None and mark.event.id in [event.id for event in done.events]:
        return 0
    check_can_spell(columns)
    ids, count = dataset.user_ids().to_list(), 0
    for begin in range(0, len(ids), SEED_USERS):
        users = [(place, str(id)) for place, id in enumerate(ids[begin : begin + SEED_USERS], begin)]
        new = [(place, id) for place, id in users if store.head(id) is None]
        histories = [[rows.spelled(row) for row in log_rows(dataset, columns, place)] for place, _ in new]
        places = iter(rows.places([row for history in histories for row in history])) if new else iter(())
        store.append([_seeds(id, history, places) for (_, id), history in zip(new, histories, strict=True)])
        count += len(new)
    store.append([[mark]])
    return count


def _seeds(user: str, history: Sequence[Row], places: Any) -> list[Append]:
    return [
        Append(user, StoredEvent(f"prepared-{nth}", next(places), packed(row)))
        for nth, row in enumerate(history)
    ]


def _row_of(rows: Rows, sent: SentEvent) -> Row:
    """Where the log names requests, an event that names none is of the answer that it is about."""
    request = rows.recommender.columns.request
    if request is None or sent.request_id is None:
        return rows.spelled(sent.event)
    return rows.spelled({request: sent.request_id, **sent.event})


def _appends(request: AppendRequest, rows: Sequence[Row], places: Sequence[bytes]) -> list[Append]:
    return [
        Append(str(sent.user), StoredEvent(sent.id, place, packed(row)))
        for sent, row, place in zip(request.events, rows, places, strict=True)
    ]


def schema_of(kinds: Sequence[type], template: str) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """JSON schemas of requests, and what they refer to."""
    found, components = msgspec.json.schema_components(kinds, ref_template=template)
    return list(found), components
