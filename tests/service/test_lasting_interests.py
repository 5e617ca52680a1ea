"""What was last said of users outlives the process, and what rankers read is logged, to train them with."""

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from served import asked
from test_conditioned import data as data  # a fixture
from test_telling import (
    CONDITIONS,
    HOME,
    MANY_MS,
    expected,
    ranked,
    ranker_of,
    retrieved,
    served,
    talk,
)
from test_telling import folders as folders  # a fixture
from test_telling import three as three  # a fixture
from tiny import assert_caught

import plait
from plait.cli import main
from plait.data import Dataset
from plait.models.saving import model_hash
from plait.rankers.interests import Interests
from plait.recommender import Recommender
from plait.schema import Category
from plait.service import keeping as keeping_module
from plait.service import shown_interests
from plait.service.answer_log import AnswerLog
from plait.service.keeping import Keeping
from plait.service.rolling_files import RollingSettings
from plait.service.service import Service
from plait.service.shown import shown_log
from plait.service.shown_interests import read_interests_of
from plait.service.told import LastInterests
from plait.service.wire import ScoreRequest
from plait.store.history import Append, KeptInterests, Store, StoredEvent, StoreUnavailable, place_of
from plait.store.lmdb_store import LmdbStore

AGAIN = [{"item_id": 242, "timestamp": 1_500_000_000}]


def fates(service: Service) -> dict[str, float]:
    found = service.counters.kept.collect()[0].samples
    return {its.labels["fate"]: its.value for its in found if its.name.endswith("_total")}


# A service that is started again


def check_lasts(place: Path, data: Dataset, folders: dict[str, Path]) -> None:
    """A restarted service tells a ranker what was asked before, once for each user, from the store."""
    for turn in (queried, None):
        service = served(place, data, folders)
        try:
            if turn is not None:
                talk(service, turn)
                continue
            answer, again, other = talk(service, thrice)
        finally:
            service.close()
        assert fates(service)["read"] == 1, "a user who is known is not read again"
    assert [its["interests"] for its in (answer, again, other)] == ["last", "last", "none"]
    exact = np.array(expected(data, folders), dtype=float)
    np.testing.assert_allclose(
        np.array(answer["actions"]["rating"], dtype=float), exact, atol=5e-3
    )  # half precision
    apart = exact - np.array(expected(data, folders, knows=False), dtype=float)
    assert np.abs(apart).max() > 1e-2, "interests matter"


async def queried(client: httpx.AsyncClient) -> None:
    """A query, and an answer that waits for it."""
    await retrieved(client)
    assert (await ranked(client, request_id="r1"))["interests"] == "queried"


async def thrice(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    return [await ranked(client), await ranked(client), await ranked(client, user=192)]


def test_a_restarted_service_has_the_last_interests(tmp_path: Path, data: Dataset, folders: dict[str, Path]):
    check_lasts(tmp_path, data, folders)


def test_a_service_that_keeps_none_is_caught(
    tmp_path: Path, data: Dataset, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Keeping, "keep", lambda self, its: None)
    with pytest.raises((AssertionError, KeyError)):
        check_lasts(tmp_path, data, folders)


def test_who_was_deleted_has_none_after_a_restart(tmp_path: Path, data: Dataset, folders: dict[str, Path]):
    async def deleted(client: httpx.AsyncClient) -> None:
        await retrieved(client)
        await ranked(client, request_id="r1")
        assert (await asked(client, "/v1/users/191", method="DELETE")).status_code == 204
        event = {"id": "new", "user": 191, "event": AGAIN[0]}
        assert (await asked(client, "/v1/events", {"events": [event]})).status_code == 200

    first = served(tmp_path, data, folders)
    try:
        talk(first, deleted)
    finally:
        first.close()
    again = served(tmp_path, data, folders)
    try:
        assert again.store.interests("191") == ()
        assert talk(again, ranked)["interests"] == "none"
    finally:
        again.close()


def test_interests_of_another_version_are_counted_and_not_told(
    tmp_path: Path, data: Dataset, folders: dict[str, Path]
):
    """The user model changed while the service was down, and its ranker with it."""
    first = served(tmp_path, data, folders)
    talk(first, queried)
    first.close()
    other = {**folders, "lum": tmp_path / "other" / "lum", "din": tmp_path / "other" / "din"}
    lum = Recommender.from_pretrained(folders["lum"], "cpu")
    for parameter in lum.model.parameters():
        parameter.data.mul_(1.01)
    lum.save_pretrained(other["lum"])
    ranker_of(data, lum, model_hash(other["lum"])[:16]).save_pretrained(other["din"])
    second = served(tmp_path, data, other)
    try:
        assert second.telling.teller_name("din") == "lum"
        assert talk(second, ranked)["interests"] == "none"
        assert fates(second)["other version"] == 1 and fates(second)["read"] == 0
    finally:
        second.close()


# Races with a deletion


class SlowStore:
    """A store that reads interests when it may."""

    def __init__(self, kept: KeptInterests) -> None:
        self.kept, self.begun, self.may_answer = kept, threading.Event(), threading.Event()

    def interests(self, user: str) -> tuple[KeptInterests, ...]:
        self.begun.set()
        self.may_answer.wait(60)
        return (self.kept,)


def check_forgotten_meanwhile(service: Service) -> None:
    """What was read before a user was deleted, and came after, is not kept in memory."""
    version = service.telling._tellers["din"].version
    width = service.served["lum"].deployed.recommender.model.config.settings.trunk.dim
    vectors = np.ones((len(CONDITIONS), width), "<f2").tobytes()
    slow = SlowStore(KeptInterests("191", 1, version, 1, CONDITIONS, vectors))
    service.telling._store = slow  # type: ignore[assignment]

    async def race() -> bool:
        din, question = service.served["din"].deployed, ScoreRequest(user=191, items=(242,))
        telling = asyncio.create_task(service.telling.told(din, question, 60.0))
        await asyncio.to_thread(slow.begun.wait, 60)
        service.telling.forget("191")
        slow.may_answer.set()
        assert (await telling).source == "none"
        return service.telling._last.knows("191", version)

    assert not asyncio.run(race())


def test_a_reading_that_a_deletion_overtook_is_dropped(three: Service):
    check_forgotten_meanwhile(three)


def test_a_reading_that_is_kept_anyhow_is_caught(three: Service, monkeypatch: pytest.MonkeyPatch):
    right = LastInterests.recall
    monkeypatch.setattr(
        LastInterests,
        "recall",
        lambda self, user, version, kept, num: right(self, user, version, kept, self.num_forgotten),
    )
    assert_caught(check_forgotten_meanwhile, three)


def test_a_store_that_is_slow_makes_no_ranker_late(three: Service):
    slow = SlowStore(KeptInterests("191", 1, "v", 1, (), b""))
    three.telling._store = slow  # type: ignore[assignment]

    async def told() -> str:
        din, question = three.served["din"].deployed, ScoreRequest(user=191, items=(242,))
        try:
            return (await three.telling.told(din, question, 0.01)).source
        finally:
            slow.may_answer.set()

    begin_s = time.monotonic()
    assert asyncio.run(told()) == "none" and time.monotonic() - begin_s < 30


# The thread that writes


def kept_of(store: Store, user: str, version: str = "v", time_us: int = 1) -> KeptInterests:
    head = store.head(user)
    assert head is not None
    return KeptInterests(user, head.epoch, version, time_us, ("own",), b"xx")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    found = LmdbStore(tmp_path / "kept", "process")
    found.append([[Append(user, StoredEvent("e", place_of(0), b"")) for user in "ab"]])
    yield found
    found.close()


def test_what_gathers_is_written_together(store: LmdbStore):
    told, writes = Counter[str](), list[int]()
    right = store.keep_interests

    def counted(new: Any) -> list[bool]:
        writes.append(len(new))
        return right(new)

    store.keep_interests = counted  # type: ignore[method-assign]
    keeping = Keeping(store, lambda fate, number: told.update({fate: number}), every_s=60)
    for its in (kept_of(store, "a"), kept_of(store, "a", time_us=2), kept_of(store, "b")):
        keeping.keep(its)
    keeping.keep(kept_of(store, "a", "gone"))
    keeping.forget("b")
    begin_s = time.monotonic()
    keeping.close()
    assert time.monotonic() - begin_s < 30, "who goes down does not wait for more"
    assert writes == [2] and told["written"] == 2
    assert [its.time_us for its in store.interests("a")] == [2, 1] and store.interests("b") == ()
    keeping.keep(kept_of(store, "a"))
    assert told["no room"] == 1


def test_a_store_that_fails_stops_nothing(store: LmdbStore, monkeypatch: pytest.MonkeyPatch):
    told, written = Counter[str](), threading.Event()

    def tell(fate: str, number: int) -> None:
        told.update({fate: number})
        written.set()

    keeping, right = Keeping(store, tell, every_s=0.0), store.keep_interests

    def failing(new: Any) -> list[bool]:
        raise StoreUnavailable("gone")

    store.keep_interests = failing  # type: ignore[method-assign]
    keeping.keep(kept_of(store, "a"))
    assert written.wait(60) and told == {"failed": 1}
    store.keep_interests = right  # type: ignore[method-assign]
    keeping.keep(kept_of(store, "a"))
    keeping.close()
    assert told["written"] == 1 and len(store.interests("a")) == 1


def test_more_users_than_find_room_are_counted(store: LmdbStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keeping_module, "MOST_WAITING", 1)
    told = Counter[str]()
    keeping = Keeping(store, lambda fate, number: told.update({fate: number}), every_s=60)
    for user in "aab":
        keeping.keep(kept_of(store, user))
    keeping.close()
    assert told["no room"] == told["written"] == 1


# What is logged, and read again


def logging(place: Path, data: Dataset, folders: dict[str, Path], log: Path) -> Service:
    service = served(place, data, folders)
    service.answer_log = AnswerLog(
        RollingSettings(folder=log), service.counters, clock_s=lambda: 1_600_000_000.0
    )
    return service


async def shop(client: httpx.AsyncClient) -> dict[str, Any]:
    """Two users are shown a list that is ranked; one takes an item, and does something else in the same second."""
    for user, request in ((191, "r1"), (192, "r2")):
        body = {"model": "lum", "user": user, "k": 3, "condition": HOME, "rank_with": "din"}
        listed = await asked(client, "/v1/retrieve", body, headers={"plait-request-id": request, **MANY_MS})
        items = listed.json()["items"]
        body = {"model": "din", "user": user, "items": items, "request_id": request}
        found = await asked(
            client, "/v1/score", body, headers={"plait-request-id": f"s-{request}", **MANY_MS}
        )
        assert found.json()["interests"] == "queried"
        if user == 191:
            taken = items
    rows = [(taken[0], "r1"), (285 if taken[1] != 285 else 302, None), (taken[1], None)]
    events = [
        {"id": f"e{nth}", "user": 191, "event": {"item_id": item, "timestamp": 1_600_000_000, "rating": 4},
         "request_id": request}
        for nth, (item, request) in enumerate(rows)
    ]  # fmt: skip
    assert (await asked(client, "/v1/events", {"events": events})).status_code == 200
    await ranked(client, user=193)
    return {"taken": taken}


@pytest.fixture(scope="module")
def shopped(
    tmp_path_factory: pytest.TempPathFactory, data: Dataset, folders: dict[str, Path]
) -> tuple[Path, dict[str, Any]]:
    place = tmp_path_factory.mktemp("shopped")
    service = logging(place, data, folders, place / "log")
    try:
        return place / "log", talk(service, shop)
    finally:
        service.close()


def test_what_a_ranker_reads_is_logged(shopped: Any, data: Dataset, folders: dict[str, Path]):
    folder, _ = shopped
    logged = pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("interests-*.parquet"))])
    version = model_hash(folders["lum"])[:16]
    assert logged.select("request_id", "asked_request_id", "user", "condition").rows() == [
        (f"s-{request}", request, user, condition)
        for request, user in (("r1", "191"), ("r2", "192"))
        for condition in CONDITIONS
    ]
    for column, value in (("model", "din"), ("version", version), ("source", "queried")):
        assert logged[column].unique().to_list() == [value]
    lum, history = Recommender.from_pretrained(folders["lum"], "cpu"), data.histories(np.array([1]))
    interest_QW = np.stack(lum.query(lum.encode(history), [HOME, {"scenario": "search"}])["interest"])
    np.testing.assert_allclose(np.stack(logged["interest"].to_list()[:2]), interest_QW, rtol=1e-4, atol=1e-5)
    answers = pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("answers-*.parquet"))])
    by_request = dict(answers.group_by("request_id").agg(pl.col("interests").unique().first()).iter_rows())
    assert by_request["s-r1"] == "queried" and by_request["r1"] is None
    assert set(by_request.values()) == {None, "queried", "none"}


def log_and_interests(folder: Path, recommender: Recommender) -> tuple[pl.DataFrame, Any]:
    found = shown_log(folder, recommender)
    return found.table, read_interests_of(folder, recommender, found)


def check_read_again(shopped: Any, folders: dict[str, Path], place: Path) -> None:
    """A dataset of the log has the logged interests at the events of the items that were shown, and at no others."""
    folder, said = shopped
    recommender = Recommender.from_pretrained(folders["din"], "cpu")
    log, read = log_and_interests(folder, recommender)
    place.mkdir()
    read.table.write_parquet(place / "interests.parquet")
    lum = Recommender.from_pretrained(folders["lum"], "cpu")
    items = lum.item_interests().with_columns(version=pl.lit(read.version))
    items.write_parquet(place / "items.parquet")
    prepared = plait.prepare(
        log.with_columns(scenario=pl.lit("home")), user="user_id", item="item_id", time="timestamp",
        request="request_id", actions=list(recommender.actions), conditions={"scenario": Category()},
        out=place / "data", min_item_events=1, min_user_events=1,
    )  # fmt: skip
    interests = Interests.read([place / "interests.parquet"], place / "items.parquet", prepared)
    assert interests.conditions == tuple(sorted(CONDITIONS)) and interests.version == read.version
    events, ids = prepared.histories(np.arange(prepared.num_users)), prepared.items.ids_at
    rows = interests.of(np.repeat(events.user_U, events.num_events_U), events.number_E, events.item_E)
    users = prepared.user_ids().gather(np.repeat(events.user_U, events.num_events_U)).cast(pl.String)
    has_E = dict(
        zip(
            zip(
                users.to_list(), map(str, ids(events.item_E).to_list()), events.number_E.tolist(), strict=True
            ),
            rows.has_interest_MQ.all(1).tolist(),
            strict=True,
        )
    )
    told = Counter((user, item) for (user, item, _), has in has_E.items() if has)
    silent = Counter((user, item) for (user, item, _), has in has_E.items() if not has)
    first, second, third = map(str, said["taken"])
    assert told["191", first] == told["191", third] == 1, "what was shown has the interests"
    assert silent["191", second] == 2 and not told["191", second], "nobody can tell these two apart"
    assert len([user for user, _ in told if user == "192"]) == 3
    assert sum(silent[user, item] for user, item in silent if user == "191") >= 3, "other events have none"
    assert read.ambiguous == 1 and "1 rows that stand beside" in str(read)


def test_logged_interests_are_those_of_the_events_that_were_shown(
    shopped: Any, folders: dict[str, Path], tmp_path: Path
):
    check_read_again(shopped, folders, tmp_path / "read")


def test_interests_of_events_that_cannot_be_told_apart_are_caught(
    shopped: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shown_interests, "_unambiguous", lambda rows: (rows.filter("shown"), 1))
    assert_caught(check_read_again, shopped, folders, tmp_path / "read")


def test_interests_are_written_beside_the_log(
    shopped: Any,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
):
    monkeypatch.setattr("plait.cli.data.shown.run_and_model", lambda run: (run, folders["din"]))
    words = ["data", "shown", str(shopped[0]), "--run", str(tmp_path), "--out", str(tmp_path / "log.parquet")]
    assert main([*words, "--interests", str(tmp_path / "read.parquet")]) == 0, capsys.readouterr().err
    table = pl.read_parquet(tmp_path / "read.parquet")
    assert (
        table.columns == ["user", "time", "items", "condition", "version", "interest"] and table.height == 4
    )
    assert "4 interests of version" in "".join(capsys.readouterr())


def test_a_log_of_several_versions_tells_of_the_last(shopped: Any, folders: dict[str, Path], tmp_path: Path):
    recommender = Recommender.from_pretrained(folders["din"], "cpu")
    for file in shopped[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (file,) = tmp_path.glob("interests-*.parquet")
    table = pl.read_parquet(file)
    later = table.head(1).with_columns(version=pl.lit("new"), time=pl.col("time") + pl.duration(days=1))
    pl.concat([table, later]).write_parquet(file)
    _, read = log_and_interests(tmp_path, recommender)
    assert read.version == "new" and read.others == 4 and read.table.height == 1
    for name in tmp_path.glob("interests-*"):
        name.unlink()
    with pytest.raises(ValueError, match="holds no interests"):
        log_and_interests(tmp_path, recommender)
