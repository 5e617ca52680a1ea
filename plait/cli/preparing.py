"""Verbs about datasets."""

from pathlib import Path
from typing import Literal

from cyclopts import App

from plait.cli.showing import show_dataset, show_table
from plait.data import LeaveOneOut, SplitColumn, Temporal, sources
from plait.data import prepare as prepare_log
from plait.data.manifest import Split
from plait.schema import Action, Feature

app = App(name="data", help="Datasets: those Plait knows, and your own logs.")


@app.command(name="list")
def list_data() -> None:
    """The datasets that Plait knows by name.

    Example: plait data list
    """
    rows = [(r.name, r.what, ", ".join(a.name for a in r.actions), r.origin) for r in sources.catalogue()]
    show_table(("name", "what", "actions", "from"), rows)


@app.command
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
    show_dataset(sources.get(name, cache=cache, from_files=from_files))


@app.command
def prepare(
    log: Path,
    /,
    *,
    user: str,
    item: str,
    time: str,
    action: tuple[str, ...] = (),
    out: Path,
    request: str | None = None,
    order: str | None = None,
    time_unit: Literal["s", "ms"] = "s",
    name: str | None = None,
    note: str = "",
    min_user_events: int = 5,
    min_item_events: int = 5,
    deduplicate: bool = False,
    temporal: tuple[float, float] | None = None,
    split_column: str | None = None,
    items: Path | None = None,
    item_feature: tuple[str, ...] = (),
    users: Path | None = None,
    user_feature: tuple[str, ...] = (),
    context: tuple[str, ...] = (),
    keep_unseen_items: bool = False,
    on_bad_row: Literal["stop", "reject"] = "stop",
    overwrite: bool = False,
) -> None:
    """Prepares a log of your own: Parquet, CSV or Arrow, a file or a folder of them.

    Example: plait data prepare log.parquet --user user_id --item item_id --time timestamp
    --action rating:regression:1:5 --action liked:binary --out mine

    Features are written NAME:category, NAME:categories:SEPARATOR, NAME:number or NAME:vector:FILE.npy.

    Parameters
    ----------
    log
        The file or folder.
    user
        The column of the user's id.
    item
        The column of the item's id.
    time
        The column of the time.
    action
        NAME:binary, NAME:regression:LOW:HIGH, NAME:amount or NAME:categorical:A,B; once for each column.
    out
        The prepared folder, made whole or not at all.
    request
        The column of the exposure's id; without it, a user's events at one time are one request.
    order
        A column that breaks ties of time; without it, the order of the rows.
    time_unit
        Of a time that is a number: seconds or milliseconds.
    name
        What results call the dataset; without it, the log's name.
    note
        Kept in the protocol line of every result, for example "reconstructed".
    min_user_events
        Users with fewer events are left out.
    min_item_events
        Items with fewer events are left out; both again and again, until nothing changes.
    deduplicate
        Keep only the first of a user's events with the same item and time.
    temporal
        Shares of the events for validation and test, cut by time; without it the last event of each user
        is the test and the one before the validation.
    split_column
        Instead, a column of the log that says train, validation (valid, val, dev) or test; written
        COLUMN:TRAIN:VALIDATION:TEST where it has other values.
    items
        A file or folder with a row per item: the item column, and those of its features.
    item_feature
        A column of that table, and its kind; once for each.
    users
        Likewise, with a row per user.
    user_feature
        A column of that table; not a vector.
    context
        A column of the log that is known when an item is shown: a category or a number; once for each.
    keep_unseen_items
        Items of --items without an event are in the catalogue too, known by their features alone.
    on_bad_row
        stop at rows that break a rule, or write them to rejects.parquet and go on.
    overwrite
        Replace a prepared folder.
    """
    split = _split(temporal, split_column)
    show_dataset(
        prepare_log(
            log,
            user=user,
            item=item,
            time=time,
            actions=[Action.parse(text) for text in action],
            out=out,
            request=request,
            order=order,
            time_unit=time_unit,
            name=name,
            note=note,
            min_user_events=min_user_events,
            min_item_events=min_item_events,
            deduplicate=deduplicate,
            split=split,
            items=items,
            item_features=[Feature.parse(text) for text in item_feature],
            users=users,
            user_features=[Feature.parse(text) for text in user_feature],
            context=[Feature.parse(text) for text in context],
            keep_unseen_items=keep_unseen_items,
            on_bad_row=on_bad_row,
            overwrite=overwrite,
        )
    )


def _split(temporal: tuple[float, float] | None, column: str | None) -> Split:
    match temporal, column:
        case None, None:
            return LeaveOneOut()
        case (validation, test), None:
            return Temporal(validation=validation, test=test)
        case None, str(text):
            return SplitColumn.parse(text)
        case _:
            raise ValueError("--temporal and --split-column split the log in two ways; give one of them")
