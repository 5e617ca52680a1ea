"""Beyond its capacity a service answers as many in time as before, and refuses the others at once."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from served import ask
from tiny import assert_caught

from plait.service import app as app_module
from plait.service.app import app_of
from plait.service.asking import Asking, _Waiting
from plait.service.problems import Problem
from plait.service.service import Service

MEAN_S = 10.0  # of a question, as the queue believes: far from what a busy machine could add


class Held:
    """A model that answers when it may."""

    name = "held"

    def __init__(self) -> None:
        self.begun, self.may_answer = threading.Event(), threading.Event()

    def answer(self, questions: Sequence[Any]) -> list[Any]:
        self.begun.set()
        self.may_answer.wait(60)
        return [{"answered_by": "model"}] * len(questions)


@pytest.fixture
def asking() -> Iterator[Asking]:
    found = Asking(most_waiting=8, most_together=4)
    found.mean_s = MEAN_S
    yield found
    found.close()


def check_entering(asking: Asking) -> None:
    """A question whose time is enough for itself, but not for the pass that runs, is refused at once."""

    async def ask_twice() -> None:
        held = Held()
        first = asyncio.create_task(asking.ask(held, None, time.monotonic() + 1_000))  # type: ignore[arg-type]
        await asyncio.to_thread(held.begun.wait, 60)
        try:
            with pytest.raises(Problem, match="the queue is full") as refused:
                asking._enter(_Waiting(held, None, time.monotonic() + 1.8 * MEAN_S))  # type: ignore[arg-type]
            assert refused.value.status == 429
            asking._enter(_Waiting(held, None, time.monotonic() + 4 * MEAN_S))  # type: ignore[arg-type]
        except BaseException as error:
            raise AssertionError("the wrong one was refused") from error
        finally:
            held.may_answer.set()
            await first

    asyncio.run(ask_twice())


def test_a_question_waits_for_the_pass_that_runs_and_for_its_own(asking: Asking) -> None:
    check_entering(asking)


def test_a_queue_that_forgets_the_pass_that_runs_is_caught(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Asking, "_busy_until_s", property(lambda self: 0.0, lambda self, to_s: None), raising=False
    )
    assert_caught(check_entering, asking)


def test_an_idle_service_answers_whatever_it_believes(asking: Asking) -> None:
    """So a mean that one slow answer has spoilt is learnt anew."""
    held = Held()
    held.may_answer.set()
    asyncio.run(asking.ask(held, None, time.monotonic() + 60))  # type: ignore[arg-type]
    assert asking.mean_s < MEAN_S


def numbers_taken(asking: Asking, left_s: Sequence[float]) -> list[int]:
    """How many of the questions each pass takes."""
    asking._queue.extend(_Waiting(None, None, time.monotonic() + left) for left in left_s)  # type: ignore[arg-type]
    return [len(asking._taken()) for _ in iter(lambda: bool(asking._queue), False)]


@pytest.mark.parametrize(
    ("left", "taken"),
    [
        ([100, 100, 100, 100, 100], [4, 1]),  # as many as may be together
        ([2.5, 100, 100, 100], [2, 2]),  # a third one would make the first late
        ([100, 2.5, 100, 100], [2, 2]),
        ([100, 100, 1.5, 100], [2, 1, 1]),  # it would be late itself
        ([0.5, 0.5], [1, 1]),  # late they are anyway
    ],
)
def test_no_question_is_made_late_by_company(left: list[float], taken: list[int]) -> None:
    asking = Asking(most_waiting=8, most_together=4)
    asking.close()  # no thread takes them
    asking.mean_s = MEAN_S
    assert numbers_taken(asking, [MEAN_S * each for each in left]) == taken


def check_refused_unread(service: Service, deadline_ms: str) -> None:
    """A question that would wait in vain is refused before a byte of its body is read."""

    async def ask_twice() -> int:
        told: list[dict[str, Any]] = []

        async def body() -> dict[str, Any]:
            raise AssertionError("the body was read")

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        headers = {"host": "localhost", "content-type": "application/json", "plait-deadline-ms": deadline_ms}
        scope = {"type": "http", "method": "POST", "path": "/v1/retrieve", "query_string": b"", "headers":
                 [(name.encode(), value.encode()) for name, value in headers.items()]}  # fmt: skip
        await app_of(service)(scope, body, send)
        return int(told[0]["status"])

    held = Held()
    service.asking.mean_s = MEAN_S
    running = threading.Thread(
        target=lambda: asyncio.run(service.asking.ask(held, None, time.monotonic() + 60))  # type: ignore[arg-type]
    )
    running.start()
    held.begun.wait(60)
    try:
        assert asyncio.run(ask_twice()) == 429
    finally:
        held.may_answer.set()
        running.join()


def test_a_question_that_would_be_late_is_refused_before_it_is_read(service: Service) -> None:
    check_refused_unread(service, str(1e3 * 1.8 * MEAN_S))


def test_a_question_that_has_time_enough_is_read(service: Service) -> None:
    with pytest.raises(AssertionError, match="the body was read"):
        check_refused_unread(service, str(1e3 * 4 * MEAN_S))


def check_reads_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline of a request is read where it is admitted, and nowhere else."""
    read, right = [], app_module._deadline_s

    def counted(request: Any, of: Service) -> float:
        read.append(request.headers.get("plait-deadline-ms"))
        return right(request, of)

    with monkeypatch.context() as patched:
        patched.setattr(app_module, "_deadline_s", counted)
        body = {"user": 191, "k": 2}
        assert ask(service, "/v1/retrieve", body, headers={"plait-deadline-ms": "60000"}).status_code == 200
        for wrong in ("soon", "0", "-1", "600001", "nan"):
            assert ask(service, "/v1/retrieve", body, headers={"plait-deadline-ms": wrong}).status_code == 422
    assert read == ["60000", "soon", "0", "-1", "600001", "nan"]


def test_a_deadline_is_read_once(service: Service, monkeypatch: pytest.MonkeyPatch):
    check_reads_once(service, monkeypatch)
