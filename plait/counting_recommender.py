"""The face of counting: answers as `plait.recommender` gives them, where nothing was trained.

rules = plait.CountingRecommender.fit(data, "sequential rules")
history = rules.encode(table)
rules.retrieve(history, k=10)

Shape letters: U users asked about, C items asked about, V items of the catalogue, E events of histories.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool

from plait.answer_tables import (
    action_columns,
    as_answered,
    known_items,
    num_shown,
    ranked_rows,
    rows_of_pairs,
    with_answers,
)
from plait.baselines.actions import Predictor
from plait.baselines.asking import WHOLE, BaselineQuestions, Histories, SameRequest
from plait.baselines.retrieval import Retriever
from plait.data import Dataset
from plait.data.forks import check_can_work
from plait.data.history import columns_read, read_history
from plait.engine.filters import Filters
from plait.engine.ranking import FIRST_ITEM, best
from plait.engine.state import State
from plait.engine.state import encode as encode_history
from plait.evaluation.counting import fitted_predictor, fitted_retriever
from plait.evaluation.settings import Protocol
from plait.given.histories import Frame
from plait.recommender import NOBODY
from plait.schema import EventBatch


@dataclass(frozen=True)
class CountedHistory:
    """Whole histories, and which of their events are in the tables."""

    state: State
    is_counted_E: Bool[np.ndarray, " E"]

    @property
    def of_users(self) -> Histories:
        events = self.state.events
        return Histories(events.item_E, events.action_EA, self.is_counted_E, events.start_U1)


@final
class CountingRecommender:
    """A baseline that ranks items, such as "sequential rules"."""

    def __init__(self, dataset: Dataset, fitted: Retriever) -> None:
        self.dataset = dataset
        self.fitted = fitted

    @classmethod
    def fit(
        cls,
        data: Dataset | Path | str,
        name: str,
        *,
        protocol: Protocol = Protocol(),
        same_request: SameRequest = "causal",
    ) -> "CountingRecommender":
        """Counts the training rows, with the settings that the validation chooses.

        Args:
            data: a dataset, or the path of a prepared folder.
            name: a row of a comparison, without its `count: `.
            protocol: how the validation is ranked that chooses; a user's own frequency is counted only where it keeps
                seen items.
            same_request: under "blind" no pair of one request is counted.

        Raises:
            ValueError: no baseline that ranks items has that name, or it is not counted on these data.
        """
        check_can_work()
        dataset = _opened(data)
        return cls(dataset, fitted_retriever(dataset, protocol, same_request, name))

    def encode(self, history: Frame | EventBatch) -> CountedHistory:
        """Histories of one user or, where the user column is there, of many, as `Recommender.encode` takes them.

        Args:
            history: a table, whose events are taken to be none of those that were counted. Or an `EventBatch` of users
                of the dataset, from their first event on, as `Dataset.history` gives it.

        Raises:
            ValueError: as `Recommender.encode`.
        """
        return _encoded(self.dataset, history)

    def retrieve(self, history: CountedHistory, k: int = 10, *, filter_seen: bool = True) -> pl.DataFrame:
        """The `k` items that counting ranks first: user, rank, item and score, best first.

        Raises:
            ValueError: `k` is no whole number, or more than the items left to a user.
        """
        check_can_work()
        count, state = num_shown(k), history.state
        Filters.joined(self.dataset.num_items, state.seen_U, filter_seen, None).check_left(count, state.id_U)
        score_UV = self.fitted.scores(history.of_users)[:, FIRST_ITEM:].copy()
        for score_V, seen in zip(score_UV, state.seen_U, strict=True) if filter_seen else ():
            score_V[seen[seen >= FIRST_ITEM] - FIRST_ITEM] = -np.inf
        item_UV = torch.arange(FIRST_ITEM, self.dataset.num_items + 1).expand(*score_UV.shape)
        score_UK, item_UK = best(torch.from_numpy(score_UV), item_UV, count)
        return ranked_rows(self.dataset.items, state, item_UK.numpy(), score_UK.numpy())


@final
class CountingScorer:
    """A baseline that predicts actions, such as "item and user"."""

    def __init__(self, dataset: Dataset, fitted: Predictor) -> None:
        self.dataset = dataset
        self.fitted = fitted

    @classmethod
    def fit(
        cls, data: Dataset | Path | str, name: str, *, same_request: SameRequest = "causal"
    ) -> "CountingScorer":
        """Counts the training rows, with the damping that the validation chooses.

        Args:
            data: a dataset, or the path of a prepared folder.
            name: a row of a comparison, without its `count: `.
            same_request: how the validation is asked that chooses.

        Raises:
            ValueError: no baseline that predicts actions has that name, or the data have no actions.
        """
        check_can_work()
        dataset = _opened(data)
        return cls(dataset, fitted_predictor(dataset, same_request, name))

    def encode(self, history: Frame | EventBatch) -> CountedHistory:
        """As `CountingRecommender.encode`."""
        return _encoded(self.dataset, history)

    def score(self, history: CountedHistory, items: Sequence[Any]) -> pl.DataFrame:
        """Expected actions on given items: the table of `Recommender.score`.

        Raises:
            ValueError: items are no list of ids, or one of them is unknown.
        """
        check_can_work()
        item_C, num_users = known_items(self.dataset.items, items), history.state.events.num_users
        item_UC = np.tile(item_C, (num_users, 1))
        asked = BaselineQuestions(
            item_Q=item_UC.ravel(),
            label_QA=np.full((item_UC.size, len(self.dataset.actions)), np.nan, dtype=np.float32),
            history_Q=np.repeat(np.arange(num_users), len(item_C)),
            histories=history.of_users,
        )
        predicted = self.fitted.predicted(asked, asked.item_Q)
        answer = rows_of_pairs(self.dataset.items, history.state, item_UC)
        return with_answers(answer, as_answered(action_columns(self.dataset.actions, predicted, len(answer))))


def _encoded(dataset: Dataset, history: Frame | EventBatch) -> CountedHistory:
    check_can_work()
    if isinstance(history, EventBatch):
        ids = dataset.user_ids().gather(history.user_U)
        nth_E = np.arange(len(history.item_E)) - np.repeat(history.start_U1[:-1], history.num_events_U)
        counted_E = np.repeat(dataset.train_user_counts()[history.user_U], history.num_events_U)
        return CountedHistory(encode_history(history, WHOLE, 0, tuple(ids)), nth_E < counted_E)
    read = read_history(history, columns_read(dataset), dataset.actions, dataset.items)
    state = encode_history(read.events, WHOLE, 0, read.user_ids or NOBODY, read.unknown_items)
    return CountedHistory(state, np.zeros(len(read.events.item_E), dtype=bool))


def _opened(data: Dataset | Path | str) -> Dataset:
    return data if isinstance(data, Dataset) else Dataset.open(Path(data))
