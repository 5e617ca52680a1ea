"""Ids and their dense numbers, both ways.

Shape letters: V ids of the vocabulary, B buckets, I ids asked for, M ids that share a bucket with one asked for.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64, Integer

from plait.data.columns.ids import ids_as
from plait.data.preparation.coding import stable_argsort
from plait.data.windows import concatenated_ranges
from plait.schema import UNKNOWN_ITEM


@dataclass(frozen=True)
class Buckets:
    """The places of ids by a hash of theirs, about one to a bucket."""

    start_B1: Int32[np.ndarray, " B1"]
    place_V: Int32[np.ndarray, " V"]  # bucket by bucket

    @classmethod
    def of(cls, ids: pl.Series) -> "Buckets":
        num_buckets = 1 << max(len(ids) - 1, 0).bit_length()
        bucket_V = _bucket_of(ids, num_buckets)
        start_B1 = np.zeros(num_buckets + 1, dtype=np.int32)
        np.cumsum(np.bincount(bucket_V, minlength=num_buckets), out=start_B1[1:])
        return cls(start_B1, stable_argsort(bucket_V).astype(np.int32))

    def candidates(self, asked: pl.Series) -> tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, " M"]]:
        """The places in the buckets of the ids asked for, and whose bucket each place is from."""
        bucket_I = _bucket_of(asked, len(self.start_B1) - 1)
        begin_I, end_I = (self.start_B1[at].astype(np.int64) for at in (bucket_I, bucket_I + 1))
        at_M, _ = concatenated_ranges(begin_I, end_I)
        return self.place_V[at_M].astype(np.int64), np.repeat(np.arange(len(asked)), end_I - begin_I)


@final
class Vocabulary:
    """The different ids of a column in dense order.

    A look-up takes as long as ids are asked for, however many there are. What it needs is made at the first one, and
    takes eight bytes an id.
    """

    def __init__(self, ids: pl.Series, first: int) -> None:
        """
        Args:
            ids: all different, none missing, of a type as `plait.data.columns.ids.Held.dtype`.
            first: the dense number of the first.
        """
        self.ids = ids
        self.first = first

    @classmethod
    def of_items(cls, ids: pl.Series) -> "Vocabulary":
        """Dense item i is at place i - 1, and UNKNOWN_ITEM is none of them."""
        return cls(ids, first=UNKNOWN_ITEM + 1)

    @classmethod
    def of_users(cls, ids: pl.Series) -> "Vocabulary":
        """Dense user u is at place u, and -1 is none of them."""
        return cls(ids, first=0)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def unknown(self) -> int:
        """What stands for ids that the vocabulary lacks."""
        return self.first - 1

    def index_of(self, asked: pl.Series) -> Int64[np.ndarray, " I"]:
        """Dense numbers of ids, `unknown` where one is missing or not held.

        >>> Vocabulary.of_items(pl.Series(["a", "b"])).index_of(pl.Series(["b", "z", None])).tolist()
        [2, 0, 0]
        >>> Vocabulary.of_users(pl.Series([7, 8])).index_of(pl.Series(["8", "08", "7"])).tolist()
        [1, -1, 0]
        """
        spelt = ids_as(asked, self.ids.dtype)
        place_M, of_M = self._buckets.candidates(spelt)
        is_it_M = (self.ids.gather(place_M) == spelt.gather(of_M)).fill_null(False).to_numpy()
        index_I = np.full(len(spelt), self.unknown, dtype=np.int64)
        index_I[of_M[is_it_M]] = self.first + place_M[is_it_M]
        return index_I

    def ids_at(self, index_I: Integer[np.ndarray, " I"]) -> pl.Series:
        """The ids of dense numbers.

        >>> Vocabulary.of_items(pl.Series(["a", "b"])).ids_at(np.array([2, 1])).to_list()
        ['b', 'a']
        """
        return self.ids.gather(index_I - self.first)

    def with_more(self, ids: pl.Series) -> "Vocabulary":
        """With ids that it lacks behind those that it has, whose numbers stay."""
        return Vocabulary(pl.concat([self.ids, ids]), self.first)

    @cached_property
    def _buckets(self) -> Buckets:
        assert self.ids.n_unique() == len(self.ids), "an id stands twice in a vocabulary"
        return Buckets.of(self.ids)


def _bucket_of(ids: pl.Series, num_buckets: int) -> Int64[np.ndarray, " I"]:
    """A bucket of `num_buckets`, a power of 2, for each id; one for all that are missing."""
    return (ids.hash() & num_buckets - 1).to_numpy().astype(np.int64)
