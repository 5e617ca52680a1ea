"""What rankers read while they answered, as interests to train one with: logged interests are consumed again (LUM
paper, section 4.4).

An interest that was read for a request is one of every item that the request showed: it was asked before they were.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from plait.data.columns.times import MICROSECONDS_PER_S
from plait.recommender import Recommender
from plait.service.answer_log import INTERESTS
from plait.service.shown import REQUEST, Shown, times_us

ROW = ["user", "time", "item"]  # what tells an event of a prepared log, to the second
OF_REQUEST = ["request_id", "user"]


@dataclass(frozen=True)
class ReadInterests:
    """A row for each request of a user and condition: `user`, `time` of the request in unix seconds, `items` that it
    showed, `condition`, `version` of the user model, `interest`. Of one version, the one that was read last.
    """

    table: pl.DataFrame
    version: str
    others: int  # rows of other versions, whose vectors mean other things
    ambiguous: (
        int  # rows shown beside another event of the same user, item and second, which nobody can tell apart
    )

    def __str__(self) -> str:
        return (
            f"{self.table.height:,} interests of version {self.version}; left out: {self.others:,} of other versions, "
            f"{self.ambiguous:,} rows that stand beside others of the same user, item and second"
        )


def read_interests_of(folder: Path | str, recommender: Recommender, shown: Shown) -> ReadInterests:
    """The interests that were read for the requests of a log.

    Args:
        folder: of `plait serve --log-answers`.
        shown: the log, of the same folder.

    Raises:
        ValueError: no interests were logged there, or the log has no times.
    """
    files = sorted(Path(folder).glob(f"{INTERESTS}-*.parquet"))
    read = [table for table in (pl.read_parquet(file, glob=False) for file in files) if table.height]
    if not read:
        raise ValueError(
            f"{folder} holds no interests ({INTERESTS}-*.parquet): a ranker that reads some must have answered there"
        )
    logged = pl.concat(read).sort("time", maintain_order=True)
    version = logged["version"][-1]
    mine = logged.filter(pl.col("version") == version)
    rows, num_ambiguous = _unambiguous(_rows_of(shown, recommender))
    keys = [*OF_REQUEST, "time"]
    items = rows.group_by(keys, maintain_order=True).agg(pl.col("item").alias("items"))
    joined = items.join(_by_request(mine), on=OF_REQUEST, how="inner", maintain_order="left_right")
    table = joined.select("user", "time", "items", "condition", "version", "interest")
    return ReadInterests(table, version, logged.height - mine.height, num_ambiguous)


def _rows_of(shown: Shown, recommender: Recommender) -> pl.DataFrame:
    """The log's rows under common names. Raises ValueError where it has no times."""
    columns, table = recommender.columns, shown.table
    if columns.time is None:
        raise ValueError(
            "the log has no times, so nobody can tell which events interests are of; leave them out"
        )
    return pl.DataFrame(
        {
            "request_id": table[columns.request or REQUEST].cast(pl.String),
            "user": table[columns.user].cast(pl.String),
            "time": times_us(table[columns.time], columns) // MICROSECONDS_PER_S,
            "item": table[columns.item].cast(pl.String),
            "shown": table["answer_shown" if "answer_shown" in table.columns else "shown"],
        }
    )


def _unambiguous(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Rows that were shown, and stand alone with their user, item and second; and how many do not."""
    alone = rows.filter(pl.len().over(ROW) == 1, pl.col("shown"))
    return alone, int(rows["shown"].sum()) - alone.height


def _by_request(logged: pl.DataFrame) -> pl.DataFrame:
    """Interests by the request that shows items: the ranker's own, or the one that its question named; of several
    answers to one, the last."""
    columns = ["user", "condition", "version", "interest"]
    own = logged.select("request_id", *columns, "time")
    named = logged.select(pl.col("asked_request_id").alias("request_id"), *columns, "time")
    both = pl.concat([own, named]).filter(pl.col("request_id").is_not_null(), pl.col("user").is_not_null())
    last = both.sort("time", maintain_order=True).unique(
        [*OF_REQUEST, "condition"], keep="last", maintain_order=True
    )
    return last.drop("time")
