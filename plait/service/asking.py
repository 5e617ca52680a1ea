"""Questions wait in one bounded queue for the thread of the model, and are told early when they would wait in vain."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, final

from plait.service.deployed import Deployed, Found, Question
from plait.service.problems import Problem
from plait.service.told import Told

LATE = "the deadline passed before the model answered"
MARGIN = 1.25  # of the time that is left: a mean is often exceeded
SLOW = 0.2  # the weight of the newest time in the mean
MOST_PUT_OFF_S = 0.1  # that a step of other work gives way: where questions never end, it would never be done


@dataclass(frozen=True)
class Answered:
    """An answer, how long its question waited, how long the pass of the model took that answered it, and what a ranker
    was told for it."""

    found: Found
    waited_s: float
    model_s: float  # 0 where counts answered after the deadline
    told: Told = Told()


@dataclass(eq=False)
class _Waiting:
    deployed: Deployed
    question: Question
    deadline_s: float  # on `time.monotonic`'s clock, like the next
    future: "Future[Answered]" = field(default_factory=Future)
    entered_s: float = field(default_factory=time.monotonic)


@final
class Asking:
    """The model's thread and its queue.

    Args:
        most_waiting: questions in the queue; more are refused.
        most_together: users that are answered in one pass.
        batch_wait_s: how long the first of a pass waits for others.
    """

    def __init__(self, most_waiting: int, most_together: int = 16, batch_wait_s: float = 0.0) -> None:
        self._most_waiting, self._most_together, self._wait_s = most_waiting, most_together, batch_wait_s
        self._queue: deque[_Waiting] = deque()
        self._works: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._idle = threading.Event()  # no question waits, and none is answered
        self.mean_s = 0.0  # of one question in the model's thread
        self._busy_until_s = 0.0  # when the pass that runs should end
        self.observe: Callable[[str, int, float], None] = lambda model, size, took_s: None
        self._thread = threading.Thread(target=self._run, name="plait-model", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    def check_has_room(self, deadline_s: float) -> None:
        """Raises Problem where a question of that deadline would wait in vain.

        It would wait for the pass that runs, for the questions before it, and for its own answer.

        Args:
            deadline_s: on `time.monotonic`'s clock.
        """
        now_s, waiting = time.monotonic(), len(self._queue)
        running_s = max(0.0, self._busy_until_s - now_s)
        would_take_s = running_s + (waiting + 1) * self.mean_s
        would_be_late = MARGIN * would_take_s > deadline_s - now_s
        if waiting >= self._most_waiting or ((waiting or running_s) and would_be_late):
            raise self._busy()

    def _busy(self) -> Problem:
        """What one is told for whom there is no room."""
        after_s = max(1, math.ceil(len(self._queue) * self.mean_s))
        return Problem(
            429,
            "too many wait",
            f"the queue is full; try again in {after_s} s",
            {"Retry-After": str(after_s)},
        )

    async def ask(self, deployed: Deployed, question: Question, deadline_s: float) -> Answered:
        """The model's answer, or the fallback's where the model has none by then.

        Args:
            deadline_s: on `time.monotonic`'s clock.

        Raises:
            Problem: too many wait, or the question is refused.
        """
        waiting = self._enter(_Waiting(deployed, question, deadline_s))
        left_s = deadline_s - time.monotonic()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(waiting.future), max(0.0, left_s))
        except TimeoutError:
            self._leave(waiting)
            waited_s = time.monotonic() - waiting.entered_s
            return Answered(await asyncio.to_thread(deployed.fall_back, question, LATE), waited_s, 0.0)

    def between_questions(self, work: Callable[[], Any]) -> Any:
        """Does something in the model's thread, which keeps what that thread has learnt; waits for it.

        Raises:
            Problem: the service is going down; or as the work.
        """
        done: Future[Any] = Future()
        with self._changed:
            self._check_open()
            self._works.append((work, done))
            self._changed.notify()
        return done.result()

    def give_way(self) -> bool:
        """Called before each step of a work that nobody waits for: waits until no question waits or is answered, but
        not for ever. Whether the work goes on: not when the service goes down."""
        self._idle.wait(MOST_PUT_OFF_S)
        return not self._closed

    def in_its_thread(self, work: Callable[[], Any]) -> Any:
        """A step of such a work that only the model's thread can do. As `between_questions`."""
        self.give_way()
        return self.between_questions(work)

    def close(self) -> None:
        """Answers what waits, and takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _leave(self, waiting: _Waiting) -> None:
        """One that nobody waits for takes no place in the queue."""
        waiting.future.cancel()
        with self._changed, suppress(ValueError):  # the model has taken it
            self._queue.remove(waiting)

    def _enter(self, waiting: _Waiting) -> _Waiting:
        """Takes a question, or says at once that it would wait in vain."""
        with self._changed:
            self._check_open()
            self.check_has_room(waiting.deadline_s)
            self._idle.clear()
            self._queue.append(waiting)
            self._changed.notify()
        return waiting

    def _check_open(self) -> None:
        if self._closed:
            raise Problem(503, "going down", "the service is going down; ask another, or again in a while")

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._queue or self._works or self._closed):
                    self._idle.set()
                    self._changed.wait()
                if self._closed and not (self._queue or self._works):
                    return
            while self._works:
                _do(*self._works.popleft())
            if not self._queue:
                continue
            if self._wait_s and len(self._queue) < self._most_together:
                time.sleep(self._wait_s)
            with self._changed:
                taken = self._taken()
                self._busy_until_s = time.monotonic() + len(taken) * self.mean_s
            self._answer([each for each in taken if each.future.set_running_or_notify_cancel()])
            self._busy_until_s = 0.0

    def _taken(self) -> list[_Waiting]:
        """The questions of the next pass: the first of the queue, and those behind it whose company makes no one late.
        (All of a pass are answered when it ends.)"""
        taken = [self._queue.popleft()]
        begin_s, earliest_s = time.monotonic(), taken[0].deadline_s
        while self._queue and len(taken) < self._most_together:
            earliest_s = min(earliest_s, self._queue[0].deadline_s)
            if begin_s + (len(taken) + 1) * self.mean_s > earliest_s:
                break
            taken.append(self._queue.popleft())
        return taken

    def _answer(self, taken: list[_Waiting]) -> None:
        for deployed in {id(each.deployed): each.deployed for each in taken}.values():
            mine = [each for each in taken if each.deployed is deployed]
            begin_s = time.monotonic()
            try:
                found = deployed.answer([each.question for each in mine])
            except Exception as error:
                found = [error] * len(mine)
            took_s = time.monotonic() - begin_s
            self.mean_s += SLOW * (took_s / len(mine) - self.mean_s)
            self.observe(deployed.name, len(mine), took_s)
            for each, answer in zip(mine, found, strict=True):
                if isinstance(answer, Exception):
                    each.future.set_exception(answer)
                else:
                    each.future.set_result(Answered(answer, begin_s - each.entered_s, took_s))


def _do(work: Callable[[], Any], done: "Future[Any]") -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # whoever waits for it is told
        done.set_exception(error)
