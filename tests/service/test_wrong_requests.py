"""What is wrong with a request is said, nothing of it is repeated, and nothing is lost."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from served import ask, asked, client_of, rating_event
from tiny import assert_not_vacuous

from plait.service.deployed import Deployed
from plait.service.problems import Problem
from plait.service.service import Service
from plait.store.history import StoreFull, StoreUnavailable
from plait.store.lmdb_store import LmdbStore

SECRET = "hunter2"
WRONG: list[tuple[str, Any, int]] = [
    ("/v1/retrieve", {}, 422),
    ("/v1/retrieve", {"user": SECRET, "history": [{"item_id": 1, "timestamp": 1}]}, 422),
    ("/v1/retrieve", {"user": 1, "k": 0}, 422),
    ("/v1/retrieve", {"user": 1, "k": SECRET}, 422),
    ("/v1/retrieve", {"user": 1, "k": 10**30}, 422),
    ("/v1/retrieve", {"user": {SECRET: 1}}, 422),
    ("/v1/retrieve", {"user": 1, SECRET: 1}, 422),
    ("/v1/retrieve", {"user": "\0seed"}, 422),
    ("/v1/retrieve", {"user": ""}, 422),
    ("/v1/retrieve", {"user": 191, "before": 3}, 422),
    ("/v1/retrieve", {"user": 191, "at": SECRET}, 422),
    ("/v1/retrieve", {"history": []}, 422),
    ("/v1/retrieve", {"history": [{"timestamp": 1}]}, 422),
    ("/v1/retrieve", {"history": [{"item_id": 242, "timestamp": SECRET}]}, 422),
    ("/v1/retrieve", {"history": [{"item_id": 242, "timestamp": 1e300}]}, 422),
    ("/v1/retrieve", {"history": [{"item_id": 242, "timestamp": 1, SECRET: 1}]}, 422),
    ("/v1/score", {"user": 191, "items": []}, 422),
    ("/v1/score", {"user": 191, "items": [1] * 10_001}, 422),
    ("/v1/score", {"user": 191, "items": [242], "value": f"{SECRET} * 2"}, 422),
    ("/v1/score", {"user": 191, "items": [242], "value": "rating / 0"}, 422),
    ("/v1/score", {"user": 191, "items": [242], "context": {SECRET: 1}}, 422),
    ("/v1/events", {"events": []}, 422),
    ("/v1/events", {"events": [rating_event("e", 1, rating=9)]}, 422),
    ("/v1/events", {"events": [rating_event("e", 1, rating=SECRET)]}, 422),
    ("/v1/events", {"events": [rating_event("e", 1, time=-5)]}, 422),
    ("/v1/events", {"events": [rating_event("e", 1, time=None)]}, 422),
    ("/v1/events", {"events": [rating_event("", 1)]}, 422),
    ("/v1/events", {"events": [rating_event("e", 1, item=None)]}, 422),
    ("/v1/events", {"events": [{"id": "e", "user": 1, "event": {"item_id": [1]}}]}, 422),
    ("/v1/nothing", {}, 404),
    ("/v1/models", {}, 405),
]  # fmt: skip


def test_what_is_wrong_is_said_and_nothing_is_repeated(service: Service) -> None:
    told: Counter = Counter()
    for path, body, status in WRONG:
        answer = ask(service, path, body)
        assert answer.status_code == status, (path, body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail"} <= answer.json().keys()
        assert SECRET not in answer.text, (path, body)
        told[status] += 1
    assert_not_vacuous(told)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"user": NaN}', b'{"user": 1e999}', b"null"]
)
def test_bodies_that_are_no_request(service: Service, content: bytes) -> None:
    assert ask(service, "/v1/retrieve", content=content).status_code in (400, 422)


def test_large_bodies_and_other_types_are_refused(service: Service) -> None:
    assert ask(service, "/v1/score", content=b" " * 4_000_001).status_code == 413
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert ask(service, "/v1/score", content=b"{}", headers=form).status_code == 415
    for deadline in ("x", "0", "-1", "nan", "1e9"):
        assert (
            ask(service, "/v1/retrieve", {"user": 191}, headers={"plait-deadline-ms": deadline}).status_code
            == 422
        )


def test_events_in_conflict_store_nothing(service: Service) -> None:
    ask(service, "/v1/events", {"events": [rating_event("c", 191)]})
    both = {"events": [rating_event("d", 191), rating_event("c", 191, item=302)]}
    answer = ask(service, "/v1/events", both)
    assert answer.status_code == 409 and answer.json()["events"] == ["left out", "conflict"]
    assert ask(service, "/v1/users/191", method="GET").json()["history"][-1]["id"] == "c"


def test_one_wrong_event_spoils_no_other_request(service: Service) -> None:
    async def all_at_once() -> list[int]:
        async with client_of(service) as client:
            bodies = [{"events": [rating_event(f"m{n}", 191, rating=9 if n == 3 else 4)]} for n in range(8)]
            answers = await asyncio.gather(*(asked(client, "/v1/events", body) for body in bodies))
            return [answer.status_code for answer in answers]

    assert asyncio.run(all_at_once()) == [200, 200, 200, 422, 200, 200, 200, 200]


@pytest.mark.parametrize(("error", "status"), [(StoreUnavailable("gone"), 503), (StoreFull("full"), 507)])
def test_a_store_that_fails_is_a_problem_and_not_an_error(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    for name in ("append", "head", "history", "delete"):
        monkeypatch.setattr(LmdbStore, name, fail)
    answers = [
        ask(service, "/v1/events", {"events": [rating_event("e", 191)]}),
        ask(service, "/v1/retrieve", {"user": 191}),
        ask(service, "/v1/users/191", method="GET"),
        ask(service, "/v1/users/191", method="DELETE"),
    ]
    assert [answer.status_code for answer in answers] == [status] * 4


def test_problems_are_exceptions_with_a_body() -> None:
    assert Problem(404, "no such thing", "why", more=1).body["type"] == "urn:plait:problem:no-such-thing"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/score", "POST"), ("/v1/users/191", "DELETE, GET"), ("/v1/models", "GET"), ("/metrics", "GET")],
)
def test_a_method_that_is_none_names_those_that_are(service: Service, path: str, allowed: str) -> None:
    answer = ask(service, path, method="PATCH")
    assert answer.status_code == 405 and answer.headers["allow"] == allowed
    assert "allow" not in ask(service, "/nowhere", method="GET").headers


def test_a_mistake_of_ours_is_a_problem_and_tells_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Deployed, questions: Any) -> Any:
        raise RuntimeError("s3cret")

    monkeypatch.setattr(Deployed, "answer", broken)
    answer = ask(service, "/v1/retrieve", {"user": "191"})
    assert answer.status_code == 500 and answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "our mistake" and "s3cret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert 'route="/v1/retrieve",status="500"} 1.0' in ask(service, "/metrics", method="GET").text


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**400])
def test_numbers_that_no_answer_can_hold_are_refused(service: Service, number: int) -> None:
    event = {"item_id": 242, "timestamp": 1_500_000_000, "rating": number}
    items = [242]
    for body in (
        {"user": 191, "items": [*items, number]},
        {"user": number, "items": items},
        {"history": [event], "items": items},
    ):
        answer = ask(service, "/v1/score", body)
        assert answer.status_code == 422 and "64 bits" in answer.json()["detail"], answer.text
        assert str(number) not in answer.text


def test_numbers_of_64_bits_are_ids_like_others(service: Service) -> None:
    items = [242, 2**64 - 1, -(2**63), str(2**64)]
    answer = ask(service, "/v1/score", {"user": 191, "items": items})
    assert answer.status_code == 200 and answer.json()["items"] == items
    assert answer.json()["status"] == ["ok"] + 3 * ["unknown item"]
