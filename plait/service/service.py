"""What the routes share: the model that is deployed, the store, and the two threads that work for all requests."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import msgspec

from plait.data.columns.times import PER_S
from plait.data.dataset import Dataset
from plait.data.history import Columns
from plait.data.log_rows import check_can_spell, log_rows
from plait.files import Hashes
from plait.recommender import Recommender
from plait.service.answer_log import AnswerLog
from plait.service.asking import Answered, Asking
from plait.service.counters import Counters
from plait.service.deployed import Deployed, Question
from plait.service.fallback import Fallback
from plait.service.keys import read_keys
from plait.service.practice import practise
from plait.service.problems import Problem, without_values
from plait.service.rolling_files import RollingSettings
from plait.service.rows import Row, Rows, packed
from plait.service.settings import ServiceSettings
from plait.service.wire import AppendRequest, Asked, SentEvent
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
VERSION_LENGTH = 12


@dataclass(frozen=True)
class Model:
    """Where a model lies, and the data that its fallback counts."""

    name: str
    folder: Path
    dataset: Dataset | None
    device: str = "auto"

    def version(self) -> str:
        """Of its content. Raises ValueError where the folder is not whole."""
        listed = Hashes.read(self.folder)
        if listed is None:
            raise ValueError(
                f"{self.folder} has no list of its files, so nobody can tell that it is whole; save it again"
            )
        latest = {name: hashes[0] for name, hashes in sorted(listed.files.items())}
        return hashlib.sha256(msgspec.json.encode(latest)).hexdigest()[:VERSION_LENGTH]


@final
class Service:
    """Everything behind the routes.

    Args:
        clock_s: unix seconds, for questions that name no time.
        log: where answers and events are logged; None: nowhere.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        settings: ServiceSettings,
        clock_s: Callable[[], float] = time.time,
        log: RollingSettings | None = None,
    ) -> None:
        self.model, self.store, self.settings, self.clock_s = model, store, settings, clock_s
        self.keys = () if settings.keys is None else read_keys(settings.keys)
        self.counters = Counters()
        self.asking = Asking(settings.most_waiting, settings.most_together, settings.batch_wait_ms / 1e3)
        self.asking.observe = self._observe
        self.appending: GroupCommit[tuple[Rows, AppendRequest], list[Outcome]] = GroupCommit(
            self._append, refusals=(ValueError, Problem)
        )
        self.is_ready, self._swapping = False, threading.Lock()
        self._coming: Deployed | None = None  # the version that is about to be served
        try:
            self.deployed = self._loaded(model.version())
            self.answer_log = None if log is None else AnswerLog(log, self.counters, clock_s)
        except BaseException:
            self.asking.close()
            self.appending.close()
            raise
        self.is_ready = True

    # Questions

    async def answer(self, asked: Asked, deadline_s: float) -> Answered:
        """One answer of one version of the model.

        Raises:
            Problem: there is none.
        """
        deployed = self.deployed
        deployed.check_can(asked)
        question = Question(asked, self._now(deployed.recommender.columns))
        try:
            answered = await self.asking.ask(deployed, question, deadline_s)
        except StoreUnavailable as error:
            raise unavailable(error) from error
        self.counters.answered.labels(answered.found["answered_by"]).inc()
        return replace(
            answered, found={"model": deployed.name, "version": deployed.version, **answered.found}
        )

    async def append(self, asked: AppendRequest) -> list[Outcome]:
        """What became of each event, when it is safe.

        Raises:
            Problem: an event breaks a rule or is in conflict with a known one, or the store cannot take it.
        """
        try:
            outcomes = await asyncio.wrap_future(self.appending.submit((self.deployed.rows, asked)))
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
        for deployed in (self._coming, self.deployed):  # in this order: the one becomes the other
            if deployed is not None:
                deployed.states.forget(user)
        return known

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

    def _observe(self, size: int, took_s: float) -> None:
        self.counters.together.observe(size)
        self.counters.model.observe(took_s)

    # Models

    def _loaded(self, version: str) -> Deployed:
        model = self.model
        recommender = Recommender.from_pretrained(model.folder, model.device)
        fallback = None if model.dataset is None else Fallback.of(model.dataset, recommender)
        state_bytes = int(self.settings.state_memory_mb * 1e6)
        deployed = Deployed(model.name, version, recommender, self.store, fallback, state_bytes)
        self.asking.between_questions(lambda: practise(deployed))
        return deployed

    def reload(self) -> dict[str, Any]:
        """Takes the version that lies in the folder now: loads it aside, lets it practise, warms the users asked about
        last, then turns. Requests that began with the old version are answered by it.

        Raises:
            Problem: the folder is not whole, or holds a model of other columns; the old version goes on.
        """
        with self._swapping:
            old = self.deployed
            try:
                version = self.model.version()
                if version == old.version:
                    return {"model": old.name, "version": version, "swapped": False}
                new = self._loaded(version)
                _check_same_log(old.recommender.columns, new.recommender.columns)
                if self.model.version() != version:
                    raise ValueError("the model's folder changed while it was read; try again")
            except (ValueError, OSError) as error:
                raise Problem(
                    409,
                    "no new model",
                    f"{_without_paths(error, self.model.folder)}; the version {old.version} goes on",
                ) from error
            self._coming = new
            try:
                warmed = new.warm(old.states.users(), lambda: True)
                self.deployed = new
            finally:
                self._coming = None
            self.counters.swaps.inc()
            return {"model": new.name, "version": version, "swapped": True, "warmed_users": warmed}

    def close(self) -> None:
        """Answers and writes what waits."""
        self.is_ready = False
        self.asking.close()
        self.appending.close()
        if self.answer_log is not None:
            self.answer_log.close()
        self.store.close()


def _without_paths(error: Exception, folder: Path) -> str:
    """Paths of this machine are nobody's business."""
    if not isinstance(error, ValueError):
        return "the model's files cannot be read"
    return without_values(str(error), ()).replace(str(folder), "the model")


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
    columns, rows = recommender.columns, Rows(recommender)
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


def _check_same_log(old: Columns, new: Columns) -> None:
    names = ("user", "item", "time", "time_unit", "time_format", "time_offset", "order", "request")
    apart = [name for name in names if getattr(old, name) != getattr(new, name)]
    if apart:
        raise ValueError(
            f"the new model reads another log: its {', '.join(apart)} differ; serve it with a store of its own"
        )


def schema_of(kinds: Sequence[type], template: str) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """JSON schemas of requests, and what they refer to."""
    found, components = msgspec.json.schema_components(kinds, ref_template=template)
    return list(found), components
