"""Rankers are trained, stopped, resumed, saved and judged by what trains layouts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import OPTIM, silent
from test_loop import check_resume
from tiny import ACTIONS, prepared, trunk_of

import plait
from plait.data import Dataset
from plait.evaluation.answers import measure
from plait.evaluation.run_files import RunSettings, load_result, measured_answers
from plait.models.generative import ModelSettings
from plait.models.ranker import Ranker
from plait.models.saving import load_model
from plait.nn.ranker_settings import RankerSettings
from plait.nn.token_mixer import MixerSettings
from plait.nn.towers import TowerConfig
from plait.rankers.fitting import fit_ranker
from plait.rankers.settings import RankerProtocol, layout_of, run_settings
from plait.schema import Action, Binary
from plait.training.run import run_training

RANKERS = ("din", "dien", "sim", "twin", "rankmixer")
MIXER = MixerSettings(num_tokens=4, token_width=16)
MODEL = ModelSettings(
    trunk=trunk_of(dropout=0.25),
    tower=TowerConfig(kind="linear"),
    ranker=RankerSettings(recent_events=4, top_k=3, hidden=(16, 8), unit_width=8),
)
PROTOCOL = RankerProtocol(max_events=6, max_epochs=3)


def model_for(ranker: str) -> ModelSettings:
    """Without the settings that another ranker reads."""
    read = {"recent_events": 4} | ({"top_k": 3} if ranker in ("sim", "twin") else {})
    read |= {"mixer": MIXER} if ranker == "rankmixer" else {"hidden": (16, 8)}
    return replace(MODEL, ranker=RankerSettings(**read))


def asked(ranker: str) -> RunSettings:
    return run_settings(ranker, model_for(ranker), OPTIM, PROTOCOL)


@pytest.mark.parametrize("ranker", ["dien", "sim"])
def test_a_killed_ranker_goes_on_to_the_same_bits(ranker, dataset, tmp_path, shapes_are_not_checked):
    """Both draw: dropout, and dien its other items."""
    check_resume(dataset, asked(ranker), tmp_path)


@pytest.mark.parametrize("ranker", RANKERS)
def test_a_run_of_a_ranker_is_a_run(ranker, dataset, tmp_path):
    settings = asked(ranker)
    result = run_training(dataset, settings, tmp_path / "run", silent)
    assert load_result(tmp_path / "run") == result
    answers = measured_answers(tmp_path / "run", result)
    assert {"auc:liked", "gauc:liked", "log_loss:liked", "ne:liked"} <= set(measure(answers))
    assert (
        f"ranker {ranker} d = 12" in result.protocol
        and "every request of a user, as candidates" in result.protocol
    )
    assert "trunk" not in result.protocol and result.train_flops > 0
    model = load_model(tmp_path / "run" / "model")
    assert isinstance(model, Ranker) and model.config.settings.ranker.kind == ranker
    told = "known where actions are predicted" in result.protocol
    assert told == (ranker in ("sim", "twin"))


def tastes(num_users: int = 48, seed: int = 0) -> pl.DataFrame:
    """Users like one of two groups of items; only what they liked before tells which."""
    rng = np.random.default_rng(seed)
    user_E = np.repeat(np.arange(num_users), 24)
    item_E = rng.integers(0, 12, len(user_E))
    liked_E = (item_E % 2 == user_E % 2).astype(np.float32)
    return pl.DataFrame({"user": user_E, "item": item_E, "time": np.arange(len(user_E)), "liked": liked_E})


@pytest.fixture(scope="module")
def of_tastes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tastes(), tmp_path_factory.mktemp("tastes") / "data", [Action("liked", Binary())])


@pytest.mark.parametrize(
    ("ranker", "epochs"), [("din", 6), ("dien", 15), ("sim", 6), ("twin", 6), ("rankmixer", 24)]
)
def test_a_ranker_learns_what_its_history_tells(
    ranker: str, epochs: int, of_tastes: Dataset, tmp_path: Path, shapes_are_not_checked: None
) -> None:
    model = replace(model_for(ranker), trunk=trunk_of())
    optim = replace(OPTIM, users_per_step=8, learning_rate=2e-2)
    protocol = RankerProtocol(max_epochs=epochs, validate_every=3)
    fitted = fit_ranker(
        of_tastes, ranker, model=model, optim=optim, protocol=protocol, out=tmp_path / "run", report=silent
    )
    answers = measured_answers(tmp_path / "run", load_result(tmp_path / "run"))
    value = measure(answers)["auc:liked"].value
    assert value is not None and value > 0.9
    assert isinstance(fitted.model, Ranker)


def test_the_history_may_show_items_alone(dataset, tmp_path):
    settings = run_settings("din", model_for("din"), OPTIM, PROTOCOL, history="items")
    assert settings.layout == layout_of("items")
    result = run_training(dataset, settings, tmp_path / "run", silent)
    assert load_model(tmp_path / "run" / "model").actions is None and result.epochs == 3


def test_a_log_without_times_takes_rankers_that_read_none(tmp_path):
    log = tastes(20).drop("time")
    dataset = plait.prepare(
        log, user="user", item="item", time=None, actions=list(ACTIONS[1:]), out=tmp_path / "data"
    )
    with pytest.raises(ValueError, match="use din, dien or rankmixer"):
        run_training(dataset, asked("twin"), tmp_path / "twin", silent)
    run_training(dataset, asked("din"), tmp_path / "din", silent)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (RankerSettings(kind="twin", unit_width=3), "read by din or rankmixer"),
        (RankerSettings(kind="din", top_k=3), "read by sim or twin"),
        (RankerSettings(recent_events=3), "here it is none"),
    ],
)
def test_what_another_ranker_reads_is_refused(settings, said, dataset, tmp_path):
    settings = replace(asked("din"), model=replace(MODEL, ranker=settings))
    with pytest.raises(ValueError, match=said):
        run_training(dataset, settings, tmp_path / "run", silent)


def test_a_trunks_settings_are_refused_beside_a_ranker(dataset, tmp_path):
    model = model_for("din")
    model = replace(model, trunk=replace(model.trunk, num_layers=1))
    with pytest.raises(ValueError, match=r"num_layers = 1: is read by model.ranker.kind = 'none' alone"):
        run_training(dataset, run_settings("din", model, OPTIM, PROTOCOL), tmp_path / "run", silent)


def test_a_fast_run_leaves_torchs_generator_alone(dataset, tmp_path):
    state = torch.random.get_rng_state()
    run_training(dataset, asked("dien"), tmp_path / "run", silent)
    assert torch.equal(torch.random.get_rng_state(), state)
