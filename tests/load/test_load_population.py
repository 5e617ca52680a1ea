"""Whom requests are about: shares of kinds, of users whose states are there; and what a service is asked of itself."""

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from fake_service import ITEMS, LAST_S, MODEL, USERS, Answered, at_once, fake_service
from tiny import assert_caught

from plait.load import measuring, population
from plait.load.answers import read_body
from plait.load.asked_service import default_mix, described_service, event_form, told_items, told_users
from plait.load.client import Address, Client
from plait.load.measuring import measure_load
from plait.load.mix import Mix, mix_of
from plait.load.population import EventForm, Population, Requests
from plait.load.report import LoadReport
from plait.load.settings import LoadSettings

MIX = mix_of("append=0.5,score=0.3,retrieve=0.2")
SETTINGS = LoadSettings(mix=MIX, candidates=7, users=3, hit_rate=0.75, deadline_ms=400)
FORM = EventForm({"item": "1", "time": 5, "rating": 3}, "item", "time", 90)
PEOPLE = Population(["a", "b", "c"], ["d", "e"], ITEMS, FORM)
DRAWN = 4_000


def drawn(settings: LoadSettings = SETTINGS, seed: int = 1, name: str = "x") -> list[tuple[str, Any]]:
    requests = Requests(Client(Address("h", 1)), PEOPLE, settings, name, seed)
    found = [requests.draw() for _ in range(DRAWN)]
    assert all(f"plait-deadline-ms: {settings.deadline_ms:g}" in each.message.decode() for each in found)
    return [(each.kind, json.loads(each.message.partition(b"\r\n\r\n")[2])) for each in found]


def check_shares() -> None:
    found = drawn()
    kinds = Counter(kind for kind, _ in found)
    for kind, share in MIX.items():
        assert kinds[kind] / DRAWN == pytest.approx(share, abs=0.03), kinds
    asked = Counter(body["user"] in PEOPLE.users for kind, body in found if kind != "append")
    assert asked[True] / asked.total() == pytest.approx(SETTINGS.hit_rate, abs=0.04)


def test_kinds_and_users_are_drawn_by_their_shares() -> None:
    check_shares()


def test_users_drawn_from_all_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(population.Requests, "_user", lambda self: json.dumps(self._known()))
    assert_caught(check_shares)


def test_others_come_one_after_the_other() -> None:
    others = [body["user"] for kind, body in drawn() if kind != "append" and body["user"] in PEOPLE.others]
    assert len(others) > 100 and others[:4] == ["d", "e", "d", "e"]


def test_candidates_are_so_many_and_differ() -> None:
    scores = [body["items"] for kind, body in drawn() if kind == "score"]
    assert {len(set(items)) for items in scores} == {7} and len(
        {item for items in scores for item in items}
    ) == 60


def test_events_are_new_and_come_after_all_others() -> None:
    events = [body["events"][0] for kind, body in drawn() if kind == "append"]
    assert len({event["id"] for event in events}) == len(events)
    times = [event["event"]["time"] for event in events]
    assert times == sorted(set(times)) and times[0] > FORM.last
    assert {event["event"]["rating"] for event in events} == {3} and {e["user"] for e in events} == {*"abc"}


def test_a_time_that_is_text_stays() -> None:
    form = replace(FORM, last="2020-01-01")
    assert form.filled("2", 7) == {"item": "2", "time": "2020-01-01", "rating": 3}
    assert replace(FORM, time=None).filled("2", 7) == {"item": "2", "time": 5, "rating": 3}


def test_one_seed_is_one_load() -> None:
    assert drawn() == drawn() and drawn(seed=2) != drawn()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("append=0.5,scores=0.5", "'scores' is no kind"),
        ("append=0.5", "sum to 0.5"),
        ("append=0.5,append=0.5", "twice"),
        ("append=x", "'x' is no share"),
        ("append=-1,score=2", "'-1' is no share"),
        ("", "'' is no kind"),
    ],
)
def test_a_mix_that_is_none(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        mix_of(text)


def test_a_kind_without_a_share_is_not_asked() -> None:
    assert mix_of("append=0,score=1") == {"score": 1}


def loaded(settings: LoadSettings, given: str = "", **fake: Any) -> tuple[LoadReport, list[tuple[str, Any]]]:
    async def load() -> tuple[LoadReport, list[tuple[str, Any]]]:
        async with fake_service(**fake) as service:
            return await measure_load(service.url, settings, lambda line: None, key=given), service.asked

    return asyncio.run(load())


def test_a_whole_load() -> None:
    """Users and items are told by the service, states are made first, and what was sent is what was counted."""
    settings = LoadSettings(
        rates=(40.0,), of_capacity=(), seconds=1.0, mix=MIX, users=4, hit_rate=0.8, candidates=20
    )
    found, asked = loaded(settings)
    (stage,) = found.stages
    sent = sum(kind.requests for kind in stage.kinds)
    assert found.warmed is not None and found.warmed.users == 4 and len(asked) == sent + 4 + 1
    users = [body["user"] for path, body in asked if path != "/v1/events"]
    assert len(set(users[:4])) == 4 and set(users) > set(users[:4])
    appended = [body["events"][0] for path, body in asked if path == "/v1/events"]
    assert {event["user"] for event in appended} <= set(users[:4])
    assert min(event["event"]["time"] for event in appended) > max(LAST_S[user] for user in users[:4])
    assert sum(sum(kind.outcomes.values()) for kind in stage.kinds) == sent > 15
    assert stage.hit_rate is None and found.own is None and found.capacity is None


def test_a_layout_is_asked_what_it_can() -> None:
    found, asked = loaded(
        LoadSettings(rates=(20.0,), seconds=0.5, users=2, candidates=5),
        model={**MODEL, "can_retrieve": False},
    )
    assert {path for path, _ in asked} == {"/v1/score"}, "nor is anything appended to others' histories"
    assert found.settings["mix"] == {"score": 1.0}


def test_what_a_service_tells_of_itself() -> None:
    async def ask() -> None:
        async with fake_service() as fake, Client(Address.of(fake.url)) as client:
            described = await described_service(client)
            assert default_mix(described, appends=True) == MIX
            assert sorted(await told_users(client, 9, 100)) == USERS
            assert sorted(await told_items(client, 1_000)) == sorted(ITEMS)
            form = await event_form(client, described, USERS)
            assert form.last == 108 and form.row["rating"] == 4

    asyncio.run(ask())


MISTAKES = {
    "wrong key": (SETTINGS, {"key": "right"}, "refuses the key .*plait new-key"),
    "too many users": (replace(SETTINGS, users=50), {}, "tells of 9 users .* 51 are needed"),
    "too many candidates": (replace(SETTINGS, candidates=61), {}, "candidates = 61: 60 items"),
    "cannot": (SETTINGS, {"model": {**MODEL, "can_score": False}}, "asks to score, and layout 'lac' cannot"),
    "another service": (SETTINGS, {"model": {"name": "x"}}, "but not as `plait serve`"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_clear_words(mistake: str) -> None:
    settings, fake, told = MISTAKES[mistake]
    with pytest.raises(ValueError, match=told):
        loaded(settings, **fake)


def test_nothing_answers_there() -> None:
    with pytest.raises(ValueError, match=r"does not answer .*plait serve RUN"):
        asyncio.run(measure_load("http://127.0.0.1:9", SETTINGS, print))
    for url in ("ftp://x", "http://", "http://x:port"):
        with pytest.raises(ValueError, match="expected http://HOST:PORT"):
            Address.of(url)


def test_a_service_that_refuses_at_once_is_not_loaded() -> None:
    async def busy(path: str, body: Any) -> Answered:
        return 429, {"detail": "the queue is full"}, {}

    with pytest.raises(ValueError, match=r"v1/events answers 429 .the queue is full"):
        loaded(SETTINGS, answer=busy)


def test_nobody_gets_a_good_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def counts(path: str, body: Any) -> Answered:
        return 200, {"answered_by": "fallback"}, {}

    monkeypatch.setattr(measuring, "STEP_S", 0.1)
    settings = LoadSettings(
        rates=(), of_capacity=(1.0,), seconds=0.1, mix={"score": 1.0}, users=1, candidates=5
    )
    found, _ = loaded(settings, answer=counts)
    assert found.capacity is not None and found.capacity.per_s == 0 and found.stages == ()
    assert "nobody who waited for an answer got one by the model within 500 ms" in found.complaint


def test_the_capacity_is_searched_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a service that takes two at a time, 20 ms each: a hundred a second, from two askers on."""

    async def two_at_a_time(path: str, body: Any) -> Answered:
        async with room:
            await asyncio.sleep(0.02)
        return await at_once(path, body)

    room = asyncio.Semaphore(2)
    monkeypatch.setattr(measuring, "STEP_S", 0.3)
    settings = LoadSettings(
        rates=(), of_capacity=(0.5, 4), seconds=0.5, mix={"score": 1.0}, users=1, candidates=5
    )
    found, _ = loaded(settings, answer=two_at_a_time)
    assert found.capacity is not None and len(found.capacity.steps) >= 2
    one, *more = (step.per_s for step in found.capacity.steps)
    assert 0 < one <= 51 and all(0 < per_s <= 102 for per_s in more), "what the service can, on any machine"
    assert found.capacity.per_s == max(step.good_per_s for step in found.capacity.steps)
    assert [stage.per_s for stage in found.stages] == [0.5 * found.capacity.per_s, 4 * found.capacity.per_s]
    assert [stage.name for stage in found.stages] == ["0.5 x capacity", "4 x capacity"]


def test_a_mix_whose_scores_are_refused_is_beyond_the_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    """One score at a time, 20 ms each; more are refused at once, and appends take no time at all."""

    async def one_at_a_time(path: str, body: Any) -> Answered:
        if path == "/v1/score":
            if room.locked():
                return 429, {"detail": "the queue is full"}, {}
            async with room:
                await asyncio.sleep(0.02)
        return await at_once(path, body)

    room = asyncio.Semaphore(1)
    monkeypatch.setattr(measuring, "STEP_S", 0.5)
    mix: Mix = {"append": 0.5, "score": 0.5}
    settings = LoadSettings(rates=(), of_capacity=(0.5,), seconds=0.3, mix=mix, users=2, candidates=5)
    found, _ = loaded(settings, answer=one_at_a_time)
    assert found.capacity is not None
    *_, last = found.capacity.steps
    assert not last.is_answered and last.good_per_s > found.capacity.per_s
    assert found.capacity.per_s <= 110, "a score for every append, and 50 scores a second"


def test_columns_that_may_not_be_sent_are_left_out() -> None:
    """A kept event may have columns of the data that the model does not know."""

    async def strict(path: str, body: Any) -> Answered:
        is_known = path != "/v1/events" or body["events"][0]["event"].keys() <= {"item", "time"}
        return await at_once(path, body) if is_known else (422, {"detail": "a column that nobody knows"}, {})

    settings = LoadSettings(rates=(30.0,), seconds=0.5, mix={"append": 1.0}, users=2)
    found, asked = loaded(settings, answer=strict, model={**MODEL, "actions": []})
    (kind,) = found.stages[0].kinds
    assert kind.outcomes == {"good": kind.requests} and "rating" in asked[0][1]["events"][0]["event"]


def test_hits_are_those_that_the_service_counted() -> None:
    """Metrics of the stage alone: before it, everybody was looked for in vain."""
    settings = LoadSettings(
        rates=(60.0,), seconds=1.0, mix={"score": 1.0}, users=4, hit_rate=0.5, candidates=5
    )
    found, asked = loaded(settings, tells_lookups=True)
    users = [body["user"] for _, body in asked]
    seen = [user in users[:place] for place, user in enumerate(users)][4:]
    assert found.stages[0].hit_rate == pytest.approx(sum(seen) / len(seen), abs=1e-3) and 0 < sum(seen) < len(
        seen
    )


def test_problems_are_read_where_there_are_some() -> None:
    assert read_body(b'{"detail": "x", "more": 1}').detail == "x" and read_body(b"[1]").detail == ""
