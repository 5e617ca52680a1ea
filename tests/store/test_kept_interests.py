"""What user models last said of users lies beside histories: once for each version, and as long as the history does."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import fakeredis
import msgspec
import pytest
from test_store import MAKERS, Maker, lmdb_store, redis_store
from test_store import no_open_stores as no_open_stores  # a fixture
from tiny import assert_caught

from plait.store import lmdb_store as room_of_lmdb
from plait.store import redis_store as room_of_redis
from plait.store.history import Append, KeptInterests, Store, StoredEvent, StoreUnavailable, place_of
from plait.store.interests import MOST_VERSIONS
from plait.store.lmdb_store import LmdbStore
from plait.store.redis_store import RedisStore


def known(store: Store, user: str = "u", at: int = 0) -> int:
    """A user with an event more; the epoch of the history."""
    store.append([[Append(user, StoredEvent(f"e{at}", place_of(at), b""))]])
    head = store.head(user)
    assert head is not None
    return head.epoch


def said(epoch: int, user: str = "u", version: str = "v1", time_us: int = 5) -> KeptInterests:
    return KeptInterests(
        user, epoch, version, time_us, ("own", "scenario=search"), bytes([time_us % 256] * 8)
    )


@dataclass
class PlainInterests:
    """The rules, as plainly as they can be said."""

    kept: dict[tuple[str, str], KeptInterests] = field(default_factory=dict)

    def keep(self, store: Store, its: KeptInterests) -> bool:
        head, key = store.head(its.user), (its.user, its.version)
        if head is None or head.epoch != its.epoch:
            return False
        if key not in self.kept or its.time_us >= self.kept[key].time_us:
            self.kept[key] = its
        mine = sorted(self.of(its.user), key=lambda each: each.time_us)
        for oldest in mine[: max(0, len(mine) - MOST_VERSIONS)]:
            del self.kept[oldest.user, oldest.version]
        return True

    def of(self, user: str) -> list[KeptInterests]:
        mine = [its for (its_user, _), its in self.kept.items() if its_user == user]
        return sorted(mine, key=lambda its: -its.time_us)

    def delete(self, user: str) -> None:
        self.kept = {key: its for key, its in self.kept.items() if key[0] != user}


def check_as_plain(store: Store, rounds: int = 150) -> Counter:
    """Random interests, of which some are old or of a history that is gone, and deletions; each time unlike others."""
    rng, plain, met = random.Random(3), PlainInterests(), Counter[str]()
    epochs = {user: [known(store, user)] for user in "ab"}
    for now in range(1, rounds + 1):
        user = rng.choice("abc")
        match rng.random():
            case chance if chance < 0.08:
                was_known = store.head(user) is not None
                assert store.delete(user) == was_known
                plain.delete(user)
                met["deleted"] += 1
            case chance if chance < 0.2:
                epochs.setdefault(user, []).append(known(store, user, now))
            case _:
                time_us = 30_000 + 1_000 * now - (rng.randrange(30_000) if rng.random() < 0.3 else 0)
                epoch = rng.choice(epochs.get(user, [1])[-2:])
                its = said(epoch, user, f"v{rng.randrange(MOST_VERSIONS + 2)}", time_us)
                (was_kept,) = store.keep_interests([its])
                assert was_kept == plain.keep(store, its)
                met["kept" if was_kept else "refused"] += 1
        for each in "abc":
            assert list(store.interests(each)) == plain.of(each)
            met["full"] += len(plain.of(each)) == MOST_VERSIONS
    return met


@pytest.mark.parametrize("make", MAKERS)
def test_a_store_keeps_interests_as_the_plain_one(make: Maker, tmp_path: Path) -> None:
    met = check_as_plain(make(tmp_path))
    assert min(met[name] for name in ("kept", "refused", "deleted", "full")) > 0, met


@pytest.mark.parametrize(("room", "make"), [(room_of_lmdb, lmdb_store), (room_of_redis, redis_store)])
def test_interests_of_a_history_that_is_gone_are_caught(
    room: object, make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "may_be_kept", lambda new, head: True)
    assert_caught(check_as_plain, make(tmp_path))


@pytest.mark.parametrize("make", MAKERS)
def test_many_are_kept_together_and_several_of_one_user(make: Maker, tmp_path: Path) -> None:
    store = make(tmp_path)
    epochs = {user: known(store, user) for user in "ab"}
    new = [said(epochs["a"], "a"), said(7, "nobody"), said(epochs["b"], "b"), said(epochs["a"], "a", "v2", 6)]
    assert store.keep_interests(new) == [True, False, True, True]
    assert store.keep_interests([]) == []
    assert [its.version for its in store.interests("a")] == ["v2", "v1"]
    assert store.interests("nobody") == ()


def test_kept_interests_are_there_again(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, "power")
    its = said(known(store))
    store.keep_interests([its])
    store.close()
    assert LmdbStore(tmp_path, "power").interests("u") == (its,)
    server = fakeredis.FakeServer()
    first, second = (RedisStore(fakeredis.FakeRedis(server=server), "process") for _ in range(2))
    its = said(known(first))
    first.keep_interests([its])
    assert second.interests("u") == (its,)


def test_a_store_of_before_keeps_interests_from_now_on(tmp_path: Path) -> None:
    """A folder that was written when there were no interests is opened as it is."""
    import lmdb

    store = LmdbStore(tmp_path, "process")
    epoch = known(store)
    store.close()
    with lmdb.open(str(tmp_path), max_dbs=4) as env, env.begin(write=True) as txn:
        txn.drop(env.open_db(b"interests", txn=txn))
    again = LmdbStore(tmp_path, "process")
    assert again.interests("u") == () and again.keep_interests([said(epoch)]) == [True]


def test_a_server_that_is_gone_says_so() -> None:
    server = fakeredis.FakeServer()
    store = RedisStore(fakeredis.FakeRedis(server=server), "process")
    its = said(known(store))
    server.connected = False
    with pytest.raises(StoreUnavailable):
        store.keep_interests([its])
    with pytest.raises(StoreUnavailable):
        store.interests("u")


def test_two_services_say_something_of_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another one wrote between the reading and the writing is not lost."""
    server = fakeredis.FakeServer()
    one, other = (RedisStore(fakeredis.FakeRedis(server=server), "process") for _ in range(2))
    epoch, right, met = known(one), room_of_redis.with_newer, Counter[str]()

    def meanwhile(kept: tuple[KeptInterests, ...], new: KeptInterests) -> tuple[KeptInterests, ...]:
        if not met["between"]:
            met["between"] += 1
            other.keep_interests([said(epoch, version="v2", time_us=9)])
        return right(kept, new)

    monkeypatch.setattr(room_of_redis, "with_newer", meanwhile)
    assert one.keep_interests([said(epoch)]) == [True]
    assert [its.version for its in one.interests("u")] == ["v2", "v1"] and met["between"]


WRITER = """
import sys
from pathlib import Path
from plait.store.history import Append, KeptInterests, StoredEvent, place_of
from plait.store.lmdb_store import LmdbStore

store = LmdbStore(Path(sys.argv[1]), "power")
store.append([[Append("u", StoredEvent("e", place_of(0), b""))]])
epoch, last = store.head("u").epoch, store.interests("u")
for n in range(last[0].time_us + 1 if last else 0, 100_000):
    store.keep_interests([KeptInterests("u", epoch, f"v{n % 2}", n, ("own",), b"x" * 50)])
    print(n, flush=True)
"""


def test_kills_lose_no_interests_that_were_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        acknowledged += [int(child.stdout.readline()) for _ in range(15)]
        os.kill(child.pid, signal.SIGKILL)
        acknowledged += map(int, child.stdout.read().split())
        child.wait()
        child.stdout.close()
    kept = LmdbStore(tmp_path).interests("u")
    assert len(acknowledged) >= 30 and {its.version for its in kept} == {"v0", "v1"}
    assert kept[0].time_us >= max(acknowledged) and all(len(its.vectors) == 50 for its in kept)


def test_interests_are_read_as_they_were_written() -> None:
    its = said(3)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(its), type=KeptInterests) == its
