"""`plait.prepare`: a log in, a prepared folder out.

Shape letters: N rows sorted by (user, time), E events kept, U users, V items, A actions.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl

from plait.data.columns import features
from plait.data.columns.actions import known_values, read_as
from plait.data.columns.features import DescribedTable, Features
from plait.data.columns.missing import Missing, check_missing, with_missing
from plait.data.columns.times import MICROSECONDS_PER_S, TimeUnit, check_format
from plait.data.dataset import Dataset
from plait.data.facts import date, facts_of
from plait.data.forks import check_can_work
from plait.data.logs.tables import described_reading, fingerprint, open_tables
from plait.data.logs.text import TextFormat
from plait.data.manifest import (
    FORMAT_VERSION,
    Counts,
    Facts,
    LeaveOneOut,
    Manifest,
    Settings,
    Split,
    Temporal,
    check_types,
    declared,
    left_out,
)
from plait.data.preparation import sequences
from plait.data.preparation.coding import coarsest_unit, gathered, order_events
from plait.data.preparation.ingestion import LogRows, ingest, log_columns
from plait.data.storage.caches import cached_folder, file_stamps, made_once
from plait.data.storage.locks import kept_alone
from plait.data.storage.whole_folders import (
    LEFT_OUT,
    MANIFEST,
    REJECTS,
    check_free,
    content_hash,
    parquet_bytes,
    whole_folder,
    write_arrays,
    write_bytes,
    write_table,
)
from plait.data.vocabulary import Vocabulary
from plait.schema import Action, ActionKind, Feature, Vector
from plait.wording import setting


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
    keep_unseen_items: bool = False,
    missing: Missing = MappingProxyType({}),
    negative_ids: Literal["keep", "refuse"] | None = None,
    text: TextFormat = TextFormat(),
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
        split: what is held out: each user's last two events, what lies behind two times, or what a column of the log
            says (`LeaveOneOut`, `Temporal`, `SplitColumn`).
        keep_unseen_items: items of `items` without an event left are in the catalogue too, untrained.
        missing: values that stand for none, by the column of an action, a feature or the context: {"rating": [0]}.
        negative_ids: what negative numbers are: ids like others ("keep") or words for nobody ("refuse"). By default
            they are kept where one lies below -2^31, or where they are at least ten and a tenth of the different ids.
        text: how text files are read, of the log and of both tables; what it leaves open is found and recorded.

    Returns:
        The dataset, opened. `manifest.counts` says where every row went.

    Raises:
        ValueError: an argument or a column is of the wrong type, columns are missing, rows break a rule, nothing is
            left, `out` is taken, or another process prepares there just now.
        OSError: `out` cannot be written.
    """
    check_can_work()
    check_missing(missing, _columns_that_may_lack(actions, item_features, user_features, context))
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
        keep_unseen_items=keep_unseen_items,
        time_format=time_format,
        time_offset=time_offset,
        negative_ids=negative_ids,
        text=text,
    )
    if name is None:
        name = _name_of(source, out)
    check_types({**msgspec.structs.asdict(settings), "name": name, "note": note})
    features.check_context(settings.context)
    _check_columns_differ(settings)
    _check_times(settings)

    def make(folder: Path) -> Dataset:
        with prepared_alone(folder, overwrite) as alone:
            tables = open_tables(source, text, text.columns, log_columns(settings), item)
            about = features.describe_all(items, users, settings)
            rows = ingest(tables, settings, {of: table.held for of, table in about.items()})
            events = _arrange(rows, settings, about)
            inputs = tuple(Path(table.name).name for table in tables)
            inputs += tuple(name for table in about.values() for name in table.inputs)
            read_as = described_reading(tables)
            read_as += tuple(line for table in about.values() for line in table.read_as)
            known: dict[str, str] = {}
            with whole_folder(folder, known) as aside:
                alone()
                manifest = _write(aside, events, settings, name, note, inputs, read_as, known)
            return Dataset(folder, manifest)  # not read again: what it was to hold is known, and whole

    if out is not None:
        return make(Path(out))
    kept = cached_folder(None, name, settings, name, note, _fingerprints(settings, source, items, users))
    return make(kept) if overwrite else made_once(kept, lambda: make(kept))


@contextmanager
def prepared_alone(out: Path, overwrite: bool) -> Iterator[Callable[[], None]]:
    """Holds a free folder for one preparation. What is given is to be called once the folder's parent is there.

    Raises:
        ValueError: another process prepares there, or something is at `out` already.
    """
    busy = f"{out}: another process prepares there just now; let it end, or choose another folder"
    with kept_alone(out.absolute().parent / f".{out.name}.lock", busy) as hold:

        def alone() -> None:
            hold()
            check_free(out, overwrite)  # once more: another process may have been there meanwhile

        check_free(out, overwrite)
        yield alone


def _name_of(source: Any, out: Path | str | None) -> str:
    if isinstance(source, str | Path):
        return Path(source).name.split(".")[0]
    return "log" if out is None else Path(out).name


def _fingerprints(settings: Settings, *sources: Any) -> list[tuple[object, ...]]:
    """Of all that is read: the tables, and the files of vectors."""
    kinds = [feature.kind for feature in settings.item_features]
    vectors = [Path(kind.file) for kind in kinds if isinstance(kind, Vector) and kind.file]
    given = [fingerprint(source) for source in sources if source is not None]
    return [*given, *(stamp for file in vectors for stamp in file_stamps(file))]


def _check_columns_differ(settings: Settings) -> None:
    """Raises ValueError where one column is given for two things."""
    whats = ("user", "item", "time", "time_offset", "request", "order")
    columns = [(what, getattr(settings, what)) for what in whats]
    columns += [("split_column", settings.split_column)]
    columns += [("action", action.name) for action in settings.actions]
    columns += [("context", feature.name) for feature in settings.context]
    what_of: dict[str, str] = {}
    for what, column in columns:
        if column is not None and column in what_of:
            raise ValueError(
                f"column {column!r} is given more than once, as {setting(what_of[column])} and as {setting(what)}; "
                "each needs a column of its own: name the right one, or leave one out"
            )
        if column is not None:
            what_of[column] = what


def _check_times(settings: Settings) -> None:
    """Raises ValueError where settings about times do not go together."""
    if settings.time_format is not None:
        check_format(settings.time_format)
    given = {
        "time_format": settings.time_format is not None,
        "time_offset": settings.time_offset is not None,
        "time_unit": settings.time_unit != "s",
    }
    if settings.time is None:
        given |= {
            "order": settings.order is not None,
            "deduplicate": settings.deduplicate,
            "temporal": isinstance(settings.split, Temporal),
        }
        name = next((name for name, is_given in given.items() if is_given), None)
        if name is not None:
            raise ValueError(
                f"{setting('time', None)}, so the rows are in order, and {setting(name)} is about "
                "times; leave it out, or name the column of the time"
            )
    elif given["time_unit"] and (given["time_format"] or given["time_offset"]):
        name = "time_format" if given["time_format"] else "time_offset"
        raise ValueError(
            f"{setting('time_unit')} is of times that are numbers, and {setting(name)} of dates; leave one out"
        )


def _columns_that_may_lack(*declarations: Any) -> list[str]:
    """The names of actions and features, of whatever was given as such."""
    given = [one for some in declarations for one in declared(some, Action)]
    return [str(getattr(one, "name", one)) for one in given]


def settings_hash(settings: Settings) -> str:
    return hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()


@dataclass(frozen=True)
class Ties:
    """Events that others resemble."""

    repeats: int  # have the item and time of an earlier one of their user
    tied_in_order: int  # share all that orders them with a neighbour


@dataclass(frozen=True)
class Events:
    """All that a prepared folder holds."""

    arrays: dict[str, np.ndarray]  # by file name without its suffix
    tables: dict[str, pl.DataFrame]
    rejects: pl.DataFrame | None
    left_out: pl.DataFrame  # users
    actions: tuple[Action, ...]  # fitted
    split: Split  # resolved
    counts: Counts
    ties: Ties
    tied_share: float
    features: dict[str, tuple[Feature, ...]]  # fitted, by the manifest's field
    described: dict[str, str]  # "item" and "user" -> the name of their feature table

    def facts(self) -> Facts:
        return Facts(
            **facts_of(self.arrays, self.actions, self.tables),
            repeats=self.ties.repeats,
            tied_in_order=self.ties.tied_in_order,
            tables=self.described,
            users_left_out=len(self.left_out),
        )


@dataclass(frozen=True)
class Sorted:
    """Rows by (user, time, order); `row_N` is where the log had them."""

    user_N: np.ndarray
    item_N: np.ndarray
    tick_N: np.ndarray  # in `ticks_per_s`
    row_N: np.ndarray
    ticks_per_s: int

    def where(self, keep_N: np.ndarray) -> "Sorted":
        if keep_N.all():
            return self
        return Sorted(
            self.user_N[keep_N],
            self.item_N[keep_N],
            self.tick_N[keep_N],
            self.row_N[keep_N],
            self.ticks_per_s,
        )


def _arrange(rows: LogRows, settings: Settings, about: Mapping[str, DescribedTable]) -> Events:
    """Sorts, filters, numbers and splits the rows."""
    rows_U = np.bincount(rows.columns["user"], minlength=len(rows.user_id))
    kept, core, removed = _filter(_sort(rows, rows_U), settings)
    _check_some_left(kept, rows, removed, settings)
    user_E, user_id = _compact(kept.user_N, core.user_rows_U > 0, rows.user_id)
    lost = _left_out_users(rows_U, core, rows.user_id)
    item_E, item_id = _compact(kept.item_N, core.item_rows_V > 0, rows.item_id)
    item_E += 1  # 0 stands for items that the table lacks
    start_U1 = sequences.user_starts(core.user_rows_U[core.user_rows_U > 0])
    ties = _ties(user_E, kept, rows)
    request_E, tied_share, removed["split_requests"] = _requests(user_E, start_U1, kept, rows)
    time_s_E = kept.tick_N if kept.ticks_per_s == 1 else kept.tick_N // kept.ticks_per_s
    row_E = kept.row_N
    del kept, user_E
    part_E = rows.columns.pop("part")[row_E] if "part" in rows.columns else None
    split = sequences.resolve_split(settings.split, time_s_E)
    if part_E is not None:
        _check_parts(split, part_E, start_U1, (time_s_E, row_E), user_id)
    validation_U, test_U = sequences.segments(split, start_U1, time_s_E, part_E)
    train_E = sequences.training_rows(start_U1, validation_U)
    if not train_E.any():
        raise ValueError(f"{split} leaves no event to train on: every user has fewer than three")
    arrays = {"start": start_U1, "validation": validation_U, "test": test_U, "item": item_E}
    arrays |= {"time_s": time_s_E, "request": request_E, "action": _gather_actions(rows, row_E, settings)}
    unseen = (
        features.unseen_ids(about["item"], Vocabulary.of_items(item_id))
        if settings.keep_unseen_items
        else item_id.head(0)
    )
    tables = _tables(user_id, item_id, unseen, core.item_rows_V, item_E[~train_E])
    trained_U = np.add.reduceat(train_E, start_U1[:-1], dtype=np.int64) > 0
    known = features.fit_tables(about, tables, trained_U)
    context, code_EC = features.gather_context(
        settings.context, rows.columns, rows.context_label, row_E, train_E
    )
    arrays |= known.arrays | ({"context": code_EC} if context else {})
    actions = _fit(settings.actions, arrays["action"], train_E)
    return Events(
        arrays=arrays,
        tables=tables,
        rejects=rows.rejects,
        left_out=lost,
        actions=actions,
        split=split,
        counts=Counts(
            rows_read=rows.num_read,
            rejected=rows.rejected,
            users=len(user_id),
            items=len(item_id) + len(unseen),
            events=len(item_E),
            train_events=int(train_E.sum()),
            unseen_items=len(unseen),
            missing=_count_missing(settings.actions, arrays["action"]),
            **removed,
            **known.lacking,
            **sequences.count_queries(start_U1, validation_U, test_U),
        ),
        ties=ties,
        tied_share=tied_share,
        features=known.fitted | {"context": context},
        described={what: ", ".join(described.tables) for what, described in about.items()},
    )


def _check_some_left(kept: Sorted, rows: LogRows, removed: Mapping[str, int], settings: Settings) -> None:
    """Raises ValueError where the filters leave nothing."""
    if len(kept.row_N) == 0:
        gone = (removed[key] for key in ("duplicates_removed", "single_event_rows", "core_rows"))
        raise ValueError(
            f"no events left of {rows.num_read} rows; left out: {left_out(settings, rows.rejected, *gone)}. Lower "
            f"{setting('min_user_events')} and {setting('min_item_events')}, or give a longer log"
        )


def _left_out_users(rows_U: np.ndarray, core: sequences.Core, user_id: pl.Series) -> pl.DataFrame:
    """Users whose events the filters removed, with how many rows they had."""
    kept_U = np.zeros(len(user_id), dtype=bool)
    kept_U[: len(core.user_rows_U)] = core.user_rows_U > 0
    return pl.DataFrame({"user_id": user_id, "rows": rows_U}).filter(~pl.Series(kept_U))


def _check_parts(
    split: Split,
    part_E: np.ndarray,
    start_U1: np.ndarray,
    place: tuple[np.ndarray, np.ndarray],
    user_id: pl.Series,
) -> None:
    """Raises ValueError where a part of a split by column is empty, or comes too late in its user."""
    names = ("train", "validation", "test")
    empty = [name for part, name in enumerate(names) if not (part_E == part).any()]
    if empty:
        raise ValueError(
            f"{split}: no event that is left is for {' or '.join(empty)}; name the values that are, or lower "
            f"{setting('min_user_events')} and {setting('min_item_events')}"
        )
    event = sequences.first_out_of_order(part_E, start_U1)
    if event is not None:
        time_s_E, row_E = place
        user = user_id[int(np.searchsorted(start_U1, event, side="right")) - 1]
        now, before = names[part_E[event]], names[part_E[event - 1]]
        raise ValueError(
            f"{split}: row {row_E[event] + 1} of the rows that keep the rules, of user {user!r} at "
            f"{date(time_s_E[event])}, is for {now}, and one of this user before it for {before}; of every user, "
            "training must come before validation and validation before test. Correct the column, or split by time"
        )


def _ties(user_E: np.ndarray, kept: Sorted, rows: LogRows) -> Ties:
    repeats = int(sequences.duplicate_rows(user_E, kept.tick_N, kept.item_N).sum())
    tie = [user_E, kept.tick_N]
    if "order" in rows.columns:
        tie.append(rows.columns.pop("order")[kept.row_N])
    return Ties(repeats, int(sequences.tied_rows(sequences.repeats_previous(*tie)).sum()))


def _sort(rows: LogRows, rows_U: np.ndarray) -> Sorted:
    tick_N = rows.columns.pop("time")
    unit = coarsest_unit(tick_N, (MICROSECONDS_PER_S, 1_000))  # short keys sort faster
    tick_N = tick_N // unit
    user_N = rows.columns.pop("user")
    # Of events at one time, those of training first where a column splits and none orders.
    row_N = order_events(user_N, tick_N, rows.columns.get("order", rows.columns.get("part")))
    item_N, tick_N = gathered((rows.columns.pop("item"), tick_N), row_N)
    user_N = np.repeat(np.arange(len(rows_U), dtype=np.int32), rows_U)  # sorted, that is
    return Sorted(user_N, item_N, tick_N, row_N, MICROSECONDS_PER_S // unit)


def _filter(rows: Sorted, settings: Settings) -> tuple[Sorted, sequences.Core, dict[str, int]]:
    """Removes duplicates if asked, users with one event, and what the k-core does not hold."""
    counted = {"duplicates_removed": 0}
    duplicate_N = sequences.duplicate_rows(rows.user_N, rows.tick_N, rows.item_N)
    counted["duplicates"] = int(duplicate_N.sum())
    if settings.deduplicate:
        counted["duplicates_removed"] = counted["duplicates"]
        rows = rows.where(~duplicate_N)
    several_N = sequences.tied_rows(sequences.repeats_previous(rows.user_N))
    counted["single_event_rows"] = int((~several_N).sum())
    rows = rows.where(several_N)
    least = max(settings.min_user_events, 2)
    core = sequences.k_core(rows.user_N, rows.item_N, least, settings.min_item_events)
    counted |= {
        "core_rows": int((~core.keep_N).sum()),
        "core_users": core.lost_users,
        "core_items": core.lost_items,
    }
    return rows.where(core.keep_N), core, counted


def _requests(
    user_E: np.ndarray, start_U1: np.ndarray, kept: Sorted, rows: LogRows
) -> tuple[np.ndarray, float, int]:
    """Request numbers, the share of tied events, and how often a request is torn apart by another."""
    again_E = sequences.repeats_previous(user_E, kept.tick_N)
    tied_share = float(sequences.tied_rows(again_E).mean())
    if "request" not in rows.columns:
        return sequences.request_numbers(~again_E, start_U1), tied_share, 0
    request_E = rows.columns.pop("request")[kept.row_N]
    new_E = ~sequences.repeats_previous(user_E, request_E)
    pair_R = user_E[new_E].astype(np.int64) << 32 | request_E[new_E]
    return sequences.request_numbers(new_E, start_U1), tied_share, len(pair_R) - len(np.unique(pair_R))


def _gather_actions(rows: LogRows, row_E: np.ndarray, settings: Settings) -> np.ndarray:
    action_EA = np.empty((len(row_E), len(settings.actions)), dtype=np.float32)
    for index in range(len(settings.actions)):
        action_EA[:, index] = rows.columns.pop(f"action{index}").take(row_E)
    return action_EA


def _count_missing(actions: Sequence[Action], action_EA: np.ndarray) -> dict[str, int]:
    return {action.name: int(np.isnan(action_EA[:, at]).sum()) for at, action in enumerate(actions)}


def _compact(code_E: np.ndarray, present: np.ndarray, ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Codes without gaps, where filtering left some ids without an event."""
    if len(present) == len(ids) and present.all():
        return code_E, ids
    return (np.cumsum(present, dtype=np.int32) - 1)[code_E], ids.head(len(present)).filter(pl.Series(present))


def _fit(actions: Sequence[Action], action_EA: np.ndarray, train_E: np.ndarray) -> tuple[Action, ...]:
    """The actions with what their kinds take from training rows."""
    values = (known_values(action_EA[train_E, index]) for index in range(len(actions)))
    return tuple(
        msgspec.structs.replace(action, kind=read_as(action.kind).fitted(value_N))
        for action, value_N in zip(actions, values, strict=True)
    )


def _tables(
    user_id: pl.Series,
    item_id: pl.Series,
    unseen_id: pl.Series,
    item_rows_V: np.ndarray,
    held_out: np.ndarray,
) -> dict[str, pl.DataFrame]:
    """The id maps; an item's training events are its rows less those held out (`held_out`: dense items).

    Unseen items come last, so that the numbers of all others do not depend on them.
    """
    rows = np.concatenate([item_rows_V[item_rows_V > 0], np.zeros(len(unseen_id), dtype=item_rows_V.dtype)])
    train_events = rows - np.bincount(held_out, minlength=len(rows) + 1)[1:]
    item_id = pl.concat([item_id, unseen_id])
    items = {"item": np.arange(1, len(rows) + 1), "item_id": item_id, "train_events": train_events}
    users = {"user": np.arange(len(user_id)), "user_id": user_id}
    return {"items": pl.DataFrame(items), "users": pl.DataFrame(users)}


def _write(
    folder: Path,
    events: Events,
    settings: Settings,
    name: str,
    note: str,
    inputs: tuple[str, ...],
    read_as: tuple[str, ...],
    known: dict[str, str],
) -> Manifest:
    """Writes all files, and adds their hashes to those that are known."""
    with ThreadPoolExecutor() as pool:  # what is left to count is counted meanwhile
        writing = write_arrays(folder, events.arrays, pool)
        facts = events.facts()
        tables = {key: write_table(folder / f"{key}.parquet", table) for key, table in events.tables.items()}
        arrays = {key: future.result() for key, future in writing.items()}
    known |= {f"{key}.npy": written.sha256 for key, written in arrays.items()}
    known |= {f"{key}.parquet": written.sha256 for key, written in tables.items()}
    if len(events.left_out):
        known[LEFT_OUT] = write_bytes(folder / LEFT_OUT, parquet_bytes(events.left_out))
    if events.rejects is not None:
        known[REJECTS] = write_bytes(folder / REJECTS, parquet_bytes(events.rejects))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        note=note,
        plait_version=importlib.metadata.version("plait"),
        inputs=inputs,
        read_as=read_as,
        settings=settings,
        settings_hash=settings_hash(settings),
        split=events.split,
        actions=events.actions,
        counts=events.counts,
        facts=facts,
        tied_share=events.tied_share,
        content_hash=content_hash({key: written.digest for key, written in (arrays | tables).items()}),
        **events.features,
        files={file.name: file.stat().st_size for file in sorted(folder.iterdir())},
    )
    content = manifest.to_json()
    known[MANIFEST] = write_bytes(folder / MANIFEST, content)
    return msgspec.json.decode(content, type=Manifest)  # as whoever opens the folder has it
