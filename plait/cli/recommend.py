"""The verb that names the items that come next."""

from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
from cyclopts import Parameter
from jaxtyping import Bool

from plait.cli.arguments import Counting, Device, Json
from plait.cli.asked_under import parse_condition
from plait.cli.bulk import Asking, BulkLists, items_of, users_of, write_answers
from plait.cli.counted import CountingSource, asked_of
from plait.cli.id_tables import Report
from plait.cli.output import progress_console, say, show_rows
from plait.cli.parted import check_takes_table
from plait.cli.runs import finished_run, run_and_model
from plait.cli.user_state import model_and_data, state_as_logged
from plait.counting_recommender import CountingRecommender
from plait.data import Dataset
from plait.data.columns.features import texts_of
from plait.data.history import Columns, columns_read
from plait.engine.asking import needs_time
from plait.engine.state import State
from plait.layouts import audit
from plait.recommender import Recommender


def recommend(
    run: Path,
    /,
    *,
    user: str | None = None,
    users: str | None = None,
    out: Path | None = None,
    k: Annotated[int, Parameter(name="-k")] = 10,
    at: str | None = None,
    condition: str | None = None,
    filter_seen: bool | None = None,
    index: bool = False,
    allow: Path | None = None,
    deny: Path | None = None,
    titles: Path | None = None,
    title_column: str = "title",
    dataset: str | None = None,
    baseline: Counting = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The items that a user is most likely to meet next, with the actions to expect where the layout scores.

    With --users: the items alone, of many users, as a table.

    Example: plait recommend runs/lac --user 196 -k 10

    Or from a baseline, where nothing was trained: plait recommend ml-100k --baseline "sequential rules" --user 196

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`: the model that it deploys answers
        (model/). Where another lies beside it, RUN/model-actions names that.
    user
        The user's id, as the log spells it.
    users
        In place of it: a file with a row for each user, the column called as in the log, or user; or all.
    out
        Where the lists of --users go: FILE.parquet. Killed and started again, the command goes on.
    k
        How many items. One of --users who has fewer left gets those.
    at
        When they are shown: a time as the log writes it. Needed by models that know the time.
    condition
        NAME=VALUE,NAME=VALUE, under which they are asked for: needed by models whose layout shows conditions.
    filter_seen
        Leave out the items that the user has met; without it, as the run was judged (protocol.filter-seen).
    index
        Look at the candidates of the index that `plait index` built, not at every item. Of one --user.
    allow
        A file with the only items to recommend, the column called as in the log, or item.
    deny
        Likewise with items that are not.
    titles
        A file with a row per item: the log's item column, and one with titles. Without it, those that the
        dataset was prepared with.
    title_column
        What that one is called.
    dataset
        A prepared folder, or a name of `plait data list`, with the users' histories; without it, the dataset
        that the run was trained on.
    device
        What the model runs on; auto is cuda where there is one.
    """
    if baseline is not None:
        asked = asked_of(
            run, filter_seen, at=at, dataset=dataset, users=users, out=out, allow=allow, deny=deny
        )
        if user is None:
            raise ValueError("--user is missing: a baseline answers one user at a time")
        found = _counted(asked, baseline, user, k)
        found = titled(found, columns_read(asked.dataset), asked.dataset, titles, title_column)
        show_rows(found.columns, found.rows(), json=json)
        return
    if (user is None) == (users is None) or (users is None) != (out is None):
        raise ValueError(
            "give --user for one list, which is printed, or --users (a file, or all) and --out for a table of many"
        )
    if index and users is not None:
        raise ValueError("--index: it answers one --user; lists of --users are exact, leave it out")
    if out is not None:
        check_takes_table(out)
        if titles is not None:
            raise ValueError(
                f"--titles {titles}: they are shown beside the list of one --user; leave them out"
            )
    folder, model_folder = run_and_model(run)
    result, screen = finished_run(folder), progress_console()
    asking = Asking(*model_and_data(model_folder, result, dataset, device), model_folder)
    model = asking.model
    if filter_seen is None:
        filter_seen = result.settings.protocol.filter_seen
    kept_V = _kept(asking, allow, deny, lambda line: say(line, screen))
    asked_under = None if condition is None else parse_condition(condition)
    if users is not None and out is not None:
        user_N = users_of(users, asking, lambda line: say(line, screen))
        lists = BulkLists(asking, user_N, k, filter_seen, at, kept_V, asked_under)
        write_answers(lists, out, screen, json=json)
        return
    assert user is not None
    near = model.load_index(model_folder) if index else None
    state = state_as_logged(model, asking.data, np.array([asking.data.user_index(user)]))
    found = model.retrieve(
        state, k, filter_seen=filter_seen, at=at, condition=asked_under, mask=kept_V, index=near
    )
    found = titled(found.drop("user"), model.columns, asking.data, titles, title_column)
    knows_when = at is not None or not needs_time(model.model.layout, model.model.config.settings, "a")
    if audit(model.model.layout).can_score != "no" and knows_when:
        found = _with_actions(found, model, state, at)
    show_rows(found.columns, found.rows(), json=json)


def _kept(
    asking: Asking, allow: Path | None, deny: Path | None, report: Report
) -> Bool[np.ndarray, " V"] | None:
    """Whether each of the model's items may be recommended; None: all."""
    if allow is None and deny is None:
        return None
    allowed, denied = (
        None if path is None else items_of(path, asking, report).to_list() for path in (allow, deny)
    )
    return asking.model.mask(allowed, denied)


def _counted(asked: CountingSource, baseline: str, user: str, k: int) -> pl.DataFrame:
    """What a way of counting recommends."""
    protocol = asked.protocol
    counts = CountingRecommender.fit(
        asked.dataset, baseline, protocol=protocol, same_request=asked.same_request
    )
    history = counts.encode(asked.history(user))
    return counts.retrieve(history, k, filter_seen=protocol.filter_seen).drop("user")


def titled(
    found: pl.DataFrame, columns: Columns, data: Dataset | None, table: Path | None, column: str
) -> pl.DataFrame:
    """Titles behind the items, null where there is none: the table's, else those that the data were prepared with; no
    such column where there are neither."""
    if table is not None:
        titles = texts_of(table, columns.item, column, found["item"], columns.text)
    elif data is not None and (known := data.item_titles()) is not None:
        item_N = data.item_index(found["item"])  # UNKNOWN_ITEM, which is 0, where the data lack an item
        titles = pl.concat([pl.Series([None], dtype=pl.String), known.alias("")]).gather(item_N)
    else:
        return found
    return found.insert_column(1, titles.rename("title"))


def _with_actions(found: pl.DataFrame, model: Recommender, state: State, at: str | None) -> pl.DataFrame:
    """What the user is expected to do with each; an action whose name is taken is called `expected NAME`."""
    expected = model.score(state, found["item"].to_list(), at=at).drop("user", "item")
    taken = {name: f"expected {name}" for name in expected.columns if name in found.columns}
    return found.hstack(expected.rename(taken))
