"""Prepared datasets that are kept between calls: where they are, and what names them."""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from plait.data.dataset import Dataset
from plait.data.manifest import FORMAT_VERSION
from plait.data.storage.locks import in_turn


def cache_home() -> Path:
    """$PLAIT_DATA, else `plait` in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if chosen := os.environ.get("PLAIT_DATA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plait"


def cached_folder(cache: Path | None, name: str, *made_of: object) -> Path:
    """The folder of a dataset that is named `name` and is decided by `made_of`, in `cache` or else `cache_home()`.

    >>> cached_folder(Path("kept"), "my log/1", {"min_user_events": 5}).name[:9]
    'my_log_1-'
    """
    content = msgspec.json.encode((FORMAT_VERSION, *made_of))
    readable = re.sub(r"[^\w.-]+", "_", name)
    return (cache or cache_home()) / f"{readable}-{hashlib.sha256(content).hexdigest()[:12]}"


def made_once(folder: Path, make: Callable[[], Dataset]) -> Dataset:
    """The dataset that was prepared there before, else what is made there now; one that is not whole is made anew.

    Of several processes one makes it and the others wait.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with in_turn(folder.parent / f".{folder.name}.turn"):
        return open_if_whole(folder) or make()


def open_if_whole(folder: Path) -> Dataset | None:
    """The dataset that was prepared there before; None where there is none. One that is not whole is deleted."""
    if not folder.exists():
        return None
    try:
        return Dataset.open(folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        shutil.rmtree(folder)
        return None


def file_stamps(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change of a file, or of all files below a folder: others when one was changed."""
    path = path.resolve()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
