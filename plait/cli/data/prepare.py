"""The verb that prepares a log of one's own."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from plait.cli.asked_under import tables_by_name
from plait.cli.datasets import show_dataset
from plait.data import Explode, LeaveOneOut, SplitColumn, Temporal, TextFormat
from plait.data import prepare as prepare_log
from plait.data.columns.missing import parse_missing
from plait.data.columns.times import TimeUnit
from plait.data.logs.text import Quoting
from plait.data.manifest import Split
from plait.schema import Action, Feature

ROWS, TIMES, SPLIT, FEATURES, TEXT = (
    Parameter(group=Group(name, sort_key=place))
    for place, name in enumerate(("Rows", "Times and requests", "Split", "Features", "Text files"))
)


def prepare(
    log: Path,
    /,
    *,
    user: str,
    item: str,
    time: str | None = None,
    no_time: Annotated[bool, Parameter(negative="")] = False,
    action: tuple[str, ...] = (),
    out: Path,
    request: Annotated[str | None, TIMES] = None,
    order: Annotated[str | None, TIMES] = None,
    time_unit: Annotated[TimeUnit, TIMES] = "s",
    time_format: Annotated[str | None, TIMES] = None,
    time_offset: Annotated[str | None, TIMES] = None,
    name: str | None = None,
    note: str = "",
    min_user_events: Annotated[int, ROWS] = 5,
    min_item_events: Annotated[int, ROWS] = 5,
    deduplicate: Annotated[bool, ROWS] = False,
    temporal: Annotated[tuple[float, float] | None, SPLIT] = None,
    split_column: Annotated[str | None, SPLIT] = None,
    items: Annotated[Path | None, FEATURES] = None,
    item_feature: Annotated[tuple[str, ...], FEATURES] = (),
    item_title: Annotated[str | None, FEATURES] = None,
    item_statistics: Annotated[str, FEATURES] = "",
    users: Annotated[Path | None, FEATURES] = None,
    user_feature: Annotated[tuple[str, ...], FEATURES] = (),
    context: Annotated[tuple[str, ...], FEATURES] = (),
    condition: Annotated[tuple[str, ...], FEATURES] = (),
    condition_vectors: Annotated[tuple[str, ...], FEATURES] = (),
    keep_unseen_items: Annotated[bool, FEATURES] = False,
    missing: Annotated[tuple[str, ...], ROWS] = (),
    negative_ids: Annotated[Literal["keep", "refuse"] | None, ROWS] = None,
    on_bad_row: Annotated[Literal["stop", "reject"], ROWS] = "stop",
    overwrite: bool = False,
    separator: Annotated[str | None, TEXT] = None,
    quoting: Annotated[Quoting | None, TEXT] = None,
    encoding: Annotated[str | None, TEXT] = None,
    columns: Annotated[str, TEXT] = "",
    item_columns: Annotated[str, TEXT] = "",
    user_columns: Annotated[str, TEXT] = "",
    decimal_comma: Annotated[bool, TEXT] = False,
    explode: Annotated[tuple[str, ...], TEXT] = (),
) -> None:
    """Prepares a log of your own: text, JSON, Parquet or Arrow, compressed or not, a file or a folder of them.

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
    no_time
        The log has no times; the events of a user are in the order of the rows.
    action
        NAME:binary, NAME:regression:LOW:HIGH, NAME:amount, NAME:categorical:A,B or NAME:ordinal:A,B (from the lowest to
        the highest); once for each column. A value that holds a comma, or a blank at an end, stands in double quotes.
    out
        The prepared folder, made whole or not at all.
    request
        The column of the exposure's id; without it, a user's events at one time are one request.
    order
        A column that breaks ties of time; without it, the order of the rows.
    time_unit
        What a time that is a number counts: seconds, milliseconds, microseconds or nanoseconds.
    time_format
        How a time is written that is text and not ISO 8601, in the codes of strftime: "%d.%m.%Y %H:%M".
    time_offset
        The column that says how far times that name no zone are ahead of UTC: +0200, or hours, or minutes.
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
        Shares of the events for validation and test, cut by time. Without it, each user's last event is the test, and
        the one before it the validation.
    split_column
        Instead, a column of the log that says train, validation (valid, val, dev) or test. Where it has other values,
        write COLUMN:TRAIN:VALIDATION:TEST.
    items
        A file or folder with a row per item: the item column, and those of its features.
    item_feature
        A column of that table, and its kind; once for each.
    item_title
        A column of that table with what people call an item; recommendations show it, and no model reads it.
    item_statistics
        Features of items that are counted on training rows, before the cut, with commas between them. count: an item's
        events. rate:ACTION: how often a binary action happens on it, damped.
    users
        Likewise, a file or folder with a row per user.
    user_feature
        A column of that table; not a vector.
    context
        A column of the log that is known when an item is shown: a category or a number; once for each.
    condition
        What is known before the item, and asked under; once for each. Of the moment it is a column of the log:
        NAME:category or NAME:number, or a text whose frozen embedding stands beside it in a Parquet file:
        query:vector:queries.parquet. Of the item it is a feature: NAME:item, asked and never given. No action
        is one.
    condition_vectors
        NAME=FILE.parquet, the file of a condition NAME:vector; once for each.
    keep_unseen_items
        Items of --items without an event are in the catalogue too, known by their features alone.
    missing
        COLUMN=VALUE, a value that stands for none in an action, a feature, the context or a condition; once for each.
    negative_ids
        keep or refuse ids that are negative numbers; without it, they are kept where they look like hashes.
    on_bad_row
        stop at rows that break a rule, or write them to rejects.parquet and go on.
    overwrite
        Replace a prepared folder.
    separator
        What stands between the fields of text files. Without it, their first lines decide: , ; tab | or ::, and it is
        said which.
    quoting
        rfc4180: a field that begins with " ends with the next single one. none: a " is a character like others. Without
        it, none for tabs and for separators of several characters, rfc4180 for all others.
    encoding
        How text files are encoded, such as latin-1. Without it, UTF-8, or what a byte order mark says.
    columns
        A,B,C: names for the log's columns, where its text files have no header line.
    item_columns
        Likewise for the files of --items.
    user_columns
        Likewise for the files of --users.
    decimal_comma
        The decimal sign is a comma: 3,5 is 3.5.
    explode
        COLUMN:SEPARATOR, a column of text that holds several events a row; once for each. Where each event is cut once
        more, COLUMN:SEPARATOR:WITHIN:NAME,NAME, such as "impressions: :-:item,clicked".
    """
    if (time is None) != no_time:
        raise ValueError(
            "name the column of the time (--time), or say that there is none and that the rows are in order (--no-time)"
            if time is None
            else f"--time {time} and --no-time: give one of them"
        )
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
            time_format=time_format,
            time_offset=time_offset,
            name=name,
            note=note,
            min_user_events=min_user_events,
            min_item_events=min_item_events,
            deduplicate=deduplicate,
            split=split,
            items=items,
            item_features=[Feature.parse(text) for text in item_feature],
            item_title=item_title,
            users=users,
            user_features=[Feature.parse(text) for text in user_feature],
            context=[Feature.parse(text) for text in context],
            conditions=[Feature.parse(text) for text in condition if not _names_item(text)],
            condition_vectors=tables_by_name(condition_vectors),
            item_statistics=_names(item_statistics),
            item_conditions=[text.partition(":")[0] for text in condition if _names_item(text)],
            keep_unseen_items=keep_unseen_items,
            missing=parse_missing(missing),
            negative_ids=negative_ids,
            on_bad_row=on_bad_row,
            overwrite=overwrite,
            text=TextFormat(
                separator=separator,
                quoting=quoting,
                encoding=encoding,
                columns=_names(columns),
                item_columns=_names(item_columns),
                user_columns=_names(user_columns),
                decimal_comma=decimal_comma,
                explode=tuple(map(Explode.parse, explode)),
            ),
        )
    )


def _names_item(condition: str) -> bool:
    """Whether it is a condition of the item, written NAME:item.

    >>> _names_item("genre:item"), _names_item("scenario:category")
    (True, False)
    """
    return condition.partition(":")[2] == "item"


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


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
