"""All that a prepared folder holds, from the rows of a log: kept, numbered, split, with what is fitted on training.

Shape letters: E events kept, A actions, U users, V items, C context features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
import numpy as np
import polars as pl

from plait.data.columns import features
from plait.data.columns.actions import known_values, read_as
from plait.data.columns.features import DescribedTable, Known
from plait.data.columns.keyed import KeyedVectors, with_tables
from plait.data.columns.statistics import Counted, counted_features, parse_statistics
from plait.data.facts import facts_of
from plait.data.manifest import CONDITION_VECTORS, Facts, RowCounts, Settings, Split
from plait.data.preparation.ingestion import LogRows
from plait.data.preparation.kept_rows import kept_rows
from plait.data.preparation.numbering import NumberedEvents, Ties, numbered
from plait.data.preparation.splits import split_points
from plait.data.queries import count_queries
from plait.data.vocabulary import Vocabulary
from plait.schema import UNSEEN_VALUE, Action, Feature, Keyed, code_columns


@dataclass(frozen=True)
class Events:
    """All that a prepared folder holds."""

    arrays: dict[str, np.ndarray]  # by file name without its suffix
    tables: dict[str, pl.DataFrame]
    rejects: pl.DataFrame | None
    left_out: pl.DataFrame  # users
    actions: tuple[Action, ...]  # fitted
    split: Split  # resolved
    counts: RowCounts
    ties: Ties
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


def events_of(
    log: LogRows,
    settings: Settings,
    about: Mapping[str, DescribedTable],
    vectors: Mapping[str, KeyedVectors] = MappingProxyType({}),
) -> Events:
    """Sorts, filters, numbers and splits the rows, and fits actions and features on those of training.

    Args:
        about: the feature tables, under "item" and "user".
        vectors: of conditions that have them, by name.

    Raises:
        ValueError: nothing is left, or nothing to train on; the split does not fit the log.
    """
    kept = kept_rows(log, settings)
    removed, left_out = kept.removed, kept.users_left_out
    events = numbered(kept, log)
    del kept  # a log is large
    points = split_points(settings.split, events, log)
    arrays = {
        "start": events.start_U1,
        "validation": points.validation_U,
        "test": points.test_U,
        "item": events.item_E,
        "time_s": events.time_s_E,
        "request": events.request_E,
        "action": _gather_actions(log, events.row_E, settings),
    }
    unseen_id = _unseen_items(about, settings, events.item_id)
    tables = _id_tables(events, unseen_id, points.is_train_E)
    trained_U = np.logical_or.reduceat(points.is_train_E, events.start_U1[:-1])
    known = features.fit_tables(about, tables, trained_U)
    known = with_statistics(known, settings, arrays, points.is_train_E, tables["items"])
    if (titles := features.titles_of(about, tables["items"]["item_id"])) is not None:
        tables["items"] = tables["items"].with_columns(titles.fill_null(""))
    of_events, code_EC = features.gather_context(
        with_tables(settings.of_events, vectors),
        log.columns,
        log.context_label,
        events.row_E,
        points.is_train_E,
    )
    num_context = len(settings.context)
    context, conditions = of_events[:num_context], of_events[num_context:]
    of_items_EK = _of_items(settings.item_conditions, known, events.item_E)
    # Files hold rows, one after the other, and not whatever order parts of arrays have in memory.
    context_EC, condition_EG = (
        np.ascontiguousarray(code_EK)
        for code_EK in (
            code_EC[:, :num_context],
            np.concatenate([code_EC[:, num_context:], of_items_EK], axis=1),
        )
    )
    arrays |= known.arrays | ({"context": context_EC} if context else {})
    arrays |= {"condition": condition_EG} if condition_EG.shape[1] else {}
    arrays |= {
        f"{CONDITION_VECTORS}{place}": vectors[feature.name].vector_KW
        for place, feature in enumerate(conditions)
        if feature.name in vectors
    }
    return Events(
        arrays=arrays,
        tables=tables,
        rejects=log.rejects,
        left_out=left_out,
        actions=_fit(settings.actions, arrays["action"], points.is_train_E),
        split=points.split,
        counts=RowCounts(
            rows_read=log.num_read,
            rejected=log.rejected,
            users=len(events.user_id),
            items=len(events.item_id) + len(unseen_id),
            events=len(events.item_E),
            train_events=int(points.is_train_E.sum()),
            unseen_items=len(unseen_id),
            missing=_count_missing(settings.actions, arrays["action"]),
            split_requests=events.ties.split_requests,
            without_vector=without_vector(conditions, condition_EG),
            **removed,
            **known.lacking,
            **count_queries(events.start_U1, points.validation_U, points.test_U),
        ),
        ties=events.ties,
        features=known.fitted | {"context": context, "conditions": conditions},
        described={
            what: ", ".join(described.tables) for what, described in about.items() if described.features
        },
    )


def with_statistics(
    known: Known,
    settings: Settings,
    arrays: Mapping[str, np.ndarray],
    is_train_E: np.ndarray,
    items: pl.DataFrame,
) -> Known:
    """What is known of items, and behind it what training rows say of them."""
    if not settings.item_statistics:
        return known
    own = known.fitted.get("item_features", ())
    declared = parse_statistics(settings.item_statistics, settings.actions, [each.name for each in own])
    trained = Counted(
        arrays["item"][is_train_E], arrays["action"][is_train_E], settings.actions, items.height + 1
    )
    is_train_V = np.concatenate([[False], (items["train_events"] > 0).to_numpy()])
    fitted, code_VK = counted_features(declared, trained, is_train_V)
    code_VK = np.concatenate([known.arrays.get("item_code", code_VK[:, :0]), code_VK], axis=1)
    return Known(
        known.fitted | {"item_features": (*own, *fitted)},
        known.arrays | {"item_code": code_VK},
        known.lacking,
    )


def without_vector(conditions: Sequence[Feature], condition_EG: np.ndarray) -> dict[str, int]:
    """Events whose value the table of vectors lacks, by condition."""
    return {
        feature.name: int((code_E == UNSEEN_VALUE).sum())
        for feature, code_E in zip(conditions, condition_EG.T, strict=False)  # those of items stand behind
        if isinstance(feature.kind, Keyed)
    }


def _of_items(names: Sequence[str], known: Known, item_E: np.ndarray) -> np.ndarray:
    """The codes of these features of every event's item."""
    if not names:
        return np.empty((len(item_E), 0), dtype=np.int32)
    columns = code_columns(names, known.fitted["item_features"])
    return known.arrays["item_code"][item_E][:, columns]


def _unseen_items(about: Mapping[str, DescribedTable], settings: Settings, item_id: pl.Series) -> pl.Series:
    """Ids of items that are kept without an event."""
    if not settings.keep_unseen_items:
        return item_id.head(0)
    return features.unseen_ids(about["item"], Vocabulary.of_items(item_id))


def _id_tables(
    events: NumberedEvents, unseen_id: pl.Series, is_train_E: np.ndarray
) -> dict[str, pl.DataFrame]:
    """The id maps; an item's training events are its events less those held out.

    Unseen items come last, so that the numbers of all others do not depend on them.
    """
    rows_V = np.concatenate([events.item_rows_V, np.zeros(len(unseen_id), dtype=events.item_rows_V.dtype)])
    held_out_V = np.bincount(events.item_E[~is_train_E], minlength=len(rows_V) + 1)[1:]
    items = {
        "item": np.arange(1, len(rows_V) + 1),
        "item_id": pl.concat([events.item_id, unseen_id]),
        "train_events": rows_V - held_out_V,
    }
    users = {"user": np.arange(len(events.user_id)), "user_id": events.user_id}
    return {"items": pl.DataFrame(items), "users": pl.DataFrame(users)}


def _gather_actions(log: LogRows, row_E: np.ndarray, settings: Settings) -> np.ndarray:
    action_EA = np.empty((len(row_E), len(settings.actions)), dtype=np.float32)
    for index in range(len(settings.actions)):
        action_EA[:, index] = log.columns.pop(f"action{index}").take(row_E)
    return action_EA


def _count_missing(actions: Sequence[Action], action_EA: np.ndarray) -> dict[str, int]:
    return {action.name: int(np.isnan(action_EA[:, at]).sum()) for at, action in enumerate(actions)}


def _fit(actions: Sequence[Action], action_EA: np.ndarray, is_train_E: np.ndarray) -> tuple[Action, ...]:
    """The actions with what their kinds take from training rows."""
    values = (known_values(action_EA[:, index][is_train_E]) for index in range(len(actions)))
    return tuple(
        msgspec.structs.replace(action, kind=read_as(action.kind).fitted(value_N))
        for action, value_N in zip(actions, values, strict=True)
    )
