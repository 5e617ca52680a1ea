"""Answers as tables: a row for each user and item, with ranks, scores and what is expected of actions.

Shape letters: U users, C candidates of a user, K items of a list, M rows, W columns of an action.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Float32, Int64

from plait.data.columns.ids import id_series
from plait.data.vocabulary import Vocabulary
from plait.engine.state import State
from plait.schema import UNKNOWN_ITEM, Action


def num_shown(k: Any) -> int:
    """How many items each user gets. Raises ValueError where that is no whole number."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise ValueError(f"k = {k!r}: expected a whole number, how many items each user gets")
    return int(k)


def known_items(vocabulary: Vocabulary, items: Any) -> Int64[np.ndarray, " C"]:
    """The dense items of a list of ids. Raises ValueError where one is not known."""
    ids = ids_of(items)
    item_C = vocabulary.index_of(ids)
    unknown = ids.filter(item_C == UNKNOWN_ITEM)
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} of {len(ids)} items are not among the model's {len(vocabulary)}, "
            f"such as {unknown[0]!r}"
        )
    return item_C


def rows_of_pairs(vocabulary: Vocabulary, state: State, item_UC: Int64[np.ndarray, "U C"]) -> pl.DataFrame:
    """A row for each user and item: "user", "item"."""
    return rows_of_lists(vocabulary, state, item_UC.reshape(-1), np.full(len(item_UC), item_UC.shape[1]))


def rows_of_lists(
    vocabulary: Vocabulary, state: State, item_M: Int64[np.ndarray, " M"], count_U: Int64[np.ndarray, " U"]
) -> pl.DataFrame:
    """The same, of users who have so many items each."""
    users = pl.Series("user", state.id_U).gather(np.repeat(np.arange(len(count_U)), count_U))
    return pl.DataFrame({"user": users, "item": vocabulary.ids_at(item_M)})


def ranked_rows(
    vocabulary: Vocabulary,
    state: State,
    item_UK: Int64[np.ndarray, "U K"],
    score_UK: Float[np.ndarray, "U K"],
) -> pl.DataFrame:
    """The same of the best items of each user, with "rank" and "score"."""
    rank_M = pl.Series("rank", np.tile(np.arange(1, item_UK.shape[1] + 1), len(item_UK)))
    return rows_of_pairs(vocabulary, state, item_UK).with_columns(
        rank_M, pl.Series("score", score_UK.reshape(-1))
    )


def action_columns(
    actions: Sequence[Action], predicted: Mapping[str, Float[np.ndarray, "..."]], num_rows: int
) -> list[tuple[str, Float32[np.ndarray, " M"]]]:
    """What is expected of each action, in the log's units: the name and the numbers of each column."""
    columns: list[tuple[str, np.ndarray]] = []
    for action in actions:
        value_MW = action.kind.answer(predicted[action.name].reshape(num_rows, -1))
        columns += zip(action.kind.answer_columns(action.name), value_MW.T, strict=True)
    return columns


def as_answered(
    columns: Sequence[tuple[str, Float32[np.ndarray, " M"]]], taken: Sequence[str] = ()
) -> dict[str, Float32[np.ndarray, " M"]]:
    """The columns by their names in an answer, where "user", "item" and what is taken stand before them."""
    found: dict[str, Float32[np.ndarray, " M"]] = {}
    for name, value_M in columns:
        found[_free(name, ("user", "item", *taken, *found))] = value_M
    return found


def with_answers(answer: pl.DataFrame, columns: Mapping[str, Float[np.ndarray, " M"]]) -> pl.DataFrame:
    """The rows with these columns behind."""
    return answer.with_columns([pl.Series(name, value_M) for name, value_M in columns.items()])


def _free(name: str, taken: Sequence[str]) -> str:
    """
    >>> _free("item", ["user", "item"])
    'action:item'
    """
    while name in taken:
        name = f"action:{name}"
    return name


def ids_of(items: Any) -> pl.Series:
    """Item ids as a column.

    Raises:
        ValueError: they are no list of single values.
    """
    try:
        ids = id_series(items)
    except TypeError:
        ids = None
    if ids is None or isinstance(items, str | bytes) or ids.dtype.is_nested() or ids.dtype == pl.Object:
        raise ValueError(
            f"items = {reprlib.repr(items)}: expected a list of item ids, as the log spells them"
        )
    return ids
