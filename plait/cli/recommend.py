"""The verb that names the items that come next."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plait.cli.arguments import Device
from plait.cli.output import show_table
from plait.cli.runs import finished_run, run_and_model
from plait.cli.user_state import state_of


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
        The folder of `plait train`, or a folder in runs/ of `plait compare`: the model that it deploys answers
        (model/). Where another lies beside it, RUN/model-actions names that.
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
    folder, model_folder = run_and_model(run)
    result = finished_run(folder)
    model, state = state_of(model_folder, result, user, dataset, device)
    if filter_seen is None:
        filter_seen = result.settings.protocol.filter_seen
    found = model.retrieve(state, k, filter_seen=filter_seen, at=at).drop("user")
    show_table(found.columns, found.rows())
