"""Tables of interests, part by part: what is asked for each, and how it is told.

Shape letters: N users, Q events.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Int64

from plait.cli.bulk import Asking
from plait.cli.parted import Asked as AskedFor
from plait.cli.user_state import state_as_logged
from plait.data.dataset import EventPart, Targets
from plait.lum.interests import (
    Asked,
    interests_of_events,
    interests_of_items,
    interests_of_users,
    moments_of,
)

USERS_PER_PART, EVENTS_PER_PART = 1_024, 4_096  # what a kill costs at most, and what is held in memory
TRAINED_ON = "events_of_before_the_end_of_its_training_left_out"
VERSION_LENGTH = 16  # of the model's hash


def version_of(asking: Asking) -> str:
    """What tells a model's interests from those of another."""
    return asking.named["model"][:VERSION_LENGTH]


@dataclass(frozen=True)
class InterestsOfUsers:
    """Of users as they are now."""

    asking: Asking
    under: Asked
    user_N: Int64[np.ndarray, " N"]  # dense in the data
    at: str | None

    @property
    def num_rows(self) -> int:
        return len(self.user_N) * len(self.under.conditions)

    @property
    def num_parts(self) -> int:
        return -(-len(self.user_N) // USERS_PER_PART)

    @property
    def asked(self) -> AskedFor:
        users = hashlib.sha256(self.user_N.astype(np.int64).tobytes()).hexdigest()
        return {
            "verb": "lum query", "of": "users", **self.asking.named, "users": users, "at": self.at,
            "conditions": "; ".join(self.under.texts), "users_per_part": USERS_PER_PART,
        }  # fmt: skip

    @property
    def counted(self) -> dict[str, int]:
        return {"users": len(self.user_N), "conditions_of_each": len(self.under.conditions)}

    def part(self, number: int) -> pl.DataFrame:
        user_n = self.user_N[number * USERS_PER_PART : (number + 1) * USERS_PER_PART]
        state = state_as_logged(self.asking.model, self.asking.data, user_n)
        found = interests_of_users(self.asking.model, state, self.under, version_of(self.asking), at=self.at)
        return found.with_columns(pl.col("user").cast(self.asking.data.user_ids().dtype))


@dataclass(frozen=True)
class InterestsOfEvents:
    """Of every event of a part that has another before it."""

    asking: Asking
    under: Asked
    event_part: EventPart
    own: bool
    since_s: int | None = None  # None: all of the part
    rolling: bool = False

    @cached_property
    def targets(self) -> Targets:
        return self._moments(self.since_s)

    def _moments(self, since_s: int | None) -> Targets:
        asking = self.asking
        return moments_of(asking.data, self.event_part, asking.model.model, since_s, rolling=self.rolling)

    @property
    def num_rows(self) -> int:
        return len(self.targets) * (len(self.under.conditions) + self.own)

    @property
    def num_parts(self) -> int:
        return -(-len(self.targets) // EVENTS_PER_PART)

    @property
    def asked(self) -> AskedFor:
        return {
            "verb": "lum query", "of": "events", **self.asking.named, "part": self.event_part, "own": self.own,
            "conditions": "; ".join(self.under.texts), "events_per_part": EVENTS_PER_PART,
            "rolling_history": self.rolling,
            **({} if self.since_s is None else {"since_s": self.since_s}),
        }  # fmt: skip

    @property
    def counted(self) -> dict[str, int]:
        data, asked = self.asking.data, len(self.targets)
        with_history = len(self._moments(None))
        counted = {
            "events": asked,
            "events_without_history_left_out": data.num_events(self.event_part) - with_history,
        }
        return counted if self.since_s is None else counted | {TRAINED_ON: with_history - asked}

    def part(self, number: int) -> pl.DataFrame:
        targets = self.targets[number * EVENTS_PER_PART : (number + 1) * EVENTS_PER_PART]
        model, version = self.asking.model, version_of(self.asking)
        return interests_of_events(model, self.asking.data, targets, self.under, version, own=self.own)


@dataclass(frozen=True)
class InterestsOfItems:
    """What the others are compared with."""

    asking: Asking

    num_parts = 1

    @property
    def num_rows(self) -> int:
        return len(self.asking.model.items)

    @property
    def asked(self) -> AskedFor:
        return {"verb": "lum query", "of": "items", **self.asking.named}

    @property
    def counted(self) -> dict[str, int]:
        return {"items": self.num_rows}

    def part(self, number: int) -> pl.DataFrame:
        return interests_of_items(self.asking.model, version_of(self.asking))
