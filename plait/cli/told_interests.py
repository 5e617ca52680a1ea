"""Interests of a user model, as verbs take them: two options that come together."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from plait.cli.output import say
from plait.data import Dataset
from plait.rankers.interests import Interests


def read_interests(
    of_users: Sequence[Path], of_items: Path | None, dataset: Dataset, screen: Console
) -> Interests | None:
    """The interests of a dataset's users and items, with a line on what is missing; None where no files are given.

    Raises:
        ValueError: one of the two options is missing, or as `Interests.read`.
    """
    if bool(of_users) != (of_items is not None):
        raise ValueError("--interests and --item-interests come together: give both, or none")
    if of_items is None:
        return None
    told = Interests.read(of_users, of_items, dataset)
    for line in told.missing(dataset):
        say(line, screen)
    return told
