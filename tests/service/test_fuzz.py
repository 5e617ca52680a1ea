"""Requests of all kinds, most of them wrong: none is answered by an error of ours. `make test-serve` sends more."""

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import asked, client_of, prepared_log, service_of
from tiny import assert_caught, assert_not_vacuous

from plait.service.deployed import Deployed
from plait.service.examples import EXAMPLES
from plait.service.service import Service

CASES = int(os.environ.get("PLAIT_FUZZ_CASES", "250"))
MODEL_ALONE = ("/v1/why", "/v1/interests")  # counts cannot answer these where the deadline passed
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 7, 191, 242, 2**31, 2**63, 10**40, 0.5, -0.0, 1e300, "", " ", "191", "242", "x" * 600,
    "\0", "\n", "\u00e9\u2603", "../..", "nan", "rating", "rating * 2", "1 / 0", "log(rating - 9)", "2023-01-01",
    [], [1], ["a", 2],
    [[]], {}, {"a": 1}, {"item_id": 242, "timestamp": 1_600_000_000}, [{"item_id": 242, "timestamp": 1_600_000_000}],
    [{"item_id": 242, "timestamp": -1}], [{"item_id": None, "timestamp": 1}], 1_600_000_000, "1600000000", 10_001 * [1],
]  # fmt: skip
HEADERS: list[dict[str, str]] = [
    {}, {}, {}, {"plait-deadline-ms": "1"}, {"plait-deadline-ms": "60000"}, {"plait-request-id": "a/b"},
    {"content-type": "text/plain"}, {"authorization": "Bearer x"}, {"host": "elsewhere"},
]  # fmt: skip


def mutated(value: Any, rng: random.Random) -> Any:
    """The value with odd ones in places."""
    if rng.random() < 0.12:
        return rng.choice(ODD)
    if isinstance(value, dict):
        found = {name: mutated(each, rng) for name, each in value.items() if rng.random() < 0.97}
        if rng.random() < 0.25:
            name = rng.choice(
                ["at", "before", "k", "context", "value", "allow", "history", "other", "filter_seen"]
            )
            found[name] = rng.choice(ODD)
        return found
    if isinstance(value, list):
        return [mutated(each, rng) for each in value] * rng.choice((1, 1, 1, 0, 3))
    return value


def content_of(body: Any, rng: random.Random) -> bytes:
    """Its JSON, sometimes broken."""
    text = json.dumps(body).encode()
    if rng.random() < 0.1:
        at = rng.randrange(len(text))
        return (
            text[:at] + rng.choice([b"", b"}", b"\xff", b"NaN", b"\\ud800"]) + text[at + rng.randrange(3) :]
        )
    return text


async def statuses(service: Service, cases: int) -> Counter:
    met, rng = Counter(), random.Random(2)
    async with client_of(service) as client:
        for case in range(cases):
            path = rng.choice([*EXAMPLES, *EXAMPLES, "/v1/users/"])
            if path == "/v1/users/":
                user = rng.choice(["191", "nobody", "", "%00seed", "a/b", "x" * 600, "%F0%9F%99%82", "%ff"])
                answer = await asked(client, path + user, method=rng.choice(["GET", "DELETE", "PUT"]))
            else:
                content = content_of(mutated(rng.choice(list(EXAMPLES[path].values())), rng), rng)
                answer = await asked(client, path, content=content, headers=rng.choice(HEADERS))
            is_late = path in MODEL_ALONE and "urn:plait:problem:no-answer-in-time" in answer.text
            assert answer.status_code < 500 or is_late, (case, path, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
            met[answer.status_code] += 1
    return met


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = service_of(tmp_path, prepared_log(tmp_path))
    yield service
    service.close()


def check_no_error(service: Service, cases: int) -> None:
    met = asyncio.run(statuses(service, cases))
    assert_not_vacuous({status: met[status] for status in (200, 400, 404, 422)}, 2)


@pytest.mark.filterwarnings("ignore::UserWarning")  # as a service does
def test_no_request_meets_an_error_of_ours(service: Service) -> None:
    check_no_error(service, CASES)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_error_of_ours_is_caught(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Deployed._scored

    def broken(self: Deployed, group: Any) -> Any:
        if any(len(one.item_C) == 1 for one in group):
            raise KeyError("broken")
        return right(self, group)

    monkeypatch.setattr(Deployed, "_scored", broken)
    assert_caught(check_no_error, service, CASES)
