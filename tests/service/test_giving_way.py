"""What a new version costs gives way to questions: in a thread of low priority, in steps, each of which waits."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served import ask, recommender_of, service_of
from test_overload import Held
from tiny import assert_caught

from plait.data import Dataset
from plait.service import asking as asking_module
from plait.service import spare
from plait.service.asking import Asking
from plait.service.deployed import Deployed
from plait.service.fallback import Fallback
from plait.service.service import Service
from plait.service.spare import MOST_NICENESS, NICENESS, SpareThread, in_spare_time


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr(asking_module, "MOST_PUT_OFF_S", 60.0)
    found = Asking(most_waiting=8, most_together=4)
    yield found
    found.close()


def while_asked(asking: Asking, work: Callable[[], Any]) -> tuple[bool, bool]:
    """Whether a work was done while a question was answered, and whether it was when the answer was there."""
    done = threading.Event()

    async def ask_once() -> tuple[bool, bool]:
        held = Held()
        asked = asyncio.create_task(asking.ask(held, None, time.monotonic() + 1_000))  # type: ignore[arg-type]
        await asyncio.to_thread(held.begun.wait, 60)
        thread = threading.Thread(target=lambda: (work(), done.set()))
        thread.start()
        was_done = await asyncio.to_thread(done.wait, 0.2)
        held.may_answer.set()
        await asked
        await asyncio.to_thread(thread.join, 60)
        return was_done, done.is_set()

    return asyncio.run(ask_once())


def check_gives_way(asking: Asking) -> None:
    assert asking.give_way(), "where nobody asks, it goes on"
    for work in (asking.give_way, lambda: asking.in_its_thread(lambda: None)):
        assert while_asked(asking, work) == (False, True)
    assert asking.give_way(), "and again behind the questions"


def test_steps_wait_for_questions(asking: Asking):
    check_gives_way(asking)


def test_steps_that_do_not_wait_are_caught(asking: Asking, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asking_module, "MOST_PUT_OFF_S", 0.0)
    assert_caught(check_gives_way, asking)


def test_where_questions_never_end_steps_are_done_all_the_same(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(asking_module, "MOST_PUT_OFF_S", 0.02)
    assert while_asked(asking, asking.give_way) == (True, True)


def test_steps_end_with_the_service(asking: Asking):
    asking.close()
    assert not asking.give_way()


def check_reload(folder: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version is loaded and warmed by a thread of its own, of low priority; each user waits for questions."""
    threads, steps, right, users = [], [], Deployed.state_of, ["191", "192", "193"]

    def give_way(self: Asking) -> bool:
        steps.append("gives way")
        return True

    def state_of(self: Deployed, user: str) -> Any:
        steps.append(user)
        threads.append((threading.current_thread().name, niceness()))
        return right(self, user)

    with monkeypatch.context() as patched:
        patched.setattr(Asking, "give_way", give_way)
        service = service_of(folder, data)
        try:
            for user in users:
                assert ask(service, "/v1/score", {"user": user, "items": [242]}).status_code == 200
            steps.clear()
            patched.setattr(Deployed, "state_of", state_of)
            recommender_of(data, scale=1.1).save_pretrained(folder / "model")
            told = service.reload()[0]
            assert told["swapped"] and told["warmed_users"] == 3
        finally:
            service.close()
    warming = steps[-6:]
    assert warming[::2] == ["gives way"] * 3 and sorted(warming[1::2]) == users
    assert steps[:-6].count("gives way") >= 4, "loading and practice give way, too"
    lower = min(MOST_NICENESS, os.getpriority(os.PRIO_PROCESS, os.getpid()) + NICENESS)
    expected = lower if sys.platform == "linux" else niceness()
    assert {name.rpartition("_")[0] for name, _ in threads} == {"plait-coming"}
    assert {nice for _, nice in threads} == {expected}


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_new_version_is_made_ready_in_spare_time(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
):
    check_reload(tmp_path, data, monkeypatch)


def test_a_version_that_is_warmed_without_a_pause_is_caught(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
):
    right = Deployed.warm
    monkeypatch.setattr(Deployed, "warm", lambda self, users, keep_on: right(self, users, lambda: True))
    assert_caught(check_reload, tmp_path, data, monkeypatch)


def test_what_is_done_in_spare_time_raises_where_it_is_waited_for():
    def wrong() -> None:
        raise ValueError("no such folder")

    with pytest.raises(ValueError, match="no such folder"):
        in_spare_time(wrong)
    assert in_spare_time(lambda: 3) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness is of the whole process")
def test_spare_time_is_below_that_of_the_process(monkeypatch: pytest.MonkeyPatch):
    """A service that was started with a niceness has less of it to spare."""
    own, found, done = niceness(), [], threading.Event()
    spared = SpareThread()
    spared.take(lambda: (found.append(niceness()), done.set()))
    assert done.wait(60)
    spared.close()
    assert found == [min(MOST_NICENESS, own + NICENESS)] and niceness() == own
    monkeypatch.setattr(spare, "NICENESS", 100)
    assert in_spare_time(niceness) == MOST_NICENESS and niceness() == own


def test_counts_are_made_anew_only_for_other_items(
    tmp_path: Path, data: Dataset, service: Service, monkeypatch: pytest.MonkeyPatch
):
    made, right = [], Fallback.of
    monkeypatch.setattr(Fallback, "of", lambda *given: made.append(given) or right(*given))
    recommender = service.first.deployed.recommender
    assert (
        service._fallback_of(service.first.model, recommender) is service.first.deployed.fallback and not made
    )
    other = recommender_of(data)
    other.vocabulary = type(other.vocabulary).of_items(other.items.reverse())
    found = service._fallback_of(service.first.model, other)
    assert len(made) == 1 and found is not service.first.deployed.fallback
