"""`plait.prepare`: a log in, a prepared folder out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from plait.data.columns import features
from plait.data.columns.features import DescribedTable, Features
from plait.data.columns.keyed import declared_keyed, vector_tables
from plait.data.columns.missing import Missing, check_missing, with_missing
from plait.data.columns.times import TimeUnit
from plait.data.dataset import Dataset
from plait.data.forks import check_can_work
from plait.data.logs.tables import LogTable, described_reading, fingerprint, open_tables
from plait.data.logs.text import TextFormat
from plait.data.manifest import LeaveOneOut, Settings, Split, check_types, declared
from plait.data.preparation.checks import check_settings, columns_that_may_lack
from plait.data.preparation.events import events_of
from plait.data.preparation.ingestion import ingest, log_columns
from plait.data.preparation.prepared_folder import Origin, prepared_alone, write_prepared
from plait.data.storage.caches import cached_folder, file_stamps, made_once
from plait.data.storage.whole_folders import whole_folder
from plait.schema import Action, ActionKind, Feature, Keyed, Vector


def prepare(
    source: Any,
    *,
    user: str,
    item: str,
    time: str | None,
    actions: Mapping[str, ActionKind] | Sequence[Action],
    out: Path | str | None = None,
    request: str | None = None,
    order: str | None = None,
    time_unit: TimeUnit = "s",
    time_format: str | None = None,
    time_offset: str | None = None,
    name: str | None = None,
    note: str = "",
    min_user_events: int = 5,
    min_item_events: int = 5,
    deduplicate: bool = False,
    split: Split = LeaveOneOut(),
    on_bad_row: Literal["stop", "reject"] = "stop",
    overwrite: bool = False,
    items: Any = None,
    item_features: Features = (),
    users: Any = None,
    user_features: Features = (),
    context: Features = (),
    conditions: Features = (),
    condition_vectors: Mapping[str, Any] = MappingProxyType({}),
    item_conditions: Sequence[str] = (),
    item_statistics: Sequence[str] = (),
    keep_unseen_items: bool = False,
    missing: Missing = MappingProxyType({}),
    negative_ids: Literal["keep", "refuse"] | None = None,
    text: TextFormat = TextFormat(),
    item_title: str | None = None,
) -> Dataset:
    """Prepares a log for training and evaluation.

    Args:
        source: a file of delimited text, JSON, Parquet or Arrow, compressed or not; a folder of them; or a polars,
            pandas or pyarrow frame. A column of lists makes an event of each part, and `views.aid` names a field
            within one.
        user, item, time: names of columns. Ids are their spelling: whole numbers where every value in the log and the
            feature tables is spelt as its number is, else text. Times are numbers in `time_unit`, datetimes or ISO
            8601 text, in UTC where they name no zone. `time=None`: the log has none, and its rows are in order.
        actions: the action columns and their kinds. Null, NaN and empty are missing values and stay so.
        out: the prepared folder, made whole or not at all. Without it, a folder in `$PLAIT_DATA` (by default the
            user's cache), which is used again as long as neither the source nor the settings change.
        request: the column of the exposure's id; without it, a user's events with one time are one request.
            A request's events are neighbours: an id that comes back after another one opens a new request.
        order: the column that breaks ties of time within a user; without it, the order of the rows.
        time_unit: what times count that are numbers: s, ms, us, ns.
        time_format: how times are written that are text and not ISO 8601, in the codes of strftime.
        time_offset: the column that says how far the times, which name no zone, are ahead of UTC: +0200, +02:00, UTC,
            or a number of hours up to 14, or of minutes.
        min_user_events, min_item_events: k-core, repeated until nothing changes; from 1. Users with one event
            always go.
        deduplicate: drops all but the first of a user's events with the same item and time.
        on_bad_row: what happens to rows with missing or impossible values: "stop" raises; "reject" writes
            them to `rejects.parquet` in `out` and goes on.
        overwrite: replaces a prepared folder.
        items: a table with a row per item, in any of the forms of `source`: the column `item`, and those of
            `item_features`. Items that it lacks have all features missing.
        users: likewise with the column `user` and those of `user_features`, which cannot be vectors.
        context: columns of the log that are known when an item is shown, before any action: categories and
            numbers.
        conditions: columns of the log that are known before the item, and that a model may be asked under: a scenario,
            a query. Categories and numbers; and a text whose frozen embedding stands in a Parquet file, by key:
            {"query": plait.Vector("queries.parquet")}. An action cannot be one: it is known only after its item.
        condition_vectors: by condition that is such a vector without a file, the table in its place: a Parquet file or
            a frame, with a column of keys and one of lists of numbers.
        item_conditions: names of `item_features` to ask under: what someone would see of a genre. Asked, never given:
            an item's own value tells which item it is, so metrics under it say *condition known*.
        item_statistics: features of items that are counted on training rows, before the cut: "count", the number of an
            item's events, and "rate:ACTION", how often a binary action happens on it, damped.
        split: what is held out: each user's last two events, what lies behind two times, or what a column of the log
            says (`LeaveOneOut`, `Temporal`, `SplitColumn`).
        keep_unseen_items: items of `items` without an event left are in the catalogue too, untrained.
        missing: values that stand for none, by the column of an action, a feature, the context or a condition:
            {"rating": [0]}.
        negative_ids: what negative numbers are: ids like others ("keep") or words for nobody ("refuse"). By default
            they are kept where one lies below -2^31, or where they are at least ten and a tenth of the different ids.
        text: how text files are read, of the log and of both tables; what it leaves open is found and recorded.
        item_title: the column of `items` with what people call an item; recommendations show it. It is no feature, and
            no model reads it.

    Returns:
        The dataset, opened. `manifest.counts` says where every row went.

    Raises:
        ValueError: an argument or a column is of the wrong type, columns are missing, rows break a rule, nothing is
            left, `out` is taken, or another process prepares there just now.
        OSError: `out` cannot be written.
    """
    check_can_work()
    check_missing(missing, columns_that_may_lack(actions, item_features, user_features, context, conditions))
    settings = Settings(
        user=user,
        item=item,
        time=time,
        actions=with_missing(declared(actions, Action), missing),
        request=request,
        order=order,
        time_unit=time_unit,
        min_user_events=min_user_events,
        min_item_events=min_item_events,
        deduplicate=deduplicate,
        split=split,
        on_bad_row=on_bad_row,
        item_features=with_missing(declared(item_features, Feature), missing),
        user_features=with_missing(declared(user_features, Feature), missing),
        context=with_missing(declared(context, Feature), missing),
        conditions=declared_keyed(with_missing(declared(conditions, Feature), missing), condition_vectors),
        item_conditions=tuple(item_conditions),
        item_statistics=tuple(item_statistics),
        keep_unseen_items=keep_unseen_items,
        time_format=time_format,
        time_offset=time_offset,
        negative_ids=negative_ids,
        text=text,
        item_title=item_title,
    )
    if name is None:
        name = _name_of(source, out)
    check_types({**msgspec.structs.asdict(settings), "name": name, "note": note})
    check_settings(settings)

    def make(folder: Path) -> Dataset:
        with prepared_alone(folder, overwrite) as alone:
            tables = open_tables(source, text, text.columns, log_columns(settings), item)
            about = features.describe_all(items, users, settings)
            vectors = vector_tables(settings.conditions, condition_vectors)
            log = ingest(tables, settings, {of: table.held for of, table in about.items()})
            events = events_of(log, settings, about, vectors)
            origin = _origin(name, note, tables, about, settings)
            known: dict[str, str] = {}
            with whole_folder(folder, known) as aside:
                alone()
                manifest = write_prepared(aside, events, origin, known)
            return Dataset(folder, manifest)  # not read again: what it was to hold is known, and whole

    if out is not None:
        return make(Path(out))
    kept = cached_folder(
        None,
        name,
        settings,
        name,
        note,
        _fingerprints(settings, source, items, users, *condition_vectors.values()),
    )
    return make(kept) if overwrite else made_once(kept, lambda: make(kept))


def _name_of(source: Any, out: Path | str | None) -> str:
    if isinstance(source, str | Path):
        return Path(source).name.split(".")[0]
    return "log" if out is None else Path(out).name


def _origin(
    name: str, note: str, tables: Sequence[LogTable], about: Mapping[str, DescribedTable], settings: Settings
) -> Origin:
    inputs = [Path(table.name).name for table in tables]
    read_as = list(described_reading(tables))
    for described in about.values():
        inputs += described.inputs
        read_as += described.read_as
    return Origin(name=name, note=note, inputs=tuple(inputs), read_as=tuple(read_as), settings=settings)


def _fingerprints(settings: Settings, *sources: Any) -> list[tuple[object, ...]]:
    """Of all that is read: the tables, and the files of vectors."""
    kinds = [feature.kind for feature in settings.item_features]
    kinds += [feature.kind for feature in settings.conditions]
    vectors = [Path(kind.file) for kind in kinds if isinstance(kind, Vector | Keyed) and kind.file]
    given = [fingerprint(source) for source in sources if source is not None]
    return [*given, *(stamp for file in vectors for stamp in file_stamps(file))]
