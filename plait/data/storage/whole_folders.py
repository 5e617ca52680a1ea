"""Folders that are there whole or not at all."""

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import polars as pl

from plait import files
from plait.wording import setting

MANIFEST, REJECTS, LEFT_OUT = "manifest.json", "rejects.parquet", "users_left_out.parquet"


def check_free(out: Path, overwrite: bool) -> None:
    """Refuses to write over anything but an empty folder or, if told to, a prepared one.

    Raises:
        ValueError: something is at `out` already.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise ValueError(f"{out} exists and is not a prepared dataset; choose another folder")
    if not overwrite:
        raise ValueError(
            f"{out} holds a prepared dataset already; pass {setting('overwrite', True)}, or choose another folder"
        )


@contextmanager
def whole_folder(out: Path, known: Mapping[str, str] = MappingProxyType({})) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its place when the block ends well and vanishes if not. What killed
    processes left behind of theirs for the same `out` is removed first. A folder that is itself a draft is written
    as it is: it vanishes with all that it holds.

    Args:
        known: the SHA-256 of files, by name, where the block finds it while it writes them; when the block ends, the
            other files are read for theirs.

    Raises:
        OSError: the folder cannot be written (disk full, no permission).
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if files.DRAFT in out.name:
            yield out
            files.seal(out, known)
            return
        _put_back(out)
        with files.draft_folder(out.parent, out.name) as draft:
            draft.chmod(0o755)  # mkdtemp's folders are for their owner alone
            yield draft
            files.seal(draft, known)
            _fsync(draft)
            _replace(out, draft)
    except OSError as error:
        code = error.errno or errno.EIO
        reason = error.strerror or str(error)
        raise OSError(
            code,
            f"{reason}: writing {out} failed and nothing of it was kept; free space there, or name another folder",
        ) from error


def _replace(out: Path, draft: Path) -> None:
    """Puts the draft in the place of `out`, which is set aside until then."""
    if out.exists():
        before = _before(out)
        before.mkdir()
        out.replace(before / out.name)
        draft.replace(out)
        shutil.rmtree(before)
    else:
        draft.replace(out)
    _fsync(out.parent)


def _put_back(out: Path) -> None:
    """What a kill left set aside: back in its place where that is empty, else gone."""
    before = _before(out)
    if (before / out.name).exists() and not out.exists():
        (before / out.name).replace(out)
    shutil.rmtree(before, ignore_errors=True)


def _before(out: Path) -> Path:
    return out.with_name(f".{out.name}.plait-before")


@dataclass(frozen=True)
class Written:
    """A file that is on the disk."""

    sha256: str  # of the bytes that it was to hold
    digest: bytes  # of the name and what the bytes mean


def write_arrays(
    folder: Path, arrays: Mapping[str, np.ndarray], pool: Executor
) -> dict[str, Future[Written]]:
    """Begins to write arrays to .npy files of their names; disk and hashes let other threads run."""
    return {name: pool.submit(write_array, folder / f"{name}.npy", array) for name, array in arrays.items()}


def write_array(path: Path, array: np.ndarray) -> Written:
    """Writes a .npy file through to the disk; its digest is of name, type, shape and content."""
    content = np.ascontiguousarray(array).data.cast("B") if array.size else b""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    # Not numpy's writer: its errors do not say "disk full".
    found = write_bytes(path, header.getvalue(), content)
    return Written(found, array_digest(path.name, array))


def array_digest(name: str, array: np.ndarray) -> bytes:
    digest = hashlib.sha256(f"{name} {array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.digest()


def write_bytes(path: Path, *contents: bytes | memoryview) -> str:
    """Writes a file through to the disk; returns the SHA-256 of what was to be written."""
    found = hashlib.sha256()
    with path.open("wb") as file:
        for content in contents:
            file.write(content)
            found.update(content)
        file.flush()
        os.fsync(file.fileno())
    return found.hexdigest()


def parquet_bytes(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def write_table(path: Path, table: pl.DataFrame) -> Written:
    """Writes a Parquet file of numbers and text without nulls; its digest is of the content."""
    return Written(write_bytes(path, parquet_bytes(table)), table_digest(path.name, table))


def table_digest(name: str, table: pl.DataFrame) -> bytes:
    digest = hashlib.sha256(name.encode())
    for column in table:
        digest.update(f"{column.name} {column.dtype}".encode())
        if column.dtype == pl.String:
            digest.update(column.str.len_bytes().to_numpy().tobytes() + "".join(column).encode())
        else:
            digest.update(column.to_numpy().tobytes())
    return digest.digest()


def content_hash(digests: Mapping[str, bytes]) -> str:
    """The hash of the digests of arrays and tables, by their names without ending."""
    return hashlib.sha256(b"".join(digests[name] for name in sorted(digests))).hexdigest()


def _fsync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
