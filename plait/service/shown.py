"""What was shown, joined with what users did with it: a log with requests, which `plait data prepare` reads.

An event is about a row of an answer where it names the answer's request, and user and item are those of the row. Rows
that no event is about were shown, and nothing was done with them. Events that are about no row stay events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from plait.data.columns.times import MICROSECONDS_PER_S, PER_S, TimeForm, microseconds
from plait.data.history import Columns
from plait.recommender import Recommender
from plait.schema import Action, Binary
from plait.service.answer_log import ANSWERS, EVENTS
from plait.service.problems import Problem
from plait.service.rows import Rows, unpacked

REQUEST = "request_id"  # where the log has no column of that meaning
KEYS = ["request_id", "user", "item"]  # of a row in the log of answers
OF_ANSWERS = ("asked", "position", "model", "version", "answered_by", "interests", "score", "value")


@dataclass(frozen=True)
class Shown:
    """A row for each item that a user was shown or did something with, by user and time.

    Beside the log's own columns: `shown` (an answer held it) and `taken` (an event is about it), and of the answer
    `asked`, `position`, `model`, `version`, `answered_by`, `interests` (how a ranker knew them), `score`, `value` and
    `expected_...`. Where the log has a column of that name, it is called `answer_...`.
    """

    table: pl.DataFrame
    taken: int  # rows of answers that events are about
    elsewhere: int  # events that are about no row of an answer
    repeated: int  # rows of answers whose request was answered again, so that nobody knows who saw them
    nobodys: int  # rows of answers to a history, whose user no event tells

    def __str__(self) -> str:
        return (
            f"{self.table.height - self.elsewhere:,} rows shown, {self.taken:,} of them taken; {self.elsewhere:,} "
            f"events beside them; left out: {self.repeated:,} rows of requests that were answered again, "
            f"{self.nobodys:,} of nobody that is known"
        )


def shown_log(
    folder: Path | str,
    recommender: Recommender,
    first: int | None = None,
    untaken: Mapping[str, float | str] | None = None,
) -> Shown:
    """Joins the answers and events that `plait serve --log-answers` wrote.

    Args:
        folder: where they lie; only files that are whole are there.
        recommender: one that was served, for the log's columns and actions.
        first: how many items of a retrieved list the user was shown; None: all; 0: those that events are about. Of
            scored items, it is always those.
        untaken: the values of actions where nothing was done. Without one, a binary action is 0 and all others are
            missing.

    Raises:
        ValueError: there are no answers, an event is of another log, or the log writes its times or breaks their ties
            in a way that no answer can follow.
    """
    columns = recommender.columns
    _check_can_join(columns)
    values = _untaken(recommender.actions, untaken or {})
    events = _spelled_events(_read(Path(folder), EVENTS), recommender)
    answers = _with_users_of_events(_read(Path(folder), ANSWERS), events)
    num_nobodys = answers["user"].null_count()
    answers, num_repeated = _of_last_answers(answers.filter(pl.col("user").is_not_null()))
    done = _merged(events)
    rows = _rows_shown(answers, done, first)
    joined = rows.join(done.drop("when_us"), on=KEYS, how="left")
    joined = joined.with_columns(pl.lit(True).alias("shown"), pl.col("event_id").is_not_null().alias("taken"))
    joined = joined.with_columns(
        pl.when("taken").then(pl.col(_own(name))).otherwise(pl.lit(value)).alias(_own(name))
        for name, value in values.items()
    )
    others = events.join(rows, on=KEYS, how="anti").with_columns(
        pl.lit(False).alias("shown"),
        pl.lit(True).alias("taken"),
        pl.coalesce("request_id", pl.format("event {}", "event_id")).alias("request_id"),
    )
    table = pl.concat([joined, others], how="diagonal_relaxed")
    return Shown(
        _as_logged(table, columns, recommender),
        taken=int(joined["taken"].sum()),
        elsewhere=others.height,
        repeated=num_repeated,
        nobodys=num_nobodys,
    )


def _check_can_join(columns: Columns) -> None:
    if columns.time_offset is not None or columns.order is not None:
        name = columns.time_offset or columns.order
        raise ValueError(
            f"column {name!r} says how far times are ahead of UTC, or breaks their ties, and no answer has it: join "
            "the files in the log's folder yourself"
        )


def _untaken(actions: tuple[Action, ...], given: Mapping[str, float | str]) -> dict[str, Any]:
    """Raises ValueError where there is no such action."""
    names = [action.name for action in actions]
    for name in given:
        if name not in names:
            raise ValueError(f"{name!r} is no action of the model; expected one of {', '.join(names)}")
    zeros = {action.name: 0.0 for action in actions if isinstance(action.kind, Binary)}
    return zeros | dict(given)


def _read(folder: Path, name: str) -> pl.DataFrame:
    files = sorted(folder.glob(f"{name}-*.parquet"))
    if files:
        return pl.concat([pl.read_parquet(file, glob=False) for file in files], how="diagonal_relaxed")
    if name == ANSWERS:
        raise ValueError(
            f"{folder} holds no answers ({name}-*.parquet); name the folder that a service logged its answers in"
        )
    texts = dict.fromkeys(("event_id", "request_id", "user", "event"), pl.String)
    return pl.DataFrame(schema={**texts, "time": pl.Datetime("us", "UTC")})


def _of_last_answers(answers: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """One answer to each request and how many rows others had: who asks again has not seen the answer before."""
    last = pl.col("time") == pl.col("time").max().over("request_id", "asked", "user")
    kept = answers.filter(last)
    return kept, answers.height - kept.height


def _spelled_events(events: pl.DataFrame, recommender: Recommender) -> pl.DataFrame:
    """Events with the log's own columns, which are set apart from those of answers until the end."""
    rows, columns = Rows(recommender), recommender.columns
    try:
        spelled = [rows.spelled(unpacked(text.encode())) for text in events["event"]]
    except Problem as error:
        raise ValueError(f"an event is of another log than the model: {error.detail}") from error
    own = rows.frame(spelled)
    missing = [action.name for action in recommender.actions if action.name not in own.columns]
    own = own.with_columns(pl.lit(None).alias(name) for name in missing)
    item = own[columns.item].cast(pl.String).alias("item")
    when_us = events["time"].dt.epoch("us") if columns.time is None else times_us(own[columns.time], columns)
    request_id = events["request_id"]
    if columns.request is not None:
        request_id = own.select(pl.coalesce(request_id, pl.col(columns.request).cast(pl.String))).to_series()
    kept = own.drop(columns.item, *filter(None, (columns.time, columns.request)))
    return (
        events.select("event_id", "user", received="time")
        .with_columns(request_id.alias("request_id"), item, when_us.alias("when_us"))
        .hstack(kept.rename(_own))
        .sort("received", maintain_order=True)
        .drop("received")
    )


def _with_users_of_events(answers: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """An answer to a history names nobody; the first event about it does."""
    known = events.filter(pl.col("request_id").is_not_null()).unique(
        "request_id", keep="first", maintain_order=True
    )
    named = answers.join(
        known.select("request_id", its_user="user"), on="request_id", how="left", maintain_order="left"
    )
    return named.with_columns(pl.coalesce("user", "its_user").alias("user")).drop("its_user")


def _merged(events: pl.DataFrame) -> pl.DataFrame:
    """Events about one row as one: of each column, the last value that there is."""
    about = events.filter(pl.col("request_id").is_not_null())
    return about.group_by(KEYS, maintain_order=True).agg(pl.all().drop_nulls().last())


def _rows_shown(answers: pl.DataFrame, done: pl.DataFrame, first: int | None) -> pl.DataFrame:
    """Each item of a request once, retrieved ones before scored ones; all at the time of the request's last answer."""
    listed = answers.filter(pl.col("asked") == "retrieve")
    if first is not None:
        listed = listed.filter(pl.col("position") <= first)
    told = answers.join(done, on=KEYS, how="semi")
    rows = pl.concat([listed, told]).sort("asked", "position", maintain_order=True)
    rows = rows.unique(KEYS, keep="first", maintain_order=True)
    return rows.with_columns(pl.col("time", "at").sort_by("time").last().over("request_id", "user"))


def _as_logged(table: pl.DataFrame, columns: Columns, recommender: Recommender) -> pl.DataFrame:
    """Rows in the order of users and times, under the names of the log, and in its forms."""
    shown_us = table["time"].dt.epoch("us")
    if columns.time is not None:
        shown_us = pl.select(pl.coalesce(times_us(table["at"], columns), shown_us)).to_series()
    when_us = pl.select(pl.coalesce(shown_us, table["when_us"] if "when_us" in table.columns else None))
    table = table.with_columns(when_us.to_series().alias("when_us"))
    table = table.sort("user", "when_us", "request_id", "position", maintain_order=True)
    own = [name for name in table.columns if name.startswith(_own(""))]
    ours = {
        columns.user: _as_ids(table["user"], columns.user_ids == "numbers"),
        columns.item: _as_ids(table["item"], recommender.items.dtype.is_integer()),
        **({} if columns.time is None else {columns.time: _time_as_logged(table["when_us"], columns)}),
        columns.request or REQUEST: table["request_id"],
        **{name.removeprefix(_own("")): table[name] for name in own},
    }
    beside = [name for name in table.columns if name in OF_ANSWERS or name.startswith("expected_")]
    for name in ("shown", "taken", *beside):
        ours[f"answer_{name}" if name in ours else name] = table[name]
    return pl.DataFrame([series.alias(name) for name, series in ours.items()])


def times_us(times: pl.Series, columns: Columns) -> pl.Series:
    """Microseconds since 1970 of times as the log writes them."""
    assert columns.time is not None
    form = TimeForm(column="at", unit=columns.time_unit, format=columns.time_format)
    value, _ = microseconds(form, {"at": pl.String()})
    return times.cast(pl.String).alias("at").to_frame().select(value).to_series()


def _time_as_logged(when_us: pl.Series, columns: Columns) -> pl.Series:
    if columns.time_format is not None:
        return when_us.cast(pl.Datetime("us")).dt.strftime(columns.time_format)
    per_s = PER_S[columns.time_unit]
    if per_s > MICROSECONDS_PER_S:
        return when_us * (per_s // MICROSECONDS_PER_S)
    return when_us // (MICROSECONDS_PER_S // per_s)


def _as_ids(ids: pl.Series, are_numbers: bool) -> pl.Series:
    """As the log has them; where one is no number, all are text."""
    found = ids.cast(pl.Int64, strict=False)
    return found if are_numbers and found.null_count() == ids.null_count() else ids


def _own(name: str) -> str:
    """A column of the log beside those of answers."""
    return f"\0{name}"
