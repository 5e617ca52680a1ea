"""A table that is answered part by part, and goes on where a kill left it.

OUT.parquet                  written last, from the parts; its metadata says what was asked
.OUT.parquet.parts/          until then
    asked.json               what was asked
    000000.parquet, ...      the parts that are there, each whole
    .lock                    locked by the process that writes there
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import polars as pl
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from plait.data.storage.locks import kept_alone
from plait.data.storage.whole_folders import MANIFEST
from plait.files import write_whole
from plait.wording import differences

METADATA = b"plait"  # the key of what was asked, in the metadata of a table
Asked = Mapping[str, str | int | bool | None]  # all that decides the answer


def check_takes_file(out: Path, name: str) -> None:
    """Raises ValueError where no file can be written.

    Args:
        name: of a file that could.
    """
    if (out / MANIFEST).exists():
        raise ValueError(f"{out} holds a prepared dataset; name a file for the answer, such as --out {name}")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a file for the answer, such as {out / name}")
    for place in out.parents:
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file; name a folder that the answer is to stand in")


def check_takes_table(out: Path) -> None:
    """Raises ValueError where no table can be written."""
    check_takes_file(out, "answer.parquet")
    if out.suffix != ".parquet":
        raise ValueError(f"--out {out}: answers in bulk are Parquet; expected a name that ends in .parquet")


def write_in_parts(
    out: Path,
    asked: Asked,
    num_parts: int,
    answer: Callable[[int], pl.DataFrame],
    report: Callable[[str], None],
    watch: Callable[[int], None],
) -> int:
    """Writes the parts that are not there yet, then the table of all of them; one that is there whole is only read.

    Args:
        answer: gives a part, by its number; all have the same columns.
        watch: called with the number of parts that are there.

    Returns:
        How many rows the table has.

    Raises:
        ValueError: another table is there, or the beginning of one, or another process writes it just now.
        OSError: it cannot be written (disk full, no permission).
    """
    if out.exists():
        _check_same(out, _asked_of(out), asked)
        report(f"{out} holds this answer already; nothing is computed")
        return pq.read_metadata(out).num_rows
    folder = out.with_name(f".{out.name}.parts")
    busy = f"{out}: another process writes it just now; let it end or stop it, or name another file"
    with kept_alone(folder / ".lock", busy) as alone:
        folder.mkdir(parents=True, exist_ok=True)
        alone()
        if out.exists():  # another process was at it meanwhile
            _check_same(out, _asked_of(out), asked)
        else:
            parts = [folder / f"{number:06d}.parquet" for number in range(num_parts)]
            _begin(folder, out, asked, parts, report)
            _write(parts, answer, watch)
            write_whole(out, lambda aside: _join(parts, aside, asked))
        shutil.rmtree(folder)
    return pq.read_metadata(out).num_rows


@contextmanager
def parts_bar(out: Console, num_parts: int) -> Iterator[Callable[[int], None]]:
    """On a terminal a bar with the share of the parts that are there. Elsewhere nothing."""
    if not out.is_terminal:
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.completed} of {task.total} parts"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("elapsed, about"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task("answering", total=num_parts)
        yield lambda done: progress.update(task, completed=done)


def _begin(folder: Path, out: Path, asked: Asked, parts: list[Path], report: Callable[[str], None]) -> None:
    path = folder / "asked.json"
    if path.exists():
        _check_same(folder, msgspec.json.decode(path.read_bytes()), asked, f"the beginning of {out}")
        report(f"{out}: goes on after {sum(part.exists() for part in parts)} of {len(parts)} parts")
    write_whole(path, lambda aside: aside.write_bytes(_json(asked)))


def _write(parts: list[Path], answer: Callable[[int], pl.DataFrame], watch: Callable[[int], None]) -> None:
    for number, part in enumerate(parts):
        if not part.exists():
            table = answer(number)
            write_whole(part, table.write_parquet)
        watch(number + 1)


def _asked_of(out: Path) -> object:
    try:
        metadata = pq.read_metadata(out).metadata or {}
    except Exception as error:
        raise ValueError(f"{out} exists and is no Parquet file ({error}); name another file") from None
    if METADATA not in metadata:
        raise ValueError(f"{out} exists and is no answer of Plait's; name another file")
    return msgspec.json.decode(metadata[METADATA])


def _check_same(place: Path, found: object, asked: Asked, what: str = "an answer") -> None:
    unlike = differences(found, dict(asked))
    if unlike:
        raise ValueError(
            f"{place} holds {what} to another question:\n{unlike}\nName another file, or delete it."
        )


def _join(parts: list[Path], aside: Path, asked: Asked) -> None:
    """One part in memory at a time."""
    schema = pq.read_schema(parts[0]).with_metadata({METADATA: _json(asked)})
    with pq.ParquetWriter(aside, schema) as table:
        for part in parts:
            for rows in pq.read_table(part).replace_schema_metadata(schema.metadata).to_batches():
                table.write_batch(rows)


def _json(asked: Asked) -> bytes:
    return msgspec.json.format(msgspec.json.encode(dict(asked)))
