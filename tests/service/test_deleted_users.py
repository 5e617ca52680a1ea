"""A user who is deleted does not come back into memory."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from served import ask, asked, client_of, recommender_of
from tiny import assert_caught

from plait.data import Dataset
from plait.service.deployed import Deployed
from plait.service.service import Service
from plait.service.states import StateCache


def check_forgotten_in_flight(service: Service, monkeypatch: pytest.MonkeyPatch) -> int:
    """A question has read its user's history; the user is deleted; the question is answered. How many were met."""
    read, may_go, right = threading.Event(), threading.Event(), Deployed.encoded

    def encoded(self: Deployed, *given: Any) -> Any:
        found = right(self, *given)
        read.set()
        may_go.wait(10)
        return found

    async def all_at_once() -> tuple[int, int]:
        async with client_of(service) as client:
            question = asyncio.create_task(asked(client, "/v1/retrieve", {"user": 192}))
            await asyncio.to_thread(read.wait, 10)
            deleted = await asked(client, "/v1/users/192", method="DELETE")
            may_go.set()
            return (await question).status_code, deleted.status_code

    with monkeypatch.context() as patched:
        patched.setattr(Deployed, "encoded", encoded)
        assert asyncio.run(all_at_once()) == (200, 204)
    assert service.first.deployed.states.users() == []
    return int(read.is_set())


def test_a_question_in_flight_brings_no_deleted_user_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_forgotten_in_flight(service, monkeypatch) == 1


def test_a_cache_that_keeps_deleted_users_is_caught(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = StateCache.put
    monkeypatch.setattr(
        StateCache, "put", lambda self, user, entry, _: right(self, user, entry, self.num_forgotten)
    )
    assert_caught(check_forgotten_in_flight, service, monkeypatch)


def test_a_user_is_forgotten_by_the_version_that_comes(
    service: Service, tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(service, "/v1/retrieve", {"user": 192})
    warmed, right = [], Deployed.warm

    def warm(self: Deployed, *given: Any) -> int:
        done = right(self, *given)
        warmed.append(self.states.users())
        assert ask(service, "/v1/users/192", method="DELETE").status_code == 204
        return done

    monkeypatch.setattr(Deployed, "warm", warm)
    recommender_of(data, scale=1.1).save_pretrained(tmp_path / "model")
    assert service.reload()[0]["swapped"] and warmed == [["192"]]
    assert service.first.deployed.states.users() == []
