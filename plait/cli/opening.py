"""Datasets and runs by the names that people give them."""

import difflib
from pathlib import Path

from plait.data import Dataset, sources
from plait.data.storage.whole_folders import MANIFEST
from plait.training.run import RESULT, Result, load_result


def open_dataset(dataset: str) -> Dataset:
    """A prepared folder, else a dataset that Plait knows by name.

    Raises:
        ValueError: it is neither, or the folder is not whole.
    """
    folder = Path(dataset)
    if folder.exists():
        return Dataset.open(folder)
    prepared = [str(manifest.parent) for manifest in folder.parent.glob(f"*/{MANIFEST}")]
    try:
        return sources.get(sources.find_recipe(dataset).name)
    except ValueError as error:
        near = difflib.get_close_matches(str(folder), prepared, n=1)
        hint = f"; did you mean the folder {near[0]!r}?" if near else ","
        raise ValueError(f"{dataset!r} is no folder{hint} and {error}") from None


def finished_run(folder: Path) -> Result:
    """What a run found.

    Raises:
        ValueError: the folder holds no finished run; names the runs of a comparison.
    """
    runs = sorted(str(result.parent) for result in folder.glob(f"runs/*/{RESULT}"))
    if runs and not (folder / RESULT).exists():
        raise ValueError(f"{folder} holds a comparison; name one of its runs: {', '.join(runs)}")
    return load_result(folder)
