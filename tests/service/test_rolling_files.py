"""Rows become files that are whole, none is lost or doubled while there is room and a disk, and nobody waits for it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.service import rolling_files
from plait.service.rolling_files import RollingFiles, RollingSettings

FULL = OSError(errno.ENOSPC, "No space left on device")


def numbers(records: Sequence[range]) -> pl.DataFrame:
    return pl.DataFrame({"n": [number for record in records for number in record]})


@contextmanager
def rolling(folder: Path, **settings: Any) -> Iterator[tuple[RollingFiles, Counter]]:
    """A log of ranges of numbers, closed at the end, and what became of its rows."""
    told: Counter = Counter()
    log = RollingFiles(
        RollingSettings(folder=folder, **{"file_s": 600, **settings}),
        "numbers",
        numbers,
        lambda fate, rows: told.update({fate: rows}),
        lambda: told.update(failed=1),
    )
    try:
        yield log, told
    finally:
        log.close()


def added(log: RollingFiles, count: int, size: int = 1) -> None:
    for begin in range(0, count, size):
        log.add(range(begin, min(count, begin + size)), min(count, begin + size) - begin)


def files_of(folder: Path) -> list[list[int]]:
    """The rows of each file, whole as they are, the oldest first."""
    return [pl.read_parquet(file)["n"].to_list() for file in sorted(folder.glob("numbers-*.parquet"))]


def until(is_so: Any, seconds: float = 20) -> None:
    end_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end_s, "it did not come so far"
        time.sleep(0.005)


# Rotation


def check_rotates(folder: Path, size: int) -> Counter:
    """All rows, once, in order, in files that are full but for the last."""
    with rolling(folder / str(size), file_rows=7, most_rows=1_000) as (log, told):
        added(log, 40, size)
    files = files_of(folder / str(size))
    assert [number for file in files for number in file] == list(range(40))
    assert all(7 - size < len(file) <= max(7, size) for file in files[:-1])
    assert told == {"written": 40}
    return Counter(files=len(files), of_several=sum(len(file) > size for file in files))


def test_files_hold_all_rows_once(tmp_path: Path) -> None:
    met = sum((check_rotates(tmp_path, size) for size in (1, 3, 9)), Counter())
    assert_not_vacuous(met, above=5)


def test_a_log_that_forgets_what_it_wrote_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = rolling_files.write_whole
    monkeypatch.setattr(
        rolling_files, "write_whole", lambda path, write: right(path.with_name("numbers-1.parquet"), write)
    )
    assert_caught(check_rotates, tmp_path, 3)


def test_rows_that_have_waited_are_written(tmp_path: Path) -> None:
    with rolling(tmp_path, file_s=0.05) as (log, told):
        added(log, 3)
        until(lambda: told["written"] == 3)
        added(log, 2)
        until(lambda: told["written"] == 5)
    assert [number for file in files_of(tmp_path) for number in file] == [0, 1, 2, 0, 1]


def test_old_files_are_removed(tmp_path: Path) -> None:
    for name, days in (("numbers-1.parquet", 3), ("numbers-2.parquet", 1), ("events-1.parquet", 3)):
        (tmp_path / name).touch()
        then = time.time() - days * 86_400
        os.utime(tmp_path / name, (then, then))
    with rolling(tmp_path, keep_days=2):
        until(lambda: not (tmp_path / "numbers-1.parquet").exists())
    assert {file.name for file in tmp_path.iterdir()} == {"numbers-2.parquet", "events-1.parquet"}


# Crashes


KILLED = """
import os, pathlib, signal, sys, time
import polars as pl
from plait.service import rolling_files
from plait.service.rolling_files import RollingFiles, RollingSettings

settings = RollingSettings(folder=pathlib.Path(sys.argv[1]), file_rows=4)
table = lambda records: pl.DataFrame({"n": [n for record in records for n in record]})
log = RollingFiles(settings, "numbers", table, lambda fate, rows: None, lambda: None)
right = pathlib.Path.write_bytes
if sys.argv[2] == "in place":
    rolling_files.write_whole = lambda path, write: write(path)
files = iter(range(9))

def write_bytes(path, content):
    if next(files) == 2:
        right(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return right(path, content)

pathlib.Path.write_bytes = write_bytes
for n in range(30):
    log.add([n], 1)
time.sleep(60)
"""


def check_killed(folder: Path, how: str = "aside") -> int:
    """Killed in the middle of its third file, a process leaves two whole ones; the next one takes the rest away."""
    done = subprocess.run([sys.executable, "-c", KILLED, folder, how], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    try:
        assert files_of(folder) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    except pl.exceptions.PolarsError as error:
        raise AssertionError(f"a file is not whole: {error}") from error
    left = len(list(folder.glob(".numbers-*.tmp")))
    with rolling(folder):
        assert not list(folder.glob(".numbers-*.tmp"))
    return left


def test_a_killed_process_leaves_whole_files(tmp_path: Path) -> None:
    assert check_killed(tmp_path) == 1


def test_files_that_are_written_in_place_are_caught(tmp_path: Path) -> None:
    assert_caught(check_killed, tmp_path, "in place")


# Full


class HeldDisk:
    """A disk that writes when it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_write, self.asked, right = threading.Event(), threading.Event(), rolling_files.write_whole

        def write_whole(path: Path, write: Any) -> None:
            self.asked.set()
            assert self.may_write.wait(20)
            right(path, write)

        monkeypatch.setattr(rolling_files, "write_whole", write_whole)


def check_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    """While the disk hangs, as many rows wait as may; others are counted, and nobody waits."""
    with monkeypatch.context() as patched:
        disk = HeldDisk(patched)
        with rolling(folder, file_rows=4, most_rows=10) as (log, told):
            try:
                added(log, 4)
                assert disk.asked.wait(5)
                begin_s = time.monotonic()
                added(log, 9, size=3)  # for the third there is no room, nor for what follows
                log.add(range(2), 2)
                took_s = time.monotonic() - begin_s
                assert told == {"no room": 5} and took_s < 2
            finally:
                disk.may_write.set()
    rows = [number for file in files_of(folder) for number in file]
    assert rows == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5] and told["written"] == len(rows)
    return told


def test_what_finds_no_room_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_not_vacuous(check_full(tmp_path, monkeypatch))


def test_a_log_without_bounds_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = RollingSettings
    monkeypatch.setattr(
        sys.modules[__name__], "RollingSettings", lambda **given: right(**given | {"most_rows": 99})
    )
    assert_caught(check_full, tmp_path, monkeypatch)


def check_nobody_waits_for_removal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    """While a disk hangs over files that are old, rows are taken."""
    may_go_on, asked = threading.Event(), threading.Event()

    def remove_old(settings: RollingSettings, name: str) -> None:
        asked.set()
        may_go_on.wait(2)

    with monkeypatch.context() as patched:
        patched.setattr(rolling_files, "_remove_old", remove_old)
        with rolling(folder, keep_days=2) as (log, told):
            assert asked.wait(20)
            begin_s = time.monotonic()
            added(log, 3)
            took_s = time.monotonic() - begin_s
            may_go_on.set()
            assert took_s < 1
    return told


def test_nobody_waits_for_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_nobody_waits_for_removal(tmp_path, monkeypatch) == {"written": 3}


def test_a_log_that_is_held_while_old_files_go_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = RollingFiles._run

    def held(self: RollingFiles) -> None:
        with self._changed:
            rolling_files._remove_old(self._settings, self._name)
        right(self)

    monkeypatch.setattr(RollingFiles, "_run", held)
    assert_caught(check_nobody_waits_for_removal, tmp_path, monkeypatch)


# A disk that fails


def check_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    """What a full disk refuses is tried again, and not lost."""
    right, refused = rolling_files.write_whole, iter([True, True])

    def write_whole(path: Path, write: Any) -> None:
        if next(refused, False):
            raise FULL
        right(path, write)

    with monkeypatch.context() as patched:
        patched.setattr(rolling_files, "write_whole", write_whole)
        patched.setattr(rolling_files, "RETRY_S", 0.02)
        with rolling(folder, file_rows=4) as (log, told):
            added(log, 6)
            until(lambda: told["written"] or told["lost"])
    assert [number for file in files_of(folder) for number in file] == list(range(6))
    assert told == {"failed": 2, "written": 6}
    return told


def test_a_full_disk_loses_nothing_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_not_vacuous(check_goes_on(tmp_path, monkeypatch), above=1)


def test_a_log_that_drops_what_it_could_not_write_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = RollingFiles._write

    def drops(self: RollingFiles, taken: Any) -> None:
        self._closed, was = True, self._closed  # as at the end, where nothing is tried again
        right(self, taken)
        self._closed = was

    monkeypatch.setattr(RollingFiles, "_write", drops)
    assert_caught(check_goes_on, tmp_path, monkeypatch)


def test_a_folder_that_is_gone_is_counted_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolling_files, "RETRY_S", 0.02)
    folder = tmp_path / "log"
    with rolling(folder, file_rows=2) as (log, told):
        shutil.rmtree(folder)
        added(log, 2)
        until(lambda: told["failed"] >= 2)
        folder.mkdir()
        until(lambda: told["written"] == 2)
        shutil.rmtree(folder)
        added(log, 3)
    assert told["lost"] == 3, "the service does not wait for a disk when it goes down"


def test_a_table_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    told: Counter = Counter()

    def table(records: Sequence[range]) -> pl.DataFrame:
        if 0 in records[0]:
            raise TypeError("ours")
        return numbers(records)

    settings = RollingSettings(folder=tmp_path, file_rows=2)
    log = RollingFiles(settings, "numbers", table, lambda fate, rows: told.update({fate: rows}), lambda: None)
    added(log, 4, size=2)
    log.close()
    assert told == {"lost": 2, "written": 2} and files_of(tmp_path) == [[2, 3]]


def test_what_cannot_be_set(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file_s = 0: expected"):
        RollingSettings(folder=tmp_path, file_s=0)
    with pytest.raises(ValueError, match="5 rows in memory are fewer than the 100000"):
        RollingSettings(folder=tmp_path, most_rows=5)
    with pytest.raises(ValueError, match="cannot be written"), rolling(tmp_path / "file"):
        pass
