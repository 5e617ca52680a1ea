"""Rows that gather in memory and become Parquet files, each of them whole, in a thread of its own.

A file is begun when enough rows wait or the first of them has waited long enough. It is written aside and renamed, so
`FOLDER/NAME-*.parquet` are whole, and none of them changes again. Who adds rows never waits for the disk.
"""

import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar, final

import polars as pl

from plait.data.storage.whole_folders import parquet_bytes
from plait.files import remove_leftovers, write_whole
from plait.limits import WHOLE, Between, check_numbers

Record = TypeVar("Record")
Fate = Literal["written", "no room", "lost"]

RETRY_S = 5.0  # after a file that could not be written
LOOK_S = 600.0  # how often old files are looked for while nothing comes
DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class RollingSettings:
    """When files are begun, what may wait in memory, and how long files stay.

    Raises:
        ValueError: a number is out of its range.
    """

    folder: Path
    file_rows: Annotated[int, WHOLE] = 100_000
    file_s: Annotated[float, Between(0.01, DAY_S, "a day, all of which a crash would lose")] = 60.0
    most_rows: Annotated[int, WHOLE] = 400_000  # in memory, those being written among them
    keep_days: Annotated[float, Between(0, 36_500, "a century", above=True)] | None = None  # None: for ever

    def __post_init__(self) -> None:
        check_numbers("", self)
        if self.most_rows < self.file_rows:
            raise ValueError(f"{self.most_rows} rows in memory are fewer than the {self.file_rows} of a file")


@dataclass
class _File(Generic[Record]):
    """Records that will be one file. They are gathered as such, so that taking and dropping them is no work."""

    since_s: float
    records: list[Record] = field(default_factory=list)
    num_rows: int = 0


@final
class RollingFiles(Generic[Record]):
    """
    Args:
        name: of the files, before the time and a number that nothing else has.
        table: rows of records. It is called in the thread that writes.
        told: of rows, as they are written, find no room, or are lost: because their table could not be made, or because
            the disk would not take them when the service went down.
        failed: called when a file could not be written; its rows stay in memory, and it is tried again.

    Raises:
        ValueError: the folder cannot be had.
    """

    def __init__(
        self,
        settings: RollingSettings,
        name: str,
        table: Callable[[Sequence[Record]], pl.DataFrame],
        told: Callable[[Fate, int], None],
        failed: Callable[[], None],
    ) -> None:
        self._settings, self._name, self._table, self._told, self._failed = (
            settings,
            name,
            table,
            told,
            failed,
        )
        self._files: deque[_File[Record]] = deque()  # none of them is being written
        self._num_rows, self._not_before_s, self._closed = 0, 0.0, False
        self._changed = threading.Condition()
        _make_ready(settings.folder, name)
        self._thread = threading.Thread(target=self._run, name=f"plait-{name}", daemon=True)
        self._thread.start()

    def add(self, record: Record, num_rows: int) -> None:
        """Takes a record, or counts its rows where they find no room; waits for nothing."""
        with self._changed:
            fits = not self._closed and self._num_rows + num_rows <= self._settings.most_rows
            if fits:
                file = self._file_for(num_rows)
                file.records.append(record)
                file.num_rows += num_rows
                self._num_rows += num_rows
                if self._num_rows == num_rows or self._is_full():
                    self._changed.notify()
        if not fits:
            self._told("no room", num_rows)

    def close(self) -> None:
        """Writes what waits, or counts it as lost, and takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _file_for(self, num_rows: int) -> _File[Record]:
        """The last file, or a new one where it has no room."""
        if not self._files or self._files[-1].num_rows + num_rows > self._settings.file_rows:
            self._files.append(_File(time.monotonic()))
        return self._files[-1]

    def _is_full(self) -> bool:
        return len(self._files) > 1 or self._files[0].num_rows >= self._settings.file_rows

    def _run(self) -> None:
        while not self._closed or self._files:
            _remove_old(self._settings, self._name)
            if file := self._next():
                self._write(file)

    def _next(self) -> _File[Record] | None:
        """A file, when it is time for one; None when it was not for a while."""
        with self._changed:
            if (left_s := self._left_s()) > 0:
                self._changed.wait(min(left_s, LOOK_S))
            return self._files.popleft() if self._files and self._left_s() <= 0 else None

    def _left_s(self) -> float:
        """How long until a file is begun."""
        if self._closed:
            return 0.0
        if not self._files:
            return LOOK_S
        due_s = 0.0 if self._is_full() else self._files[0].since_s + self._settings.file_s
        return max(due_s, self._not_before_s) - time.monotonic()

    def _write(self, file: _File[Record]) -> None:
        """Rows leave the memory when they are in a file, or when nothing can be made of them."""
        fate: Fate = "written"
        try:
            content = parquet_bytes(self._table(file.records))
        except Exception:  # ours to mend; the answers that come are worth more than this thread
            content, fate = None, "lost"
        try:
            if content is not None:
                _write_file(self._settings.folder, self._name, content)
        except OSError:
            self._failed()
            with self._changed:
                self._not_before_s = time.monotonic() + RETRY_S
                if not self._closed:
                    self._files.appendleft(file)
                    return
            fate = "lost"
        with self._changed:
            self._num_rows -= file.num_rows
        self._told(fate, file.num_rows)


def _make_ready(folder: Path, name: str) -> None:
    """The folder, for its owner alone where it is new, without what a killed process left half-written."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_leftovers(folder, rf"\.{re.escape(name)}-.+\.parquet\.\d+\.tmp")
    except OSError as error:
        raise ValueError(f"{folder} cannot be written ({error.strerror}); name another folder") from error


def _write_file(folder: Path, name: str, content: bytes) -> None:
    when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    path = folder / f"{name}-{when}-{uuid.uuid4().hex[:12]}.parquet"
    write_whole(path, lambda aside: aside.write_bytes(content))


def _remove_old(settings: RollingSettings, name: str) -> None:
    """What cannot be looked at now will be looked at again."""
    if settings.keep_days is None:
        return
    oldest_s = time.time() - settings.keep_days * DAY_S
    try:
        for path in settings.folder.glob(f"{name}-*.parquet"):
            if path.stat().st_mtime < oldest_s:
                path.unlink(missing_ok=True)
    except OSError:
        return
