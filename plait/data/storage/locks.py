"""One process at a time in a folder.

A lock is on a file, and a file's name may pass to another file while a process waits for the lock. So whoever gets the
lock looks whether the file still has the name, and begins anew where it has not; and whoever holds it removes the file
before letting go, so that nothing is left in the folders of users.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def kept_alone(lock_file: Path, complaint: str) -> Iterator[Callable[[], None]]:
    """Keeps other processes out, from now on where the lock's folder is there, else from the call of what is given,
    which wants it made. The system lets go of the lock with the process, however that ends.

    Raises:
        ValueError: another process holds the lock; says the complaint.
    """
    with ExitStack() as held:
        is_held = False

        def alone() -> None:
            nonlocal is_held
            if is_held:
                return
            try:
                held.enter_context(_locked(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB))
                is_held = True
            except BlockingIOError:
                raise ValueError(complaint) from None
            except (
                OSError
            ):  # no locks on this file system, or no right to write: what is written there will say why
                return

        if lock_file.parent.is_dir():
            alone()
        yield alone


@contextmanager
def in_turn(lock_file: Path) -> Iterator[None]:
    """One process after another; waits for the one that is at it."""
    with ExitStack() as held:
        with suppress(OSError):  # as above
            held.enter_context(_locked(lock_file, fcntl.LOCK_EX))
        yield


@contextmanager
def _locked(lock_file: Path, operation: int) -> Iterator[None]:
    """Raises BlockingIOError where another process holds the lock, OSError where nobody can."""
    while True:
        handle = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, operation)
            if not _is_called(lock_file, handle):
                continue
            try:
                yield
            finally:
                _remove(lock_file, handle)
            return
        finally:
            os.close(handle)


def _is_called(path: Path, handle: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False


def _remove(lock_file: Path, handle: int) -> None:
    with suppress(OSError):  # no right to, or the folder is gone
        if _is_called(lock_file, handle):
            lock_file.unlink()
