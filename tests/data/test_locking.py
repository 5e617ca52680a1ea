"""At most one holder of a lock at any time, though the file that it is on goes with each of them."""

import fcntl
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.data.storage import locks as locking
from plait.data.storage.locks import in_turn, kept_alone


@contextmanager
def once_between_open_and_lock(happens: Callable[[], object]) -> Iterator[list[str]]:
    """What happens when the next process has opened the lock's file and asks for the lock."""
    right, happened = fcntl.flock, []

    def flock(handle: int, operation: int) -> None:
        if not happened:
            happened.append("once")
            happens()
        right(handle, operation)

    with mock.patch.object(fcntl, "flock", flock):
        yield happened


def is_taken(lock_file: Path) -> bool:
    try:
        with kept_alone(lock_file, "taken"):
            return False
    except ValueError:
        return True


def check_one_at_a_time(folder: Path) -> Counter[str]:
    """The first lets go, and the file with it, while the second has it open; a third comes in between, or later."""
    met: Counter[str] = Counter()
    for third_comes in (False, True):
        lock_file = folder / f"{third_comes}.lock"
        with ExitStack() as first, ExitStack() as third, ExitStack() as second:
            first.enter_context(in_turn(lock_file))

            def change(
                first: ExitStack = first,
                third: ExitStack = third,
                comes: bool = third_comes,
                file: Path = lock_file,
            ) -> None:
                first.close()
                if comes:
                    third.enter_context(in_turn(file))

            with once_between_open_and_lock(change) as happened:
                try:
                    second.enter_context(kept_alone(lock_file, "taken"))
                    met["second is in"] += 1
                    assert not third_comes, "two are in"
                except ValueError:
                    met["second is refused"] += 1
                    assert third_comes, "nobody is in"
            assert happened and is_taken(lock_file), "one more came in"
        assert not lock_file.exists(), "something is left"
    return met


def test_a_lock_whose_file_goes_while_another_process_opens_it_keeps_others_out(tmp_path):
    assert_not_vacuous(check_one_at_a_time(tmp_path))


def test_a_lock_on_a_file_that_is_gone_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_is_called", lambda path, handle: True)
    assert_caught(check_one_at_a_time, tmp_path)


def check_turns(folder: Path) -> None:
    """One that waits for its turn while the file changes hands goes in when the last one is out, and not before."""
    lock_file = folder / "turn.lock"
    first, third, went = ExitStack(), ExitStack(), []
    first.enter_context(in_turn(lock_file))

    def change() -> None:
        first.close()
        third.enter_context(in_turn(lock_file))

    def second() -> None:
        with in_turn(lock_file):
            went.append("second")

    with once_between_open_and_lock(change), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second)
        wait([waiting], timeout=0.2)
        came_early = bool(went)
        third.close()
    assert went == ["second"] and not came_early


def test_who_waits_for_a_turn_waits_for_whoever_has_it(tmp_path):
    check_turns(tmp_path)


def test_who_waits_for_a_file_that_is_gone_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "_is_called", lambda path, handle: True)
    assert_caught(check_turns, tmp_path)


def test_many_take_turns(tmp_path):
    """Threads stand for processes: each opens the file anew."""
    inside, most = [], 0

    def take(_: int) -> None:
        nonlocal most
        with in_turn(tmp_path / "lock"):
            inside.append(None)
            most = max(most, len(inside))
            inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(take, range(200)))
    assert most == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("parent", ["missing", "file", "/proc"])
def test_where_no_lock_can_be_nobody_is_kept_out(tmp_path, parent):
    (tmp_path / "file").touch()
    lock_file = tmp_path / parent / "lock"
    with kept_alone(lock_file, "taken") as alone:
        alone()
        with in_turn(lock_file):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_another_file_of_the_name_is_not_removed(tmp_path):
    lock_file = tmp_path / "lock"
    with in_turn(lock_file):
        lock_file.unlink()
        lock_file.write_text("another's")
    assert lock_file.read_text() == "another's"
