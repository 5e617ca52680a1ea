"""Runs of seconds, and how to kill one."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import trunk_of

from plait.data import Dataset
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.training import loop
from plait.training.loop import Fitted, train_model
from plait.training.run import config_of

OPTIM = Optim(learning_rate=1e-2, warmup_steps=2, users_per_step=5, precision="fp32")
PROTOCOL = Protocol(max_events=6, max_epochs=3)
STEPS_PER_EPOCH = 5  # of the shared tiny dataset, with its 23 users

MODEL = ModelSettings(trunk=trunk_of(dropout=0.25))


def silent(line: str) -> None:
    """For reports that nobody reads."""


def settings_of(layout: str = "lac", **protocol: object) -> RunSettings:
    return RunSettings(
        layout=str(resolve(layout)), model=MODEL, optim=OPTIM, protocol=replace(PROTOCOL, **protocol)
    )


def fitted(dataset: Dataset, folder: Path, settings: RunSettings, report=silent) -> Fitted:
    return train_model(
        dataset, config_of(dataset, settings), settings.optim, settings.protocol, folder, report
    )


class Killed(Exception):
    """Stands for a kill."""


def kill_before_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The optimiser step of this number, counted over the process from 1, never happens."""
    right, taken = loop._Run._step, []

    def step(self, users_U, inputs):
        taken.append(None)
        if len(taken) == number:
            raise Killed
        right(self, users_U, inputs)

    monkeypatch.setattr(loop._Run, "_step", step)
