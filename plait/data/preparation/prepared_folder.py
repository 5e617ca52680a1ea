"""The prepared folder: held for one preparation, and written with the manifest that says how it was made."""

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from plait.data.manifest import FORMAT_VERSION, Facts, Manifest, Settings
from plait.data.preparation.events import Events
from plait.data.storage.locks import kept_alone
from plait.data.storage.whole_folders import (
    LEFT_OUT,
    MANIFEST,
    REJECTS,
    Written,
    check_free,
    content_hash,
    parquet_bytes,
    write_arrays,
    write_bytes,
    write_table,
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a folder is called and made of."""

    name: str
    note: str
    inputs: tuple[str, ...]  # names of the files that were read
    read_as: tuple[str, ...]  # how text among them was read, in words
    settings: Settings


@contextmanager
def prepared_alone(out: Path, overwrite: bool) -> Iterator[Callable[[], None]]:
    """Holds a free folder for one preparation. What is given is to be called once the folder's parent is there.

    Raises:
        ValueError: another process prepares there, or something is at `out` already.
    """
    busy = f"{out}: another process prepares there just now; let it end, or choose another folder"
    with kept_alone(out.absolute().parent / f".{out.name}.lock", busy) as hold:

        def alone() -> None:
            hold()
            check_free(out, overwrite)  # once more: another process may have been there meanwhile

        check_free(out, overwrite)
        yield alone


def write_prepared(folder: Path, events: Events, origin: Origin, known: dict[str, str]) -> Manifest:
    """Writes all files.

    Args:
        known: the SHA-256 of files by name, to which those of the files written are added.
    """
    facts, written = _write_events(folder, events)
    known |= {name: one.sha256 for name, one in written.items()}
    if len(events.left_out):
        known[LEFT_OUT] = write_bytes(folder / LEFT_OUT, parquet_bytes(events.left_out))
    if events.rejects is not None:
        known[REJECTS] = write_bytes(folder / REJECTS, parquet_bytes(events.rejects))
    digests = {name.partition(".")[0]: one.digest for name, one in written.items()}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=origin.name,
        note=origin.note,
        plait_version=importlib.metadata.version("plait"),
        inputs=origin.inputs,
        read_as=origin.read_as,
        settings=origin.settings,
        settings_hash=_hash_of(origin.settings),
        split=events.split,
        actions=events.actions,
        counts=events.counts,
        facts=facts,
        tied_share=events.ties.share,
        content_hash=content_hash(digests),
        **events.features,
        files={file.name: file.stat().st_size for file in sorted(folder.iterdir())},
    )
    content = manifest.to_json()
    known[MANIFEST] = write_bytes(folder / MANIFEST, content)
    return msgspec.json.decode(content, type=Manifest)  # as whoever opens the folder has it


def _write_events(folder: Path, events: Events) -> tuple[Facts, dict[str, Written]]:
    """Arrays and tables, by the names of their files; what is left to count is counted meanwhile."""
    with ThreadPoolExecutor() as pool:
        writing = write_arrays(folder, events.arrays, pool)
        facts = events.facts()
        tables = {f"{name}.parquet": table for name, table in events.tables.items()}
        written = {name: write_table(folder / name, table) for name, table in tables.items()}
        return facts, written | {f"{name}.npy": future.result() for name, future in writing.items()}


def _hash_of(settings: Settings) -> str:
    return hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()
