"""The vocabulary that every room shares: action kinds, event batches, id maps. Plain data, no behaviour
beyond checking itself.

Shape letters: E events of all users laid end to end, U users, A action columns.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from jaxtyping import Float32, Int64

UNKNOWN_ITEM = 0  # dense index of every item that the item table does not hold; real items start at 1


class Binary(msgspec.Struct, frozen=True, tag="binary"):
    """Happened or not: 0 or 1. Trained with binary cross-entropy."""


class Regression(msgspec.Struct, frozen=True, tag="regression"):
    """A bounded number, scaled to [0, 1] for the model."""

    low: float
    high: float
    loss: Literal["mse", "huber"] = "mse"

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Regression(low={self.low}, high={self.high}): low must be below high")


class Amount(msgspec.Struct, frozen=True, tag="amount"):
    """A non-negative number without an upper bound (seconds, money), modelled as log1p(value) / log1p_scale."""

    zero_inflated: bool = False  # a separate head for "is it zero?"
    log1p_scale: float = 1.0  # the largest log1p(value) of the training rows; preparation fits it


class Categorical(msgspec.Struct, frozen=True, tag="categorical"):
    """One of several named values, stored as its index in `values`."""

    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2 or len(set(self.values)) != len(self.values):
            raise ValueError(f"Categorical(values={self.values}): at least two values, all different")


ActionKind = Binary | Regression | Amount | Categorical


class Action(msgspec.Struct, frozen=True):
    """One action column: its name in the log and the kind of value that it holds."""

    name: str
    kind: ActionKind

    @classmethod
    def parse(cls, text: str) -> "Action":
        """The command line's spelling of an action.

        Raises:
            ValueError: the kind is unknown or its settings do not parse.

        >>> Action.parse("rating:regression:1:5")
        Action(name='rating', kind=Regression(low=1.0, high=5.0, loss='mse'))
        >>> Action.parse("device:categorical:phone,tablet").kind.values
        ('phone', 'tablet')
        """
        name, _, rest = text.partition(":")
        kind, *settings = rest.split(":")
        try:
            match kind, settings:
                case "binary", []:
                    return cls(name, Binary())
                case "regression", [low, high]:
                    return cls(name, Regression(float(low), float(high)))
                case "regression", [low, high, ("mse" | "huber") as loss]:
                    return cls(name, Regression(float(low), float(high), loss))
                case "amount", []:
                    return cls(name, Amount())
                case "amount", ["zero"]:
                    return cls(name, Amount(zero_inflated=True))
                case "categorical", [values]:
                    return cls(name, Categorical(tuple(values.split(","))))
        except ValueError as error:
            raise ValueError(f"action {text!r}: {error}") from None
        near = difflib.get_close_matches(kind, ("binary", "regression", "amount", "categorical"), n=1)
        raise ValueError(
            f"action {text!r}: expected NAME:binary, NAME:regression:LOW:HIGH[:mse|huber], NAME:amount[:zero] "
            "or NAME:categorical:A,B,..."
            + (f"; did you mean {near[0]!r}?" if near and near[0] != kind else "")
        )


@dataclass(frozen=True)
class EventBatch:
    """Events of several users laid end to end, each user's oldest first.

    A user's first `lead_U` events lie before the window: they emit no tokens, and only serve facts of older
    offsets (a lagged action from before the window keeps its true value).
    """

    user_U: Int64[np.ndarray, "U"]  # dense user index
    start_U1: Int64[np.ndarray, "U1"]  # user u's events are start_U1[u] : start_U1[u + 1]
    lead_U: Int64[np.ndarray, "U"]
    item_E: Int64[np.ndarray, "E"]  # dense item index, UNKNOWN_ITEM where the item table lacks it
    action_EA: Float32[np.ndarray, "E A"]  # in the log's own units (a category's index), NaN = missing
    time_s_E: Int64[np.ndarray, "E"]  # unix seconds
    request_E: Int64[np.ndarray, "E"]  # equal, within a user, for the events of one exposure

    @property
    def num_users(self) -> int:
        return len(self.user_U)

    @property
    def num_events_U(self) -> Int64[np.ndarray, "U"]:
        return np.diff(self.start_U1)


def check_unique(names: Sequence[str], what: str) -> None:
    """Raises ValueError where a name stands twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"{what}: {', '.join(map(repr, twice))} given more than once")
