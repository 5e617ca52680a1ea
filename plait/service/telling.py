"""Rankers and the user models that tell them: who asks whom, and for which request."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float32

from plait.conditions import OWN, condition_of
from plait.service.asking import Answered
from plait.service.counters import Counters
from plait.service.deployed import BY_MODEL, EPOCH, Deployed, Question
from plait.service.keeping import Keeping
from plait.service.models import Served
from plait.service.problems import Problem
from plait.service.told import Flights, InterestTable, ItemInterests, Key, LastInterests, Precomputed, Told
from plait.service.wire import InterestsRequest, RetrieveRequest, ScoreRequest
from plait.store.history import KeptInterests, Store

LOG = logging.getLogger(__name__)
Ask = Callable[[Deployed, Question, float], Awaitable[Answered]]


@dataclass(frozen=True, eq=False)
class Teller:
    """A user model as it is served, and what of it a ranker was trained with."""

    ranker: Deployed
    deployed: Deployed
    version: str
    conditions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Query:
    """What is asked of a user model for a ranker."""

    teller: Teller
    question: Question


@final
class Telling:
    """
    Args:
        served: all models, by name.
        ask: has a version of a model answer by a deadline.
        store: keeps what was last said of each user.
        table: interests from before, of `plait lum query`.
        clock_s: unix seconds.
    """

    def __init__(
        self,
        served: Mapping[str, Served],
        ask: Ask,
        store: Store,
        counters: Counters,
        table: InterestTable | None = None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._served, self._ask, self._store = served, ask, store
        self._counters, self._clock_s = counters, clock_s
        self._keeping = Keeping(store, lambda fate, number: counters.kept.labels(fate).inc(number))
        self._recalls: dict[tuple[str, str], asyncio.Task[None]] = {}  # by user and version
        self._logged: set[str] = set()  # kinds of errors
        self._flights, self._last, self._precomputed = Flights(), LastInterests(), Precomputed(table)
        self._tellers: dict[str, Teller] = {}  # by the name of the ranker

    def introduce(self) -> None:
        """After a version came: each ranker gets the items of the user model whose interests it was trained with."""
        tellers = {}
        for name, served in self._served.items():
            ranker = served.deployed
            found = self._found(ranker) if ranker.reads_interests else None
            if found is None:
                ranker.item_interests = None
                continue
            table = found.deployed.recommender.item_interests()
            ranker.item_interests = ItemInterests.of(table, ranker.recommender.vocabulary)
            tellers[name] = found
        self._tellers = tellers

    def teller_name(self, ranker: str) -> str | None:
        """Whom a ranker is told by; None where no model that is served has the version that it was trained with."""
        teller = self._tellers.get(ranker)
        return None if teller is None else teller.deployed.name

    def query_of(self, question: Question) -> Query | None:
        """What is asked for the ranker that a request names; None where it names none.

        Raises:
            Problem: no interests can be asked for that ranker.
        """
        asked = question.asked
        if not isinstance(asked, RetrieveRequest) or asked.rank_with is None:
            return None
        teller = self._teller_of(asked.rank_with)
        names = [feature.name for feature in teller.deployed.recommender.model.config.conditions]
        conditions: list[dict[str, Any]] = [
            dict(asked.condition or {}) if text == OWN else condition_of(text, names)
            for text in teller.conditions
        ]
        its = InterestsRequest(
            user=asked.user,
            history=asked.history,
            before=asked.before,
            at=asked.at,
            conditions=tuple(conditions),
        )
        return Query(teller, Question(its, question.now, wants_epoch=True))

    def _teller_of(self, name: str) -> Teller:
        """Who tells a ranker. Raises Problem where no interests can be asked for it."""
        ranker, teller = self._served.get(name), self._tellers.get(name)
        if ranker is None:
            raise Problem(
                404, "unknown model", f"no model is called so; served are {', '.join(self._served)}"
            )
        if not ranker.deployed.reads_interests:
            raise Problem(
                422, "not this model", "rank_with names a model that reads no interests; leave it out"
            )
        if teller is None:
            raise Problem(
                422,
                "not this model",
                "no model that is served is the version whose interests the ranker was trained with; GET /v1/models "
                "says who tells whom",
            )
        return teller

    def begin(self, query: Query, request_id: str, deadline_s: float) -> None:
        """Asks the user model what the ranker of a request will read, in the queue of questions."""
        key = Key(request_id, query.question.user, query.teller.version)
        self._flights.begin(key, self._queried(query, deadline_s))

    async def told(self, ranker: Deployed, asked: ScoreRequest, wait_s: float) -> Told:
        """What a ranker is told of a user: what its request asked, else what is known from before, else nothing.

        Args:
            wait_s: for how long a query that is on its way, or the store, may be waited for.
        """
        teller, user = self._tellers.get(ranker.name), None if asked.user is None else str(asked.user)
        if teller is None or teller.ranker is not ranker:  # a version of the ranker that came meanwhile
            return Told()
        until_s = time.monotonic() + wait_s
        if asked.request_id is not None:
            found = await self._flights.read(Key(asked.request_id, user, teller.version), wait_s)
            if found is not None:
                return Told("queried", found, teller.version, teller.conditions)
        if user is None:
            return Told()
        if not self._last.knows(user, teller.version):
            await self._recalled(user, teller.version, until_s - time.monotonic())
        return self._from_before(teller, user)

    def forget(self, user: str) -> None:
        """Nothing of a user is in memory from now on. In the event loop's thread."""
        self._flights.forget(user)
        self._last.forget(user)
        self._precomputed.forget(user)
        self._keeping.forget(user)

    def close(self) -> None:
        """Writes what waits for the store."""
        self._keeping.close()

    def _from_before(self, teller: Teller, user: str) -> Told:
        version, conditions = teller.version, teller.conditions
        found = self._last.of(user, version, conditions)
        if found is not None:
            return Told("last", found, version, conditions)
        found = self._precomputed.of(user, version, conditions)
        return Told() if found is None else Told("precomputed", found, version, conditions)

    async def _recalled(self, user: str, version: str, for_s: float) -> None:
        """Reads what the store has of a user whom nobody asked about yet, who is known when that is done."""
        key = user, version
        if key not in self._recalls:
            task = asyncio.get_running_loop().create_task(self._recall(user, version))
            task.add_done_callback(lambda _: self._recalls.pop(key, None))
            self._recalls[key] = task
        await asyncio.wait({self._recalls[key]}, timeout=max(0.0, for_s))

    async def _recall(self, user: str, version: str) -> None:
        num_forgotten = self._last.num_forgotten
        try:
            kept = await asyncio.to_thread(self._store.interests, user)
            of_version = self._last.recall(user, version, kept, num_forgotten)
        except Exception as error:  # a ranker is told less, and the next question tries again
            self._failed("", error)
            return
        for fate, number in (("read", sum(of_version)), ("other version", len(kept) - sum(of_version))):
            self._counters.kept.labels(fate).inc(number)

    async def _queried(self, query: Query, deadline_s: float) -> Float32[np.ndarray, "Q W"] | None:
        """None where there are none: who reads them takes what is known from before, and nobody is told of an error."""
        teller, question = query.teller, query.question
        try:
            answered = await self._ask(teller.deployed, question, deadline_s)
        except Problem:  # no history, no room, no time
            return None
        except Exception as error:
            self._failed(teller.deployed.name, error)
            return None
        if answered.found["answered_by"] != BY_MODEL:
            return None
        found = np.stack(answered.found["interests"]).astype(np.float32)
        if question.user is not None:
            self._last.keep(question.user, teller.version, teller.conditions, found)
            self._keeping.keep(self._kept(teller, question.user, answered.found[EPOCH], found))
        return found

    def _kept(
        self, teller: Teller, user: str, epoch: int, interest_QW: Float32[np.ndarray, "Q W"]
    ) -> KeptInterests:
        """As the store keeps them."""
        asked_us, vectors = int(self._clock_s() * 1e6), interest_QW.astype("<f2").tobytes()
        return KeptInterests(user, epoch, teller.version, asked_us, teller.conditions, vectors)

    def _failed(self, model: str, error: Exception) -> None:
        """Counted each time, and logged the first time that one of its kind comes."""
        kind = type(error).__name__
        self._counters.queries_failed.labels(model, kind).inc()
        if kind not in self._logged:
            self._logged.add(kind)
            LOG.error("interests could not be had (%s); /metrics counts all times", kind, exc_info=error)

    def _found(self, ranker: Deployed) -> Teller | None:
        config = ranker.recommender.model.config
        for served in self._served.values():
            deployed, version = served.deployed, config.told_version
            if deployed.answers_conditions and version and deployed.hash.startswith(version):
                return Teller(ranker, deployed, version, config.told_conditions)
        return None
