"""What answers where the model cannot in time: what is popular, and what each item's users do with it.

Shape letters: E events, V items, M candidates, W columns of an action.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int64

from plait.data.dataset import Dataset
from plait.recommender import Recommender
from plait.schema import UNKNOWN_ITEM, Action, KindOfOutcomes

DAMPING = 10.0  # events of the mean that every item is given
USERS_AT_ONCE = 4_096


@dataclass(frozen=True)
class Fallback:
    """Counts over all events that the service began with, by the model's dense items (0 the unknown one)."""

    popular_V: Int64[np.ndarray, " V"]  # the most frequent first
    means: dict[str, Float64[np.ndarray, " V1"]]  # of each answer column, damped

    @classmethod
    def of(cls, dataset: Dataset, recommender: Recommender) -> "Fallback":
        num_rows = len(recommender.items) + 1
        item_V = np.concatenate([[UNKNOWN_ITEM], recommender.vocabulary.index_of(dataset.item_ids())])
        counts, sums = np.zeros(num_rows), _Sums(dataset.actions, num_rows)
        for begin in range(0, dataset.num_users, USERS_AT_ONCE):
            user_U = np.arange(begin, min(begin + USERS_AT_ONCE, dataset.num_users))
            events = dataset.histories(user_U)
            item_E = item_V[events.item_E]
            counts += np.bincount(item_E, minlength=num_rows)
            sums.add(item_E, events.action_EA)
        popular_V = np.argsort(-counts[1:], kind="stable") + 1
        return cls(popular_V, sums.means())

    def retrieve(
        self, k: int, left_out: Iterable[int], kept: frozenset[int] | None
    ) -> tuple[Int64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
        """The `k` most popular of the items that are kept and not left out, and minus their ranks as scores."""
        is_in_V = ~np.isin(self.popular_V, np.fromiter(left_out, np.int64))
        if kept is not None:
            is_in_V &= np.isin(self.popular_V, np.fromiter(kept, np.int64))
        found_K = self.popular_V[is_in_V][:k]
        return found_K, -np.arange(1.0, len(found_K) + 1)

    def score(self, item_M: Int64[np.ndarray, " M"]) -> dict[str, Float64[np.ndarray, " M"]]:
        return {name: mean_V[item_M] for name, mean_V in self.means.items()}


class _Sums:
    """Sums of the answer columns of every action, by item."""

    def __init__(self, actions: Sequence[Action], num_rows: int) -> None:
        self.actions = actions
        self.known = [np.zeros(num_rows) for _ in actions]
        self.total = [np.zeros((num_rows, len(a.kind.answer_columns(a.name)))) for a in actions]

    def add(self, item_E: Int64[np.ndarray, " E"], action_EA: Float32[np.ndarray, "E A"]) -> None:
        for place, action in enumerate(self.actions):
            known_E = ~np.isnan(action_EA[:, place])
            item_K, value_KW = item_E[known_E], _as_answered(action, action_EA[known_E, place])
            self.known[place] += np.bincount(item_K, minlength=len(self.known[place]))
            for column, value_K in enumerate(value_KW.T):
                self.total[place][:, column] += np.bincount(item_K, value_K, minlength=len(self.known[place]))

    def means(self) -> dict[str, Float64[np.ndarray, " V1"]]:
        found: dict[str, Float64[np.ndarray, " V1"]] = {}
        for action, known_V, total_VW in zip(self.actions, self.known, self.total, strict=True):
            overall_W = total_VW.sum(axis=0) / max(1.0, known_V.sum())
            mean_VW = (total_VW + DAMPING * overall_W) / (known_V + DAMPING)[:, None]
            found |= dict(zip(action.kind.answer_columns(action.name), mean_VW.T, strict=True))
        return found


def _as_answered(action: Action, value_K: Float32[np.ndarray, " K"]) -> Float32[np.ndarray, "K W"]:
    """What an event holds, in the columns of an answer: an outcome has the chance 1 of itself."""
    kind = action.kind
    if not isinstance(kind, KindOfOutcomes):
        return value_K[:, None]
    return kind.answer(np.eye(len(kind.values), dtype=np.float32)[value_K.astype(np.int64)])


def dense_items(recommender: Recommender, ids: Sequence[str | int]) -> Int64[np.ndarray, " M"]:
    """The model's numbers of item ids; UNKNOWN_ITEM of those that it does not know."""
    return recommender.vocabulary.index_of(pl.Series("item", [str(id) for id in ids], dtype=pl.String))
