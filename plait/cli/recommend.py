"""The verb that names the items that come next."""

from pathlib import Path
from typing import Annotated

import polars as pl
from cyclopts import Parameter

from plait.cli.arguments import Counting, Device, Json
from plait.cli.counted import Asked, asked_of
from plait.cli.output import show_rows
from plait.cli.runs import finished_run, run_and_model
from plait.cli.user_state import state_of
from plait.counting_recommender import CountingRecommender
from plait.data.columns.features import texts_of
from plait.data.history import Columns, columns_read
from plait.engine.plain import needs_time
from plait.engine.state import State
from plait.layouts import audit
from plait.recommender import Recommender


def recommend(
    run: Path,
    /,
    *,
    user: str,
    k: Annotated[int, Parameter(name="-k")] = 10,
    at: str | None = None,
    filter_seen: bool | None = None,
    titles: Path | None = None,
    title_column: str = "title",
    dataset: str | None = None,
    baseline: Counting = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The items that a user is most likely to meet next, with the actions to expect where the layout scores.

    Example: plait recommend runs/lac --user 196 -k 10

    Or from a baseline, where nothing was trained: plait recommend ml-100k --baseline "sequential rules" --user 196

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
    titles
        A file with a row per item: the log's item column, and one with titles.
    title_column
        What that one is called.
    dataset
        A prepared folder, or a name of `plait data list`, with the user's history; without it, the dataset
        that the run was trained on.
    device
        What the model runs on; auto is cuda where there is one.
    """
    if baseline is not None:
        asked = asked_of(run, filter_seen, at=at, dataset=dataset)
        found = _counted(asked, baseline, user, k)
        if titles is not None:
            found = _with_titles(found, columns_read(asked.dataset), titles, title_column)
        show_rows(found.columns, found.rows(), json=json)
        return
    folder, model_folder = run_and_model(run)
    result = finished_run(folder)
    model, state = state_of(model_folder, result, user, dataset, device)
    if filter_seen is None:
        filter_seen = result.settings.protocol.filter_seen
    found = model.retrieve(state, k, filter_seen=filter_seen, at=at).drop("user")
    if titles is not None:
        found = _with_titles(found, model.columns, titles, title_column)
    knows_when = at is not None or not needs_time(model.model.layout, model.model.config.settings, "a")
    if audit(model.model.layout).can_score != "no" and knows_when:
        found = _with_actions(found, model, state, at)
    show_rows(found.columns, found.rows(), json=json)


def _counted(asked: Asked, baseline: str, user: str, k: int) -> pl.DataFrame:
    """What a way of counting recommends."""
    protocol = asked.protocol
    counts = CountingRecommender.fit(
        asked.dataset, baseline, protocol=protocol, same_request=asked.same_request
    )
    history = counts.encode(asked.history(user))
    return counts.retrieve(history, k, filter_seen=protocol.filter_seen).drop("user")


def _with_titles(found: pl.DataFrame, columns: Columns, table: Path, column: str) -> pl.DataFrame:
    """The table's titles behind the items; null where it has none."""
    titles = texts_of(table, columns.item, column, found["item"], columns.text)
    return found.insert_column(1, titles.rename("title"))


def _with_actions(found: pl.DataFrame, model: Recommender, state: State, at: str | None) -> pl.DataFrame:
    """What the user is expected to do with each; an action whose name is taken is called `expected NAME`."""
    expected = model.score(state, found["item"].to_list(), at=at).drop("user", "item")
    taken = {name: f"expected {name}" for name in expected.columns if name in found.columns}
    return found.hstack(expected.rename(taken))
