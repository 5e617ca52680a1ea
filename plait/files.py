"""Files that are written whole, and read as they were written.

FOLDER/hashes.json names the SHA-256 of the folder's files, and its own: prepared datasets and worlds, runs and models
all have one. Whoever reads a file holds it against that first.

A file that may be replaced at any time (a checkpoint) is listed, before it is replaced, with the new hash and that of
the file it replaces. So whatever moment a kill comes at, the file that is there is listed.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import msgspec

HASHES = "hashes.json"
DRAFT = ".plait-draft."  # in the name of every folder that is being written
SETTLED_S = 2.0  # a younger file may change and keep its time: the coarsest file systems count so


class Hashes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`hashes.json`."""

    files: dict[str, tuple[str, ...]]  # name -> the hashes that the file may have, the latest first
    sha256: str  # of `files`

    @classmethod
    def of(cls, files: Mapping[str, tuple[str, ...]]) -> "Hashes":
        return cls(dict(files), hashlib.sha256(msgspec.json.encode(files, order="deterministic")).hexdigest())

    @classmethod
    def read(cls, folder: Path) -> "Hashes | None":
        """None where the folder has none. Raises ValueError where they are damaged."""
        path = folder / HASHES
        if not path.is_file():
            return None
        try:
            found = msgspec.json.decode(path.read_bytes(), type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is damaged ({error})") from error
        if found != cls.of(found.files):
            raise ValueError(f"{path} is damaged (its content is not what was written)")
        return found

    def write(self, folder: Path) -> None:
        write_whole(
            folder / HASHES, lambda aside: aside.write_bytes(msgspec.json.format(msgspec.json.encode(self)))
        )


def check_hashes(folder: Path, advice: str, *names: str) -> None:
    """Holds files of a folder against their hashes; all that are listed where none is named. A file that has not
    changed since this process read it is not read again.

    A folder that has no hashes is one of before: a warning says so.

    Args:
        advice: what to do about a damaged file.

    Raises:
        ValueError: a file is damaged, missing or replaced by another.
    """
    try:
        hashes = Hashes.read(folder)
        if hashes is None:
            warnings.warn(
                f"{folder} has no {HASHES}: it was written before files had hashes, or lost them; damaged files in it "
                "may go unnoticed",
                stacklevel=2,
            )
            return
        listed = {name: hashes.files[name] for name in names or hashes.files if name in hashes.files}
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            list(pool.map(lambda name: _check_file(folder / name, listed[name]), listed))
    except ValueError as error:
        raise ValueError(f"{error}; {advice}") from error


def check_format_version(path: Path, found: int | None, expected: int, advice: str) -> None:
    """Raises ValueError where a file is of a format that this version of Plait does not read.

    >>> check_format_version(Path("about.json"), 2, 1, "save it again")
    Traceback (most recent call last):
        ...
    ValueError: about.json is of format version 2, this Plait reads 1; save it again
    """
    if found != expected:
        raise ValueError(f"{path} is of format version {found}, this Plait reads {expected}; {advice}")


def seal(folder: Path, known: Mapping[str, str] = MappingProxyType({})) -> None:
    """Lists all files of a folder that is whole now.

    Args:
        known: the hashes of what was written, by name; the other files are read.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != HASHES)
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(lambda path: known.get(path.name) or sha256(path), paths))
    Hashes.of({path.name: (found,) for path, found in zip(paths, hashes, strict=True)}).write(folder)


def has_hashes(folder: Path) -> bool:
    return (folder / HASHES).is_file()


def is_listed(path: Path) -> bool:
    """Whether the file was, or was about to be, written; where the hashes are damaged, it may have been."""
    try:
        hashes = Hashes.read(path.parent)
    except ValueError:
        return True
    return hashes is not None and path.name in hashes.files


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a path beside `path`, then renames. On any error nothing is left behind; what a killed
    process left behind of the same file is removed first.

    Raises:
        OSError: the file cannot be written (disk full, no permission); says which.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        remove_leftovers(path.parent, rf"\.{re.escape(path.name)}\.\d+\.tmp")
        aside.touch()
        with _held(aside):
            write(aside)
            with open(aside, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(aside, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno or errno.EIO,
            f"{reason}: {path} could not be written; make room there, then the same command goes on",
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def write_listed(path: Path, write: Callable[[Path], object]) -> None:
    """As `write_whole`, and lists the file among its folder's hashes."""

    def write_and_list(aside: Path) -> None:
        write(aside)
        _list(path, sha256(aside))

    write_whole(path, write_and_list)


def move_listed(aside: Path, path: Path) -> None:
    """Puts a file in the place of another, and lists it among the hashes there."""
    _list(path, sha256(aside))
    os.replace(aside, path)


@contextmanager
def draft_folder(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder in `parent` that is gone when the block ends. Those of the same name that killed processes left
    behind are removed first."""
    remove_leftovers(parent, rf"\.{re.escape(name)}{re.escape(DRAFT)}\w{{8}}")
    draft = Path(tempfile.mkdtemp(prefix=f".{name}{DRAFT}", dir=parent))
    try:
        with _held(draft):
            yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Removes what is named so and no living process holds."""
    for path in [path for path in folder.iterdir() if re.fullmatch(pattern, path.name)]:
        if _is_free(path):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The hash of a file's content, remembered by the process for as long as the file's size and time stay."""
    stat = path.stat()
    stamp = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    is_settled = time.time() - stat.st_mtime > SETTLED_S
    return (_sha256 if is_settled else _sha256.__wrapped__)(str(path), stamp)


@lru_cache(maxsize=4096)
def _sha256(path: str, stamp: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_file(path: Path, listed: tuple[str, ...]) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    if sha256(path) not in listed:
        raise ValueError(f"{path} is damaged (it is not the file that {HASHES} was written for)")


def _list(path: Path, found: str) -> None:
    """With the hash of what it replaces, too: nobody knows yet which of the two will be there."""
    files: dict[str, tuple[str, ...]] = {}
    with suppress(ValueError):  # damaged ones are written anew: readers refuse them and what they were of
        hashes = Hashes.read(path.parent)
        files = hashes.files if hashes else {}
    there = [sha256(path)] if path.is_file() else []
    before = [one for one in there if one in files.get(path.name, there)]  # damage is not listed
    Hashes.of(files | {path.name: tuple(dict.fromkeys((found, *before)))}).write(path.parent)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """A lock on a file or folder, which the system lets go of with the process, however that ends."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: nothing is ever removed there
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def _is_free(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # gone meanwhile, or not ours
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
