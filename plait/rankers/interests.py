"""Interests in Parquet files, joined to questions by key when they are asked. `plait lum query` writes them.

Two tables. Of users: `user` (the log's id), `event` (which of the user's events the interest is for, from 0, counted as
preparation kept them), `condition`, `interest`, and `version` where it is known. Of items: `item`, `interest`,
`version`. An interest for an event knows only what came before it; whoever writes the files answers for that. `known`,
where it is there, says how many of the user's first events it was computed from, at most: of a held-out event, no more
than a ranker is shown. In place of `event`, a table of users may have `time` and `items`, as `plait data shown
--interests` writes it: the interest is for the user's events of that unix second with one of those items, and knows all
that lay before.

Shape letters: M questions, Q conditions, W width of an interest, K keys of a condition, R rows of vectors, V items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64

from plait.data import Dataset
from plait.data.dataset import HeldOutPart
from plait.files import sha256
from plait.nn.interests import InterestRows

EVENTS = 1 << 32  # of a user, at most: keys are user * EVENTS + event
OF_USERS, OF_ITEMS = ("user", "event", "condition", "interest"), ("item", "interest")
OF_SHOWN = ("user", "time", "items", "condition", "interest")
KNOWN = "known"


@dataclass(frozen=True, eq=False)
class _Keyed:
    """Vectors of one condition by key."""

    key_K: Int64[np.ndarray, " K"]  # ascending
    row_K: Int64[np.ndarray, " K"]

    def rows(self, key_M: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, " M"]:
        """The row of each key; -1 where there is none."""
        if not len(self.key_K):
            return np.full(len(key_M), -1, dtype=np.int64)
        place_M = np.minimum(np.searchsorted(self.key_K, key_M), len(self.key_K) - 1)
        return np.where(self.key_K[place_M] == key_M, self.row_K[place_M], -1)


@dataclass(frozen=True, eq=False)
class Interests:
    """Vectors of users' events and of items, of one version of one user model."""

    conditions: tuple[str, ...]
    keyed: tuple[_Keyed, ...]  # by condition
    vector_RW: Float32[np.ndarray, "R W"]
    item_row_V: Int64[np.ndarray, " V"]  # -1 where an item has none
    item_vector_RW: Float32[np.ndarray, "R2 W"]
    version: str  # "" where the files name none
    sha256: str  # of all files
    rolling: bool = False  # one about a held-out event was computed from events of the same part of its user

    @classmethod
    def read(cls, of_users: Sequence[Path], of_items: Path, dataset: Dataset) -> "Interests":
        """The interests of a dataset's users and items; those of others are left out.

        Args:
            of_users: one file or several, such as one for each part of the events.

        Raises:
            ValueError: a column is missing or of the wrong type, vectors differ in width or hold no finite numbers, a
                key stands twice, or there are several versions.
        """
        tables = {path: _table(path, OF_USERS, OF_SHOWN) for path in of_users}
        tables |= {of_items: _table(of_items, OF_ITEMS)}
        version = _one_version(tables)
        vectors = {path: _vectors(path, table) for path, table in tables.items()}
        _check_one_width(vectors)
        items, item_vector_RW = tables.pop(of_items), vectors.pop(of_items)
        vector_RW, keys = np.concatenate(list(vectors.values())), _keys_of(tables, dataset)
        keyed = _by_condition(" and ".join(map(str, of_users)), tables, keys)
        item_R = dataset.items.index_of(items["item"])
        item_row_V = np.full(dataset.num_items + 1, -1, dtype=np.int64)
        known_r = np.flatnonzero(item_R != dataset.items.unknown)
        _check_once(str(of_items), item_R[known_r])
        item_row_V[item_R[known_r]] = known_r
        hashes = "".join(map(sha256, [*of_users, of_items]))
        return cls(
            tuple(keyed),
            tuple(keyed.values()),
            vector_RW,
            item_row_V,
            item_vector_RW,
            version,
            hashes,
            rolling=_are_rolling(keys, dataset),
        )

    @property
    def width(self) -> int:
        return self.vector_RW.shape[1]

    def of(
        self,
        user_M: Int64[np.ndarray, " M"],
        number_M: Int64[np.ndarray, " M"],
        item_M: Int64[np.ndarray, " M"],
    ) -> InterestRows:
        """What is known of questions; see `plait.nn.interests.InterestSource`."""
        row_MQ = np.stack([keyed.rows(user_M * EVENTS + number_M) for keyed in self.keyed], axis=1)
        item_row_M = self.item_row_V[item_M]
        return InterestRows(
            torch.from_numpy(_taken(self.vector_RW, row_MQ)),
            torch.from_numpy(row_MQ >= 0),
            torch.from_numpy(_taken(self.item_vector_RW, item_row_M)),
            torch.from_numpy(item_row_M >= 0),
        )

    def missing(self, dataset: Dataset) -> list[str]:
        """A line that counts what a learned *none* will stand for, of the events of each part."""
        found = []
        for part, (user_M, number_M, item_M) in _questions(dataset).items():
            rows = self.of(user_M, number_M, item_M)
            lacks = int((~rows.has_interest_MQ.all(1)).sum()), int((~rows.has_item_M).sum())
            found.append(f"{lacks[0]:,} of {len(user_M):,} {part} events, {lacks[1]:,} of their items")
        return [f"without interests, so none is learned for them: {'; '.join(found)}"]


def _questions(dataset: Dataset) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    events = dataset.histories(np.arange(dataset.num_users))
    user_E, number_E = np.repeat(events.user_U, events.num_events_U), events.number_E
    is_train_E = number_E < dataset.train_user_counts()[user_E]
    found = {"training": (user_E[is_train_E], number_E[is_train_E], events.item_E[is_train_E])}
    for part in ("validation", "test"):
        targets = dataset.targets(part)
        found[part] = (targets.user_Q, dataset.number_among_own(targets), dataset.target_items(targets))
    return found


def _taken(vector_RW: np.ndarray, row_X: np.ndarray) -> np.ndarray:
    """Rows of vectors; zeros for -1."""
    if not len(vector_RW):
        return np.zeros((*row_X.shape, vector_RW.shape[1]), dtype=np.float32)
    return np.where((row_X >= 0)[..., None], vector_RW[np.maximum(row_X, 0)], np.float32(0))


def _keys_of(tables: Mapping[Path, pl.DataFrame], dataset: Dataset) -> pl.DataFrame:
    """The keys of all vectors of users; they stand in the order of the tables, end to end."""
    begins, parts = np.cumsum([0, *(table.height for table in tables.values())]), []
    for begin, table in zip(begins.tolist(), tables.values(), strict=False):
        rows = table.drop("interest").with_row_index("row", begin)
        parts.append(_keys(rows if "event" in rows.columns else _of_events(rows, dataset), dataset))
    return pl.concat(parts)


def _by_condition(of_all: str, tables: Mapping[Path, pl.DataFrame], keys: pl.DataFrame) -> dict[str, _Keyed]:
    """The vectors of users by condition."""
    key_R, row_R, of_condition = (keys[name].to_numpy() for name in ("key", "row", "condition"))
    conditions = sorted({name for table in tables.values() for name in table["condition"].unique().to_list()})
    return {name: _keyed(of_all, key_R, row_R, of_condition == name) for name in conditions}


def _keys(rows: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """`key`, -1 of users who are not in the dataset; `row`; `condition`; `known`, 0 where nothing tells."""
    user_R = dataset.users.index_of(rows["user"])
    key_R = np.where(user_R == dataset.users.unknown, -1, user_R * EVENTS + rows["event"].to_numpy())
    known = rows[KNOWN] if KNOWN in rows.columns else pl.zeros(rows.height, eager=True)
    whole = {"row": rows["row"].cast(pl.Int64), KNOWN: known.cast(pl.Int64)}
    return pl.DataFrame({"key": key_R, "condition": rows["condition"], **whole})


def _are_rolling(keys: pl.DataFrame, dataset: Dataset) -> bool:
    """Whether one of a held-out event knows more than lay before its part."""
    parts: tuple[HeldOutPart, ...] = get_args(HeldOutPart)
    asked = [dataset.targets(part) for part in parts]
    before = [
        pl.DataFrame(
            {
                "key": targets.user_Q * EVENTS + dataset.number_among_own(targets),
                "before": dataset.target_lengths(targets),
            }
        )
        for targets in asked
    ]
    return not keys.join(pl.concat(before), on="key").filter(pl.col(KNOWN) > pl.col("before")).is_empty()


def _of_events(rows: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """Rows of users, seconds and items as rows of the dataset's events; those of none are left out."""
    events = dataset.histories(np.arange(dataset.num_users))
    known = pl.DataFrame(
        {
            "of": np.repeat(np.arange(dataset.num_users), events.num_events_U),
            "time": events.time_s_E,
            "item": events.item_E.astype(np.int64),
            "event": events.number_E,
        }
    )
    asked = rows.explode("items")
    asked = asked.with_columns(
        pl.Series("of", dataset.users.index_of(asked["user"])),
        pl.Series("item", dataset.items.index_of(asked["items"])),
        pl.col("time").cast(pl.Int64),
    )
    found = asked.join(known, on=["of", "time", "item"], how="inner", maintain_order="left_right")
    return found.with_columns(pl.col("event").alias(KNOWN))


def _table(path: Path, *ways: tuple[str, ...]) -> pl.DataFrame:
    """A table with the columns of one of the ways, which tells what is missing of the first."""
    try:
        table = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from None
    columns = next((way for way in ways if set(way) <= set(table.columns)), ways[0])
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(
            f"{path} has no column {missing[0]!r}; expected {', '.join(columns)}, found {', '.join(table.columns)}"
        )
    for name in ("event", KNOWN):
        if name in table.columns and not table[name].dtype.is_integer():
            raise ValueError(
                f"{path}: {name} is {table[name].dtype}; expected whole numbers, from 0 for each user"
            )
    if "condition" in columns:
        table = table.with_columns(pl.col("condition").cast(pl.String))
    return table


def _one_version(tables: dict[Path, pl.DataFrame]) -> str:
    found = {
        str(version)
        for table in tables.values()
        if "version" in table.columns
        for version in table["version"].unique().to_list()
    }
    if len(found) > 1:
        raise ValueError(
            f"{' and '.join(map(str, tables))} hold versions {', '.join(sorted(found))}: vectors of different user "
            "models mean different things; give those of one version"
        )
    return next(iter(found), "")


def _vectors(path: Path, table: pl.DataFrame) -> Float32[np.ndarray, "R W"]:
    column = table["interest"]
    if isinstance(column.dtype, pl.Array):
        column = column.cast(pl.List(column.dtype.inner))
    if not isinstance(column.dtype, pl.List) or not column.dtype.inner.is_float():
        raise ValueError(f"{path}: interest is {column.dtype}; expected lists of numbers, all of one length")
    widths = column.list.len().unique().to_list()
    if len(widths) != 1 or not widths[0]:
        raise ValueError(
            f"{path}: vectors have the lengths {widths}; expected one length, and one row at least"
        )
    vector_RW = column.explode().to_numpy().astype(np.float32).reshape(len(column), -1)
    if not np.isfinite(vector_RW).all():
        row = int(np.flatnonzero(~np.isfinite(vector_RW).all(1))[0])
        raise ValueError(f"{path}: the vector of row {row} holds a number that is missing or not finite")
    return vector_RW


def _check_one_width(vectors: Mapping[Path, Float32[np.ndarray, "_ _"]]) -> None:
    (first, of_first), *others = vectors.items()
    for path, of_path in others:
        if of_path.shape[1] != of_first.shape[1]:
            raise ValueError(
                f"{first} has vectors of width {of_first.shape[1]}, and {path} of {of_path.shape[1]}; give interests "
                "and items of one user model"
            )


def _keyed(
    path: str, key_R: Int64[np.ndarray, " R"], row_R: Int64[np.ndarray, " R"], is_of_it_R: np.ndarray
) -> _Keyed:
    chosen_K = np.flatnonzero(is_of_it_R & (key_R >= 0))
    _check_once(path, key_R[chosen_K])
    order_K = chosen_K[np.argsort(key_R[chosen_K], kind="stable")]
    return _Keyed(key_R[order_K], row_R[order_K])


def _check_once(path: str, key_K: Int64[np.ndarray, " K"]) -> None:
    if len(np.unique(key_K)) < len(key_K):
        raise ValueError(
            f"{path}: a key stands twice; give one vector for each user, event and condition, and each item"
        )
