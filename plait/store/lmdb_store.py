"""Histories in LMDB: a folder that one process writes.

LMDB/users   key of the user -> its head
LMDB/events  key of the user + key of the event -> its id and content
LMDB/ids     key of the user + key of the event's id -> digest of the event
LMDB/interests  key of the user -> what user models last said of it
"""

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import lmdb
import msgspec

from plait.store.history import (
    KEY_BYTES,
    Append,
    Change,
    Durability,
    Head,
    KeptInterests,
    Outcome,
    Retention,
    StoredEvent,
    StoredHistory,
    StoreFull,
    StoreUnavailable,
    digest_of,
    judged,
    key_of_id,
    key_of_user,
    place_in,
    trimmed,
)
from plait.store.interests import may_be_kept, packed_interests, unpacked_interests, with_newer

MAP_BYTES = 1 << 38  # of addresses, not of disk: 256 GiB
LOCK = "writer.lock"


class _Content(msgspec.Struct, frozen=True, array_like=True):
    id: str
    content: bytes


_heads, _contents = msgspec.msgpack.Decoder(Head), msgspec.msgpack.Decoder(_Content)


@final
class LmdbStore:
    """Histories in a folder.

    Args:
        durability: `power`: an append returns when the disk has it. `process`: when the system has it, which a kill
            survives and a loss of power may not.
        map_bytes: the largest that the store may grow.

    Raises:
        ValueError: another process writes there, or the folder holds something else.
    """

    def __init__(
        self,
        folder: Path,
        durability: Durability = "power",
        retention: Retention = Retention(),
        map_bytes: int = MAP_BYTES,
    ) -> None:
        self.folder, self.durability, self.retention = folder, durability, retention
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _only_writer(folder)
        try:
            self._env = lmdb.open(
                str(folder),
                map_size=map_bytes,
                max_dbs=4,
                sync=durability == "power",
                metasync=durability == "power",
                readahead=False,
            )
            self._users, self._events, self._ids, self._interests = (
                self._env.open_db(name) for name in (b"users", b"events", b"ids", b"interests")
            )
        except lmdb.Error as error:
            os.close(self._lock)
            raise ValueError(
                f"{folder} cannot be opened as a store ({error}); name another folder"
            ) from error

    def append(self, groups: Sequence[Sequence[Append]]) -> list[list[Outcome]]:
        with _told(), self._env.begin(write=True) as txn:  # commits, and syncs, where the block ends
            return [self._append(txn, group) for group in groups]

    def head(self, user: str) -> Head | None:
        with _told(), self._env.begin(buffers=False) as txn:
            return self._head(txn, key_of_user(user))

    def history(self, user: str, after: bytes | None = None) -> StoredHistory | None:
        user_key = key_of_user(user)
        with _told(), self._env.begin() as txn:
            head = self._head(txn, user_key)
            if head is None:
                return None
            found = [
                (key, _contents.decode(raw)) for key, raw in self._rows(txn, self._events, user_key, after)
            ]
        keys = tuple(key for key, _ in found)
        events = tuple(StoredEvent(each.id, place_in(key), each.content) for key, each in found)
        return StoredHistory(head, keys, events)

    def delete(self, user: str) -> bool:
        user_key = key_of_user(user)
        with _told(), self._env.begin(write=True) as txn:
            known = txn.delete(user_key, db=self._users)
            txn.delete(user_key, db=self._interests)
            for table in (self._events, self._ids):
                for key, _ in list(self._rows(txn, table, user_key)):
                    txn.delete(user_key + key, db=table)
        return known

    def keep_interests(self, new: Sequence[KeptInterests]) -> list[bool]:
        with _told(), self._env.begin(write=True) as txn:
            return [self._keep(txn, key_of_user(its.user), its) for its in new]

    def interests(self, user: str) -> tuple[KeptInterests, ...]:
        with _told(), self._env.begin() as txn:
            return unpacked_interests(txn.get(key_of_user(user), db=self._interests))

    def num_users(self) -> int:
        with _told(), self._env.begin() as txn:
            return int(txn.stat(self._users)["entries"])

    def close(self) -> None:
        """Syncs what `process` left to the system."""
        self._env.sync(True)
        self._env.close()
        os.close(self._lock)

    def _keep(self, txn: lmdb.Transaction, user_key: bytes, new: KeptInterests) -> bool:
        if not may_be_kept(new, self._head(txn, user_key)):
            return False
        kept = unpacked_interests(txn.get(user_key, db=self._interests))
        return txn.put(user_key, packed_interests(with_newer(kept, new)), db=self._interests)

    def _append(self, txn: lmdb.Transaction, group: Sequence[Append]) -> list[Outcome]:
        users = {each.user: key_of_user(each.user) for each in group}
        heads = {user: self._head(txn, key) for user, key in users.items()}

        def digest_known(user: str, id: str) -> bytes | None:
            found = txn.get(users[user] + key_of_id(id), db=self._ids)
            return None if found is None else bytes(found)

        outcomes, changes = judged(group, heads, digest_known, _new_epoch)
        for change in changes:
            self._write(txn, users[change.head.user], change)
        return outcomes

    def _write(self, txn: lmdb.Transaction, user_key: bytes, change: Change) -> None:
        for key, event in change.events:
            content = msgspec.msgpack.encode(_Content(event.id, event.content))
            txn.put(user_key + key, content, db=self._events)
            txn.put(user_key + key_of_id(event.id), digest_of(event), db=self._ids)
        head, dropped = change.head, self.retention.dropped(change.head.count)
        if dropped:
            head = self._drop(txn, user_key, head, dropped)
        txn.put(user_key, msgspec.msgpack.encode(head), db=self._users)

    def _drop(self, txn: lmdb.Transaction, user_key: bytes, head: Head, dropped: int) -> Head:
        rows, gone = self._rows(txn, self._events, user_key), []
        for (key, raw), _ in zip(rows, range(dropped), strict=False):
            gone.append((key, _contents.decode(raw).id))
        for key, id in gone:
            txn.delete(user_key + key, db=self._events)
            txn.delete(user_key + key_of_id(id), db=self._ids)
        first = next(self._rows(txn, self._events, user_key))[0]
        return trimmed(head, dropped, first, _new_epoch())

    def _head(self, txn: lmdb.Transaction, user_key: bytes) -> Head | None:
        raw = txn.get(user_key, db=self._users)
        return None if raw is None else _heads.decode(raw)

    def _rows(
        self, txn: lmdb.Transaction, table: Any, user_key: bytes, after: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """A user's rows, by the rest of their keys."""
        with txn.cursor(db=table) as cursor:
            there = cursor.set_range(user_key + (b"" if after is None else after + b"\0"))
            while there and (key := bytes(cursor.key())).startswith(user_key):
                yield key[KEY_BYTES:], bytes(cursor.value())
                there = cursor.next()


@contextmanager
def _told() -> Iterator[None]:
    """LMDB's errors as the store's."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.DiskError) as error:
        raise StoreFull(f"the store has no room left: {error}") from error
    except lmdb.Error as error:
        raise StoreUnavailable(f"the store cannot be used: {error}") from error


def _new_epoch() -> int:
    return secrets.randbits(63)


def _only_writer(folder: Path) -> int:
    """A lock that the system lets go of with the process."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ValueError(
            f"{folder} is written by another process; stop it, or name another folder; several services share a Redis"
        ) from error
    return lock
