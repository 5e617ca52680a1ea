"""Logs made of other logs: a number turned into a binary action, actions of another kind, items that tell their
category.

A derived log holds the same events of the same users as the log that it is made of.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from plait.data import Dataset, LeaveOneOut, Temporal, prepare
from plait.data.simulator import World
from plait.data.simulator.simulating import TRUTH
from plait.data.simulator.truth import truth_of
from plait.data.simulator.world import WORLD
from plait.data.storage.caches import cached_folder, made_once
from plait.data.storage.whole_folders import whole_folder
from plait.papers.logs import Simulated, StudyLog, stand_in
from plait.schema import Action, Binary, Feature, Vector

USER, ITEM, TIME, REQUEST = "user_id", "item_id", "timestamp", "request_id"


@dataclass(frozen=True, kw_only=True)
class Thresholded:
    """A log whose one action is whether a number of another log reached a value."""

    name: str
    of: StudyLog
    action: str  # the binary one
    number: str  # the action that it is made of
    least: int
    split: LeaveOneOut | Temporal = LeaveOneOut()

    def open(self, kept: Path, given: Path | None) -> Dataset:
        made_of = self.of.open(kept, given)
        return _kept(
            kept,
            self.name,
            (made_of.manifest.content_hash, self.action, self.number, self.least, self.split),
            lambda folder: self._make(made_of, folder),
        )

    def quick(self) -> Simulated:
        return replace(stand_in(self.name, (Action(self.action, Binary()),)), split=self.split)

    def _make(self, made_of: Dataset, folder: Path) -> None:
        reached = (pl.col(self.number) >= self.least).cast(pl.Float32)  # missing stays missing
        settings, note = made_of.manifest.settings, made_of.manifest.note
        prepare(
            events_table(made_of).with_columns(reached.alias(self.action)),
            user=USER,
            item=ITEM,
            time=TIME,
            request=None if settings.request is None else REQUEST,
            actions=(Action(self.action, Binary()),),
            out=folder,
            name=self.name,
            note="; ".join(filter(None, (note, f"{self.action}: {self.number} of at least {self.least}"))),
            min_user_events=settings.min_user_events,
            min_item_events=settings.min_item_events,
            split=self.split,
        )


@dataclass(frozen=True, kw_only=True)
class DescribedLog:
    """A simulated log whose items have a feature that tells their category: a code, or a frozen one-hot vector."""

    name: str
    of: Simulated
    feature: Feature

    def open(self, kept: Path, given: Path | None) -> Dataset:
        made_of = self.of.open(kept, given)
        return _kept(
            kept,
            self.name,
            (made_of.manifest.content_hash, self.feature),
            lambda folder: self._make(made_of, folder),
        )

    def quick(self) -> "DescribedLog":
        return replace(self, of=self.of.quick())

    def _make(self, made_of: Dataset, folder: Path) -> None:
        category_V = truth_of(World.open(made_of.folder)).category_V
        one_hot_VB = np.eye(category_V.max() + 1)[category_V]
        is_vector = isinstance(self.feature.kind, Vector)
        told = one_hot_VB.tolist() if is_vector else [f"category {b}" for b in category_V]
        prepare(
            events_table(made_of),
            user=USER,
            item=ITEM,
            time=TIME,
            request=REQUEST,
            actions=made_of.manifest.settings.actions,
            out=folder,
            name=self.name,
            note=f"{made_of.manifest.note}; items tell their category",
            min_user_events=2,
            min_item_events=1,
            split=self.of.split,
            items=pl.DataFrame({ITEM: np.arange(1, len(category_V) + 1), self.feature.name: told}),
            item_features=(self.feature,),
        )


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A simulated log whose actions are declared to models as other kinds than the world draws them by.

    Events and truth stay, so the oracle's limits hold as they did.
    """

    name: str
    of: Simulated
    actions: tuple[Action, ...]  # by the names and in the order of the world's

    def open(self, kept: Path, given: Path | None) -> Dataset:
        made_of = self.of.open(kept, given)
        names, expected = ([a.name for a in actions] for actions in (self.actions, made_of.actions))
        assert names == expected, f"{self.name}: actions {names}; the world has {expected}"
        return _kept(
            kept,
            self.name,
            (made_of.manifest.content_hash, self.actions),
            lambda folder: self._make(made_of, folder),
        )

    def quick(self) -> "Declared":
        return replace(self, of=self.of.quick())

    def _make(self, made_of: Dataset, folder: Path) -> None:
        with whole_folder(folder) as aside:
            prepare(
                events_table(made_of),
                user=USER,
                item=ITEM,
                time=TIME,
                request=REQUEST,
                actions=self.actions,
                out=aside,
                name=self.name,
                note=made_of.manifest.note,
                min_user_events=2,
                min_item_events=1,
                split=self.of.split,
            )
            for name in (WORLD, TRUTH):  # row by row, and the rows are the same
                shutil.copyfile(made_of.folder / name, aside / name)


def events_table(dataset: Dataset) -> pl.DataFrame:
    """Every event of every segment in the dataset's order, with the log's own ids, as a log to prepare again."""
    histories = [dataset.history(user) for user in range(dataset.num_users)]
    user_E = np.repeat(np.arange(len(histories)), [len(history.item_E) for history in histories])
    columns = {
        USER: dataset.users.ids_at(user_E),
        ITEM: dataset.items.ids_at(np.concatenate([history.item_E for history in histories])),
        TIME: np.concatenate([history.time_s_E for history in histories]),
        REQUEST: np.concatenate([history.request_E for history in histories]),
    }
    action_EA = np.concatenate([history.action_EA for history in histories])
    actions = {action.name: action_EA[:, column] for column, action in enumerate(dataset.actions)}
    return pl.DataFrame(columns | actions).with_columns(pl.col(list(actions)).fill_nan(None))


def _kept(kept: Path, name: str, made_of: object, make: Callable[[Path], None]) -> Dataset:
    """Made once, and told apart by what it is made of."""
    folder = cached_folder(kept, name, made_of)

    def made() -> Dataset:
        make(folder)
        return Dataset.open(folder)

    return made_once(folder, made)
