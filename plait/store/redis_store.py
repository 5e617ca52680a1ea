"""Histories in Redis or Valkey, which several services may share.

{plait:USER}:head    the head
{plait:USER}:keys    sorted set of the keys of its events
{plait:USER}:events  key of an event -> its id and content
{plait:USER}:ids     key of an event's id -> digest of the event
{plait:USER}:interests  what user models last said of it
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast, final

import msgspec
import redis

from plait.store.history import (
    Append,
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

Done = TypeVar("Done")

TRIES = 100  # when others write the same users at the same time
PREFIX = b"plait"
WAIT_S = 2.0  # for an answer of the server


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    id: str
    content: bytes


_heads, _contents = msgspec.msgpack.Decoder(Head), msgspec.msgpack.Decoder(_Kept)


@final
class RedisStore:
    """Histories in a server.

    Args:
        durability: `power`: refused unless the server appends every command to its log and syncs it before it answers.

    Raises:
        ValueError: the server is not there, or does not keep what it acknowledges.
    """

    def __init__(
        self, client: "redis.Redis", durability: Durability = "power", retention: Retention = Retention()
    ) -> None:
        self.client, self.durability, self.retention = client, durability, retention
        try:
            client.ping()
            if durability == "power":
                check_keeps(client)
        except redis.RedisError as error:
            raise ValueError(f"the Redis server cannot be used: {error}") from error

    @classmethod
    def at(
        cls, url: str, durability: Durability = "power", retention: Retention = Retention()
    ) -> "RedisStore":
        """A store at an address such as redis://localhost:6379/0."""
        try:
            client = redis.Redis.from_url(url, socket_timeout=WAIT_S, socket_connect_timeout=WAIT_S)
        except ValueError as error:
            raise ValueError(
                "the store is no address of a Redis server, such as redis://HOST:6379/0"
            ) from error
        return cls(client, durability, retention)

    def append(self, groups: Sequence[Sequence[Append]]) -> list[list[Outcome]]:
        with _told():
            return [self._again(partial(self._try, group)) for group in groups]

    def head(self, user: str) -> Head | None:
        with _told():
            return _head(self.client.get(_name(user, b"head")))

    def history(self, user: str, after: bytes | None = None) -> StoredHistory | None:
        least = b"-" if after is None else b"(" + after
        with _told():
            while True:
                head = self.head(user)
                if head is None:
                    return None
                keys = cast("list[bytes]", self.client.zrangebylex(_name(user, b"keys"), least, b"+"))
                raws = cast("list[Any]", self.client.hmget(_name(user, b"events"), keys)) if keys else []
                if self.head(user) == head:  # else another service wrote in between
                    break
        kept = [_contents.decode(raw) for raw in raws]
        events = (
            StoredEvent(each.id, place_in(key), each.content) for key, each in zip(keys, kept, strict=True)
        )
        return StoredHistory(head, tuple(keys), tuple(events))

    def delete(self, user: str) -> bool:
        names = [_name(user, part) for part in (b"head", b"keys", b"events", b"ids", b"interests")]
        with _told(), self.client.pipeline(transaction=True) as pipe:
            pipe.delete(*names)
            return bool(pipe.execute()[0])

    def keep_interests(self, new: Sequence[KeptInterests]) -> list[bool]:
        with _told():
            return [self._again(partial(self._keep, its)) for its in new]

    def interests(self, user: str) -> tuple[KeptInterests, ...]:
        with _told():
            return unpacked_interests(cast("bytes | None", self.client.get(_name(user, b"interests"))))

    def num_users(self) -> int:
        with _told():
            return sum(1 for _ in self.client.scan_iter(match=b"{" + PREFIX + b":*}:head", count=1000))

    def close(self) -> None:
        self.client.close()

    def _again(self, write: Callable[[], Done]) -> Done:
        """Tried again where another service wrote the same users meanwhile."""
        for _ in range(TRIES):
            try:
                return write()
            except redis.WatchError:
                continue
        raise StoreUnavailable("other services write the same users without a pause; try again")

    def _keep(self, new: KeptInterests) -> bool:
        head, its = _name(new.user, b"head"), _name(new.user, b"interests")
        with self.client.pipeline(transaction=True) as pipe:
            pipe.watch(head, its)
            if not may_be_kept(new, _head(pipe.get(head))):
                return False
            kept = unpacked_interests(cast("bytes | None", pipe.get(its)))
            pipe.multi()
            pipe.set(its, packed_interests(with_newer(kept, new)))
            pipe.execute()
        return True

    def _try(self, group: Sequence[Append]) -> list[Outcome]:
        users = list(dict.fromkeys(each.user for each in group))
        with self.client.pipeline(transaction=True) as pipe:
            pipe.watch(*(_name(user, b"head") for user in users))
            heads = {user: _head(pipe.get(_name(user, b"head"))) for user in users}

            def digest_known(user: str, id: str) -> bytes | None:
                return cast("bytes | None", pipe.hget(_name(user, b"ids"), key_of_id(id)))

            outcomes, changes = judged(group, heads, digest_known, _new_epoch)
            oldest = {change.head.user: self._oldest(pipe, change.head) for change in changes}
            pipe.multi()
            for change in changes:
                user, head = change.head.user, change.head
                for key, event in change.events:
                    content = msgspec.msgpack.encode(_Kept(event.id, event.content))
                    pipe.zadd(_name(user, b"keys"), {key: 0})
                    pipe.hset(_name(user, b"events"), key, content)
                    pipe.hset(_name(user, b"ids"), key_of_id(event.id), digest_of(event))
                dropped = self.retention.dropped(head.count)
                if dropped:
                    known = dict(oldest[user]) | {key: event.id for key, event in change.events}
                    head = _drop(pipe, head, dropped, sorted(known.items()))
                pipe.set(_name(user, b"head"), msgspec.msgpack.encode(head))
            pipe.execute()
        return outcomes

    def _oldest(self, pipe: Any, head: Head) -> list[tuple[bytes, str]]:
        """Keys and ids of the oldest events that are there, one more than go."""
        dropped = self.retention.dropped(head.count)
        if not dropped:
            return []
        keys = pipe.zrange(_name(head.user, b"keys"), 0, dropped)
        raws = pipe.hmget(_name(head.user, b"events"), keys) if keys else []
        return [(key, _contents.decode(raw).id) for key, raw in zip(keys, raws, strict=True)]


def _drop(pipe: Any, head: Head, dropped: int, oldest: list[tuple[bytes, str]]) -> Head:
    keys, ids = zip(*oldest[:dropped], strict=True)
    pipe.zrem(_name(head.user, b"keys"), *keys)
    pipe.hdel(_name(head.user, b"events"), *keys)
    pipe.hdel(_name(head.user, b"ids"), *map(key_of_id, ids))
    return trimmed(head, dropped, oldest[dropped][0], _new_epoch())


def check_keeps(client: "redis.Redis") -> None:
    """Raises ValueError where the server may lose what it acknowledged."""
    found: dict[str, str] = {}
    for name in ("appendonly", "appendfsync"):
        found |= cast("dict[str, str]", client.config_get(name))
    if (found.get("appendonly"), found.get("appendfsync")) != ("yes", "always"):
        raise ValueError(
            f"the Redis server has appendonly {found.get('appendonly')} and appendfsync {found.get('appendfsync')}: a "
            "loss of power may lose what it acknowledged. Set 'appendonly yes' and 'appendfsync always' there, or take "
            "less with durability 'process'"
        )


@contextmanager
def _told() -> Iterator[None]:
    """The client's errors as the store's."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError as error:
        raise StoreFull("the Redis server has no memory left") from error
    except redis.RedisError as error:
        raise StoreUnavailable(f"the Redis server cannot be used: {type(error).__name__}") from error


def _name(user: str, part: bytes) -> bytes:
    """The braces keep a user's keys together in a cluster."""
    return b"{" + PREFIX + b":" + key_of_user(user).hex().encode() + b"}:" + part


def _head(raw: Any) -> Head | None:
    return None if raw is None else _heads.decode(raw)


def _new_epoch() -> int:
    return secrets.randbits(63)
