"""Requests come when they are due; a service that stands still is seen in all of them."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_service import Answered, at_once, fake_service, now_s
from jaxtyping import Float64
from tiny import assert_caught, assert_not_vacuous

from plait.load import loops
from plait.load.answers import Answer, outcome_of
from plait.load.arrivals import poisson_arrivals
from plait.load.client import Address, Client
from plait.load.figures import kept_up, stage_figures
from plait.load.loops import Request, closed_loop, open_loop

STALL_S, CONNECTIONS = 1.0, 4
Floats = Float64[np.ndarray, " R"]


def asking(client: Client) -> Callable[[], Request]:
    message = client.message("POST", "/v1/retrieve", b'{"user":"u1"}')
    return lambda: Request("retrieve", message)


def test_arrivals_are_those_of_a_poisson_process() -> None:
    """Their mean and their spread: counts of a second have the variance of their mean, where even gaps have none."""
    due_R = poisson_arrivals(50.0, 400.0, np.random.default_rng(7))
    counts = np.bincount(due_R.astype(int), minlength=400)
    assert len(counts) == 400 and (np.diff(due_R) > 0).all() and due_R[0] >= 0
    assert counts.mean() == pytest.approx(50, abs=4 * np.sqrt(50 / 400))
    assert counts.var() == pytest.approx(50, rel=0.3)
    gaps = np.diff(due_R)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_few_arrivals_or_none() -> None:
    lengths = [len(poisson_arrivals(1.0, 0.5, np.random.default_rng(seed))) for seed in range(200)]
    assert 0 in lengths and np.mean(lengths) == pytest.approx(0.5, abs=0.2)


async def stalled() -> tuple[Floats, list[Answer], float, float]:
    """When requests were due, and their answers, of a service that stands still from one moment to another."""
    begin_s, stalls_s, ends_s = 0.0, 0.2, 0.2 + STALL_S

    async def answer(path: str, body: Any) -> Answered:
        at_s = now_s() - begin_s
        if stalls_s <= at_s < ends_s:
            await asyncio.sleep(ends_s - at_s)
        return await at_once(path, body)

    due_R = np.arange(0.0, ends_s + 0.3, 0.02)
    async with fake_service(answer) as fake:
        async with Client(Address.of(fake.url), connections=CONNECTIONS) as client:
            begin_s = now_s()
            answers = await open_loop(client.send, asking(client), due_R)
        assert fake.num_connections <= CONNECTIONS
    return due_R, answers, stalls_s, ends_s


def check_a_stall_is_seen() -> None:
    due_R, answers, stalls_s, ends_s = asyncio.run(stalled())
    is_meanwhile_R = (due_R > stalls_s + 0.05) & (due_R < ends_s)
    assert_not_vacuous(Counter(is_meanwhile_R.tolist()), above=10)
    for due_s, answer, is_meanwhile in zip(due_R, answers, is_meanwhile_R, strict=True):
        assert answer.status == 200
        if is_meanwhile:
            assert answer.latency_s >= ends_s - due_s - 0.02


def test_a_stall_is_in_the_latency_of_all_that_were_due_meanwhile() -> None:
    check_a_stall_is_seen()


def test_latency_counted_from_sending_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait for a connection are sent when the stall is over."""
    right, places = loops._asked, asyncio.Semaphore(CONNECTIONS)

    async def from_sending(send: loops.Send, request: Request, begin_s: float, due_s: float) -> Answer:
        async with places:
            return await right(send, request, begin_s, time.perf_counter() - begin_s)

    monkeypatch.setattr(loops, "_asked", from_sending)
    assert_caught(check_a_stall_is_seen)


def test_a_loop_that_waits_for_answers_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks again when the answer is there does not ask during a stall: the omission has a name, coordinated."""

    async def one_by_one(send: loops.Send, draw: loops.Draw, due_R: Floats) -> list[Answer]:
        begin_s, answers = time.perf_counter(), list[Answer]()
        for due_s in due_R.tolist():
            await asyncio.sleep(max(0.0, begin_s + due_s - time.perf_counter()))
            sent_s = time.perf_counter() - begin_s
            answers.append(await loops._asked(send, draw(), begin_s, sent_s))
        return answers

    monkeypatch.setitem(globals(), "open_loop", one_by_one)
    assert_caught(check_a_stall_is_seen)


async def loaded_slowly(per_request_s: float) -> list[Answer]:
    """By a generator that takes so long to draw each of 60 requests, of which 200 a second are due."""

    async with fake_service() as fake, Client(Address.of(fake.url)) as client:
        request = asking(client)()

        def draw() -> Request:
            time.sleep(per_request_s)
            return request

        return await open_loop(client.send, draw, np.arange(60) / 200)


def test_a_generator_that_cannot_keep_the_rate_says_by_how_much() -> None:
    """It takes three times as long as there is: the last request is 0.6 s late."""
    answers = asyncio.run(loaded_slowly(0.015))
    found = stage_figures("200/s", answers, 200.0, 0.3, 0.5)
    assert not found.is_valid and not kept_up(answers)
    assert found.behind_most_ms >= 590 and found.behind_p50_ms >= 290
    assert answers[-1].latency_s >= 0.59, "its own lateness is in the latency"


def test_no_request_is_sent_before_it_is_due() -> None:
    async def begun() -> list[float]:
        async with fake_service(at_once) as fake, Client(Address.of(fake.url)) as client:
            due_R = np.linspace(0.0, 0.2, 41)
            return [
                answer.begun_s - answer.due_s
                for answer in await open_loop(client.send, asking(client), due_R)
            ]

    behind_s = asyncio.run(begun())
    assert len(behind_s) == 41 and min(behind_s) >= 0


def test_capacity_is_what_a_closed_loop_gets() -> None:
    """Of a service that takes 20 ms by request, one at a time: 50 a second at most, however many ask."""
    found: dict[int, float] = {}

    async def all_askers() -> None:
        room = asyncio.Lock()

        async def answer(path: str, body: Any) -> Answered:
            async with room:
                await asyncio.sleep(0.02)
            return await at_once(path, body)

        async with fake_service(answer) as fake, Client(Address.of(fake.url)) as client:
            for askers in (1, 4):
                answers = await closed_loop(client.send, asking(client), askers, 0.4)
                assert {answer.status for answer in answers} == {200}
                found[askers] = len(answers) / max(answer.done_s for answer in answers)

    asyncio.run(all_askers())
    assert 0 < found[1] <= 51 and 0 < found[4] <= 51, found


def test_a_dead_service_is_no_answer() -> None:
    async def gone() -> list[Answer]:
        async with fake_service() as fake:
            client = Client(Address.of(fake.url))
        return await open_loop(client.send, asking(client), np.zeros(3))

    answers = asyncio.run(gone())
    assert [outcome_of(answer, 0.5) for answer in answers] == ["no answer"] * 3
    assert all(answer.problem for answer in answers)
