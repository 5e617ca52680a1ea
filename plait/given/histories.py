"""Histories as they are given, tables of the log's columns or batches of events, as the events that a model reads."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from plait.data.history import Columns, History, read_history
from plait.data.vocabulary import Vocabulary
from plait.engine.state import called
from plait.limits import MOST_CODES, Between
from plait.models.generative import GenerativeRecommender
from plait.schema import UNKNOWN_ITEM, EventBatch, code_columns
from plait.wording import setting

EARLIER_EVENTS = Between(0, MOST_CODES, "they are counted by 32 bits")

Frame = Any  # whatever polars reads: a dataframe of polars, pandas or Arrow, or a mapping of columns


def history_of_table(
    model: GenerativeRecommender,
    columns: Columns,
    vocabulary: Vocabulary,
    history: Frame,
    users: Frame | None = None,
) -> History:
    """A table's events. A warning says where the model knows none of their items.

    Raises:
        ValueError: as `read_history`.
    """
    read = read_history(history, columns, model.config.actions, vocabulary, users, model.reads_requests)
    if read.unknown_items and (read.events.item_E == UNKNOWN_ITEM).all():
        warnings.warn(
            f"the model knows no item of these events, such as {read.unknown_items[0]!r}: all count as unknown. "
            f"Its {len(vocabulary)} items are spelled like {vocabulary.ids[0]!r}",
            stacklevel=4,
        )
    return replace(read, events=conditioned(model, read.events, of_table=True))


def history_of_batch(model: GenerativeRecommender, columns: Columns, events: EventBatch) -> History:
    """A batch's events. Where the log names requests, a batch has their numbers alone: an event to come is of none of
    them.

    Raises:
        ValueError: the batch has other columns of conditions than the model reads.
    """
    unnamed = None if columns.request is None else (None,) * events.num_users
    return History(conditioned(model, events), None, (), unnamed, place_U=None)


def conditioned(model: GenerativeRecommender, events: EventBatch, of_table: bool = False) -> EventBatch:
    """The events with the conditions that the model reads. A table has those of the moment; those of items follow
    from items.

    Raises:
        ValueError: the events have other columns of conditions.
    """
    config, items = model.config, model.items
    if not config.conditions:
        return replace(events, condition_EG=np.zeros((len(events.item_E), 0), dtype=np.int64))
    if of_table and config.item_conditions:
        assert items is not None, "a layout that is asked under what items have reads them"
        columns = code_columns(config.item_conditions, config.item_features)
        of_item_EK = items.code_VC.cpu().numpy()[events.item_E][:, columns].astype(np.int64)
        events = replace(events, condition_EG=np.concatenate([events.condition_EG, of_item_EK], axis=1))
    expected, found = sum(f.num_columns for f in config.conditions), events.condition_EG.shape[1]
    if found != expected:
        raise ValueError(
            f"the events have {found} columns of conditions, and the model reads {expected}: "
            f"{', '.join(feature.name for feature in config.conditions)}"
        )
    return events


def check_takes_users(columns: Columns, history: Frame | EventBatch) -> None:
    """Raises ValueError where user features are given to a model that reads none, or beside a batch, which has them."""
    if not columns.user_features:
        raise ValueError(
            "users are given, and the model was trained without user features: leave them out, or prepare the "
            f"data with {setting('users')} and {setting('user_features')}, and train again"
        )
    if isinstance(history, EventBatch):
        raise ValueError(
            "users are given beside an EventBatch, which holds their codes already: leave them out"
        )


def with_earlier_events(
    events: EventBatch, before: int | Mapping[Any, int], user_ids: Sequence[Any] | None
) -> EventBatch:
    """Histories that came behind so many events of their users; as they are, where there were none.

    Raises:
        ValueError: one is no count, or of a user without a history.
    """
    if not events.num_users or before == 0:
        return events
    ids = events.user_U.tolist() if user_ids is None else user_ids
    by_user = before if isinstance(before, Mapping) else dict.fromkeys(ids, before)
    for user, count in by_user.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count not in EARLIER_EVENTS:
            raise ValueError(
                f"before = {count!r}, of {called(user)}: expected a whole number, how many events there were before "
                "the history's first"
            )
    strange = sorted(by_user.keys() - set(ids), key=str)
    if strange:
        raise ValueError(f"before names {called(strange[0])}, of whom no history is given: leave that out")
    before_U = np.array([by_user.get(user, 0) for user in ids], dtype=np.int64)
    return replace(events, number_E=events.number_E + np.repeat(before_U, events.num_events_U))
