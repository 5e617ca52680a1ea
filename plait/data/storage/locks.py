"""One process at a time in a folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout


@contextmanager
def kept_alone(lock_file: Path, complaint: str) -> Iterator[Callable[[], None]]:
    """Keeps other processes out, from now on where the lock's folder is there, else from the call of what is given,
    which wants it made. The system lets go of the lock with the process, however that ends.

    Raises:
        ValueError: another process holds the lock; says the complaint.
    """
    lock = FileLock(lock_file)

    def alone() -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if lock_file.exists():  # else nobody could make it, and what is written there will say why
                raise ValueError(complaint) from None
        except (NotImplementedError, OSError):  # no locks on this file system, or no right to write: likewise
            return

    if lock_file.parent.is_dir():
        alone()
    try:
        yield alone
    finally:
        _let_go(lock, lock_file)


@contextmanager
def in_turn(lock_file: Path) -> Iterator[None]:
    """One process after another; waits for the one that is at it."""
    lock = FileLock(lock_file)
    with suppress(NotImplementedError, OSError):  # as above
        lock.acquire()
    try:
        yield
    finally:
        _let_go(lock, lock_file)


def _let_go(lock: BaseFileLock, lock_file: Path) -> None:
    if lock.is_locked:
        with suppress(OSError):  # where open files cannot be removed, or the folder is gone
            lock_file.unlink()
    lock.release(force=True)
