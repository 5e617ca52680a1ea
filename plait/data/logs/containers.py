"""What a file holds, told by its first bytes and not by its name, with what is compressed unpacked in memory."""

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

Kind = Literal["parquet", "arrow", "text"]
HEAD_BYTES = 512
TAR_MAGIC = slice(257, 262)
UNREAD = ("__MACOSX", ".", "_")  # how names begin that hold no data
DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    RuntimeError,
)


class Archive(Exception):
    """A file of files."""


@dataclass(frozen=True)
class Content:
    """The bytes of a file, or what was unpacked or rewritten from them."""

    name: str  # in messages
    held: Path | bytes  # a file as it stands, or bytes in memory

    @cached_property
    def data(self) -> np.ndarray:  # uint8; a file is mapped, not read
        if isinstance(self.held, bytes):
            return np.frombuffer(self.held, dtype=np.uint8)
        empty = self.held.stat().st_size == 0
        return np.empty(0, dtype=np.uint8) if empty else np.memmap(self.held, dtype=np.uint8, mode="r")

    @property
    def head(self) -> bytes:
        return self.data[:HEAD_BYTES].tobytes()

    def open(self) -> io.BufferedReader:
        if isinstance(self.held, bytes):
            return io.BufferedReader(io.BytesIO(self.held))
        return self.held.open("rb")

    def blocks(self, size: int) -> Iterator[bytes]:
        """All bytes in turn, read: a mapped file that is gone through stays in the process's memory."""
        with self.open() as file:
            while block := file.read(size):
                yield block

    def replaced(self, held: bytes) -> "Content":
        return Content(self.name, held)


def open_content(path: Path) -> Content:
    """What a file holds, without compression.

    Raises:
        ValueError: it is damaged, or an archive of several files.
    """
    content = Content(str(path), path)
    while (unpack := _unpacker(content.head)) is not None:
        content = _unpacked(content, unpack)
    return content


def kind_of(content: Content) -> Kind:
    """Raises ValueError where the content is of no kind that is read."""
    head = content.head
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    if head[TAR_MAGIC] == b"ustar":
        raise ValueError(
            f"{content.name} is a tar archive; unpack it, and give the file or folder that is read"
        )
    return "text"


def _unpacker(head: bytes) -> Callable[[bytes], bytes] | None:
    for magic, unpack in (
        (b"\x1f\x8b", gzip.decompress),
        (b"BZh", bz2.decompress),
        (b"\xfd7zXZ\x00", lzma.decompress),
        (b"\x28\xb5\x2f\xfd", _zstandard),
        (b"PK\x03\x04", _zip),
    ):
        if head.startswith(magic):
            return unpack
    return None


def _unpacked(content: Content, unpack: Callable[[bytes], bytes]) -> Content:
    try:
        return content.replaced(unpack(content.data.tobytes()))
    except Archive as error:
        raise ValueError(f"{content.name} {error}") from None
    except DAMAGED as error:
        raise ValueError(
            f"{content.name} cannot be read: {error}. It may be cut off or of another format; fetch it again"
        ) from error


def _zstandard(data: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        return stream.read()


def _zip(data: bytes) -> bytes:
    """The only file of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [info.filename for info in archive.infolist() if not info.is_dir()]
        if "[Content_Types].xml" in members:
            raise Archive("is a spreadsheet; save it as CSV or Parquet")
        members = [m for m in members if not any(part.startswith(UNREAD) for part in m.split("/"))]
        if len(members) != 1:
            found = ", ".join(members[:5]) + (", ..." if len(members) > 5 else "")
            raise Archive(
                f"holds {len(members)} files{': ' + found if found else ''}; expected one: unpack the archive, "
                "and give the file or folder that is read"
            )
        return archive.read(members[0])
