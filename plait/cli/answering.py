"""Datasets by folder or name, and a trained run's view of one user."""

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from plait.data import Dataset, sources
from plait.data.coding import item_index
from plait.engine.state import State
from plait.recommender import Recommender
from plait.schema import UNKNOWN_ITEM, Action, Amount, EventBatch
from plait.training.run import MODEL, Result, load_result


def open_dataset(dataset: str) -> Dataset:
    """A prepared folder, else a dataset that Plait knows by name.

    Raises:
        ValueError: it is neither, or the folder is not whole.
    """
    if Path(dataset).exists():
        return Dataset.open(dataset)
    try:
        return sources.get(sources.find_recipe(dataset).name)
    except ValueError as error:
        raise ValueError(f"{dataset!r} is no folder, and {error}") from None


def state_of(run: Path, user: str, dataset: str | None) -> tuple[Recommender, State]:
    """A run's model, and one user's history as the model sees it.

    Raises:
        ValueError: the run is not finished, the dataset or the user is not there, or the dataset's actions are
            not those that the model was trained on.
    """
    result = load_result(run)
    data = _dataset_of(run, result, dataset)
    model = Recommender.from_pretrained(run / MODEL)
    text_ids = data.user_ids().dtype == pl.String
    events = data.history(data.user_index(user if text_ids else _whole_number(user)))
    return model, model.encode(_in_items_of(model, data, events))


def _dataset_of(run: Path, result: Result, dataset: str | None) -> Dataset:
    if dataset is None and not Path(result.dataset_folder).exists():
        raise ValueError(
            f"{run} was trained on {result.dataset_folder}, which is no longer there; "
            "name the folder, or another with the same columns, with --dataset"
        )
    data = open_dataset(dataset or result.dataset_folder)
    if data.manifest.content_hash != result.content_hash:
        if [_shape(action) for action in data.actions] != [_shape(action) for action in result.actions]:
            raise ValueError(
                f"{data.folder} has the actions {', '.join(a.name for a in data.actions) or 'none'}, in kinds that "
                f"are not those of {run}: {', '.join(a.name for a in result.actions) or 'none'}; prepare it likewise"
            )
        print(
            f"plait: {data.folder} does not hold the events that {run} was trained on; items that the model "
            "does not know count as unknown",
            file=sys.stderr,
        )
    return data


def _shape(action: Action) -> Action:
    """An action without what is fitted on the rows."""
    kind = action.kind
    if isinstance(kind, Amount):
        kind = msgspec.structs.replace(kind, log1p_scale=1.0)
    return Action(action.name, kind)


def _in_items_of(model: Recommender, data: Dataset, events: EventBatch) -> EventBatch:
    """The events with the model's dense items in place of the dataset's: another dataset numbers anew."""
    item_V = np.concatenate([[UNKNOWN_ITEM], item_index(data.item_ids(), model.items)])
    return replace(events, item_E=item_V[events.item_E])


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--user {text!r}: this dataset's user ids are whole numbers") from None
