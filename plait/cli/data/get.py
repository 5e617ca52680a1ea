"""The verb that fetches a dataset with a name."""

from pathlib import Path

from plait.cli.datasets import show_dataset
from plait.data.sources.prepared import get as get_dataset


def get(name: str, /, *, from_files: Path | None = None, cache: Path | None = None) -> None:
    """Downloads and prepares a dataset that Plait knows, once.

    Example: plait data get ml-1m --from-files ~/downloads/ml-1m

    Parameters
    ----------
    name
        A name of `plait data list`.
    from_files
        The owner's files (or archive) on disk, instead of a download.
    cache
        Where prepared datasets are kept; by default $PLAIT_DATA, else the user's cache folder.
    """
    show_dataset(get_dataset(name, cache=cache, from_files=from_files))
