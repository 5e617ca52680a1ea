"""What was asked, what was answered, and what users then did, as Parquet.

FOLDER/answers-*.parquet  a row for each item of each answer to /v1/retrieve and /v1/score
FOLDER/events-*.parquet   a row for each event that /v1/events stored
FOLDER/interests-*.parquet  a row for each interest that a ranker read for an answer to /v1/score

All name users. `plait.service.shown` joins them into a log, and `plait.service.shown_interests` into interests to train
a ranker with: logged interests are consumed again (LUM paper, section 4.4).

Shape letters: A answers, R rows of all of them end to end, W width of an interest.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import msgspec
import numpy as np
import polars as pl
from jaxtyping import Float32, Float64

from plait.service.asking import Answered
from plait.service.counters import Counters
from plait.service.deployed import Found
from plait.service.rolling_files import RollingFiles, RollingSettings
from plait.service.told import Told
from plait.service.wire import Asked, RetrieveRequest, ScoreRequest, SentEvent
from plait.store.history import Outcome

ANSWERS, EVENTS, INTERESTS = "answers", "events", "interests"
EXPECTED = "expected_"  # before the name of each column of expected actions
MOMENT = pl.Datetime("us", "UTC")
TEXTS = (
    "model",
    "version",
    "request_id",
    "asked",
    "user",
    "at",
    "answered_by",
    "why",
    "interests",
    "question",
)


@dataclass(frozen=True)
class Answer:
    """What is logged of an answer."""

    request_id: str
    time_us: int  # since 1970, when it was answered
    asked: RetrieveRequest | ScoreRequest
    found: Found

    @property
    def num_rows(self) -> int:
        return len(self.found["items"])


class Happened(msgspec.Struct, frozen=True, gc=False):
    """An event that was stored, and when it came."""

    time_us: int
    sent: SentEvent


@dataclass(frozen=True)
class Informed:
    """What a ranker was told for an answer; the interests that it lacked are none."""

    request_id: str
    time_us: int
    model: str
    asked: ScoreRequest
    told: Told

    @property
    def known(self) -> list[tuple[str, Float32[np.ndarray, " W"]]]:
        """Conditions with their interests."""
        assert self.told.interest_QW is not None, "of nothing there is no row"
        pairs = zip(self.told.conditions, self.told.interest_QW, strict=True)
        return [(condition, interest_W) for condition, interest_W in pairs if not np.isnan(interest_W).any()]


@final
class AnswerLog:
    """Answers, events and interests as they come, written to files aside from whoever answers.

    Args:
        clock_s: unix seconds.

    Raises:
        ValueError: the folder cannot be had.
    """

    def __init__(
        self, settings: RollingSettings, counters: Counters, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._clock_s = clock_s
        self._answers: RollingFiles[Answer] = RollingFiles(
            settings, ANSWERS, answers_table, *_counting(counters, ANSWERS)
        )
        self._events: RollingFiles[Happened] = RollingFiles(
            settings, EVENTS, happened_table, *_counting(counters, EVENTS)
        )
        self._interests: RollingFiles[Informed] = RollingFiles(
            settings, INTERESTS, read_table, *_counting(counters, INTERESTS)
        )

    def answered(self, request_id: str, asked: Asked, answered: Answered) -> None:
        """A whole answer, with the model that gave it. An empty one, or one to another question, showed nothing."""
        found, told = answered.found, answered.told
        if not isinstance(asked, RetrieveRequest | ScoreRequest) or not found["items"]:
            return
        answer = Answer(request_id, self._now_us(), asked, found)
        self._answers.add(answer, answer.num_rows)
        if isinstance(asked, ScoreRequest) and "interests" in found and told.interest_QW is not None:
            informed = Informed(request_id, answer.time_us, found["model"], asked, told)
            self._interests.add(informed, len(told.conditions))

    def stored(self, events: Iterable[SentEvent], outcomes: Iterable[Outcome]) -> None:
        """Events with what became of them: one that is sent again happened once."""
        now_us = self._now_us()
        for sent, outcome in zip(events, outcomes, strict=True):
            if outcome == "stored":
                self._events.add(Happened(now_us, sent), 1)

    def close(self) -> None:
        """Writes what waits."""
        self._answers.close()
        self._events.close()
        self._interests.close()

    def _now_us(self) -> int:
        return int(self._clock_s() * 1e6)


def answers_table(answers: Sequence[Answer]) -> pl.DataFrame:
    """A row for each item, with what is expected of every action that any of the answers names."""
    row_R = np.repeat(np.arange(len(answers)), [answer.num_rows for answer in answers])
    told = pl.DataFrame([_told(answer) for answer in answers], schema=dict.fromkeys(TEXTS, pl.String))
    times = pl.Series("time", [answer.time_us for answer in answers]).cast(MOMENT)
    names = list(dict.fromkeys(name for answer in answers for name in answer.found.get("actions", {})))
    items = [str(item) for answer in answers for item in answer.found["items"]]
    status = [text for answer in answers for text in answer.found.get("status", ["ok"] * answer.num_rows)]
    place_R = np.concatenate([np.arange(1, answer.num_rows + 1, dtype=np.int32) for answer in answers])
    return told.with_columns(times)[row_R].with_columns(
        pl.Series("item", items, dtype=pl.String),
        pl.Series("position", place_R),
        pl.Series("status", status, dtype=pl.String),
        _numbers("score", answers, lambda found: found.get("scores")),
        _numbers("value", answers, lambda found: found.get("value")),
        *(_numbers(EXPECTED + name, answers, partial(_expected, name)) for name in names),
    )


def happened_table(events: Sequence[Happened]) -> pl.DataFrame:
    """A row for each event; its columns stand in one text, as JSON, since each log has others."""
    columns = {
        "event_id": [each.sent.id for each in events],
        "request_id": [each.sent.request_id for each in events],
        "user": [str(each.sent.user) for each in events],
        "event": [msgspec.json.encode(each.sent.event).decode() for each in events],
    }
    times = pl.Series("time", [each.time_us for each in events], dtype=pl.Int64).cast(MOMENT)
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)).with_columns(times)


def read_table(answers: Sequence[Informed]) -> pl.DataFrame:
    """A row for each interest that a ranker read: of which request, user and condition, from which version, and how it
    was known. `asked_request_id` is the request that the ranker's question named."""
    rows = [(its, condition, interest_W) for its in answers for condition, interest_W in its.known]
    columns = {
        "request_id": [its.request_id for its, _, _ in rows],
        "asked_request_id": [its.asked.request_id for its, _, _ in rows],
        "user": [None if its.asked.user is None else str(its.asked.user) for its, _, _ in rows],
        "model": [its.model for its, _, _ in rows],
        "version": [its.told.version for its, _, _ in rows],
        "source": [its.told.source for its, _, _ in rows],
        "condition": [condition for _, condition, _ in rows],
    }
    vectors = pl.Series("interest", [interest_W.tolist() for _, _, interest_W in rows], pl.List(pl.Float32))
    times = pl.Series("time", [its.time_us for its, _, _ in rows], dtype=pl.Int64).cast(MOMENT)
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String)).with_columns(times, vectors)


def _told(answer: Answer) -> dict[str, str | None]:
    """What all rows of an answer share. Lists of allowed and denied items may be long, and are left out."""
    asked, found = answer.asked, answer.found
    more: dict[str, Any] = (
        {"k": asked.k, "filter_seen": asked.filter_seen}
        if isinstance(asked, RetrieveRequest)
        else {"context": asked.context, "value": asked.value}
    )
    if asked.condition is not None:
        more["condition"] = asked.condition
    return {
        "model": found["model"],
        "version": found["version"],
        "request_id": answer.request_id,
        "asked": "retrieve" if isinstance(asked, RetrieveRequest) else "score",
        "user": None if asked.user is None else str(asked.user),
        "at": None if asked.at is None else str(asked.at),
        "answered_by": found["answered_by"],
        "why": found.get("why"),
        "interests": found.get("interests"),
        "question": msgspec.json.encode(more, order="deterministic").decode(),
    }


def _expected(name: str, found: Found) -> Any:
    return found.get("actions", {}).get(name)


def _numbers(name: str, answers: Sequence[Answer], of: Callable[[Found], Any]) -> pl.Series:
    """A column of numbers, null where an answer has none."""
    parts = [_floats(of(answer.found), answer.num_rows) for answer in answers]
    return pl.Series(name, np.concatenate(parts), dtype=pl.Float64).fill_nan(None)


def _floats(values: Any, num_rows: int) -> Float64[np.ndarray, " R"]:
    """NaN where there are none: an answer about unknown items alone holds None for each."""
    return np.full(num_rows, np.nan) if values is None else np.array(values, dtype=np.float64)


def _counting(counters: Counters, name: str) -> tuple[Callable[[Any, int], None], Callable[[], None]]:
    """What counts the rows of a table, and the files of it that could not be written."""
    return (
        lambda fate, rows: counters.logged.labels(name, fate).inc(rows),
        counters.log_failures.labels(name).inc,
    )
