"""Rankers and the user models that tell them: who asks whom, and for which request."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float32

from plait.conditions import OWN, condition_of
from plait.service.asking import Answered
from plait.service.deployed import BY_MODEL, Deployed, Question
from plait.service.models import Served
from plait.service.problems import Problem
from plait.service.told import Flights, InterestTable, ItemInterests, Key, Precomputed, Told
from plait.service.wire import InterestsRequest, RetrieveRequest, ScoreRequest

Ask = Callable[[Deployed, Question, float], Awaitable[Answered]]


@dataclass(frozen=True, eq=False)
class Teller:
    """A user model as it is served, and what of it a ranker was trained with."""

    ranker: Deployed
    deployed: Deployed
    version: str
    conditions: tuple[str, ...]


@final
class Telling:
    """
    Args:
        served: all models, by name.
        ask: has a version of a model answer by a deadline.
        table: interests from before, of `plait lum query`.
    """

    def __init__(self, served: Mapping[str, Served], ask: Ask, table: InterestTable | None = None) -> None:
        self._served, self._ask = served, ask
        self._flights, self._precomputed = Flights(), Precomputed(table)
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

    def teller_of(self, asked: RetrieveRequest) -> Teller | None:
        """Who tells the ranker that a request names; None where it names none.

        Raises:
            Problem: no interests can be asked for that ranker.
        """
        if asked.rank_with is None:
            return None
        ranker, teller = self._served.get(asked.rank_with), self._tellers.get(asked.rank_with)
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

    def begin(
        self,
        teller: Teller,
        asked: RetrieveRequest,
        question: Question,
        request_id: str,
        deadline_s: float,
    ) -> None:
        """Asks the user model what the ranker of a request will read, in the queue of questions."""
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
        key = Key(request_id, question.user, teller.version)
        self._flights.begin(key, self._queried(teller, Question(its, question.now), deadline_s))

    async def told(self, ranker: Deployed, asked: ScoreRequest, wait_s: float) -> Told:
        """What a ranker is told of a user: what its request asked, else what is known from before, else nothing.

        Args:
            wait_s: for how long a query that is on its way may be waited for.
        """
        teller, user = self._tellers.get(ranker.name), None if asked.user is None else str(asked.user)
        if teller is None or teller.ranker is not ranker:  # a version of the ranker that came meanwhile
            return Told()
        if asked.request_id is not None:
            found = await self._flights.read(Key(asked.request_id, user, teller.version), wait_s)
            if found is not None:
                return Told("queried", found)
        found = self._precomputed.of(user, teller.version, teller.conditions)
        return Told() if found is None else Told("precomputed", found)

    def forget(self, user: str) -> None:
        """Nothing of a user is in memory from now on. In the event loop's thread."""
        self._flights.forget(user)
        self._precomputed.forget(user)

    async def _queried(
        self, teller: Teller, question: Question, deadline_s: float
    ) -> Float32[np.ndarray, "Q W"] | None:
        try:
            answered = await self._ask(teller.deployed, question, deadline_s)
        except Problem:  # no history, no room, no time: who reads it takes what is known from before
            return None
        if answered.found["answered_by"] != BY_MODEL:
            return None
        found = np.stack(answered.found["interests"]).astype(np.float32)
        if question.user is not None:
            self._precomputed.keep(question.user, teller.version, teller.conditions, found)
        return found

    def _found(self, ranker: Deployed) -> Teller | None:
        config = ranker.recommender.model.config
        for served in self._served.values():
            deployed, version = served.deployed, config.told_version
            if deployed.answers_conditions and version and deployed.hash.startswith(version):
                return Teller(ranker, deployed, version, config.told_conditions)
        return None
