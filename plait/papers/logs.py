"""The logs that studies train on: public ones by name, files that people have, simulated worlds."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from plait.data import Dataset, LeaveOneOut, Temporal, prepare, sources
from plait.data.simulator import Response, World, simulate
from plait.data.sources import prepared
from plait.data.storage.caches import cached_folder, made_once
from plait.schema import Action, Amount, Binary, Regression

CLICK = Response(action=Action("click", Binary()), rate=0.4)  # a world needs one binary response


class NotHere(Exception):
    """A log that could not be fetched, or was not given. Says what to do."""


@runtime_checkable
class StudyLog(Protocol):
    """Something to train on."""

    @property
    def name(self) -> str: ...

    def open(self, kept: Path, given: Path | None) -> Dataset:
        """The log, prepared.

        Args:
            kept: folder in which what has to be made is kept for the next time.
            given: folder of people's own files.

        Raises:
            NotHere: it needs a file that was not given.
        """
        ...

    def quick(self) -> "StudyLog":
        """A world of a few users with the same actions, made in a second and without a network."""
        ...


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A world, and how its log is split."""

    name: str
    world: World
    split: LeaveOneOut | Temporal = LeaveOneOut()
    shows_scenario: bool = False
    conditions: tuple[str, ...] = ()  # what models may be asked under: scenario, query

    def open(self, kept: Path, given: Path | None) -> Dataset:
        asked = (self.conditions,) if self.conditions else ()
        folder = cached_folder(kept, self.name, self.world, self.split, self.shows_scenario, *asked)
        return made_once(
            folder,
            lambda: simulate(
                self.world,
                folder,
                split=self.split,
                shows_scenario=self.shows_scenario,
                conditions=self.conditions,
                name=self.name,
            ),
        )

    def quick(self) -> "Simulated":
        world = msgspec.structs.replace(self.world, num_users=41, num_events=11, num_items=29)
        return replace(self, world=world)


@dataclass(frozen=True)
class Public:
    """A dataset of `plait data list`."""

    name: str

    def open(self, kept: Path, given: Path | None) -> Dataset:
        try:
            return prepared.get(self.name)
        except OSError as error:  # no network, or no room
            raise NotHere(f"{self.name}: {error}") from error

    def quick(self) -> Simulated:
        return stand_in(self.name, sources.find_recipe(self.name).actions)


@dataclass(frozen=True, kw_only=True)
class Given:
    """A Parquet file that people have in a folder of their own (`--data`), with every action on every row."""

    name: str
    file: str
    what: str  # of the file, for whoever lacks it
    user: str
    item: str
    time: str
    actions: tuple[Action, ...]
    milliseconds: bool = False

    def open(self, kept: Path, given: Path | None) -> Dataset:
        """Raises ValueError where the file cannot be prepared, or an action is missing on some events, beside what
        `Log.open` raises."""
        path = given / self.file if given else None
        if path is None or not path.exists():
            where = f"{path} does not exist" if path else "no folder was given"
            raise NotHere(f"{self.name}: {where}; give a folder with {self.file} ({self.what}) as --data")
        dataset = prepare(
            path,
            user=self.user,
            item=self.item,
            time=self.time,
            actions=self.actions,
            time_unit="ms" if self.milliseconds else "s",
            name=self.name,
        )
        for name, missing in dataset.manifest.counts.missing.items():
            if missing:  # seldom by chance: what is left tells another story
                raise ValueError(
                    f"{path}: {name} is missing on {missing:,} events; expected {self.what}. Give a file whose rows "
                    "all have it, such as those of users that are whole"
                )
        return dataset

    def quick(self) -> Simulated:
        return stand_in(self.name, self.actions)


def stand_in(name: str, actions: tuple[Action, ...]) -> Simulated:
    """A tiny world in which users take these actions."""
    responses = tuple(Response(action=action, size=3.0) for action in actions)
    binary = [r.action.name for r in responses if isinstance(r.action.kind, Binary)]
    if not binary:
        responses, binary = (*responses, CLICK), [CLICK.action.name]
    world = World(num_categories=5, responses=responses, steer=binary[0])
    return Simulated(name=name, world=world).quick()


ML_100K = Public("ml-100k")
ML_1M = Given(
    name="ml-1m",
    file="ml-1m.parquet",
    what="columns user_id, item_id, timestamp in seconds, and rating from 1 to 5 on every row",
    user="user_id",
    item="item_id",
    time="timestamp",
    actions=(Action("rating", Regression(1, 5)),),
)
ML_1M_LIKED = Given(
    name="ml-1m-liked",
    file="ml-1m-liked.parquet",
    what="columns user_id, item_id, timestamp in seconds, and liked, 1 for a rating of 4 or 5 and else 0, on every "
    "row; rows of one time in the user's order",
    user="user_id",
    item="item_id",
    time="timestamp",
    actions=(Action("liked", Binary()),),
)
KUAIRAND = Given(
    name="kuairand",
    file="kuairand.parquet",
    what="columns user_id, item_id, timestamp_ms, and play_time_ms on every row",
    user="user_id",
    item="item_id",
    time="timestamp_ms",
    milliseconds=True,
    actions=(Action("play_time_ms", Amount()),),  # few are 0: its mean, not its being above 0, is asked for
)
