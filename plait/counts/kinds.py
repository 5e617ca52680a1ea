"""How the labels of a kind of action are counted, and what the counts say in its units.

Shape letters: N labels or questions, K columns, L levels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import assert_never, final

import numpy as np
from jaxtyping import Float32, Float64, Int64

from plait.counts.effects import EffectScale, LogitEffects, NumberEffects, Shares
from plait.schema import ActionKind, Amount, Binary, Categorical, Ordinal, Regression

Columns = Float64[np.ndarray, "N K"]
Labels = Float64[np.ndarray, " N"]


@dataclass(frozen=True)
class Part:
    """Something of an action that is counted by itself."""

    scale: EffectScale
    columns: Callable[[Labels], Columns]  # of a label that this part does not know, NaN


class CountedKind(ABC):
    """How an action is counted."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """What is counted by itself."""

    @abstractmethod
    def answer(self, *mean_NK: Columns) -> Float32[np.ndarray, "N ..."]:
        """What a model would answer, from the columns of every part."""


def counted(kind: ActionKind) -> CountedKind:
    """How a kind is counted.

    >>> counted(Ordinal((1, 2, 3))).parts[0].columns(np.array([0.0, 2.0])).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    match kind:
        case Binary():
            return CountedBinary()
        case Regression():
            return CountedNumber(kind)
        case Amount(zero_inflated=False):
            return CountedAmount(kind)
        case Amount():
            return CountedZeroInflated(kind)
        case Categorical():
            return CountedCategories(len(kind.values))
        case Ordinal():
            return CountedLevels(len(kind.values))
        case _:
            assert_never(kind)


@final
@dataclass(frozen=True)
class CountedBinary(CountedKind):
    """On logits."""

    parts = (Part(LogitEffects(), lambda label_N: label_N[:, None]),)

    def answer(self, *mean_NK: Columns) -> Float32[np.ndarray, "N ..."]:
        return mean_NK[0][:, 0].astype(np.float32)


@final
@dataclass(frozen=True)
class CountedNumber(CountedKind):
    """In the log's units, never out of bounds."""

    kind: Regression
    parts = (Part(NumberEffects(), lambda label_N: label_N[:, None]),)

    def answer(self, *mean_NK: Columns) -> Float32[np.ndarray, "N ..."]:
        return mean_NK[0][:, 0].clip(*self.kind.bounds).astype(np.float32)


@final
@dataclass(frozen=True)
class CountedAmount(CountedKind):
    """By log1p, between 0 and the largest of training, as a model's."""

    kind: Amount
    parts = (Part(NumberEffects(), lambda label_N: np.log1p(label_N)[:, None]),)

    def answer(self, *mean_NK: Columns) -> Float32[np.ndarray, "N ..."]:
        return _amount(self.kind, mean_NK[0])


@final
@dataclass(frozen=True)
class CountedZeroInflated(CountedKind):
    """The chance of more than 0, times the amount where it is more."""

    kind: Amount
    parts = (
        Part(LogitEffects(), lambda label_N: np.where(np.isnan(label_N), np.nan, label_N > 0)[:, None]),
        Part(NumberEffects(), lambda label_N: np.log1p(np.where(label_N > 0, label_N, np.nan))[:, None]),
    )

    def answer(self, *mean_NK: Columns) -> Float32[np.ndarray, "N ..."]:
        chance_NK, log1p_NK = mean_NK
        return chance_NK[:, 0].astype(np.float32) * _amount(self.kind, log1p_NK)


@final
@dataclass(frozen=True)
class CountedCategories(CountedKind):
    """Shares of the values."""

    num_values: int

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part(Shares(), partial(_equals, np.arange(self.num_values))),)

    def answer(self, *mean_NK: Columns) -> Float32[np.ndarray, "N ..."]:
        return mean_NK[0].astype(np.float32)


@final
@dataclass(frozen=True)
class CountedLevels(CountedKind):
    """Cumulative logits: of each level but the highest, whether an event exceeds it. A user moves all alike."""

    num_values: int

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Part(LogitEffects(), partial(_exceeds, np.arange(self.num_values - 1))),)

    def answer(self, *mean_NK: Columns) -> Float32[np.ndarray, "N ..."]:
        above_NL = np.pad(mean_NK[0], ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
        chance_NL = np.maximum(0.0, -np.diff(above_NL, axis=1))  # rounding may fall below 0
        return (chance_NL / chance_NL.sum(axis=1, keepdims=True)).astype(np.float32)


def _equals(value_K: Int64[np.ndarray, " K"], label_N: Labels) -> Columns:
    return np.where(np.isnan(label_N)[:, None], np.nan, label_N[:, None] == value_K)


def _exceeds(value_K: Int64[np.ndarray, " K"], label_N: Labels) -> Columns:
    return np.where(np.isnan(label_N)[:, None], np.nan, label_N[:, None] > value_K)


def _amount(kind: Amount, log1p_N1: Columns) -> Float32[np.ndarray, " N"]:
    return np.expm1(log1p_N1[:, 0].clip(0.0, kind.log1p_scale)).astype(np.float32)
