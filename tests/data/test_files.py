"""What is listed is what is there, at whatever moment a process dies; and what it leaves behind goes."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tiny import assert_caught, assert_not_vacuous, prepared, random_log

from plait import files
from plait.data import Dataset
from plait.data.storage import whole_folders
from plait.files import HASHES

WAIT = """
import sys, time
from pathlib import Path
from plait import files
from plait.data.storage import whole_folders

place = Path(sys.argv[1])

def stop(aside):
    aside.write_text("half")
    print("there", flush=True)
    time.sleep(600)

with whole_folders.whole_folder(place / "out") as draft:
    (draft / "half").write_text("half")
    files.write_listed(place / "file", stop)
"""


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def write(path: Path, text: str) -> None:
    files.write_listed(path, lambda aside: aside.write_text(text))


def check_kills(place: Path) -> None:
    """Killed before any rename, while it is written for the first time, again, and after a kill."""
    met = {"old": 0, "new": 0}
    for nth in range(4):
        folder = place / str(nth)
        folder.mkdir()
        for text in ("one", "two", "three"):
            count = itertools.count()

            def replace(*paths: Path, right: Callable[..., None] = os.replace, count=count, nth=nth) -> None:
                if next(count) == nth % 2:
                    raise Killed
                right(*paths)

            with pytest.MonkeyPatch.context() as patch, suppress(Killed):
                patch.setattr(os, "replace", replace if text != "one" and nth < 3 else os.replace)
                write(folder / "file", text)
            files.check_hashes(folder, "write it again")
            met["new" if (folder / "file").read_text() == text else "old"] += 1
            if nth == 2:
                write(folder / "file", "between")
    assert_not_vacuous(met)


def test_a_kill_at_any_moment_leaves_a_file_that_is_listed(tmp_path: Path) -> None:
    check_kills(tmp_path)


def test_a_list_that_is_written_after_its_file_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after(path: Path, write: Callable[[Path], object]) -> None:
        files.write_whole(path, write)
        files.Hashes.of({path.name: (files.sha256(path),)}).write(path.parent)

    def checked(folder: Path, advice: str) -> None:
        try:
            right(folder, advice)
        except ValueError as error:
            raise AssertionError from error

    right = files.check_hashes
    monkeypatch.setattr(files, "write_listed", after)
    monkeypatch.setattr(files, "check_hashes", checked)
    assert_caught(check_kills, tmp_path)


def test_a_file_is_read_once_a_process_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepared(random_log(), tmp_path / "data")
    names = [path for path in data.folder.iterdir() if path.name != HASHES]
    for path in names:
        os.utime(path, (1e9, 1e9))
    read, right = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *of: (read.append(of[0].name), right(*of))[1])
    for _ in range(3):
        Dataset.open(data.folder).check_content()
    assert sorted(read) == sorted(map(str, names)) and len(read) > 8
    item = data.folder / "item.npy"
    item.write_bytes(item.read_bytes()[::-1])  # as many bytes
    with pytest.raises(ValueError, match=f"{item} is damaged"):
        data.check_content()


def test_a_prepared_folder_of_before_is_opened_and_its_content_checked(tmp_path: Path) -> None:
    data = prepared(random_log(), tmp_path / "data")
    (data.folder / HASHES).unlink()
    with pytest.warns(UserWarning, match=f"{data.folder} has no {HASHES}"):
        old = Dataset.open(data.folder)
    old.check_content()
    item = data.folder / "item.npy"
    item.write_bytes(item.read_bytes()[:-1] + b"\x40")
    with pytest.raises(
        ValueError, match=f"{data.folder} is damaged: its arrays are not .*prepare the log again"
    ):
        old.check_content()
    item.write_bytes(b"\0" + item.read_bytes()[1:])
    with (
        pytest.warns(UserWarning, match=HASHES),
        pytest.raises(ValueError, match=f"{data.folder} is damaged .*prepare the log again"),
    ):
        Dataset.open(data.folder)


def hidden(place: Path) -> set[str]:
    return {path.name for path in place.iterdir() if path.name.startswith(".")}


def test_what_a_killed_process_left_goes_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    mine = {".out.training", ".file.tmp", ".other.plait-draft.abcdefgh", ".out.plait-draft.notours"}
    for name in mine:
        (tmp_path / name).mkdir()

    def write_again() -> set[str]:
        with whole_folders.whole_folder(tmp_path / "out") as draft:
            (draft / "whole").write_text("whole")
        write(tmp_path / "file", "whole")
        return hidden(tmp_path) - mine

    command = [sys.executable, "-c", WAIT, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "there\n"
        left = hidden(tmp_path) - mine
        assert len(left) == 2
        assert write_again() == left, "another process is at work there"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not write_again() and hidden(tmp_path) == mine


def test_a_kill_between_the_old_folder_and_the_new_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, right = tmp_path / "out", Path.replace

    def killed(path: Path, target: Path) -> Path:
        if files.DRAFT in path.name:
            raise Killed
        return right(path, target)

    for text in ("old", "new"):
        with monkeypatch.context() as patch, suppress(Killed), whole_folders.whole_folder(out) as draft:
            (draft / "file").write_text(text)
            if text == "new":
                patch.setattr(Path, "replace", killed)
    assert not out.exists()
    with pytest.raises(OSError, match="disk full"), whole_folders.whole_folder(out):
        raise OSError("disk full")
    assert (out / "file").read_text() == "old" and not hidden(tmp_path)


def test_what_is_listed_is_what_was_to_be_written(tmp_path: Path) -> None:
    """Hashes are of the bytes on their way: a file that came out otherwise is damaged for whoever opens it."""
    known: dict[str, str] = {}
    with whole_folders.whole_folder(tmp_path / "out", known) as draft:
        known["known"] = whole_folders.write_bytes(draft / "known", b"as it was to be")
        (draft / "read").write_text("read")
        (draft / "known").write_bytes(b"as it came out!")
    files.check_hashes(tmp_path / "out", "again", "read")
    with pytest.raises(ValueError, match="known is damaged"):
        files.check_hashes(tmp_path / "out", "again", "known")
