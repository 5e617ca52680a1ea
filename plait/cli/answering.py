"""Verbs that ask a trained run about one user."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from plait.cli.opening import finished_run, open_dataset
from plait.cli.settings import Device
from plait.cli.showing import show_table
from plait.data import Dataset
from plait.data.coding import item_index
from plait.engine.state import State
from plait.recommender import Recommender
from plait.schema import UNKNOWN_ITEM, Action, EventBatch, check_unique, split_quoted
from plait.training.run import MODEL, Result


def recommend(
    run: Path,
    /,
    *,
    user: str,
    k: Annotated[int, Parameter(name="-k")] = 10,
    at: str | None = None,
    filter_seen: bool | None = None,
    dataset: str | None = None,
    device: Device = "auto",
) -> None:
    """The items that a user is most likely to meet next.

    Example: plait recommend runs/lac --user 196 -k 10

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`.
    user
        The user's id, as the log spells it.
    k
        How many items.
    at
        When they are shown: a time as the log writes it. Needed by models that know the time.
    filter_seen
        Leave out the items that the user has met; without it, as the run was judged (protocol.filter-seen).
    dataset
        A prepared folder, or a name of `plait data list`, with the user's history; without it, the dataset
        that the run was trained on.
    device
        What the model runs on; auto is cuda where there is one.
    """
    result = finished_run(run)
    model, state = state_of(run, result, user, dataset, device)
    if filter_seen is None:
        filter_seen = result.settings.protocol.filter_seen
    found = model.retrieve(state, k, filter_seen=filter_seen, at=at).drop("user")
    show_table(found.columns, found.rows())


def score(
    run: Path,
    /,
    *,
    user: str,
    items: str,
    at: str | None = None,
    context: tuple[str, ...] = (),
    dataset: str | None = None,
    device: Device = "auto",
) -> None:
    """The actions that a user is expected to take on given items.

    Example: plait score runs/lac --user 196 --items 242,302

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`.
    user
        The user's id, as the log spells it.
    items
        Item ids as the log spells them, separated by commas; one that holds a comma, or a blank at an end, in double
        quotes.
    at
        When they are shown: a time as the log writes it. Needed by models that know the time.
    context
        NAME=VALUE, of that moment; once for each column of the context. Missing where not given.
    dataset
        A prepared folder, or a name of `plait data list`, with the user's history; without it, the dataset
        that the run was trained on.
    device
        What the model runs on; auto is cuda where there is one.
    """
    model, state = state_of(run, finished_run(run), user, dataset, device)
    found = model.score(state, split_items(items), at=at, context=_values_of(context)).drop("user")
    show_table(found.columns, found.rows())


def split_items(text: str) -> list[str]:
    """Ids between commas; commas and blanks inside double quotes are an id's own.

    Raises:
        ValueError: a quoted id has no end, or goes on after it.

    >>> split_items('i05, "Heat, 1995"')
    ['i05', 'Heat, 1995']
    """
    try:
        return split_quoted(text)
    except ValueError as error:
        raise ValueError(f'--items {error}; expected ids between commas, such as i05,"Heat, 1995"') from None


def state_of(
    run: Path, result: Result, user: str, dataset: str | None, device: Device
) -> tuple[Recommender, State]:
    """A finished run's model, and one user's history as the model sees it.

    Raises:
        ValueError: the dataset or the user is not there, or the dataset's actions or features are not those that the
            model was trained on.
    """
    model = Recommender.from_pretrained(run / MODEL, device)
    data = _dataset_of(run, result, dataset, model)
    index = data.user_index(user)
    state = model.encode(_in_items_of(model, data, data.history(index)))
    return model, replace(state, id_U=(data.user_ids()[index],))


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
        if (data.context, data.manifest.user_features) != (columns.context, columns.user_features):
            raise ValueError(
                f"{data.folder} codes the context or the users otherwise than the data of {run}; ask from "
                "Python, where Recommender.encode reads histories and users as the model knows them"
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


def _in_items_of(model: Recommender, data: Dataset, events: EventBatch) -> EventBatch:
    """The events with the model's dense items in place of the dataset's: another dataset numbers anew."""
    item_V = np.concatenate([[UNKNOWN_ITEM], item_index(data.item_ids(), model.items)])
    return replace(events, item_E=item_V[events.item_E])


def _values_of(context: tuple[str, ...]) -> dict[str, str]:
    for text in context:
        if "=" not in text:
            raise ValueError(f"--context {text!r}: expected NAME=VALUE")
    check_unique([text.partition("=")[0] for text in context], "--context")
    return dict(text.split("=", 1) for text in context)
