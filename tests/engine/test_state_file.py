"""A state that was stored and read answers as it did."""

import json
import struct
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import assert_caught, batch_of, model_of, part_of

from plait.engine import one_pass, state_file
from plait.engine.state import State, append, encode
from plait.engine.state_file import load_state, save_state
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender


def model_and_state() -> tuple[GenerativeRecommender, State]:
    model = model_of(resolve("lac"))
    state = encode(
        batch_of((4, 7)), model.plan.window, 1, ["ann", 7], [2.5], ["r1", None], [(3, "b"), (4, None)]
    )
    return model, one_pass.encode(model, state)


def check_round_trip(path: Path) -> None:
    """It answers, and goes on, to the bit."""
    model, state = model_and_state()
    save_state(state, model, path)
    found = load_state(model, path)
    assert (found.id_U, found.unknown_items) == (state.id_U, state.unknown_items)
    assert (found.request_name_U, found.place_U) == (state.request_name_U, state.place_U)
    assert found.nbytes == state.nbytes > 0
    for one, other in zip(answers(model, found), answers(model, state), strict=True):
        np.testing.assert_array_equal(one, other)


def answers(model: GenerativeRecommender, state: State) -> list[np.ndarray]:
    event = batch_of((1, 1), seed=3)
    event = replace(event, time_s_E=event.time_s_E + 9_000)
    later = append(replace(state, place_U=None), event, model.plan.window, 1)
    found = []
    for each in (state, one_pass.append(model, state, later)):
        found += one_pass.score(model, each, np.array([[3, 5], [1, 9]])).values()
        found += one_pass.retrieve(model, each, 4, True)
    return found


def test_a_stored_state_answers_as_it_did(tmp_path):
    check_round_trip(tmp_path / "state.safetensors")


def test_lost_keys_are_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(state_file, "_kept", lambda model, tensors: None)
    assert_caught(check_round_trip, tmp_path / "state.safetensors")


def test_a_state_without_keys_is_stored(tmp_path):
    model, state = model_and_state()
    save_state(replace(state, kept=None), model, tmp_path / "state")
    assert load_state(model, tmp_path / "state").kept is None


def test_keys_of_weights_that_changed_are_not_stored(tmp_path):
    model, state = model_and_state()
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    save_state(state, model, tmp_path / "state")
    assert load_state(model, tmp_path / "state").kept is None


def test_a_state_of_another_model_is_refused(tmp_path):
    model, state = model_and_state()
    save_state(state, model, tmp_path / "state")
    for other in (model_of(resolve("lac"), "rope"), model_of(resolve("item"))):
        with pytest.raises(ValueError, match="is a state of another model; encode the histories again"):
            load_state(other, tmp_path / "state")
    with torch.no_grad():
        model.heads.bias_K.add_(1)
    with pytest.raises(ValueError, match="another model"):
        load_state(model, tmp_path / "state")


def test_other_files_are_refused(tmp_path):
    model, state = model_and_state()
    path = tmp_path / "state"
    save_state(state, model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="cannot be read as a state"):
        load_state(model, path)
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    header["__metadata__"]["state"] = header["__metadata__"]["state"].replace('version":1', 'version":9')
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    with pytest.raises(ValueError, match="is of format version 9; expected one of version 1"):
        load_state(model, path)
    with pytest.raises(ValueError, match="cannot be read as a state"):
        load_state(model, tmp_path / "nothing")


def test_ids_that_no_file_holds_are_refused(tmp_path):
    model = model_of(resolve("lac"))
    state = encode(part_of(batch_of([3]), 0), model.plan.window, 1, [datetime(2020, 1, 1)])
    with pytest.raises(ValueError, match="of type datetime, is an id or a place in the log that no file"):
        save_state(state, model, tmp_path / "state")
