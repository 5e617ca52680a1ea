"""The service answers as the recommender does, in time or with counts, and loses nothing."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import (
    MANY_MS,
    ask,
    asked,
    client_of,
    deployed_of,
    rating_event,
    recommender_of,
    service_of,
)
from tiny import EVERY_LAYOUT, RETRIEVERS, SCORERS, assert_caught, assert_not_vacuous

from plait.data import Dataset
from plait.engine.asking import reads_condition
from plait.service.deployed import Deployed, Question
from plait.service.examples import EXAMPLES
from plait.service.keys import add_key, holder, read_keys
from plait.service.practice import practise
from plait.service.rows import packed, unpacked
from plait.service.service import Service
from plait.service.settings import ServiceSettings
from plait.service.states import CachedState, StateCache
from plait.service.wire import RetrieveRequest, ScoreRequest
from plait.store.history import Append, Retention, Store, StoredEvent
from plait.store.lmdb_store import LmdbStore

ITEMS = [242, 280, 302]


# Answers


def check_answers(deployed: Deployed, store: Store, data: Dataset) -> Counter:
    """Answers before and after events, on time and late, are those of histories that are encoded as a whole."""
    met: Counter = Counter()
    users = data.user_ids().to_list()[:2]
    for step in range(4):
        questions = []
        for user in users:
            if deployed.can_retrieve:
                questions.append(Question(RetrieveRequest(user=user, k=4)))
            if deployed.can_score:
                questions.append(Question(ScoreRequest(user=user, items=(242, "nowhere", 302))))
        for question, found in zip(questions, deployed.answer(questions), strict=True):
            assert isinstance(found, dict), found
            kept = store.history(str(question.asked.user))
            rows = [unpacked(event.content) for event in kept.events]
            state = deployed.recommender.encode(deployed.rows.frame(rows), before=kept.head.before)
            if isinstance(question.asked, RetrieveRequest):
                table = deployed.recommender.retrieve(state, 4)
                assert found["items"] == table["item"].to_list()
                np.testing.assert_allclose(found["scores"], table["score"].to_numpy(), rtol=1e-4, atol=1e-5)
            else:
                rating = deployed.recommender.score(state, [242, 302])["rating"].to_numpy()
                np.testing.assert_allclose(np.array(found["actions"]["rating"])[[0, 2]], rating, rtol=1e-4)
                assert found["status"] == ["ok", "unknown item", "ok"] and np.isnan(
                    found["actions"]["rating"][1]
                )
            met[found["answered_by"]] += 1
        for user in users:
            late = step == 2
            when = 1_500_000_030 + 60 * 400 if late else 1_600_000_000 + 60 * step
            row = {"item_id": str((280, 302, 285, 290)[step]), "timestamp": when, "rating": 4.0}
            (place,) = deployed.rows.places([row])
            content = packed(row)
            store.append([[Append(str(user), StoredEvent(f"new{step}", place, content))]])
    met |= Counter(
        appended=deployed.states.appended, hits=deployed.states.hits, misses=deployed.states.misses
    )
    return met


ANSWERING = [  # all but those asked under conditions, which test_conditioned.py serves
    each
    for each in EVERY_LAYOUT
    if (each in RETRIEVERS or each in SCORERS) and not reads_condition(each.values[0])
]


@pytest.mark.parametrize("layout", ANSWERING)
def test_states_in_memory_answer_as_whole_histories(layout: Any, tmp_path: Path, data: Dataset) -> None:
    deployed = deployed_of(tmp_path, data, layout, Retention(keep=12, step=3))
    try:
        assert practise(deployed) == deployed.can_retrieve + deployed.can_score
        assert len(deployed.states) == 0
        met = check_answers(deployed, deployed.store, data)
        assert_not_vacuous({name: met[name] for name in ("model", "appended", "hits", "misses")}, 2)
    finally:
        deployed.store.close()


def test_a_cache_that_misses_late_events_is_caught(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed = deployed_of(tmp_path, data, "lac")

    def blind(self: Deployed, user: str, head: Any) -> CachedState | None:
        entry = self.states.get(user)
        return entry if entry is not None and head.version - entry.version < 99 else None

    monkeypatch.setattr(Deployed, "_caught_up", blind)
    try:
        assert_caught(check_answers, deployed, deployed.store, data)
    finally:
        deployed.store.close()


def test_the_interface_says_what_it_takes(service: Service) -> None:
    described = ask(service, "/openapi.json", method="GET").json()
    sent = 0
    for path, examples in EXAMPLES.items():
        if path in ("/v1/query", "/v1/interests"):
            continue  # of models that are asked under conditions: test_conditioned.py
        shown = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert shown["schema"]["$ref"].rpartition("/")[2] in described["components"]["schemas"]
        assert {name: each["value"] for name, each in shown["examples"].items()} == examples
        for body in examples.values():
            answer = ask(service, path, body)
            assert answer.status_code == 200, answer.text
            sent += 1
    assert sent == 7


def test_one_event_changes_the_next_answer(service: Service) -> None:
    question = {"user": 196, "k": 5}
    before = ask(service, "/v1/retrieve", question).json()
    assert before["answered_by"] == "model" and before["model"] == "lac" and len(before["version"]) == 12
    event = {"events": [rating_event("x1", "196", before["items"][0], rating=5)]}
    assert ask(service, "/v1/events", event).json() == {"events": [{"id": "x1", "status": "stored"}]}
    assert ask(service, "/v1/events", event).json() == {"events": [{"id": "x1", "status": "duplicate"}]}
    after = ask(service, "/v1/retrieve", question).json()
    assert before["items"][0] not in after["items"]  # it has been seen now
    history = ask(service, "/v1/users/196", method="GET").json()["history"]
    assert history[-1] == {"id": "x1", "event": {"item_id": str(before["items"][0]), "rating": 5,
                                                 "timestamp": 1_600_000_000}}  # fmt: skip


def test_a_history_in_the_request_answers_as_that_of_a_user(service: Service) -> None:
    history = [each["event"] for each in ask(service, "/v1/users/191", method="GET").json()["history"]]
    for path, more in (
        ("/v1/retrieve", {"with_actions": True}),
        ("/v1/score", {"items": ITEMS, "value": "2 * rating"}),
    ):
        by_user = ask(service, path, {"user": 191, **more}).json()
        given = ask(service, path, {"history": history, **more}).json()
        assert given["items"] == by_user["items"]
        np.testing.assert_allclose(given["actions"]["rating"], by_user["actions"]["rating"], rtol=1e-4)
    np.testing.assert_allclose(given["value"], 2 * np.array(given["actions"]["rating"]), rtol=1e-5)


def test_filters_and_more_than_is_left(service: Service) -> None:
    allowed = ask(service, "/v1/retrieve", {"user": 191, "k": 9, "allow": ITEMS, "filter_seen": False}).json()
    assert sorted(allowed["items"]) == ITEMS
    asked_for = {"user": 191, "k": 900, "deny": [242, "nowhere"], "filter_seen": False}
    assert len(ask(service, "/v1/retrieve", asked_for).json()["items"]) == 16
    assert ask(service, "/v1/retrieve", {"user": 191, "allow": ["nowhere"]}).json()["items"] == []
    none_known = ask(service, "/v1/score", {"user": 191, "items": ["nowhere"], "value": "rating"}).json()
    assert (none_known["status"], none_known["value"]) == (["unknown item"], [None])


def test_who_has_no_history_gets_what_is_popular(service: Service, data: Dataset) -> None:
    counts = data.whole().train_item_counts()[1:]
    found = ask(service, "/v1/retrieve", {"user": "new", "k": 3, "with_actions": True}).json()
    assert found["answered_by"] == "fallback" and "no history" in found["why"]
    assert found["items"] == data.item_ids().gather(np.argsort(-counts, kind="stable")[:3]).to_list()
    assert all(1 <= value <= 5 for value in found["actions"]["rating"])


def test_a_user_is_forgotten(service: Service) -> None:
    ask(service, "/v1/retrieve", {"user": 192})
    assert ask(service, "/v1/users/192", method="DELETE").status_code == 204
    assert len(service.first.deployed.states) == 0
    for method in ("GET", "DELETE"):
        assert ask(service, "/v1/users/192", method=method).status_code == 404
    assert ask(service, "/v1/retrieve", {"user": 192}).json()["answered_by"] == "fallback"


# Time


def test_no_event_is_acknowledged_before_it_is_safe(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, right = [], LmdbStore.append

    def slow(self: LmdbStore, groups: Any) -> Any:
        done = right(self, groups)
        time.sleep(0.05)
        order.append("safe")
        return done

    monkeypatch.setattr(LmdbStore, "append", slow)
    for n in range(3):
        assert ask(service, "/v1/events", {"events": [rating_event(f"o{n}", 191)]}).status_code == 200
        order.append("answered")
    assert order == ["safe", "answered"] * 3


class Held:
    """A model that answers when it may."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_answer, self.taken, right = threading.Event(), [], Deployed.answer

        def answer(deployed: Deployed, questions: Sequence[Question]) -> Any:
            self.taken.append(len(questions))
            self.may_answer.wait(10)
            return right(deployed, questions)

        monkeypatch.setattr(Deployed, "answer", answer)


def test_late_answers_are_counts_and_cost_the_model_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(service, monkeypatch)
    soon = {"plait-deadline-ms": "30"}

    async def all_at_once() -> list[Any]:
        async with client_of(service) as client:
            first = asyncio.create_task(asked(client, "/v1/retrieve", {"user": 191}))
            while not held.taken:
                await asyncio.sleep(0.001)
            score = {"user": 192, "items": ITEMS, "value": "rating"}
            late = [
                await asked(
                    client, "/v1/retrieve", {"user": 191, "k": 2, "with_actions": True}, headers=soon
                ),
                await asked(client, "/v1/score", score, headers=soon),
            ]
            assert service.asking.num_waiting == 0  # nobody waits for them, so they are in nobody's way
            held.may_answer.set()
            return [await first, *late]

    first, *late = (answer.json() for answer in asyncio.run(all_at_once()))
    assert first["answered_by"] == "model"
    for answer in late:
        assert answer["answered_by"] == "fallback" and "deadline" in answer["why"] and answer["version"]
    seen = [
        int(each["event"]["item_id"])
        for each in ask(service, "/v1/users/191", method="GET").json()["history"]
    ]
    assert len(late[0]["items"]) == 2 and not set(late[0]["items"]) & set(seen)
    assert late[1]["status"] == ["ok"] * 3 and late[1]["value"] == [None] * 3
    assert held.taken == [1]


def test_an_answer_tells_how_long_it_waited(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions, of which one waits while the other is held for 0.1 s; and one past its deadline."""
    held = Held(service, monkeypatch)

    async def all_at_once() -> list[Any]:
        async with client_of(service) as client:
            first = asyncio.create_task(asked(client, "/v1/retrieve", {"user": 191}))
            while not held.taken:
                await asyncio.sleep(0.001)
            second = asyncio.create_task(asked(client, "/v1/retrieve", {"user": 192}))
            late = await asked(client, "/v1/retrieve", {"user": 193}, headers={"plait-deadline-ms": "100"})
            held.may_answer.set()
            return [await first, await second, late]

    answers = asyncio.run(all_at_once())
    told = [
        dict(part.strip().split(";dur=") for part in answer.headers["server-timing"].split(","))
        for answer in answers
    ]
    (_, held_ms), (waited_ms, _), (late_ms, none_ms) = (
        (float(its["queue"]), float(its["model"])) for its in told
    )
    assert min(held_ms, waited_ms, late_ms) >= 90 and none_ms == 0
    assert waited_ms <= held_ms  # the second came while the first was in its pass


def test_a_full_queue_refuses_early(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_of(tmp_path, data, most_waiting=3)
    held = Held(service, monkeypatch)

    async def all_at_once() -> list[Any]:
        async with client_of(service) as client:
            tasks = [asyncio.create_task(asked(client, "/v1/retrieve", {"user": 191}))]
            while not held.taken:
                await asyncio.sleep(0.001)
            tasks += [asyncio.create_task(asked(client, "/v1/retrieve", {"user": 191})) for _ in range(6)]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result().status_code for task in done} == {429}
            held.may_answer.set()
            return await asyncio.gather(*tasks)

    answers = asyncio.run(all_at_once())
    assert Counter(answer.status_code for answer in answers) == {200: 4, 429: 3}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)
    assert held.taken == [1, 3]  # those that waited were answered together
    service.close()


def test_who_would_wait_in_vain_is_told_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(service, monkeypatch)

    async def all_at_once() -> list[int]:
        async with client_of(service) as client:
            tasks = [asyncio.create_task(asked(client, "/v1/retrieve", {"user": 191}))]
            while not held.taken:
                await asyncio.sleep(0.001)
            service.asking.mean_s = 5.0
            tasks.append(asyncio.create_task(asked(client, "/v1/retrieve", {"user": 191})))
            await asyncio.sleep(0.05)
            hurried = await asked(
                client, "/v1/retrieve", {"user": 191}, headers={"plait-deadline-ms": "4000"}
            )
            held.may_answer.set()
            return [hurried.status_code, *[(await task).status_code for task in tasks]]

    assert asyncio.run(all_at_once()) == [429, 200, 200]


def test_going_down_answers_what_was_taken(tmp_path: Path, data: Dataset) -> None:
    service, may_go = service_of(tmp_path, data), threading.Event()
    holding = threading.Thread(target=service.asking.between_questions, args=(lambda: may_go.wait(60),))

    async def all_at_once() -> list[int]:
        holding.start()
        async with client_of(service) as client:
            event = await asked(client, "/v1/events", {"events": [rating_event("z", 191)]})
            assert event.status_code == 200
            tasks = [
                asyncio.create_task(asked(client, "/v1/retrieve", {"user": 191 + n % 3})) for n in range(6)
            ]
            while service.asking.num_waiting < len(tasks):
                await asyncio.sleep(0.01)
            closing = asyncio.create_task(asyncio.to_thread(service.close))
            while service.is_ready:
                await asyncio.sleep(0.01)
            may_go.set()
            await closing
            tasks.append(asyncio.create_task(asked(client, "/readyz", method="GET")))
            tasks.append(asyncio.create_task(asked(client, "/v1/retrieve", {"user": 191})))
            return [(await task).status_code for task in tasks]

    assert asyncio.run(all_at_once()) == [200] * 6 + [503, 503]


# Versions


def check_versions(service: Service, folder: Path, data: Dataset, versions: Sequence[Any]) -> Counter:
    """Under questions without a pause, models are swapped: every question is answered, and by one version alone."""
    question = {"user": 191, "k": 3}
    expected: dict[str, Any] = {}
    answers: list[Any] = []

    async def load(client: Any, until: threading.Event) -> None:
        while not until.is_set():
            answers.append(await asked(client, "/v1/retrieve", question))

    async def all_at_once() -> None:
        done = threading.Event()
        async with client_of(service) as client:
            loads = [asyncio.create_task(load(client, done)) for _ in range(3)]
            for version in [*versions, *versions]:
                await asyncio.to_thread(version.save_pretrained, folder / "model")
                assert (await asked(client, "/v1/models/reload")).json()["models"][0]["swapped"]
                expected[service.first.deployed.version] = (
                    await asked(client, "/v1/retrieve", question)
                ).json()["scores"]
            done.set()
            await asyncio.gather(*loads)

    asyncio.run(all_at_once())
    met: Counter = Counter()
    for answer in answers:
        assert answer.status_code == 200, answer.text
        found = answer.json()
        if found["version"] in expected:
            np.testing.assert_allclose(found["scores"], expected[found["version"]], rtol=1e-4)
            met[found["version"]] += 1
    return met


def test_models_are_swapped_under_load(service: Service, tmp_path: Path, data: Dataset) -> None:
    met = check_versions(service, tmp_path, data, [recommender_of(data, scale=scale) for scale in (1.1, 0.9)])
    assert len(met) == 2 and service.counters.swaps.labels("lac")._value.get() == 4
    assert_not_vacuous(met)


def test_answers_of_mixed_versions_are_caught(
    service: Service, tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, right = service.first.deployed, Deployed.answer
    monkeypatch.setattr(
        Deployed,
        "answer",
        lambda self, questions: right(self if time.time() % 0.02 < 0.01 else first, questions),
    )
    assert_caught(
        check_versions, service, tmp_path, data, [recommender_of(data, scale=1.1), recommender_of(data)]
    )


def test_a_folder_that_is_not_whole_changes_nothing(service: Service, tmp_path: Path, data: Dataset) -> None:
    version = service.first.deployed.version
    assert ask(service, "/v1/models/reload").json()["models"] == [
        {"model": "lac", "version": version, "swapped": False}
    ]
    recommender_of(data, scale=1.1).save_pretrained(tmp_path / "other")
    for name in ("hashes.json", "config.json"):
        (tmp_path / "model" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    weights = next((tmp_path / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-9])
    answer = ask(service, "/v1/models/reload")
    assert answer.status_code == 409 and str(tmp_path) not in answer.text
    assert ask(service, "/v1/retrieve", {"user": 191}).json()["version"] == version


# Keys


def test_keys_may_do_what_their_scopes_say(tmp_path: Path, data: Dataset) -> None:
    file = tmp_path / "keys.json"
    keys = {scope: add_key(file, scope, [scope]) for scope in ("ask", "append", "users", "admin")}
    assert not any(key in file.read_text() for key in keys.values())
    service = service_of(tmp_path, data, keys=file)
    routes = {
        "ask": ("/v1/retrieve", "POST", {"user": 191}),
        "append": ("/v1/events", "POST", {"events": [rating_event("k", 191)]}),
        "users": ("/v1/users/191", "GET", None),
        "admin": ("/metrics", "GET", None),
    }
    for needed, (path, method, body) in routes.items():
        for scope, key in keys.items():
            answer = ask(
                service, path, body, method=method, headers={**MANY_MS, "authorization": f"Bearer {key}"}
            )
            assert answer.status_code == (200 if scope == needed else 403)
            lacks = f"the key may not do this; it needs the scope {needed}"
            assert scope == needed or answer.json()["detail"] == lacks
        for given in ("", "Bearer ", "Bearer plait_x", f"Basic {keys[needed]}", "Bearer \xe9"):
            answer = ask(
                service, path, body, method=method, headers={"authorization": given.encode("latin-1")}
            )  # type: ignore[dict-item]
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert ask(service, "/healthz", method="GET").status_code == 200
    service.close()


def test_files_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = add_key(file, "shop", ["ask"])
    assert holder(read_keys(file), key).name == "shop" and holder(read_keys(file), key + "x") is None
    for name, scopes in (("shop", ["ask"]), ("other", []), ("other", ["all"])):
        with pytest.raises(ValueError):
            add_key(file, name, scopes)
    file.chmod(0o644)
    with pytest.raises(ValueError, match=r"keys.json may be read by others; chmod 600 it"):
        read_keys(file)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"is missing; make a key with: plait new-key .*keys.json --name NAME"),
        ("[]", r"holds no keys; make one with: plait new-key .*keys.json --name NAME"),
        ("{}", r"holds no keys \(Expected `array`, got `object`"),
        ('[{"name":"a","sha256":"b","scopes":["all"]}]', r"holds no keys \(Invalid enum value 'all'"),
        ('[{"name":"a","sha256":"b","scopes":[],"rate":1}]', r"holds no keys \(.*unknown field `rate`"),
    ],
)
def test_a_file_without_keys_lets_nobody_in(tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
        file.chmod(0o600)
    with pytest.raises(ValueError, match=told):
        read_keys(file)


def test_without_keys_only_this_machine_asks(service: Service) -> None:
    with pytest.raises(ValueError, match="anybody"):
        ServiceSettings(host="0.0.0.0")
    answer = ask(service, "/v1/models", method="GET", headers={"host": "evil.example"})
    assert answer.status_code == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert ask(service, "/v1/models", method="GET", headers={"host": host}).status_code == 200


def test_one_key_asks_so_often(tmp_path: Path, data: Dataset) -> None:
    service = service_of(tmp_path, data, most_per_s=2)

    async def in_a_row() -> list[int]:
        async with client_of(service) as client:
            return [(await asked(client, "/v1/models", method="GET")).status_code for _ in range(20)]

    statuses = asyncio.run(in_a_row())
    assert statuses[:2] == [200, 200] and 429 in statuses
    service.close()


# Memory


class _Sized(CachedState):
    def __init__(self, nbytes: int) -> None:
        object.__setattr__(self, "size", nbytes)

    @property
    def nbytes(self) -> int:
        return self.size  # type: ignore[attr-defined]


def test_a_cache_holds_so_many_bytes() -> None:
    cache = StateCache(100)
    for user, nbytes in (("a", 40), ("b", 40), ("c", 20)):
        cache.put(user, _Sized(nbytes), 0)
    assert cache.get("a") is not None and cache.nbytes == 100
    cache.put("d", _Sized(30), 0)
    assert cache.users() == ["d", "a", "c"] and cache.nbytes == 90  # b was unused for longest
    cache.put("e", _Sized(101), 0)
    assert cache.get("e") is None and len(cache) == 3
    cache.forget("a")
    assert cache.users() == ["d", "c"] and cache.nbytes == 50
    cache.put("a", _Sized(10), 0)  # read before a was forgotten
    assert cache.users() == ["d", "c"] and cache.nbytes == 50


def test_what_counts_is_counted(service: Service) -> None:
    ask(service, "/v1/retrieve", {"user": 191})
    ask(service, "/v1/retrieve", {"user": 191})
    ask(service, "/v1/retrieve", {})
    page = ask(service, "/metrics", method="GET").text
    assert 'plait_requests_total{route="/v1/retrieve",status="200"} 2.0' in page
    assert 'plait_requests_total{route="/v1/retrieve",status="422"} 1.0' in page
    assert 'plait_answered_total{by="model",model="lac"} 2.0' in page
    assert (
        'plait_state_lookups{found="yes",model="lac"} 1.0' in page and 'plait_states{model="lac"} 1.0' in page
    )
