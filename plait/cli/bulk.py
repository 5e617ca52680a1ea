"""Questions about many users at once, and their answers part by part: each as if it were asked alone.

Shape letters: N users asked about, in the order of the question; M rows of a table of pairs, R some of them, V items.
Small ones count those of a part: n users, m rows, k of known items; u its different users.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64
from rich.console import Console

from plait.cli.id_tables import Report, read_ids
from plait.cli.output import say, show_json
from plait.cli.parted import parts_bar, write_in_parts
from plait.cli.user_state import state_as_logged, value_of_formula
from plait.conditions import text_of
from plait.data import Dataset
from plait.data.logs.tables import collect
from plait.engine.filters import Filters
from plait.engine.value import Value
from plait.files import sha256
from plait.models.saving import model_hash
from plait.recommender import Recommender
from plait.schema import UNKNOWN_ITEM, shortened

USERS_PER_PART, PAIRS_PER_PART = 1_024, 16_384  # what a kill costs at most, and what is held in memory


@dataclass(frozen=True)
class Asking:
    """A model, and the data that its histories come from."""

    model: Recommender
    data: Dataset
    folder: Path  # the model's

    @property
    def named(self) -> dict[str, str]:
        """Both, by what they hold."""
        return {"model": model_hash(self.folder), "dataset": self.data.manifest.content_hash}


@dataclass(frozen=True)
class BulkLists:
    """The best items of many users."""

    asking: Asking
    user_N: Int64[np.ndarray, " N"]  # dense in the data
    k: int
    filter_seen: bool
    at: str | None
    kept_V: Bool[np.ndarray, " V"] | None  # by the model's items; None: all
    condition: Mapping[str, str] | None = None  # under which they are asked for

    @property
    def num_parts(self) -> int:
        return -(-len(self.user_N) // USERS_PER_PART)

    @property
    def asked(self) -> dict[str, str | int | bool | None]:
        """All that decides the lists."""
        return {
            "verb": "recommend", **self.asking.named, "users": _digest(self.user_N), "k": self.k,
            "filter_seen": self.filter_seen, "at": self.at,
            "kept": None if self.kept_V is None else _digest(self.kept_V), "users_per_part": USERS_PER_PART,
            **({} if self.condition is None else {"condition": text_of(self.condition)}),
        }  # fmt: skip

    def check(self) -> None:
        """Raises ValueError where no list can be given, or none is as long; as `Recommender.retrieve`."""
        kept_I = None if self.kept_V is None else np.concatenate([[False], self.kept_V])
        Filters.joined(len(self.asking.model.items), (np.empty(0, np.int64),), False, kept_I).check_left(
            self.k, (None,)
        )
        self._of(self.user_N[:1], 1, filtered=False)

    def counted(self, out: Path) -> dict[str, int]:
        """What people are told of the answer."""
        num_whole = pl.scan_parquet(out, glob=False).group_by("user").len().filter(pl.col("len") == self.k)
        whole = collect(num_whole.select(pl.len())).item()
        return {"users": len(self.user_N), "users_with_fewer_items_left": len(self.user_N) - whole}

    def part(self, number: int) -> pl.DataFrame:
        """A user whose filters leave fewer than `k` items gets those that are left."""
        user_n = self.user_N[number * USERS_PER_PART : (number + 1) * USERS_PER_PART]
        length_n = np.minimum(self.left(user_n), self.k)
        order_n, found = np.argsort(length_n, kind="stable"), []
        for length in np.unique(length_n[length_n > 0]).tolist():
            nth = order_n[length_n[order_n] == length]
            found.append(self._of(user_n[nth], length).with_columns(nth=pl.Series(np.repeat(nth, length))))
        if not found:
            found = [self._of(user_n[:1], 1, filtered=False).clear().with_columns(nth=pl.lit(0))]
        return pl.concat(found).sort("nth", maintain_order=True).drop("nth")

    def left(self, user_n: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many items the filters leave to each user."""
        model = self.asking.model
        state = state_as_logged(model, self.asking.data, user_n)
        kept_I = None if self.kept_V is None else np.concatenate([[False], self.kept_V])
        return Filters.joined(len(model.items), state.seen_U, self.filter_seen, kept_I).left_U

    def _of(self, user_n: Int64[np.ndarray, " n"], k: int, filtered: bool = True) -> pl.DataFrame:
        state = state_as_logged(self.asking.model, self.asking.data, user_n)
        seen, mask = (self.filter_seen, self.kept_V) if filtered else (False, None)
        found = self.asking.model.retrieve(
            state, k, filter_seen=seen, at=self.at, condition=self.condition, mask=mask
        )
        return found.with_columns(pl.col("user").cast(self.asking.data.user_ids().dtype))


@dataclass(frozen=True)
class BulkPairs:
    """What users are expected to do with items, a row for each pair."""

    asking: Asking
    user_M: Int64[np.ndarray, " M"]  # dense in the data
    item_M: pl.Series  # as the table spells them
    at: str | None
    context: Mapping[str, str]
    formula: str | None
    item_numbers: Path | None

    @property
    def num_parts(self) -> int:
        return -(-len(self.user_M) // PAIRS_PER_PART)

    @property
    def asked(self) -> dict[str, str | int | bool | None]:
        """All that decides the answer."""
        items = "\0".join(self.item_M.cast(pl.String))
        return {
            "verb": "score", **self.asking.named, "users": _digest(self.user_M), "items": _digest(items.encode()),
            "at": self.at, "context": ", ".join(f"{name}={value}" for name, value in self.context.items()),
            "value": self.formula, "item_numbers": None if self.item_numbers is None else sha256(self.item_numbers),
            "pairs_per_part": PAIRS_PER_PART,
        }  # fmt: skip

    @cached_property
    def value(self) -> Value | None:
        """Raises ValueError as `value_of_formula`."""
        return value_of_formula(self.asking.model, self.formula, self.item_numbers)

    @cached_property
    def is_known_M(self) -> Bool[np.ndarray, " M"]:
        """Whether the model knows the item of a pair."""
        return self.asking.model.vocabulary.index_of(self.item_M) != UNKNOWN_ITEM

    def check(self) -> None:
        """Raises ValueError where no pair can be answered; as `Recommender.score` and `value_of_formula`."""
        if not self.is_known_M.any():
            items = self.asking.model.items
            raise ValueError(
                f"none of the {len(self.item_M):,} pairs has an item among the model's {len(items)}: theirs are such "
                f"as {self.item_M[0]!r}, the model's such as {items[0]!r}"
            )
        self._of(self._first_known)

    @property
    def _first_known(self) -> Int64[np.ndarray, " 1"]:
        return np.array([np.argmax(self.is_known_M)])

    def counted(self, out: Path) -> dict[str, int]:
        """What people are told of the answer."""
        return {"pairs_of_unknown_items": int((~self.is_known_M).sum())}

    def part(self, number: int) -> pl.DataFrame:
        """Nulls behind the status of a pair whose item is unknown."""
        begin = number * PAIRS_PER_PART
        rows = slice(begin, begin + PAIRS_PER_PART)
        user_m, item_m, is_known_m = self.user_M[rows], self.item_M[rows], self.is_known_M[rows]
        known_k = np.flatnonzero(is_known_m)
        known_k = known_k[np.argsort(user_m[known_k], kind="stable")]
        # Where none is known, the columns of another answer are all that is wanted.
        found = self._of(begin + known_k if len(known_k) else self._first_known)
        place_m = np.zeros(len(user_m), dtype=np.int64)
        place_m[known_k] = np.arange(len(known_k))
        status, place = pl.select(
            pl.when(pl.Series(is_known_m))
            .then(pl.lit("ok"))
            .otherwise(pl.lit("unknown item"))
            .alias("status"),
            pl.when(pl.Series(is_known_m)).then(pl.Series(place_m)).alias("place"),
        )
        users = self.asking.data.user_ids().gather(user_m)
        table = pl.DataFrame({"user": users, "item": item_m, "status": status})
        return table.hstack(found.select(pl.all().gather(place)))

    def _of(self, row_r: Int64[np.ndarray, " r"]) -> pl.DataFrame:
        """The answers to some pairs, those of one user beside each other."""
        user_u, first_u = np.unique(self.user_M[row_r], return_index=True)
        state = state_as_logged(self.asking.model, self.asking.data, user_u)
        lists = [items.to_list() for items in map(self.item_M.gather, np.split(row_r, first_u[1:]))]
        found = self.asking.model.score_lists(
            state, lists, at=self.at, context=self.context, value=self.value
        ).drop("user", "item")
        return found.rename({"status": "action:status"} if "status" in found.columns else {})


def write_answers(question: BulkLists | BulkPairs, out: Path, screen: Console, *, json: bool) -> None:
    """The table of all answers, and a line that says what it holds.

    Raises:
        ValueError, OSError: as `write_in_parts`.
    """
    question.check()
    with parts_bar(screen, question.num_parts) as watch:
        num_rows = write_in_parts(
            out, question.asked, question.num_parts, question.part, lambda line: say(line, screen), watch
        )
    if json:
        show_json({"out": str(out), "rows": num_rows, **question.counted(out)})
    else:
        counts = ", ".join(
            f"{count:,} {what.replace('_', ' ')}" for what, count in question.counted(out).items()
        )
        say(f"{out}: {num_rows:,} rows; {counts}")


def users_of(path: str, asking: Asking, report: Report) -> Int64[np.ndarray, " N"]:
    """The users that a file names, dense in the data; "all" are all of them.

    Raises:
        ValueError: the file cannot be read, is empty, lacks the column or names users who are not there.
    """
    if path == "all":
        return np.arange(asking.data.num_users)
    table = read_ids(Path(path), {asking.model.columns.user: "user"}, report)
    user_M = _known_users(table.to_series(), path, asking.data)
    user_N = pl.Series(user_M).unique(maintain_order=True).to_numpy()
    if len(user_N) < len(user_M):
        report(f"{path}: {len(user_M) - len(user_N):,} rows name a user again; each is answered once")
    return user_N


def pairs_of(path: Path, asking: Asking, report: Report) -> tuple[Int64[np.ndarray, " M"], pl.Series]:
    """The users of a table of pairs, dense in the data, and the items as it spells them.

    Raises:
        ValueError: as `users_of`.
    """
    columns = asking.model.columns
    table = read_ids(path, {columns.user: "user", columns.item: "item"}, report)
    users, items = table
    return _known_users(users, str(path), asking.data), items


def items_of(path: Path, asking: Asking, report: Report) -> pl.Series:
    """The items that a file names and the model knows; tells how many it does not.

    Raises:
        ValueError: the file cannot be read, is empty or lacks the column.
    """
    ids = read_ids(path, {asking.model.columns.item: "item"}, report).to_series()
    is_known = pl.Series(asking.model.vocabulary.index_of(ids) != UNKNOWN_ITEM)
    unknown = ids.filter(~is_known)
    if len(unknown):
        report(
            f"{path}: {len(unknown):,} of {len(ids):,} items are not among the model's {len(asking.model.items)}, such "
            f"as {unknown[0]!r}; they are never recommended"
        )
    return ids.filter(is_known)


def _known_users(ids: pl.Series, path: str, data: Dataset) -> Int64[np.ndarray, " M"]:
    user_M = data.users.index_of(ids)
    unknown = ids.filter(user_M == data.users.unknown).unique(maintain_order=True)
    if len(unknown):
        raise ValueError(
            f"{path}: {len(unknown):,} of {ids.n_unique():,} users are not in {data.manifest.name}: "
            f"{shortened(unknown)}. Leave them out and recommend popular items to them, or name a dataset that has "
            "them (--dataset)"
        )
    return user_M


def _digest(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()
