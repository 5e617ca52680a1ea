"""Questions that a version answers before it is served: what comes first in a process takes longest.

Libraries are read, memory is taken, and ways of multiplying are chosen when they are first needed. Real questions would
wait for that, and past their deadline get counts.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from time import perf_counter
from typing import Any

from plait.data.columns.times import PER_S
from plait.data.history import Columns
from plait.engine.state import State
from plait.service.deployed import Deployed, Question
from plait.service.rows import Row
from plait.service.wire import RetrieveRequest, ScoreRequest

Step = Callable[[Callable[[], Any]], Any]
CANDIDATES = 1_000
TIMES = 3
MOST_APPENDED = 64  # whatever was measured: a busy moment must not let states fall far behind
BEGAN = datetime(2020, 1, 1, tzinfo=UTC)


def practise(deployed: Deployed, step: Step = lambda work: work()) -> int:
    """Answers a retrieve and a score of the longest history that the model reads, and appends to it; how many answers.

    It measures, too, from how many events on a state is encoded anew instead of being appended to. Nothing of it is
    stored or kept in memory.

    Args:
        step: does a piece of it, none of which takes longer than a question, in the thread that will answer.

    Raises:
        ValueError: the model does not answer.
    """
    rows = practice_rows(deployed)
    try:
        deployed.most_appended = worth_appending(*_encoding_and_appending_s(deployed, rows, step))
        questions = _questions(deployed, rows)
        answers = [answer for one in questions for answer in step(partial(deployed.answer, [one]))]
    except Exception as error:
        raise ValueError(f"the model cannot answer: {error}") from error
    for answer in answers:
        if isinstance(answer, Exception):
            raise ValueError(f"the model cannot answer: {answer}") from answer
    return len(answers)


def worth_appending(encode_s: float, append_s: float) -> int:
    """So many events are appended one by one in the time in which a history is encoded; one, if not even that.

    >>> worth_appending(0.0145, 0.008), worth_appending(1.5, 0.01), worth_appending(0.001, 0.002)
    (1, 64, 1)
    """
    return min(max(int(encode_s / append_s), 1), MOST_APPENDED)


def _encoding_and_appending_s(deployed: Deployed, rows: list[Row], step: Step) -> tuple[float, float]:
    """The shortest of several times each: the first one in a process is no measure."""
    encoded = [step(partial(_timed, lambda: deployed.encoded(rows[:-1]))) for _ in range(TIMES)]
    state = encoded[-1][0]
    appended = [
        step(partial(_timed, lambda: deployed.recommender.append(state, deployed.rows.frame(rows[-1:]))))
        for _ in range(TIMES)
    ]
    return min(seconds for _, seconds in encoded), min(seconds for _, seconds in appended)


def _timed(work: Callable[[], State]) -> tuple[State, float]:
    began = perf_counter()
    return work(), perf_counter() - began


def practice_rows(deployed: Deployed) -> list[Row]:
    """Events of the model's first items, one a minute, so many as it reads at most, and one more."""
    recommender = deployed.recommender
    plan, ids = recommender.model.plan, recommender.items.head(CANDIDATES).to_list()
    count = plan.window.longest + max(plan.lead, 1) + 1
    return [
        deployed.rows.spelled(_row(recommender.columns, ids[nth % len(ids)], nth)) for nth in range(count)
    ]


def _questions(deployed: Deployed, rows: list[Row]) -> list[Question]:
    recommender = deployed.recommender
    history, time = tuple(rows), recommender.columns.time
    ids = tuple(recommender.items.head(CANDIDATES).to_list())
    asked: list[RetrieveRequest | ScoreRequest] = []
    condition: Row | None = {} if deployed.reads_condition else None
    if deployed.can_retrieve:
        with_actions = deployed.can_score
        asked.append(
            RetrieveRequest(
                history=history, filter_seen=False, with_actions=with_actions, condition=condition
            )
        )
    if deployed.can_score:
        asked.append(ScoreRequest(items=ids, history=history, condition=condition))
    return [Question(each, None if time is None else rows[-1][time]) for each in asked]


def _row(columns: Columns, item: Any, nth: int) -> Row:
    """Where the log breaks ties or names requests, each event has a number and a request of its own."""
    found = {columns.item: item}
    if columns.time is not None:
        found[columns.time] = _time(columns, nth)
    if columns.time_offset is not None:
        found[columns.time_offset] = "+0000"
    if columns.order is not None:
        found[columns.order] = nth
    if columns.request is not None:
        found[columns.request] = f"practice-{nth}"
    return found


def _time(columns: Columns, minute: int) -> Any:
    when = BEGAN + timedelta(minutes=minute)
    if columns.time_format is not None:
        return when.strftime(columns.time_format)
    if columns.time_offset is not None:
        return when.strftime("%Y-%m-%dT%H:%M:%S")
    return int(when.timestamp()) * PER_S[columns.time_unit]
