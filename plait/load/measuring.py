"""A whole load: users whose states are made, the capacity, and one stage of arrivals after the other."""

import datetime
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import final

import msgspec
import numpy as np

from plait.load.answers import Answer
from plait.load.arrivals import poisson_arrivals
from plait.load.asked_service import (
    Described,
    check_can_be_asked,
    default_mix,
    described_service,
    event_form,
    lookups_of,
    refusal,
    replied,
    told_items,
    told_users,
)
from plait.load.client import Address, Client
from plait.load.figures import StageFigures, good_answers, quantile_ms, stage_figures
from plait.load.loops import closed_loop, open_loop
from plait.load.machine import disk_syncs_s, held_memory_mb, processor_s
from plait.load.own_service import OwnService
from plait.load.population import ANSWERED_IN, Population, Requests
from plait.load.report import Capacity, LoadReport, OwnFigures, Step, Warmed
from plait.load.settings import LoadSettings
from plait.wording import setting

Report = Callable[[str], None]
PATIENT = {ANSWERED_IN: "600000"}  # of questions that are no part of a stage
ASKERS = (1, 2, 4, 8, 16, 32, 64)
GROWS = 1.05  # more askers are tried as long as they get so much more
STEP_S = 3.0  # of each number of askers, at least


@dataclass(frozen=True)
class Ids:
    """Users and items that are known already, from a run's data."""

    users: Sequence[str]
    items: Sequence[str]


async def measure_load(
    url: str,
    settings: LoadSettings,
    report: Report,
    *,
    key: str = "",
    ids: Ids | None = None,
    own: OwnService | None = None,
) -> LoadReport:
    """Loads the service at an address as the settings say.

    Args:
        report: is told of the progress.
        ids: whom and what to ask about; asked of the service where not given.
        own: the service's process, where it is ours.

    Raises:
        ValueError: the service cannot be asked so; says what to do.
    """
    async with Client(Address.of(url), key, settings.connections, settings.patience_s) as client:
        described = await described_service(client)
        settings = replace(settings, mix=settings.mix or default_mix(described, appends=own is not None))
        await check_can_be_asked(client, described, settings.mix)
        people = await _population(client, described, settings, ids)
        report(f"{described.model} {described.version} at {client.address}: {_counted(people)}")
        return await Load(client, described, people, settings, report, own).whole()


async def _population(
    client: Client, described: Described, settings: LoadSettings, ids: Ids | None
) -> Population:
    least = settings.users + (settings.hit_rate < 1)
    if ids is None:
        most = settings.users if settings.hit_rate == 1 else settings.users + 2_000
        users = await told_users(client, least, most)
        items = await told_items(client, max(2 * settings.candidates, 1_000))
    else:
        users, items = list(ids.users), list(ids.items)
    if len(users) < least:
        raise ValueError(
            f"the data has {len(users)} users, and {least} are needed; ask about fewer ({setting('users')})"
        )
    if "score" in settings.mix and len(items) < settings.candidates:
        raise ValueError(
            f"{setting('candidates', settings.candidates)}: {len(items)} items were found; ask for so many, or fewer"
        )
    order = np.random.default_rng([settings.seed, 1]).permutation(len(users)).tolist()
    shuffled = [users[place] for place in order]
    known, others = shuffled[: settings.users], shuffled[settings.users :]
    event = await event_form(client, described, known) if "append" in settings.mix else None
    return Population(known, others if settings.hit_rate < 1 else (), items, event)


def _counted(people: Population) -> str:
    others = f", {len(people.others):,} others" if people.others else ""
    return f"{len(people.users):,} users{others}, {len(people.items):,} items"


@final
class Load:
    """The parts of a load on one service, which benchmarks put together otherwise."""

    def __init__(
        self,
        client: Client,
        described: Described,
        population: Population,
        settings: LoadSettings,
        report: Report,
        own: OwnService | None = None,
    ) -> None:
        self.client, self.described, self.population = client, described, population
        self.settings, self.report, self.own = settings, report, own
        self._name, self._num_drawn = f"load-{secrets.token_hex(8)}", 0

    async def whole(self) -> LoadReport:
        """Warming, the capacity where it is needed, and every stage."""
        settings, load_before, memory = self.settings, os.getloadavg()[0], self.memory_mb()
        syncs_s = [] if self.own is None else disk_syncs_s(self.own.store.parent)
        warmed = await self.warm()
        stages = [await self.stage(f"{rate:g}/s", rate) for rate in settings.rates]
        capacity = await self.capacity() if settings.of_capacity else None
        if capacity is not None and capacity.per_s:
            for times in settings.of_capacity:
                stages.append(await self.stage(f"{times:g} x capacity", times * capacity.per_s))
        return LoadReport(
            url=str(self.client.address),
            service=msgspec.to_builtins(self.described),
            settings=asdict(settings),
            date=datetime.date.today().isoformat(),
            machine_load=(round(load_before, 1), round(os.getloadavg()[0], 1)),
            warmed=warmed,
            capacity=capacity,
            stages=tuple(stages),
            own=None if self.own is None else self._own_figures(self.own, memory, syncs_s),
        )

    def requests(self, settings: LoadSettings | None = None) -> Requests:
        """Others than all before, from the same seed."""
        self._num_drawn += 1
        chosen, nth = settings or self.settings, self._num_drawn
        return Requests(self.client, self.population, chosen, f"{self._name}-{nth}", chosen.seed + nth)

    async def warm(self) -> Warmed | None:
        """Asks about each of the users, and appends an event, with all patience; None where nothing is asked.

        Raises:
            ValueError: the service does not answer.
        """
        settings, took_s = self.settings, list[float]()
        if "append" in settings.mix:
            await self._append_one()
        path = "/v1/score" if "score" in settings.mix else "/v1/retrieve"
        if path == "/v1/retrieve" and "retrieve" not in settings.mix:
            return None
        more = {"items": [self.population.items[0]]} if path == "/v1/score" else {"k": settings.k}
        for user in self.population.users:
            message = self.client.message("POST", path, msgspec.json.encode({"user": user, **more}), PATIENT)
            begin_s = time.perf_counter()
            await self._answered(message, path)
            took_s.append(time.perf_counter() - begin_s)
        found = Warmed(len(took_s), round(took_s[0] * 1e3, 3), quantile_ms(took_s, 0.5))
        self.report(f"states of {found.users} users made, the first answer after {found.first_ms:.1f} ms")
        return found

    async def capacity(self, settings: LoadSettings | None = None) -> Capacity:
        """How much the service can take: more and more askers, as long as they get more, and nearly all they ask for.
        Maybe nothing in time. (Who is refused asks again at once: of a mix, the quick kinds alone would be counted.)"""
        draw, steps = self.requests(settings).draw, list[Step]()
        seconds, deadline_s = max(STEP_S, self.settings.seconds / 6), self.settings.deadline_ms / 1e3
        for askers in ASKERS:
            answers = await closed_loop(self.client.send, draw, askers, seconds)
            took_s = max(answer.done_s for answer in answers)
            good = good_answers(answers, deadline_s) / took_s
            steps.append(Step(askers, round(len(answers) / took_s, 2), round(good, 2)))
            self.report(f"{askers} askers: {good:.1f} good answers a second")
            if not (still_grows(steps) and steps[-1].is_answered):
                break
        answered = [step for step in steps if step.is_answered] or steps
        return Capacity(max(step.good_per_s for step in answered), tuple(steps))

    async def stage(self, name: str, per_s: float, settings: LoadSettings | None = None) -> StageFigures:
        """One rate of arrivals for so long as the settings say."""
        chosen = settings or self.settings
        self.report(f"{name}: {per_s:.4g} requests a second for {chosen.seconds:g} s")
        rng = np.random.default_rng([chosen.seed, 2, self._num_drawn])
        due_R = poisson_arrivals(per_s, chosen.seconds, rng)
        before, begin_s = await lookups_of(self.client), self._processor_s()
        answers = await open_loop(self.client.send, self.requests(chosen).draw, due_R)
        used_s, after = self._processor_s(), await lookups_of(self.client)
        found = stage_figures(name, answers, per_s, chosen.seconds, chosen.deadline_ms / 1e3)
        self._tell(found, answers)
        return replace(
            found,
            hit_rate=None if before is None or after is None else after.rate_since(before),
            processor_ms=_by_request(begin_s, used_s, len(answers)),
        )

    def memory_mb(self) -> float | None:
        return None if self.own is None else held_memory_mb(self.own.pid)

    def _own_figures(self, own: OwnService, before_mb: float | None, syncs_s: Sequence[float]) -> OwnFigures:
        p50, p99 = quantile_ms(syncs_s, 0.5), quantile_ms(syncs_s, 0.99)
        memory = (before_mb, self.memory_mb())
        return OwnFigures(own.filling_s, own.ready_s, memory, p50, p99, len(syncs_s))

    def _processor_s(self) -> float | None:
        return None if self.own is None else processor_s(self.own.pid)

    async def _append_one(self) -> None:
        """An event like those that are kept; or where a kept one has columns that none may be sent with, without
        them."""
        reply = await replied(self.client, self.requests().of_kind("append").message)
        if reply.status == 422:
            form = self.population.event
            assert form is not None, "a population is asked for what a mix needs"
            self.population = replace(self.population, event=form.without_others(self.described.actions))
            reply = await replied(self.client, self.requests().of_kind("append").message)
        if reply.status != 200:
            raise ValueError(refusal(self.client, "/v1/events", reply))

    async def _answered(self, message: bytes, path: str) -> None:
        reply = await replied(self.client, message)
        if reply.status != 200:
            raise ValueError(refusal(self.client, path, reply))

    def _tell(self, found: StageFigures, answers: Sequence[Answer]) -> None:
        good = good_answers(answers, self.settings.deadline_ms / 1e3)
        self.report(f"{found.name}: {good:,} of {len(answers):,} requests had a good answer")
        if not found.is_valid:
            self.report(
                f"{found.name}: the generator did not keep it: it sent up to {found.behind_most_ms:,.0f} ms late "
                f"({found.behind_p99_ms:,.0f} ms at the 99th percentile of {len(answers):,}), so these figures are not "
                "valid; ask for less, or run it on a machine with more to spare"
            )


def still_grows(steps: Sequence[Step]) -> bool:
    """Whether one of the last two steps got clearly more than all before it: on a busy machine one alone may not.

    >>> still_grows([Step(1, 9, 9), Step(2, 9, 9)]), still_grows([Step(1, 9, 9), Step(2, 9, 9), Step(4, 9, 9.2)])
    (True, False)
    """
    good = [step.good_per_s for step in steps]
    return any(good[n] > GROWS * max(good[:n], default=0.0) for n in range(max(0, len(good) - 2), len(good)))


def _by_request(before_s: float | None, after_s: float | None, count: int) -> float | None:
    """Milliseconds."""
    return (
        None
        if before_s is None or after_s is None or not count
        else round((after_s - before_s) / count * 1e3, 3)
    )
