"""Two ways to send requests: when they are due, or one after the other's answer.

The closed loop finds how much a service can take. It says nothing of what users wait: who waits for an answer before
the next question does not ask while the service stands still.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from plait.load.answers import Answer, answer_of
from plait.load.client import NoAnswer, Reply
from plait.load.mix import Kind


@dataclass(frozen=True)
class Request:
    """Its kind, and all its bytes."""

    kind: Kind
    message: bytes


AWAKE_S = 0.0015

Send = Callable[[bytes], Awaitable[Reply]]
Draw = Callable[[], Request]


async def open_loop(send: Send, draw: Draw, due_R: Float64[np.ndarray, " R"]) -> list[Answer]:
    """Sends a request at each of the moments, in seconds from now, however long others take; what became of each."""
    begin_s, tasks = time.perf_counter(), list[asyncio.Task[Answer]]()
    for due_s in due_R.tolist():
        request = draw()
        await _moment(begin_s + due_s)
        tasks.append(asyncio.create_task(_asked(send, request, begin_s, due_s)))
    return list(await asyncio.gather(*tasks))


async def _moment(due_s: float) -> None:
    """Waits until `time.perf_counter` says so. Event loops wake a millisecond late, so the rest is waited awake."""
    while (left_s := due_s - time.perf_counter()) > 0:
        await asyncio.sleep(max(0.0, left_s - AWAKE_S))


async def closed_loop(send: Send, draw: Draw, askers: int, seconds: float) -> list[Answer]:
    """So many askers, each of whom asks again when the answer is there."""
    begin_s, found = time.perf_counter(), list[Answer]()

    async def ask() -> None:
        while (due_s := time.perf_counter() - begin_s) < seconds:
            found.append(await _asked(send, draw(), begin_s, due_s))

    await asyncio.gather(*(ask() for _ in range(askers)))
    return found


async def _asked(send: Send, request: Request, begin_s: float, due_s: float) -> Answer:
    begun_s = time.perf_counter() - begin_s
    try:
        reply: Reply | str = await send(request.message)
    except NoAnswer as error:
        reply = str(error)
    return answer_of(request.kind, due_s, begun_s, time.perf_counter() - begin_s, reply)
