"""What user models last said of users, as stores keep it beside histories. Pure: no files, no network.

An interest is of a history. It is kept as long as that history is there, until the same version of the model says
another; deleting a user deletes it, and one that was asked before a user was deleted is not stored afterwards.
"""

from collections.abc import Sequence

import msgspec

from plait.store.history import Head, KeptInterests

MOST_VERSIONS = 4  # of user models, whose last interests are kept of each user


_encoder, _decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(tuple[KeptInterests, ...])


def packed_interests(kept: Sequence[KeptInterests]) -> bytes:
    return _encoder.encode(tuple(kept))


def unpacked_interests(raw: bytes | memoryview | None) -> tuple[KeptInterests, ...]:
    """Nothing where there is nothing."""
    return () if raw is None else _decoder.decode(raw)


def may_be_kept(new: KeptInterests, head: Head | None) -> bool:
    """Whether they are of the history that is there now: not of one that was deleted, or changed otherwise than at its
    end."""
    return head is not None and head.epoch == new.epoch


def with_newer(kept: Sequence[KeptInterests], new: KeptInterests) -> tuple[KeptInterests, ...]:
    """The last interests of each version, the newest first; the versions that were asked longest ago go.

    >>> first, second = (KeptInterests("u", 1, "v", time, (), b"") for time in (5, 6))
    >>> [its.time_us for its in with_newer([second], first)], [its.time_us for its in with_newer([first], second)]
    ([6], [6])
    """
    same = [its for its in kept if its.version == new.version]
    others = [its for its in kept if its.version != new.version]
    newest = max([new, *same], key=lambda its: its.time_us)
    return tuple(sorted([newest, *others], key=lambda its: -its.time_us)[:MOST_VERSIONS])
