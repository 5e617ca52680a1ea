"""Whom requests are about, and the requests themselves, drawn from one seed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle
from typing import Any, assert_never, final

import numpy as np

from plait.load.client import Client
from plait.load.loops import Request
from plait.load.mix import Kind
from plait.load.settings import LoadSettings

ANSWERED_IN = "plait-deadline-ms"  # the header that names a request's deadline


@dataclass(frozen=True)
class EventForm:
    """An event as the service keeps it, from which others are made: of another item, a tick later each.

    Args:
        row: by column, in the log's words.
        time: the column of time; None where the log has none.
        last: the latest time of all users who are appended to: an event before it would have histories encoded anew.
    """

    row: Mapping[str, Any]
    item: str
    time: str | None
    last: Any = None

    def without_others(self, actions: Sequence[str]) -> "EventForm":
        """With the item, the time and actions alone.

        >>> EventForm({"item": 1, "liked": 1, "shop": "a"}, "item", None).without_others(["liked"]).row
        {'item': 1, 'liked': 1}
        """
        stay = {self.item, self.time, *actions}
        return replace(self, row={name: value for name, value in self.row.items() if name in stay})

    def filled(self, item: Any, nth: int) -> dict[str, Any]:
        """The nth event. A time that is spelled as text stays as it is; events of one time stand as they came."""
        made = {**self.row, self.item: item}
        if self.time is not None:
            is_number = isinstance(self.last, int | float)
            made[self.time] = self.last + nth if is_number else self.last
        return made


@dataclass(frozen=True)
class Population:
    """Args:
    users: those whose states the service has; all others who may be asked about are `others`.
    event: None where nothing is appended.
    """

    users: Sequence[str]
    others: Sequence[str]
    items: Sequence[str]
    event: EventForm | None = None


@final
class Requests:
    """Requests drawn by the shares of a mix.

    Args:
        name: of this load, in the ids of its events: an id that comes again is the same event.
    """

    def __init__(
        self, client: Client, population: Population, settings: LoadSettings, name: str, seed: int
    ) -> None:
        self._client, self._population, self._settings, self._name = client, population, settings, name
        self._rng, self._nth = np.random.default_rng(seed), count(1)
        self._others = cycle(population.others)
        self._items = [json.dumps(item) for item in population.items]
        self._kinds, shares = tuple(settings.mix), list(settings.mix.values())
        self._upto = np.cumsum(shares)
        self._headers = {ANSWERED_IN: f"{settings.deadline_ms:g}"}

    def draw(self) -> Request:
        place = int(np.searchsorted(self._upto, self._rng.random(), side="right"))
        return self.of_kind(self._kinds[min(place, len(self._kinds) - 1)])

    def of_kind(self, kind: Kind) -> Request:
        if kind == "score":
            return self._post(kind, "/v1/score", f'{{"user":{self._user()},"items":[{self._candidates()}]}}')
        elif kind == "retrieve":
            return self._post(kind, "/v1/retrieve", f'{{"user":{self._user()},"k":{self._settings.k}}}')
        elif kind == "append":
            return self._post(kind, "/v1/events", json.dumps({"events": [self._event()]}))
        assert_never(kind)

    def _post(self, kind: Kind, path: str, body: str) -> Request:
        return Request(kind, self._client.message("POST", path, body.encode(), self._headers))

    def _user(self) -> str:
        """One of the users, or in so many cases as are asked for, the next of the others."""
        is_other = self._rng.random() >= self._settings.hit_rate
        return json.dumps(next(self._others) if is_other else self._known())

    def _known(self) -> str:
        return self._population.users[int(self._rng.integers(len(self._population.users)))]

    def _candidates(self) -> str:
        count = min(self._settings.candidates, len(self._items))
        drawn = self._rng.choice(len(self._items), count, replace=False, shuffle=False)
        return ",".join(self._items[place] for place in drawn.tolist())

    def _event(self) -> dict[str, Any]:
        form, nth = self._population.event, next(self._nth)
        assert form is not None, "a population is asked for what a mix needs"
        item = self._population.items[int(self._rng.integers(len(self._items)))]
        return {"id": f"{self._name}-{nth}", "user": self._known(), "event": form.filled(item, nth)}
