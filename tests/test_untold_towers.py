"""Two towers that were trained with interests of users, and are asked where nobody tells those."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import assert_caught, started, trunk_of

from plait.data import Dataset
from plait.data.history import columns_read
from plait.evaluation.settings import Optim, Protocol
from plait.models.building import built
from plait.models.generative import ModelSettings
from plait.models.two_tower import TwoTower
from plait.nn.two_tower import TowerInterests, TwoTowerSettings
from plait.rankers.two_tower import two_tower_settings
from plait.recommender import Recommender
from plait.training.run import config_of

CONDITIONS = ("scenario=home",)
HISTORY = {"item": ["i01", "i02"], "time": [1, 2], "rating": [3.0, 4.0], "liked": [1, 0]}


def saved_towers(dataset: Dataset, folder: Path, *, user: bool) -> Path:
    told = TowerInterests(num_conditions=len(CONDITIONS), width=4, user=user)
    towers = TwoTowerSettings(hidden=(8,), interests=told)
    settings = two_tower_settings(ModelSettings(trunk=trunk_of(), two_tower=towers), Optim(), Protocol())
    config = replace(config_of(dataset, settings), told_conditions=CONDITIONS, told_version="v1")
    model = started(built(config)).eval()
    Recommender(model, dataset.items, columns_read(dataset)).save_pretrained(folder)
    return folder


def warnings_of_two_answers(folder: Path) -> list[str]:
    model = Recommender.from_pretrained(folder, "cpu")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        answers = [model.retrieve(model.encode(HISTORY), 3) for _ in range(2)]
    assert all(len(answer) == 3 for answer in answers)
    return [str(its.message) for its in said]


def check_untold_is_said_once(folder: Path) -> None:
    found = warnings_of_two_answers(folder)
    assert len(found) == 1
    assert "read interests of users" in found[0] and "model.two_tower.interests.user = False" in found[0]


def test_it_is_said_once_with_what_to_do(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved_towers(dataset, tmp_path, user=True)
    check_untold_is_said_once(folder)
    monkeypatch.setattr(TwoTower, "is_untold", False)
    assert_caught(check_untold_is_said_once, folder)


def test_towers_that_look_nothing_up_say_nothing(dataset: Dataset, tmp_path: Path) -> None:
    """Vectors of items are saved with the model."""
    assert not warnings_of_two_answers(saved_towers(dataset, tmp_path, user=False))
