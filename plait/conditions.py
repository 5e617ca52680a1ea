"""Conditions as tables: values by name in, codes out; and what was asked under them, a row for each.

Shape letters: U users, N conditions of a user, G columns of conditions, W width of an interest, M rows.
"""

import difflib
import re
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64

from plait.data.columns.features import code_context
from plait.data.logs.frames import as_frame
from plait.engine.asking import reads_condition
from plait.layouts import Layout
from plait.schema import UNSEEN_VALUE, Feature, shortened
from plait.wording import setting

USER, INTEREST = "user", "interest"  # columns of an answer, beside those of the conditions
OWN = "own"  # the condition that an event comes with, as far as it is known before the item


def conditions_frame(conditions: Any, what: str = "conditions") -> pl.DataFrame:
    """A row for each condition, of mappings of values by name, or of a table.

    Raises:
        ValueError: they are neither.

    >>> conditions_frame([{"scenario": "search"}, {"hour": 9}]).rows()
    [('search', None), (None, 9)]
    """
    if isinstance(conditions, Sequence) and not isinstance(conditions, str | bytes):
        if not all(isinstance(one, Mapping) for one in conditions):
            raise ValueError(f"{what}: found {shortened(conditions)}, expected values by name for each")
        names = dict.fromkeys(name for one in conditions for name in one)
        if not names:
            return pl.DataFrame({"": [None] * len(conditions)}).drop("")
        return pl.DataFrame({name: [one.get(name) for one in conditions] for name in names}, strict=False)
    return as_frame(conditions, what)


def text_of(condition: Mapping[str, Any]) -> str:
    """A condition as its key in a table, whatever the order of its parts.

    >>> text_of({"scenario": "search", "hour": 9}), text_of({})
    ('hour=9, scenario=search', 'unknown')
    """
    return ", ".join(f"{name}={condition[name]}" for name in sorted(condition)) or "unknown"


def condition_of(text: str, names: Sequence[str]) -> dict[str, str]:
    """The condition of a key.

    Args:
        names: of all features that a model is asked under.

    Raises:
        ValueError: it is the key of none.

    >>> condition_of("hour=9, scenario=search, by name", ["scenario", "hour"]), condition_of("unknown", [])
    ({'hour': '9', 'scenario': 'search, by name'}, {})
    """
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    _, *parts = re.split(rf"(?:^|, )({known})=", text) if names else [text]
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    if text_of(found) != text:
        raise ValueError(f"{text!r} is no condition of {', '.join(names) or 'nothing'}")
    return found


def condition_codes(frame: pl.DataFrame, num: int, features: Sequence[Feature]) -> Int64[np.ndarray, "N G"]:
    """The codes of `num` conditions, of a table with a column for each name that is known.

    Args:
        features: fitted, those that a model is asked under.

    Raises:
        ValueError: there is no feature of a name, or a value is none of its kind. A warning counts values that no
            training event has.
    """
    names = [feature.name for feature in features]
    for name in frame.columns:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise ValueError(
                f"condition {name!r}: the model is asked under {', '.join(names) or 'none'}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
    if not frame.width:
        frame = pl.DataFrame({"nothing is known": [None] * num})
    for feature in features:
        if feature.name in frame.columns:
            _warn_of_unseen(feature, frame)
    return code_context(features, frame, "the conditions")


def _warn_of_unseen(feature: Feature, frame: pl.DataFrame) -> None:
    is_unseen_N = (code_context((feature,), frame, "the conditions") == UNSEEN_VALUE).any(axis=1)
    unseen = frame[feature.name].filter(pl.Series(is_unseen_N))
    if len(unseen):
        warnings.warn(
            f"condition {feature.name!r}: {len(unseen)} of {frame.height} values are unseen, such as {unseen[0]!r}: no "
            "training event has them",
            stacklevel=4,
        )


def condition_of_all(
    layout: Layout, features: Sequence[Feature], condition: Mapping[str, Any] | None, num_users: int
) -> Int64[np.ndarray, "U G"] | None:
    """The condition under which all users are asked, for each; None where the layout asks under none.

    Raises:
        ValueError: the layout asks under one, and none is given, or the other way round; or as `condition_codes`.
    """
    reads = reads_condition(layout)
    if reads and condition is None:
        names = ", ".join(feature.name for feature in features)
        raise ValueError(
            f"layout '{layout}' is asked under a condition ({names}): say which, with {setting('condition')}"
        )
    if condition and not reads:
        raise ValueError(
            f"layout '{layout}' is asked under no condition, and {shortened(condition)} is given: leave it out"
        )
    if condition is None or not reads:
        return None
    return np.tile(condition_codes(conditions_frame([condition]), 1, features), (num_users, 1))


def interest_rows(
    id_U: Sequence[Hashable], frame: pl.DataFrame, interest_UNW: Float32[np.ndarray, "U N W"]
) -> pl.DataFrame:
    """A row for each user and condition: `user`, the condition's values, and `interest`."""
    num_users, num_conditions, width = interest_UNW.shape
    users = pl.Series(USER, id_U).gather(np.repeat(np.arange(num_users), num_conditions))
    of_conditions = frame[np.tile(np.arange(num_conditions), num_users)] if frame.width else frame
    taken = {name: f"condition:{name}" for name in frame.columns if name in (USER, INTEREST)}
    return pl.DataFrame(
        [users, *of_conditions.rename(taken), vectors_column(interest_UNW.reshape(-1, width))]
    )


def vectors_column(vector_MW: Float32[np.ndarray, "M W"]) -> pl.Series:
    """Vectors as a column of arrays, called `interest`.

    >>> vectors_column(np.zeros((2, 3), np.float32)).dtype
    Array(Float32, shape=(3,))
    """
    return pl.Series(INTEREST, vector_MW, dtype=pl.Array(pl.Float32, vector_MW.shape[1]))
