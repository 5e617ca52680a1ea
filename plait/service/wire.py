"""What requests hold, and what is wrong with those that hold something else."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from plait.service.problems import Problem

MOST_CONDITIONS = 64
MOST_CANDIDATES, MOST_EVENTS, MOST_HISTORY, MOST_ITEMS, MOST_FILTERED = 10_000, 1_000, 10_000, 1_000, 100_000
UNKNOWN_FIELD = re.compile(r"unknown field `.*`( - at `.*)?$", re.DOTALL)

LONG, WHOLE = re.compile(rb"\d{19,}"), range(-(2**63), 2**64)

Text = Annotated[str, Meta(max_length=512)]
Id = Annotated[str, Meta(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f]+$")] | int
RequestId = Annotated[str, Meta(min_length=1, max_length=64)]
Scalar = Text | int | float | bool | None
Columns = Annotated[dict[Text, Scalar], Meta(max_length=256)]
Spelled = Text | int | float
Kind = TypeVar("Kind")


class SentEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event to append: its id, which names it within its user, and its columns as in the log."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    user: Id
    event: Columns
    request_id: RequestId | None = None  # the answer that it is about


class AppendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    events: Annotated[tuple[SentEvent, ...], Meta(min_length=1, max_length=MOST_EVENTS)]


class _Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every question says: which model is asked, about whom, and when."""

    model: Text | None = None  # one of those that are served; None: as they share the users
    user: Id | None = None
    history: Annotated[tuple[Columns, ...], Meta(min_length=1, max_length=MOST_HISTORY)] | None = None
    before: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    at: Spelled | None = None


class RetrieveRequest(_Question, frozen=True, kw_only=True):
    k: Annotated[int, Meta(ge=1, le=MOST_ITEMS)] = 10
    filter_seen: bool = True
    allow: Annotated[tuple[Id, ...], Meta(max_length=MOST_FILTERED)] | None = None
    deny: Annotated[tuple[Id, ...], Meta(max_length=MOST_FILTERED)] | None = None
    with_actions: bool = False
    condition: Columns | None = (
        None  # under which a model of conditions is asked; what is not named is missing
    )
    rank_with: Text | None = (
        None  # a ranker that will be asked about the same request: its interests are asked for
    )


class ScoreRequest(_Question, frozen=True, kw_only=True):
    items: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=MOST_CANDIDATES)]
    context: Columns = {}
    value: Annotated[str, Meta(max_length=2_000)] | None = None
    condition: Columns | None = None
    request_id: RequestId | None = None  # the request whose interests a ranker reads


class WhyRequest(_Question, frozen=True, kw_only=True):
    """With an item: its actions are asked about. Without one: what comes next."""

    item: Id | None = None
    context: Columns = {}


class QueryRequest(_Question, frozen=True, kw_only=True):
    """What a user would want under each of some conditions."""

    conditions: Annotated[tuple[Columns, ...], Meta(min_length=1, max_length=MOST_CONDITIONS)]
    k: Annotated[int, Meta(ge=1, le=MOST_ITEMS)] = 10
    filter_seen: bool = True
    with_interests: bool = False


class InterestsRequest(_Question, frozen=True, kw_only=True):
    """The vectors that a ranker reads, one for each condition."""

    conditions: Annotated[tuple[Columns, ...], Meta(min_length=1, max_length=MOST_CONDITIONS)]


Conditioned = QueryRequest | InterestsRequest
Asked = RetrieveRequest | ScoreRequest | WhyRequest | Conditioned


def decoded(body: bytes, kind: type[Kind]) -> Kind:
    """
    Raises:
        Problem: it is no JSON, or not of this kind.
    """
    try:
        found = msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text = UNKNOWN_FIELD.sub(f"a field that is none of {', '.join(kind.__struct_fields__)}", str(error))  # type: ignore[attr-defined]
        raise Problem(422, "wrong request", f"{text}; see /openapi.json") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "malformed JSON", "the body is no JSON; send one object, in UTF-8") from None
    _check_numbers(body)
    if isinstance(found, Asked):
        _check_whose(found)
    return found


def _check_numbers(body: bytes) -> None:
    """Raises Problem where a whole number is longer than answers, which repeat ids, can hold."""
    if LONG.search(body) and any(number not in WHOLE for number in _whole_numbers(msgspec.json.decode(body))):
        raise Problem(
            422,
            "wrong request",
            "a whole number takes more than 64 bits; write it as text; see /openapi.json",
        )


def _whole_numbers(value: Any) -> Iterator[int]:
    match value:
        case int():
            yield value
        case dict() | list():
            for each in value.values() if isinstance(value, dict) else value:
                yield from _whole_numbers(each)


def _check_whose(asked: Asked) -> None:
    if (asked.user is None) == (asked.history is None):
        given = "both" if asked.user is not None else "neither"
        raise Problem(
            422,
            "wrong request",
            f"{given} of user and history are given; expected one: an id, or the events themselves",
        )
    if asked.before and asked.history is None:
        raise Problem(
            422, "wrong request", "before counts the events before a history that is given; leave it out"
        )
