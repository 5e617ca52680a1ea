"""Datasets, opened by the names that people give them, and what they hold."""

import difflib
from pathlib import Path

from rich.console import Console

from plait.cli.output import say
from plait.data import Dataset, sources
from plait.data.facts import summary_lines
from plait.data.sources import prepared
from plait.data.storage.whole_folders import MANIFEST


def open_dataset(dataset: str) -> Dataset:
    """A prepared folder, else a dataset that Plait knows by name.

    Raises:
        ValueError: it is neither, or the folder is not whole.
    """
    folder = Path(dataset)
    if folder.exists():
        return Dataset.open(folder)
    neighbours = [str(manifest.parent) for manifest in folder.parent.glob(f"*/{MANIFEST}")]
    try:
        return prepared.get(sources.find_recipe(dataset).name)
    except ValueError as error:
        near = difflib.get_close_matches(str(folder), neighbours, n=1)
        hint = f"; did you mean the folder {near[0]!r}?" if near else ","
        raise ValueError(f"{dataset!r} is no folder{hint} and {error}") from None


def show_dataset(dataset: Dataset, out: Console | None = None) -> None:
    """What a prepared folder holds, and where the rows of the log went."""
    first, *rest = summary_lines(dataset.manifest)
    say(f"{dataset.folder}: {first}", out)
    for line in rest:
        say(line, out)
