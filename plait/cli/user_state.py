"""What the verbs that ask about users have in common: a finished run's model, and the users' histories.

Shape letters: U users.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from plait.cli.arguments import Device
from plait.cli.datasets import open_dataset
from plait.data import Dataset
from plait.engine.state import State
from plait.engine.value import Value
from plait.evaluation.run_files import Result
from plait.recommender import Recommender
from plait.schema import Action, EventBatch


def state_of(
    folder: Path, result: Result, user: str, dataset: str | None, device: Device
) -> tuple[Recommender, State]:
    """A finished run's model, and one user's history as the model sees it.

    Args:
        folder: the model's, in the run's.

    Raises:
        ValueError: the dataset or the user is not there, or the dataset's actions or features are not those that the
            model was trained on.
    """
    model, data = model_and_data(folder, result, dataset, device)
    return model, state_as_logged(model, data, np.array([data.user_index(user)]))


def model_and_data(
    folder: Path, result: Result, dataset: str | None, device: Device
) -> tuple[Recommender, Dataset]:
    """A finished run's model, and the data that histories come from; as `state_of`."""
    model = Recommender.from_pretrained(folder, device)
    return model, _dataset_of(folder.parent, result, dataset, model)


def state_as_logged(model: Recommender, data: Dataset, user_U: Int64[np.ndarray, " U"]) -> State:
    """The histories of users, as the model sees them, who are called as in the log."""
    state = model.encode(in_items_of(model, data, data.histories(user_U)))
    return replace(state, id_U=tuple(data.user_ids().gather(user_U)))


def value_of_formula(model: Recommender, formula: str | None, item_numbers: Path | None) -> Value | None:
    """
    Raises:
        ValueError: a table is given without a formula; or as `Recommender.value`.
    """
    if formula is not None:
        return model.value(formula, item_numbers)
    if item_numbers is not None:
        raise ValueError(
            f"--item-numbers {item_numbers}: they are read for a formula; give --value, or leave them out"
        )
    return None


def _dataset_of(run: Path, result: Result, dataset: str | None, model: Recommender) -> Dataset:
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
        columns = model.columns
        asked_under = model.model.config.conditions
        found = data.context, data.manifest.user_features, data.conditions if asked_under else ()
        if found != (columns.context, columns.user_features, asked_under):
            raise ValueError(
                f"{data.folder} codes the context or the users otherwise than the data of {run}, or conditions; ask "
                "from Python, where Recommender.encode reads histories and users as the model knows them"
            )
        print(
            f"plait: {data.folder} does not hold the events that {run} was trained on; items that the model "
            "does not know count as unknown",
            file=sys.stderr,
        )
    return data


def _shape(action: Action) -> Action:
    """An action without what is fitted on the rows."""
    return Action(action.name, action.kind.unfitted())


def in_items_of(model: Recommender, data: Dataset, events: EventBatch) -> EventBatch:
    """The events with the model's dense items in place of the dataset's: another dataset numbers anew."""
    return data.in_items_of(model.vocabulary, events)
