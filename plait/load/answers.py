"""What became of a request: who answered it, when, and how long it waited in the service."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from plait.load.client import Reply
from plait.load.mix import Kind

Outcome = Literal["good", "late", "fallback", "429", "503", "failed", "no answer"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
TIMING = re.compile(r"([\w-]+)\s*;\s*dur=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Answer:
    """Moments count from the beginning of the stage.

    Args:
        due_s: when the request was to be sent.
        begun_s: when the generator began to send it.
        done_s: when the answer was there whole, or given up.
        status: of HTTP; 0 where no answer came.
        by: who answered: model or fallback; empty where a status says it all.
        queue_s: how long it waited in the service; None where the service did not tell.
        model_s: how long the pass took that answered it.
        problem: what the service said of an answer that is none.
    """

    kind: Kind
    due_s: float
    begun_s: float
    done_s: float
    status: int
    by: str = ""
    queue_s: float | None = None
    model_s: float | None = None
    problem: str = ""

    @property
    def latency_s(self) -> float:
        """From the moment it was due: what a user waits, whoever is to blame."""
        return self.done_s - self.due_s

    @property
    def behind_s(self) -> float:
        """How late the generator was."""
        return self.begun_s - self.due_s


class _Body(msgspec.Struct):
    """Of an answer, or of problem details."""

    answered_by: str = ""
    detail: str = ""


def answer_of(kind: Kind, due_s: float, begun_s: float, done_s: float, reply: Reply | str) -> Answer:
    """What a reply says; a text says why there is none."""
    if isinstance(reply, str):
        return Answer(kind, due_s, begun_s, done_s, 0, problem=reply)
    body = read_body(reply.body)
    told = timing_s(reply.headers.get("server-timing", ""))
    problem = "" if reply.status == 200 else f"{reply.status}: {body.detail}"
    return Answer(
        kind, due_s, begun_s, done_s, reply.status, body.answered_by, told.get("queue"), told.get("model"), problem
    )  # fmt: skip


def read_body(content: bytes) -> _Body:
    """Nothing, where it is no such object: a proxy's page, say."""
    try:
        return msgspec.json.decode(content, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Body()


def timing_s(header: str) -> dict[str, float]:
    """The header `Server-Timing`, in seconds.

    >>> timing_s("queue;dur=1.5, model;dur=20")
    {'queue': 0.0015, 'model': 0.02}
    """
    return {name: float(ms) / 1e3 for name, ms in TIMING.findall(header)}


def outcome_of(answer: Answer, deadline_s: float) -> Outcome:
    """
    >>> outcome_of(Answer("score", due_s=1.0, begun_s=1.4, done_s=1.6, status=200, by="model"), 0.5)
    'late'
    """
    if answer.status == 0:
        return "no answer"
    if answer.status != 200:
        return "429" if answer.status == 429 else "503" if answer.status == 503 else "failed"
    if answer.by == "fallback":
        return "fallback"
    return "good" if answer.latency_s <= deadline_s else "late"
