"""A model's folder: what comes back is what was written, and nothing half-written comes back."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import EVERY_LAYOUT, EVERY_POSITION, asked_in_training, assert_caught, batch_of, model_of, trunk_of

from plait import Recommender
from plait.files import HASHES, sha256
from plait.layouts import Layout, resolve
from plait.models import saving
from plait.models.generative import ModelSettings
from plait.models.saving import CONFIG, WEIGHTS, load_model, save_model
from plait.nn.losses import RetrievalLoss
from plait.nn.towers import TowerConfig
from plait.schema import Action, Amount, Categorical, Regression


def saved(folder: Path, layout: Layout | str = "lac", positions: str = "learned") -> Path:
    save_model(model_of(resolve(str(layout)), positions), folder)
    return folder


@contextmanager
def of_before(folder: Path, config: dict[str, Any]) -> Iterator[None]:
    """The folder as it was written before files had hashes, with this configuration; a warning says that it is."""
    (folder / HASHES).unlink(missing_ok=True)
    (folder / CONFIG).write_bytes(msgspec.json.encode(config))
    with pytest.warns(UserWarning, match=f"{folder} has no {HASHES}"):
        yield


@torch.no_grad()
def check_round_trip(layout: Layout, positions: str, folder: Path) -> None:
    """States and losses of the loaded model are those of the saved one, bit for bit."""
    model = model_of(layout, positions)
    save_model(model, folder)
    loaded = load_model(folder)
    inputs = asked_in_training(layout, batch_of((5, 3)))
    assert inputs.questions and not loaded.training
    assert (loaded.config, loaded.layout) == (model.config, layout)
    for found_MD, state_MD in zip(loaded(inputs), model(inputs), strict=True):
        assert len(state_MD) and torch.equal(found_MD, state_MD)
    found, expected = loaded.losses(inputs), model.losses(inputs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[task], expected[task]) for task in expected)
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS, HASHES}


@pytest.mark.parametrize("positions", EVERY_POSITION)
@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_a_loaded_model_answers_bit_for_bit_as_the_saved_one(layout, positions, tmp_path):
    check_round_trip(layout, positions, tmp_path)


def test_weights_that_were_rounded_are_caught(tmp_path, monkeypatch):
    right = saving.save_file

    def rounded(weights, path):
        right({name: tensor.bfloat16().float() for name, tensor in weights.items()}, path)

    monkeypatch.setattr(saving, "save_file", rounded)
    assert_caught(check_round_trip, resolve("lac"), "learned", tmp_path)


def test_every_setting_survives(tmp_path):
    actions = (
        Action("device", Categorical(("phone", "tablet"))),
        Action("spent", Amount(zero_inflated=True, log1p_scale=4.5)),
        Action("rating", Regression(1, 5, "huber")),
    )
    settings = ModelSettings(
        trunk=trunk_of("rope", dropout=0.25),
        retrieval=RetrievalLoss(kind="sampled", num_negatives=7, l2_norm=True, temperature=0.07),
        tower=TowerConfig(kind="linear"),
        retrieval_weight=0.5,
        action_weights={"device": 2.0},
    )
    model = model_of(resolve("pc"), actions=actions, settings=settings)
    save_model(model, tmp_path)
    assert load_model(tmp_path).config == model.config


def test_how_a_model_is_asked_survives_and_older_models_were_asked_where_events_stand(tmp_path):
    save_model(model_of(resolve("lac"), asked_as_candidates=True), tmp_path)
    assert load_model(tmp_path).config.asked_as_candidates and load_model(tmp_path).plan.asks_candidates
    config = msgspec.json.decode((tmp_path / CONFIG).read_bytes())
    del config["model"]["asked_as_candidates"]
    with of_before(tmp_path, config):
        assert not load_model(tmp_path).plan.asks_candidates


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(name, tmp_path):
    (saved(tmp_path) / name).unlink()
    with pytest.raises(ValueError, match=f"{tmp_path} is no saved model: it has no {name}"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_truncated_file_is_refused(name, kept, tmp_path):
    path = saved(tmp_path) / name
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be loaded"):
        load_model(tmp_path)


def test_models_of_before_files_had_hashes_are_loaded_and_their_weights_held_against_the_configuration(
    tmp_path,
):
    path = saved(tmp_path) / WEIGHTS
    config = msgspec.json.decode((tmp_path / CONFIG).read_bytes())
    assert not config["weights_sha256"]
    known = {"weights_sha256": sha256(path)}
    for old in (config | known, config):
        with of_before(tmp_path, old):
            assert load_model(tmp_path)
    content = bytearray(path.read_bytes())
    content[-2] ^= 0x40
    path.write_bytes(content)
    refused = pytest.raises(ValueError, match=f"{tmp_path} cannot be loaded: {WEIGHTS} is damaged, or not")
    with of_before(tmp_path, config | known), refused:
        load_model(tmp_path)


def test_another_version_is_refused(tmp_path):
    path = saved(tmp_path) / CONFIG
    config = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(config | {"format_version": 99}))
    with pytest.raises(ValueError, match=r"format_version is 99, this Plait reads 1; save it again"):
        load_model(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    saved(tmp_path / "a")
    saved(tmp_path / "b", "interleaved")
    (tmp_path / "a" / WEIGHTS).write_bytes((tmp_path / "b" / WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match=rf"{WEIGHTS} is damaged \(it is not the file that {HASHES}"):
        load_model(tmp_path / "a")


def test_a_model_is_saved_over_one_whose_hashes_are_damaged(tmp_path):
    (saved(tmp_path) / HASHES).write_text("{")
    with pytest.raises(ValueError, match=f"{tmp_path}/{HASHES} is damaged .*save the model there again"):
        load_model(tmp_path)
    assert load_model(saved(tmp_path))


SAVED_BEFORE = Path(__file__).parent / "saved_before"


def test_a_model_that_was_saved_with_modules_its_layout_does_not_read_still_answers():
    """Saved by an earlier version, which built every module for every layout: `item` had heads and actions."""
    held = load_file(SAVED_BEFORE / WEIGHTS)
    with pytest.warns(UserWarning, match=f"no {HASHES}"):
        model = Recommender.from_pretrained(SAVED_BEFORE)
    surplus = held.keys() - model.model.state_dict().keys()
    assert {name.split(".")[0] for name in surplus} == {"actions", "heads", "specials"}
    answers = json.loads((SAVED_BEFORE / "answers.json").read_text())
    state = model.encode({"item": ["i01", "i05"], "time": [1, 2]})
    found = model.retrieve(state, k=3, filter_seen=False)
    assert found["item"].to_list() == answers["item"]
    assert found["score"].to_list() == pytest.approx(answers["score"], rel=1e-5)


@pytest.mark.parametrize("name", ["trunk.more", "itemsx.weight", "couplers.table", "specials.x", "norm"])
def test_any_other_surplus_weight_is_refused(tmp_path, name):
    for path in SAVED_BEFORE.iterdir():
        shutil.copy(path, tmp_path)
    save_file(load_file(SAVED_BEFORE / WEIGHTS) | {name: torch.zeros(2)}, tmp_path / WEIGHTS)
    config = json.loads((tmp_path / CONFIG).read_text())
    with of_before(tmp_path, config | {"weights_sha256": ""}), pytest.raises(ValueError, match=name):
        load_model(tmp_path)
