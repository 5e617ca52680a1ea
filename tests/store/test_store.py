"""Every store against one plain reference, under random appends, and what it acknowledges against kills."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fakeredis
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.store.group_commit import Closed, GroupCommit
from plait.store.history import (
    Append,
    Outcome,
    Retention,
    Store,
    StoredEvent,
    StoreFull,
    StoreUnavailable,
    place_of,
)
from plait.store.lmdb_store import LmdbStore
from plait.store.redis_store import RedisStore

KEEP = Retention(keep=7, step=3)


def lmdb_store(folder: Path, retention: Retention = Retention()) -> Store:
    return LmdbStore(folder / "store", "process", retention)


def redis_store(folder: Path, retention: Retention = Retention()) -> Store:
    return RedisStore(fakeredis.FakeRedis(), "process", retention)


MAKERS = [pytest.param(lmdb_store, id="lmdb"), pytest.param(redis_store, id="redis")]
Maker = Callable[..., Store]


class PlainStore:
    """The rules, as plainly as they can be said: a list of each user, sorted anew after each group."""

    def __init__(self, retention: Retention) -> None:
        self.retention, self.rows, self.before = retention, {}, {}

    def append(self, group: list[Append]) -> list[Outcome]:
        rows = {user: list(events) for user, events in self.rows.items()}
        outcomes = []
        for user, event in ((each.user, each.event) for each in group):
            mine = rows.setdefault(user, [])
            same = [known for known in mine if known.id == event.id]
            if same:
                outcomes.append("duplicate" if same[0] == event else "conflict")
            elif self.before.get(user) and event.place < self.rows[user][0].place:
                outcomes.append("too old")
            else:
                outcomes.append("stored")
                mine.append(event)
        if "conflict" in outcomes:
            return [each if each == "conflict" else "left out" for each in outcomes]
        for user in {each.user for each in group}:
            rows[user].sort(key=lambda event: event.place)
            dropped = self.retention.dropped(len(rows[user]))
            self.before[user] = self.before.get(user, 0) + dropped
            rows[user] = rows[user][dropped:]
        self.rows = {user: events for user, events in rows.items() if events}
        return outcomes


def random_group(rng: random.Random, now: int) -> list[Append]:
    """Few users and ids, most of them of late, so that all cases are met."""

    def event() -> StoredEvent:
        number = max(0, now - rng.choice((0, 0, 0, 1, 2, 20, 30)))
        content = b"other" if rng.random() < 0.1 else b""
        return StoredEvent(f"e{number}", place_of(number // 2), content)

    return [Append(rng.choice("ab"), event()) for _ in range(rng.choice((1, 1, 2)))]


def check_as_plain(store: Store, retention: Retention, rounds: int = 90) -> Counter:
    plain, rng, met = PlainStore(retention), random.Random(3), Counter()
    for now in range(rounds):
        group = random_group(rng, now)
        (outcomes,) = store.append([group])
        assert outcomes == plain.append(group)
        met.update(outcomes)
        for user in "ab":
            found, expected = store.history(user), plain.rows.get(user)
            assert (found is None) == (expected is None)
            if found is not None:
                assert list(found.events) == expected
                assert (found.head.before, found.head.count) == (plain.before[user], len(expected))
                assert found.head == store.head(user)
                assert (found.head.first, found.head.last) == (found.keys[0], found.keys[-1])
    return met


@pytest.mark.parametrize("make", MAKERS)
def test_a_store_does_as_the_plain_one(make: Maker, tmp_path: Path) -> None:
    met = check_as_plain(make(tmp_path, KEEP), KEEP)
    assert_not_vacuous(
        {outcome: met[outcome] for outcome in ("stored", "duplicate", "too old", "conflict")}, 2
    )


@pytest.mark.parametrize("make", MAKERS)
def test_without_retention_nothing_goes(make: Maker, tmp_path: Path) -> None:
    met = check_as_plain(make(tmp_path), Retention(), rounds=40)
    assert met["too old"] == 0 and met["stored"] > 20


def test_a_store_that_drops_otherwise_is_caught(tmp_path: Path) -> None:
    assert_caught(check_as_plain, lmdb_store(tmp_path, Retention(keep=8, step=3)), KEEP)


@pytest.mark.parametrize("make", MAKERS)
def test_events_behind_a_key_and_epochs(make: Maker, tmp_path: Path) -> None:
    store = make(tmp_path)
    events = [StoredEvent(f"e{n}", place_of(10 * n), b"") for n in range(4)]
    store.append([[Append("u", event)] for event in events[:2]])
    first = store.head("u")
    store.append([[Append("u", event)] for event in events[2:]])
    later = store.head("u")
    assert first.epoch == later.epoch and later.version == first.version + 2
    assert store.history("u", after=first.last).events == tuple(events[2:])
    store.append([[Append("u", StoredEvent("late", place_of(5), b""))]])
    assert store.head("u").epoch != later.epoch
    assert [event.id for event in store.history("u").events] == ["e0", "late", "e1", "e2", "e3"]


@pytest.mark.parametrize("make", MAKERS)
def test_a_user_is_forgotten_wholly(make: Maker, tmp_path: Path) -> None:
    store = make(tmp_path)
    one = StoredEvent("e", place_of(1), b"x")
    store.append([[Append("u", one), Append("v", one)]])
    before = store.head("u")
    assert store.num_users() == 2
    assert store.delete("u") and not store.delete("u")
    assert store.head("u") is None and store.history("u") is None and store.num_users() == 1
    assert store.history("v").events == (one,)
    assert store.append([[Append("u", StoredEvent("e", place_of(1), b"y"))]]) == [["stored"]]
    assert store.head("u").epoch != before.epoch


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("id", ["", "x" * 513])
def test_an_id_without_a_length_is_refused(make: Maker, id: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 1 to 512"):
        make(tmp_path).append([[Append("u", StoredEvent(id, place_of(1), b""))]])


def test_places_stand_as_what_they_are_made_of() -> None:
    rng, ordered = random.Random(5), 0
    numbers = [None, -1e300, -2.5, -1, 0, 1e-300, 3, 1e300]
    texts = ["", "a", "a\0", "a\0b", "ab", "b", "é"]
    rank = {tie: n for n, tie in enumerate([*numbers, *texts])}
    for _ in range(2_000):
        one, other = ((rng.randrange(-2, 3), rng.choice([*numbers, *texts])) for _ in range(2))
        by_key = place_of(*one) + struct.pack(">Q", 0) < place_of(*other) + struct.pack(">Q", 0)
        assert by_key == ((one[0], rank[one[1]]) < (other[0], rank[other[1]])), (one, other)
        ordered += by_key
    assert ordered > 500


def test_one_process_writes_a_folder(tmp_path: Path) -> None:
    lmdb_store(tmp_path)
    with pytest.raises(ValueError, match="written by another process"):
        lmdb_store(tmp_path)


def test_what_is_stored_is_there_again(tmp_path: Path) -> None:
    store = lmdb_store(tmp_path)
    store.append([[Append("u", StoredEvent("e", place_of(1), b"x"))]])
    store.close()
    assert lmdb_store(tmp_path).history("u").events[0].content == b"x"


@pytest.mark.parametrize(("keep", "step"), [(0, 1), (-1, 1), (7, 0), (None, 0)])
def test_a_retention_that_keeps_nothing_is_refused(keep: int | None, step: int) -> None:
    with pytest.raises(
        ValueError, match=f"retention of {keep} events in steps of {step}: expected 1 or more"
    ):
        Retention(keep, step)
    assert Retention(1, 1).dropped(3) == 2 and Retention(None, 1).dropped(3) == 0


def test_a_full_store_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "small", "process", map_bytes=1 << 17)
    stored = 0
    with pytest.raises(StoreFull):
        for n in range(1_000):
            store.append([[Append("u", StoredEvent(f"e{n}", place_of(n), b"x" * 1_000))]])
            stored += 1
    assert 0 < stored == store.head("u").count == len(store.history("u").events)


# What a server of Redis keeps, and what it does when it is gone


class Server(fakeredis.FakeRedis):
    """Answers what its settings are asked."""

    kept: tuple[str, str] = ("yes", "always")

    def config_get(self, name: str) -> dict[str, str]:
        return {name: self.kept[name == "appendfsync"]}


def test_a_server_that_may_lose_is_refused() -> None:
    RedisStore(Server(), "power")
    for kept in (("no", "always"), ("yes", "everysec")):
        server = Server()
        server.kept = kept
        with pytest.raises(ValueError, match="appendfsync always"):
            RedisStore(server, "power")
        RedisStore(server, "process")


def test_a_server_that_goes_and_comes_back_loses_nothing() -> None:
    server = fakeredis.FakeServer()
    store = RedisStore(fakeredis.FakeRedis(server=server), "process")
    one, other = (StoredEvent(f"e{n}", place_of(n), b"") for n in range(2))
    store.append([[Append("u", one)]])
    server.connected = False
    for ask in (lambda: store.append([[Append("u", other)]]), lambda: store.head("u"), store.num_users):
        with pytest.raises(StoreUnavailable):
            ask()
    server.connected = True
    assert store.append([[Append("u", other)]]) == [["stored"]]
    assert store.history("u").events == (one, other)


def test_two_services_write_one_user() -> None:
    server = fakeredis.FakeServer()

    def write(which: str) -> None:
        store = RedisStore(fakeredis.FakeRedis(server=server), "process")
        for n in range(20):
            store.append([[Append("u", StoredEvent(f"{which}{n}", place_of(n), b""))]])

    writers = [threading.Thread(target=write, args=(which,)) for which in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    history = RedisStore(fakeredis.FakeRedis(server=server), "process").history("u")
    assert history.head.count == history.head.version == len(history.events) == 40
    assert len({event.id for event in history.events}) == 40


# What is acknowledged


def test_what_waits_is_written_together_and_answered_after() -> None:
    may_go, order, together = threading.Event(), [], []

    def write(asked: list[int]) -> list[int]:
        together.append(len(asked))
        may_go.wait(5)
        order.append("written")
        return [2 * number for number in asked]

    commit = GroupCommit(write)
    futures = [commit.submit(0)]
    while not together:
        time.sleep(0.001)
    futures += [commit.submit(number) for number in range(1, 9)]
    for future in futures:
        future.add_done_callback(lambda _: order.append("answered"))
    assert not any(future.done() for future in futures)
    may_go.set()
    assert [future.result(5) for future in futures] == [2 * number for number in range(9)]
    commit.close()
    assert together == [1, 8] and order == ["written", "answered", "written", *["answered"] * 8]
    with pytest.raises(Closed):
        commit.submit(1)


def test_one_that_is_wrong_spoils_no_other() -> None:
    started, may_go = threading.Event(), threading.Event()

    def write(asked: list[int]) -> list[int]:
        started.set()
        may_go.wait(5)
        if 3 in asked:
            raise ValueError("three")
        return asked

    commit = GroupCommit(write)
    futures = [commit.submit(0)]
    started.wait(5)
    futures += [commit.submit(number) for number in range(1, 6)]
    may_go.set()
    found = [future.exception(5) is None and future.result() for future in futures]
    commit.close()
    assert found == [0, 1, 2, False, 4, 5]


def check_syncs(store: LmdbStore) -> None:
    """LMDB syncs data and then its root inside of every commit, before `append` returns, where these flags stand."""
    flags = store._env.flags()
    assert flags["sync"] and flags["metasync"] and not flags["map_async"], flags


def test_power_means_that_every_commit_syncs(tmp_path: Path) -> None:
    check_syncs(LmdbStore(tmp_path / "power", "power"))
    assert_caught(check_syncs, LmdbStore(tmp_path / "process", "process"))


WRITER = """
import sys
from pathlib import Path
from plait.store.history import Append, StoredEvent, place_of
from plait.store.lmdb_store import LmdbStore

store = LmdbStore(Path(sys.argv[1]), sys.argv[2])
head = store.head("u")
for n in range(head.version if head else 0, 100_000):
    events = [Append("u", StoredEvent(f"{n}-{part}", place_of(n), bytes([part]) * 50)) for part in range(2)]
    store.append([events])
    print(n, flush=True)
"""


KILLS = int(os.environ.get("PLAIT_KILLS", "3"))  # `make test-serve` kills more often


@pytest.mark.parametrize("durability", ["power", "process"])
def test_kills_lose_nothing_that_was_acknowledged(durability: str, tmp_path: Path) -> None:
    acknowledged: list[int] = []
    for kill in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), durability], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        for _ in range(15 + 10 * (kill % 5)):
            acknowledged.append(int(child.stdout.readline()))
        os.kill(child.pid, signal.SIGKILL)
        acknowledged += map(int, child.stdout.read().split())
        child.wait()
        child.stdout.close()
    history = LmdbStore(tmp_path).history("u")
    ids = [event.id for event in history.events]
    assert len(acknowledged) > 60
    assert {f"{n}-{part}" for n in acknowledged for part in range(2)} <= set(ids)
    assert len(ids) == len(set(ids)) == history.head.count and len(ids) % 2 == 0  # groups are whole
    assert all(len(event.content) == 50 for event in history.events)


@pytest.fixture(autouse=True)
def no_open_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes what a test opened: LMDB refuses to open a folder twice."""
    opened, right = [], LmdbStore.__init__

    def init(self: LmdbStore, *arguments: object, **named: object) -> None:
        right(self, *arguments, **named)
        opened.append(self)

    monkeypatch.setattr(LmdbStore, "__init__", init)
    yield
    for store in opened:
        try:
            store.close()
        except Exception:  # a test closed it
            continue
