"""Public logs as prepared datasets: downloaded from their owners, or read from files already on disk."""

import sys
import tarfile
import zipfile
from pathlib import Path

import msgspec
import polars as pl

from plait.data.dataset import Dataset
from plait.data.logs.tables import collect, reading
from plait.data.manifest import LeaveOneOut, Split
from plait.data.preparation.pipeline import prepare
from plait.data.sources import find_recipe
from plait.data.sources.recipe import ITEM, REQUEST, TIME, TITLE, USER, Recipe, agrees
from plait.data.storage.caches import cached_folder, file_stamps, made_once, open_if_whole
from plait.files import draft_folder
from plait.wording import setting


def get(
    name: str,
    *,
    cache: Path | None = None,
    from_files: Path | None = None,
    split: Split = LeaveOneOut(),
    min_user_events: int = 5,
    min_item_events: int = 5,
) -> Dataset:
    """A public dataset, prepared once and kept.

    Args:
        name: of a recipe in `plait.data.sources.catalogue()`.
        cache: where prepared datasets are kept; `plait.data.storage.caches.cache_home()` by default.
        from_files: the owner's file, or a folder with it; downloaded where not given.

    Raises:
        ValueError: no such recipe, no such file, or a download that is not what its owner publishes.
        OSError: no source could be reached, or the cache cannot be written.
    """
    recipe = find_recipe(name)
    options = Options(split=split, min_user_events=min_user_events, min_item_events=min_item_events)
    stamps = []
    if from_files is not None:
        from_files = Path(from_files)
        recipe.read(from_files)  # what is not there is refused even where a download was kept
        stamps = file_stamps(from_files)
    declared = (
        recipe.actions,
        *filter(None, (recipe.conditions, recipe.context)),
    )  # without either, folders stay as they were
    folder = cached_folder(cache, name, recipe.name, *declared, options, stamps)
    found = open_if_whole(folder)
    if found is not None:
        if from_files is not None:
            _say(
                f"{recipe.name}: {from_files} has not changed since {folder} was prepared from it; using that"
            )
        return found
    return made_once(folder, lambda: _make(recipe, from_files, folder, options))


def _make(recipe: Recipe, from_files: Path | None, folder: Path, options: "Options") -> Dataset:
    if from_files is not None:
        log = recipe.read(from_files)
        return _prepare(recipe, log, from_files, folder, options, _verify(recipe, log, from_files))
    with draft_folder(folder.parent, "download") as scratch:
        files = _download(recipe, scratch)
        log = recipe.read(files)
        note = _verify(recipe, log, files)
        if note:
            raise ValueError(f"{note}; the download is not whole, or its owner has changed it")
        return _prepare(recipe, log, files, folder, options, note)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    split: Split
    min_user_events: int
    min_item_events: int


def _prepare(
    recipe: Recipe, log: pl.LazyFrame, files: Path, folder: Path, options: Options, note: str
) -> Dataset:
    titles = recipe.read_titles(files) if recipe.read_titles else None
    return prepare(
        log,
        user=USER,
        item=ITEM,
        time=TIME,
        actions=recipe.actions,
        request=REQUEST if recipe.has_request else None,
        conditions=recipe.conditions,
        context=recipe.context,
        time_unit="ms" if recipe.milliseconds else "s",
        out=folder,
        name=recipe.name,
        note="; ".join(filter(None, (recipe.origin, f"terms: {recipe.terms}", note))),
        min_user_events=options.min_user_events,
        min_item_events=options.min_item_events,
        split=options.split,
        items=titles,
        item_title=None if titles is None else TITLE,
    )


def _download(recipe: Recipe, scratch: Path) -> Path:
    """Tries the recipe's sources in turn, and says in one line each what came of it.

    Raises:
        OSError: none answered with the right file.
    """
    for number, fetch in enumerate(recipe.fetch, start=1):
        folder = scratch / str(number)
        folder.mkdir()
        try:
            files = fetch(folder)
        except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            _say(f"{recipe.name}: source {number} of {len(recipe.fetch)} failed: {error}")
        else:
            _say(f"{recipe.name}: fetched {files.name} from source {number} of {len(recipe.fetch)}")
            return files
    raise OSError(
        f"{recipe.name}: no source could be reached; fetch its files from {recipe.origin} "
        f"and give their folder as {setting('from_files')}"
    )


def _verify(recipe: Recipe, log: pl.LazyFrame, files: Path) -> str:
    """In words, how the files' counts differ from those that the owner publishes; empty where they agree."""
    if recipe.published is None:
        return ""
    counted = log.select(
        pl.len().alias("rows"), pl.col(USER).n_unique().alias("users"), pl.col(ITEM).n_unique().alias("items")
    )
    with reading(str(files)):
        found = collect(counted).row(0, named=True)
    differences = [
        f"{count} {what} instead of {getattr(recipe.published, what)}"
        for what, count in found.items()
        if not agrees(getattr(recipe.published, what), count)
    ]
    note = f"{recipe.name} differs from its owner's counts: {', '.join(differences)}" if differences else ""
    if note:
        _say(note)
    return note


def _say(line: str) -> None:
    print(line, file=sys.stderr)
