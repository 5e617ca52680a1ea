"""What a ranker is told of a user: interests that a large user model was asked for while the request was on its way, or
before.

A cache of both, in the event loop's thread alone (LUM paper, section 4.4 and figure 5).

Shape letters: M questions, Q conditions, W width of an interest, R rows of vectors, V1 rows of the item table.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float32, Int64

from plait.conditions import INTEREST, USER
from plait.data.vocabulary import Vocabulary
from plait.nn.interests import InterestRows
from plait.store.history import KeptInterests

Source = Literal["queried", "last", "precomputed", "none"]
MOST_FLIGHTS = 4_096  # requests whose interests are kept; the oldest are let go
MOST_KEPT = 20_000  # users whose last interests are kept
COLUMNS = (USER, "condition", INTEREST, "version")


@dataclass(frozen=True, eq=False)
class Told:
    """What is known of the user of a question; NaN in place of an interest that is not.

    Args:
        source: `queried`: asked with the request. `last`: what was last asked of the user. `precomputed`: of a table.
        version: of the user model that said it.
        conditions: by their keys.
    """

    source: Source = "none"
    interest_QW: Float32[np.ndarray, "Q W"] | None = None
    version: str = ""
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ItemInterests:
    """What interests are compared with, of a ranker's items, as one version of a user model has it."""

    vector_V1W: Float32[np.ndarray, "V1 W"]
    is_known_V1: Bool[np.ndarray, " V1"]

    @classmethod
    def of(cls, table: pl.DataFrame, items: Vocabulary) -> "ItemInterests":
        """
        Args:
            table: `item` and `interest`, as `Recommender.item_interests` has them.
        """
        vector_RW = table[INTEREST].to_numpy().astype(np.float32)
        item_R = items.index_of(table["item"].cast(pl.String))
        vector_V1W = np.zeros((len(items) + 1, vector_RW.shape[1]), dtype=np.float32)
        is_known_V1 = np.zeros(len(items) + 1, dtype=bool)
        is_known_R = item_R != items.unknown
        vector_V1W[item_R[is_known_R]] = vector_RW[is_known_R]
        is_known_V1[item_R[is_known_R]] = True
        return cls(vector_V1W, is_known_V1)


@dataclass(frozen=True, eq=False)
class ToldOfPass:
    """What a ranker looks up (`plait.nn.interests.InterestSource`), of the users of one pass by their places in it."""

    interest_UQW: Float32[np.ndarray, "U Q W"]  # NaN where none is known
    items: ItemInterests

    @classmethod
    def of_questions(cls, told: Sequence[Told], num_conditions: int, items: ItemInterests) -> "ToldOfPass":
        nothing_QW = np.full((num_conditions, items.vector_V1W.shape[1]), np.nan, dtype=np.float32)
        found = [nothing_QW if its.interest_QW is None else its.interest_QW for its in told]
        return cls(np.stack(found), items)

    def of(
        self,
        user_M: Int64[np.ndarray, " M"],
        number_M: Int64[np.ndarray, " M"],
        item_M: Int64[np.ndarray, " M"],
    ) -> InterestRows:
        interest_MQW = self.interest_UQW[user_M]
        is_known_MQ = ~np.isnan(interest_MQW).any(axis=2)
        return InterestRows(
            torch.from_numpy(np.nan_to_num(interest_MQW)),
            torch.from_numpy(is_known_MQ),
            torch.from_numpy(self.items.vector_V1W[item_M]),
            torch.from_numpy(self.items.is_known_V1[item_M]),
        )


@dataclass(frozen=True)
class Key:
    """Whose interests, for which request; of which version of the user model."""

    request_id: str
    user: str | None
    version: str


@final
class Flights:
    """Queries of requests that are on their way."""

    def __init__(self, most: int = MOST_FLIGHTS) -> None:
        self._most = most
        self._begun: OrderedDict[Key, asyncio.Task[Float32[np.ndarray, "Q W"] | None]] = OrderedDict()

    def begin(self, key: Key, query: Coroutine[Any, Any, Float32[np.ndarray, "Q W"] | None]) -> None:
        """Asks; what the same request asked before is let go."""
        self._let_go(key)
        self._begun[key] = asyncio.get_running_loop().create_task(query)
        while len(self._begun) > self._most:
            self._let_go(next(iter(self._begun)))

    async def read(self, key: Key, for_s: float) -> Float32[np.ndarray, "Q W"] | None:
        """What was found; None where nothing was asked, or nothing is there in that time."""
        task = self._begun.get(key)
        if task is None:
            return None
        done, _ = await asyncio.wait({task}, timeout=max(0.0, for_s))
        return task.result() if done and not task.cancelled() and task.exception() is None else None

    def forget(self, user: str) -> None:
        for key in [key for key in self._begun if key.user == user]:
            self._let_go(key)

    def _let_go(self, key: Key) -> None:
        task = self._begun.pop(key, None)
        if task is not None:
            task.cancel()


@dataclass(frozen=True, eq=False)
class InterestTable:
    """Interests of users as they were when `plait lum query` asked, of one version."""

    version: str
    users: Vocabulary
    row_UN: Int64[np.ndarray, "U N"]  # -1 where a user has none under a condition
    conditions: tuple[str, ...]
    vector_RW: Float[np.ndarray, "R W"]

    @classmethod
    def read(cls, path: Path) -> "InterestTable":
        """
        Raises:
            ValueError: it is no table of `plait lum query`, holds several versions, or a row twice.
        """
        try:
            table = pl.read_parquet(path, columns=list(COLUMNS), glob=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            why = str(error).splitlines()[0]
            raise ValueError(
                f"{path} holds no interests ({why}); expected {', '.join(COLUMNS)}, as `plait lum query` writes it"
            ) from None
        versions = table["version"].unique().to_list()
        if len(versions) != 1:
            raise ValueError(f"{path} holds the versions {versions}; expected rows of one")
        if table.select(USER, "condition").is_duplicated().any():
            raise ValueError(f"{path}: a user has two interests under one condition; expected one")
        users = Vocabulary.of_users(table[USER].cast(pl.String).unique(maintain_order=True))
        conditions = tuple(table["condition"].unique(maintain_order=True).to_list())
        row_UN = np.full((len(users), len(conditions)), -1, dtype=np.int64)
        user_R = users.index_of(table[USER].cast(pl.String))
        row_UN[user_R, [conditions.index(name) for name in table["condition"]]] = np.arange(len(table))
        return cls(str(versions[0]), users, row_UN, conditions, table[INTEREST].to_numpy())

    def knows(self, user: str) -> bool:
        return int(self.users.index_of(pl.Series([user]))[0]) != self.users.unknown

    def of(self, user: str, conditions: Sequence[str]) -> Float32[np.ndarray, "Q W"] | None:
        """NaN under conditions that are not there; None where nothing is."""
        place = int(self.users.index_of(pl.Series([user]))[0])
        if place == self.users.unknown:
            return None
        row_of: Mapping[str, int] = dict(zip(self.conditions, self.row_UN[place].tolist(), strict=True))
        row_Q = np.array([row_of.get(name, -1) for name in conditions])
        if (row_Q < 0).all():
            return None
        found_QW = self.vector_RW[row_Q].astype(np.float32)
        found_QW[row_Q < 0] = np.nan
        return found_QW


@final
class LastInterests:
    """What was last said of users: so many of them, those asked about longest ago out first. A cache of the store."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._most, self.num_forgotten = most, 0  # times that a user was forgotten
        self._last: OrderedDict[tuple[str, str], Mapping[str, Float32[np.ndarray, " W"]]] = OrderedDict()

    def keep(
        self, user: str, version: str, conditions: Sequence[str], interest_QW: Float32[np.ndarray, "Q W"]
    ) -> None:
        self._last[user, version] = dict(zip(conditions, interest_QW, strict=True))
        self._last.move_to_end((user, version))
        while len(self._last) > self._most:
            self._last.popitem(last=False)

    def recall(
        self, user: str, version: str, kept: Sequence[KeptInterests], num_forgotten: int
    ) -> list[bool]:
        """Takes what the store has, unless something newer was said meanwhile; of each, whether it is of the version.
        That there is nothing is kept in mind, too.

        Args:
            num_forgotten: as it stood before the store was read: where anybody was forgotten since, it may be of that
                very user.
        """
        of_version = [its.version == version for its in kept]
        if num_forgotten != self.num_forgotten or self.knows(user, version):
            return of_version
        its = next((its for its in kept if its.version == version and its.conditions), None)
        if its is None:
            self.keep(user, version, (), np.zeros((0, 0), np.float32))
        else:
            vectors = np.frombuffer(its.vectors, "<f2").astype(np.float32)
            self.keep(user, version, its.conditions, vectors.reshape(len(its.conditions), -1))
        return of_version

    def knows(self, user: str, version: str) -> bool:
        """Whether anybody has looked, or asked."""
        return (user, version) in self._last

    def of(self, user: str, version: str, conditions: Sequence[str]) -> Float32[np.ndarray, "Q W"] | None:
        """None where not all are there."""
        last = self._last.get((user, version))
        if last is None or not last.keys() >= set(conditions):
            return None
        return np.stack([last[name] for name in conditions])

    def forget(self, user: str) -> None:
        """After it is gone from the store."""
        self.num_forgotten += 1
        for key in [key for key in self._last if key[0] == user]:
            del self._last[key]


@final
class Precomputed:
    """What a table says of users, without those who were deleted."""

    def __init__(self, table: InterestTable | None = None) -> None:
        self._table = table
        self._gone: set[str] = set()  # users of the table; of others it has nothing to tell

    def of(self, user: str, version: str, conditions: Sequence[str]) -> Float32[np.ndarray, "Q W"] | None:
        """NaN under conditions that are not there; None where nothing is."""
        if self._table is None or self._table.version != version or user in self._gone:
            return None
        return self._table.of(user, conditions)

    def forget(self, user: str) -> None:
        """Until the table is read again, which must not hold the user any more."""
        if self._table is not None and self._table.knows(user):
            self._gone.add(user)
