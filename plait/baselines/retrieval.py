"""Contenders that rank the catalogue by counts.

Shape letters: H histories, V1 items by dense index with the unknown one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import final

import numpy as np
from jaxtyping import Float, Float64

from plait.baselines.asking import Histories, TrainingLog
from plait.counts import histories as rows
from plait.counts import items
from plait.counts.items import Table

# The grids, the usual value first.
WINDOWS = 10, 5, 20  # events
RECENT_DECAYS = 0.8, 0.6, 0.9  # of a user's last events, for each step back
LAST = 20  # events of a user that sequential rules read
HALF_LIVES = 0.1, 0.01, 0.03, 0.3  # of the time that the training rows span
NEIGHBOURS = 100, 20
NEIGHBOUR_DAMPING = 10.0, 0.0
RIDGES = 300.0, 100.0, 1000.0
OWN_DECAYS = 1.0, 0.98, 0.9

EASE_ITEMS = 5_000  # the largest catalogue whose pairs are inverted
PAIRED_EVENTS = 5_000_000  # the most training events whose pairs are counted: tables grow with them
DENSE_ITEMS = EASE_ITEMS  # up to it, a table of all pairs is held as it is: its rows are added faster


class Retriever(ABC):
    """A way of counting, fitted."""

    settings: str  # what validation chose, in words; "" where there is nothing to choose

    @abstractmethod
    def scores(self, histories: Histories) -> Float[np.ndarray, "H V1"]:
        """What ranks the items of the catalogue, for each history."""


@final
@dataclass(frozen=True)
class SameForAll(Retriever):
    """One list for everybody."""

    score_V1: Float64[np.ndarray, " V1"]
    settings: str = ""

    def scores(self, histories: Histories) -> Float[np.ndarray, "H V1"]:
        return np.tile(self.score_V1, (len(histories), 1))


@final
@dataclass(frozen=True)
class AfterRecent(Retriever):
    """What comes after a user's last items."""

    table: Table = field(repr=False)
    popularity_V1: Float64[np.ndarray, " V1"]
    last: int
    decay: float = 1.0
    settings: str = ""

    def scores(self, histories: Histories) -> Float[np.ndarray, "H V1"]:
        weight_S = rows.recent(histories.start_H1, self.decay, self.last)
        of_users = rows.rows_of(histories.item_S, histories.start_H1, len(self.popularity_V1) - 1, weight_S)
        return items.backed(items.scores(of_users, self.table), self.popularity_V1)


@final
@dataclass(frozen=True)
class NearAllMet(Retriever):
    """What is near to the items that a user ever met."""

    table: Table = field(repr=False)
    popularity_V1: Float64[np.ndarray, " V1"]
    settings: str

    def scores(self, histories: Histories) -> Float[np.ndarray, "H V1"]:
        met = rows.items_met(histories.item_S, histories.start_H1, len(self.popularity_V1) - 1)
        return items.backed(items.scores(met, self.table), self.popularity_V1)


@final
@dataclass(frozen=True)
class PredictedFromAllMet(Retriever):
    """What the items that a user ever met predict, items that they speak against included."""

    table: Table = field(repr=False)
    popularity_V1: Float64[np.ndarray, " V1"]
    settings: str

    def scores(self, histories: Histories) -> Float[np.ndarray, "H V1"]:
        met = rows.items_met(histories.item_S, histories.start_H1, len(self.popularity_V1) - 1)
        knows_H1 = (met.sum(axis=1) > 0)[:, None]
        return np.where(knows_H1, items.scores(met, self.table), self.popularity_V1)


@final
@dataclass(frozen=True)
class OwnFrequency(Retriever):
    """What a user met most often."""

    popularity_V1: Float64[np.ndarray, " V1"]
    decay: float
    settings: str

    def scores(self, histories: Histories) -> Float[np.ndarray, "H V1"]:
        weight_S = rows.recent(histories.start_H1, self.decay, last=len(histories.item_S))
        own = rows.rows_of(histories.item_S, histories.start_H1, len(self.popularity_V1) - 1, weight_S)
        return items.backed(own.toarray(), self.popularity_V1)


@dataclass(frozen=True)
class RetrievalBaseline:
    """One way of counting with all settings that it may take, the usual one first."""

    name: str
    options: Callable[[TrainingLog], Iterator[Retriever]]
    why_not: Callable[[TrainingLog, bool], str] = lambda log, filter_seen: ""  # "" where it can be asked


def popularity_options(log: TrainingLog) -> Iterator[Retriever]:
    yield SameForAll(_popularity_of(log))


def recent_popularity_options(log: TrainingLog) -> Iterator[Retriever]:
    span_s = int(np.ptp(log.time_s_E)) if len(log.time_s_E) else 0
    for share in HALF_LIVES:
        half_life_s = max(1.0, share * span_s)
        counted = items.recent_popularity(log.item_E, log.time_s_E, log.num_items, half_life_s)
        yield SameForAll(counted, f"half-life {share:g} of the training time")


def transition_options(log: TrainingLog) -> Iterator[Retriever]:
    yield AfterRecent(_followers(log, 1), _popularity_of(log), last=1)


def sequential_rule_options(log: TrainingLog) -> Iterator[Retriever]:
    for window in WINDOWS:
        table = _followers(log, window)
        for decay in RECENT_DECAYS:
            settings = f"within {window} events, the last {LAST} weighted {decay:g} for each step back"
            yield AfterRecent(table, _popularity_of(log), LAST, decay, settings)


def item_knn_options(log: TrainingLog) -> Iterator[Retriever]:
    together = items.together(rows.items_met(log.item_E, log.start_U1, log.num_items))
    for keep in NEIGHBOURS:
        for damping in NEIGHBOUR_DAMPING:
            table = _small_dense(items.neighbours(together, keep, damping))
            yield NearAllMet(table, _popularity_of(log), f"{keep} neighbours, cosine damped by {damping:g}")


def ease_options(log: TrainingLog) -> Iterator[Retriever]:
    together = items.together(rows.items_met(log.item_E, log.start_U1, log.num_items))
    for ridge in RIDGES:
        yield PredictedFromAllMet(items.ease(together, ridge), _popularity_of(log), f"ridge {ridge:g}")


def own_frequency_options(log: TrainingLog) -> Iterator[Retriever]:
    for decay in OWN_DECAYS:
        yield OwnFrequency(_popularity_of(log), decay, f"weighted {decay:g} for each step back")


def _why_no_ease(log: TrainingLog, filter_seen: bool) -> str:
    if log.num_items <= EASE_ITEMS:
        return ""
    return f"{log.num_items:,} items; it inverts a matrix of all pairs, up to {EASE_ITEMS:,} items"


def _why_no_pairs(log: TrainingLog, filter_seen: bool) -> str:
    if len(log.item_E) <= PAIRED_EVENTS:
        return ""
    return f"{len(log.item_E):,} training events; it holds all their pairs, of up to {PAIRED_EVENTS:,} events"


def _why_no_own(log: TrainingLog, filter_seen: bool) -> str:
    return "seen items are filtered" if filter_seen else ""


RETRIEVAL_BASELINES = (
    RetrievalBaseline("popularity", popularity_options),
    RetrievalBaseline("recent popularity", recent_popularity_options),
    RetrievalBaseline("transitions", transition_options),
    RetrievalBaseline("sequential rules", sequential_rule_options, _why_no_pairs),
    RetrievalBaseline("item-kNN", item_knn_options, _why_no_pairs),
    RetrievalBaseline("EASE", ease_options, _why_no_ease),
    RetrievalBaseline("own frequency", own_frequency_options, _why_no_own),
)


def _popularity_of(log: TrainingLog) -> Float64[np.ndarray, " V1"]:
    return items.popularity(log.item_E, log.num_items)


def _followers(log: TrainingLog, window: int) -> Table:
    table = items.followers(log.item_E, log.start_U1, log.history_end_E, log.num_items, window)
    return _small_dense(items.shares(table))


def _small_dense(table: Table) -> Table:
    is_small = table.shape[0] <= DENSE_ITEMS + 1
    return table.toarray() if is_small and not isinstance(table, np.ndarray) else table
