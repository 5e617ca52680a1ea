"""What a store keeps of a user, and the rules that every store follows. Pure: no files, no network.

- **Order.** Events stand by their place, and those of one place as they arrived. A late event goes where its place is.
- **Once.** An event's id names it within its user. The same id with the same content is a duplicate, and changes
  nothing. With other content it is a conflict, and nothing of its group is stored.
- **Retention.** The oldest events go in whole steps, and `before` counts them. What lies before the oldest event that
  is left may be one that is gone: it is too old, and is not stored.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, final, runtime_checkable

import msgspec

Outcome = Literal["stored", "duplicate", "too old", "conflict", "left out"]
Durability = Literal["power", "process"]

MOST_PLACE_BYTES = 400  # LMDB's keys end at 511 bytes
MOST_ID_BYTES = 512  # of a user's or an event's id
KEY_BYTES, NUMBER_BYTES = 16, 8


class StoreUnavailable(Exception):
    """The store cannot be read or written now: nothing that it acknowledged is lost, and nothing new is."""


class StoreFull(StoreUnavailable):
    """There is no room left."""


@dataclass(frozen=True)
class StoredEvent:
    """One event of a user.

    Args:
        id: names it within its user.
        place: where it stands among them, from `place_of`.
        content: whatever the caller wants back.
    """

    id: str
    place: bytes
    content: bytes


@dataclass(frozen=True)
class Append:
    """An event, and whose it is."""

    user: str
    event: StoredEvent


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a user without reading events."""

    user: str
    epoch: int  # drawn anew whenever the history changed otherwise than at its end
    version: int  # of its appends, since the user is known
    before: int  # how many events there were before the first that is kept
    count: int  # of those kept
    first: bytes  # key of the first of them
    last: bytes


class KeptInterests(msgspec.Struct, frozen=True, array_like=True):
    """What one version of a user model last said of a user."""

    user: str
    epoch: int  # of the history that it was asked from
    version: str  # of the user model
    time_us: int  # when it was asked, since 1970
    conditions: tuple[str, ...]
    vectors: bytes  # one for each condition, end to end, in half precision, little-endian


@dataclass(frozen=True)
class StoredHistory:
    """A user's events, oldest first, with their keys."""

    head: Head
    keys: tuple[bytes, ...]
    events: tuple[StoredEvent, ...]


@dataclass(frozen=True)
class Retention:
    """Keeps at least `keep` events of a user; the oldest go when `step` of them can. None keeps all.

    Raises:
        ValueError: one of them is below 1.
    """

    keep: int | None = None
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1 or (self.keep is not None and self.keep < 1):
            raise ValueError(f"retention of {self.keep} events in steps of {self.step}: expected 1 or more")

    def dropped(self, count: int) -> int:
        """How many of so many events go: whole steps.

        >>> Retention(10, step=4).dropped(13), Retention(10, step=4).dropped(14), Retention().dropped(99)
        (0, 4, 0)
        """
        return 0 if self.keep is None else max(0, count - self.keep) // self.step * self.step


@runtime_checkable
class Store(Protocol):
    """Histories of users. One object is used by several threads; `append` by one at a time."""

    def append(self, groups: Sequence[Sequence[Append]]) -> list[list[Outcome]]:
        """Stores groups of events, each wholly or not at all, and returns when they are safe.

        Raises:
            StoreUnavailable: nothing of them was stored.
            ValueError: an id is too long.
        """

    def head(self, user: str) -> Head | None:
        """None where nothing is known of the user."""

    def history(self, user: str, after: bytes | None = None) -> StoredHistory | None:
        """All events of a user; of those behind the key `after`, where it is given."""

    def delete(self, user: str) -> bool:
        """Forgets a user wholly, and returns when that is safe; whether anything was known."""

    def keep_interests(self, new: Sequence[KeptInterests]) -> list[bool]:
        """Keeps what user models said of users, in place of what the same version said before, and returns when it is
        safe; whether each was of the history that is there (`plait.store.interests`).

        Raises:
            StoreUnavailable: maybe some were kept.
        """

    def interests(self, user: str) -> tuple[KeptInterests, ...]:
        """What each version last said of a user, the newest first."""

    def num_users(self) -> int: ...

    def close(self) -> None: ...


def place_of(time_us: int, tie: float | int | str | None = None) -> bytes:
    """Where an event stands: by its time in microseconds, then by what breaks ties: nothing, numbers, texts, in this
    order. Texts are told apart by their first 300 bytes.

    >>> sorted([place_of(5, "b"), place_of(5, 10), place_of(5, 9), place_of(-1)]) == [
    ...     place_of(-1), place_of(5, 9), place_of(5, 10), place_of(5, "b")]
    True
    """
    when = struct.pack(">Q", time_us + (1 << 63))
    if tie is None:
        return when
    if isinstance(tie, str):
        text = tie.encode("utf-8", "surrogatepass")[:300].replace(b"\0", b"\0\xff")
        return when + b"\2" + text[: MOST_PLACE_BYTES - 20] + b"\0"
    bits = struct.unpack(">Q", struct.pack(">d", tie + 0.0))[0]  # -0.0 and 0.0 are one
    return when + b"\1" + struct.pack(">Q", bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63))


def key_of_user(user: str) -> bytes:
    """Raises ValueError where the id is empty or too long."""
    _check_id(user, "user")
    return hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def key_of_id(event_id: str) -> bytes:
    """As `key_of_user`."""
    _check_id(event_id, "event")
    return hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def digest_of(event: StoredEvent) -> bytes:
    """Tells contents apart."""
    return hashlib.blake2b(event.place + b"\0" + event.content, digest_size=KEY_BYTES).digest()


@final
@dataclass(frozen=True)
class Change:
    """What a group of events does to one user: the head from then on, and the events to write by their keys."""

    head: Head
    events: tuple[tuple[bytes, StoredEvent], ...]


def judged(
    group: Sequence[Append],
    heads: Mapping[str, Head | None],
    digest_known: Callable[[str, str], bytes | None],
    new_epoch: Callable[[], int],
) -> tuple[list[Outcome], list[Change]]:
    """What becomes of each event of a group, and the changes that it makes; none where one is in conflict.

    Args:
        heads: of the group's users, as they are before it.
        digest_known: the digest of a user's event of this id, or None.
    """
    outcomes: list[Outcome] = []
    stored: dict[str, dict[str, StoredEvent]] = {}
    for each in group:
        new = stored.setdefault(each.user, {})
        known = (
            digest_of(new[each.event.id]) if each.event.id in new else digest_known(each.user, each.event.id)
        )
        outcomes.append(_outcome(each.event, known, heads[each.user]))
        if outcomes[-1] == "stored":
            new[each.event.id] = each.event
    if "conflict" in outcomes:
        return [found if found == "conflict" else "left out" for found in outcomes], []
    changes = [_change(user, heads[user], new.values(), new_epoch) for user, new in stored.items() if new]
    return outcomes, changes


def trimmed(head: Head, dropped: int, first: bytes, epoch: int) -> Head:
    """The head without its `dropped` oldest events."""
    return msgspec.structs.replace(
        head, before=head.before + dropped, count=head.count - dropped, first=first, epoch=epoch
    )


def _outcome(event: StoredEvent, known: bytes | None, head: Head | None) -> Outcome:
    if known is not None:
        return "duplicate" if known == digest_of(event) else "conflict"
    if head is not None and head.before and event.place < place_in(head.first):
        return "too old"
    return "stored"


def place_in(key: bytes) -> bytes:
    return key[:-NUMBER_BYTES]


def _change(
    user: str, head: Head | None, events: Iterable[StoredEvent], new_epoch: Callable[[], int]
) -> Change:
    head = head or Head(user, new_epoch(), version=0, before=0, count=0, first=b"", last=b"")
    written = []
    for event in events:
        key = event.place + struct.pack(">Q", head.version)
        is_late = bool(head.count) and key < head.last
        head = replace_head(head, key, new_epoch() if is_late else head.epoch)
        written.append((key, event))
    return Change(head, tuple(written))


def replace_head(head: Head, key: bytes, epoch: int) -> Head:
    """The head after one more event."""
    return msgspec.structs.replace(
        head,
        epoch=epoch,
        version=head.version + 1,
        count=head.count + 1,
        first=min(head.first, key) if head.count else key,
        last=max(head.last, key) if head.count else key,
    )


def _check_id(id: str, what: str) -> None:
    size = len(id.encode("utf-8", "surrogatepass"))
    if not 0 < size <= MOST_ID_BYTES:
        raise ValueError(
            f"the id of {'an event' if what == 'event' else 'a user'} has {size} bytes; expected 1 to {MOST_ID_BYTES}"
        )
