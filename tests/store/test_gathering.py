"""What many leave for one thread."""

import threading
from typing import Any

import pytest
from tiny import assert_caught

from plait.store.gathering import Gathering

SOON_S = 30.0  # of what takes no time


def check_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What alone waits is forgotten while the thread waits for more: there is nothing to handle, until more comes."""
    right, forgotten, handled = threading.Condition.wait_for, threading.Event(), list[list[int]]()
    gathering: Gathering[str, int] = Gathering("test", handled.append, every_s=0.001)

    def forgetting(changed: Any, predicate: Any, timeout: float | None = None) -> Any:
        found = right(changed, predicate, timeout)
        if timeout is not None:
            gathering.forget(lambda key: key == "gone")
            forgotten.set()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(threading.Condition, "wait_for", forgetting)
        gathering.put("gone", 0)
        assert forgotten.wait(SOON_S)
    gathering.put("stays", 1)
    gathering.close()
    assert handled == [[1]]


def test_what_waits_is_handled_in_order_some_at_a_time() -> None:
    entered, may_go, handled = threading.Event(), threading.Event(), list[list[int]]()

    def handle(together: list[int]) -> None:
        entered.set()
        may_go.wait(SOON_S)
        handled.append(together)

    gathering: Gathering[str, int] = Gathering("test", handle, most_waiting=3, most_together=2)
    assert gathering.put("first", 0) and entered.wait(SOON_S)
    assert all(gathering.put(key, number) for number, key in enumerate("abcb"))
    assert not gathering.put("d", 4) and len(gathering) == 3
    may_go.set()
    gathering.close()
    assert handled == [[0], [0, 3], [2]]
    assert not gathering.put("e", 5)


def test_what_was_forgotten_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    check_thread_goes_on(monkeypatch)

    def ends_with_nothing(self: Any) -> None:
        while together := self._gathered():
            self._handle(together)

    monkeypatch.setattr(Gathering, "_run", ends_with_nothing)
    assert_caught(check_thread_goes_on, monkeypatch)
