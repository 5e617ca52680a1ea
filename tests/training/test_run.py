"""A run's folder: killed it goes on, finished it is only read, and it is never taken for another."""

import datetime
import errno
import fcntl
import json
import os
from contextlib import ExitStack
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from small_runs import STEPS_PER_EPOCH, Killed, kill_before_step, settings_of, silent
from tiny import prepared, random_log

from plait.data.storage.locks import in_turn
from plait.engine.recorded import load_recorded
from plait.evaluation import answers
from plait.evaluation.answers import answers_of, measure
from plait.evaluation.run_files import (
    ANSWERS,
    MODEL,
    RESULT,
    SETTINGS,
    RunSettings,
    load_answers,
    load_result,
)
from plait.files import HASHES
from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.models.saving import load_model
from plait.nn.device import resolve_device
from plait.training import loop
from plait.training import run as run_module
from plait.training.recorded import record_histories
from plait.training.run import LOCK, run_training

CLOCKS = ("train_wall_s", "train_cpu_s")


def clockless(result: object) -> object:
    """What a result says apart from time and memory, which no two runs share."""
    plain = msgspec.to_builtins(result)
    plain["curve"] = [{n: v for n, v in row.items() if n not in CLOCKS} for row in plain["curve"]]
    return {n: v for n, v in plain.items() if n not in (*CLOCKS, "wall_s", "peak_memory_mb")}


def test_a_run_leaves_what_it_promises(dataset, tmp_path):
    settings = settings_of("lac")
    lines: list[str] = []
    result = run_training(dataset, settings, tmp_path, lines.append)
    found = {path.name for path in tmp_path.iterdir()}
    beside = {"model-actions", "answers-actions.npz"}
    assert found == {SETTINGS, "metrics.jsonl", MODEL, ANSWERS, RESULT, HASHES} | beside
    assert msgspec.json.decode((tmp_path / SETTINGS).read_bytes(), type=RunSettings) == settings
    assert load_result(tmp_path) == result
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.curve
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    told = [line for line in lines if "were met before" not in line]  # of this log's answers some were
    assert len(told) == 3 and all(line.startswith("epoch ") for line in told)
    assert result.content_hash == dataset.manifest.content_hash
    assert result.train_cpu_s and 0 < result.train_cpu_s == rows[-1]["train_cpu_s"]
    assert result.selection == "ndcg@10"
    model = load_model(tmp_path / MODEL)
    kept = load_recorded(model, tmp_path / MODEL)
    users = np.flatnonzero(dataset.train_user_counts() > 1)
    assert kept.num_users == len(users) > 10
    np.testing.assert_array_equal(kept.item_E, dataset.histories(users).item_E)
    (tmp_path / "alone").mkdir()
    record_histories(model, dataset, 0, 0, tmp_path / "alone")
    assert not list((tmp_path / "alone").iterdir())
    record_histories(model, dataset, 9, 0, tmp_path / "alone")
    few = load_recorded(model, tmp_path / "alone")
    assert few.num_users == 9 and few.num_events_U.max() == kept.num_events_U.max()


def test_the_saved_model_is_the_one_that_gave_the_answers(dataset, tmp_path):
    settings = settings_of("lac")
    run_training(dataset, settings, tmp_path, silent)
    answers = load_answers(tmp_path, dataset.actions)
    again = answers_of(load_model(tmp_path / MODEL), dataset, "test", settings.protocol)
    assert {n: s.value for n, s in measure(answers).items()} == {
        n: s.value for n, s in measure(again).items()
    }
    np.testing.assert_array_equal(answers.rank_Q, again.rank_Q)


@pytest.mark.parametrize("supervise", ["all", "candidates"])
def test_a_saved_model_knows_how_it_was_trained_to_be_asked(dataset, supervise, tmp_path):
    run_training(dataset, settings_of("lac", supervise=supervise, max_epochs=1), tmp_path, silent)
    assert load_model(tmp_path / MODEL).plan.asks_candidates is (supervise == "candidates")


def test_a_killed_run_ends_in_the_same_result(dataset, tmp_path, monkeypatch):
    settings = settings_of("lac")
    whole = run_training(dataset, settings, tmp_path / "whole", silent)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_before_step(patch, STEPS_PER_EPOCH + 2)
        run_training(dataset, settings, tmp_path / "killed", silent)
    with pytest.raises(ValueError, match=r"holds no finished run: it has no result.json"):
        load_result(tmp_path / "killed")
    resumed = run_training(dataset, settings, tmp_path / "killed", silent)
    assert clockless(resumed) == clockless(whole)


def test_a_run_killed_after_training_is_only_tested(dataset, tmp_path, monkeypatch):
    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_module, "save_answers", killed)
        run_training(dataset, settings_of(), tmp_path, silent)
    monkeypatch.setattr(loop._Run, "epoch", killed)
    assert run_training(dataset, settings_of(), tmp_path, silent).epochs == 3


def test_a_finished_run_is_only_read(dataset, tmp_path, monkeypatch):
    result = run_training(dataset, settings_of(), tmp_path, silent)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def forbidden(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(run_module, "train_model", forbidden)
    lines: list[str] = []
    assert run_training(dataset, settings_of(), tmp_path, lines.append) == result
    assert lines == [f"{tmp_path} holds this run, finished; nothing is trained"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_a_finished_run_is_not_taken_for_another(dataset, tmp_path):
    run_training(dataset, settings_of(max_epochs=1), tmp_path / "run", silent)
    with pytest.raises(ValueError, match="finished run of other settings:") as refused:
        run_training(dataset, settings_of(max_epochs=2), tmp_path / "run", silent)
    assert str(refused.value).splitlines()[1:] == [
        "  protocol.max_epochs: found 1, asked 2",
        "Use another folder, or delete it.",
    ]
    other = prepared(random_log(seed=8), tmp_path / "other")
    with pytest.raises(ValueError, match="finished run of other data"):
        run_training(other, settings_of(max_epochs=1), tmp_path / "run", silent)


def test_a_refused_run_leaves_the_folder_of_an_unfinished_one_alone(dataset, tmp_path, monkeypatch):
    settings = settings_of()
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_before_step(patch, 3)
        run_training(dataset, settings, tmp_path, silent)
    with pytest.raises(ValueError, match="of a run with other settings or data"):
        run_training(dataset, replace(settings, layout="i[t] -> i[t+1]"), tmp_path, silent)
    assert msgspec.json.decode((tmp_path / SETTINGS).read_bytes(), type=RunSettings) == settings


def test_a_begun_run_of_other_settings_is_refused_and_its_own_goes_on(dataset, tmp_path, monkeypatch):
    """Stopped before its first checkpoint, a folder holds the settings alone."""
    settings = settings_of(max_epochs=1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_before_step(patch, 1)
        run_training(dataset, settings, tmp_path, silent)
    assert {path.name for path in tmp_path.iterdir()} == {SETTINGS, HASHES}
    other = replace(settings, optim=replace(settings.optim, learning_rate=0.5))
    with pytest.raises(ValueError, match="holds the beginning of a run of other settings:") as refused:
        run_training(dataset, other, tmp_path, silent)
    assert "\n  optim.learning_rate: found 0.01, asked 0.5\n" in str(refused.value)
    assert "max_epochs" not in str(refused.value)
    assert msgspec.json.decode((tmp_path / SETTINGS).read_bytes(), type=RunSettings) == settings
    assert run_training(dataset, settings, tmp_path, silent).epochs == 1


def test_damaged_data_is_refused_before_training(tmp_path):
    data = prepared(random_log(), tmp_path / "data")
    path = data.folder / "item.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x40")  # an item that is none
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        run_training(data, settings_of(), tmp_path / "run", silent)  # opened before
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("came", ["before", "meanwhile"])
def test_two_processes_do_not_train_in_one_folder(came, dataset, tmp_path, monkeypatch):
    """The other has begun before this one looks, or while this one checks its settings."""
    other, right = ExitStack(), loop.check_labels

    def begin_other(*arguments):
        (tmp_path / "run").mkdir()
        other.enter_context(in_turn(tmp_path / "run" / LOCK))
        return right(*arguments)

    if came == "before":
        begin_other(dataset, resolve("lac"))
    else:
        monkeypatch.setattr(loop, "check_labels", begin_other)
    with pytest.raises(ValueError, match=f"{tmp_path}/run: another process trains there"):
        run_training(dataset, settings_of(max_epochs=1), tmp_path / "run", silent)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {LOCK}
    monkeypatch.undo()
    other.close()
    assert run_training(dataset, settings_of(max_epochs=1), tmp_path / "run", silent).epochs == 1


def test_a_file_system_without_locks_is_trained_on(dataset, tmp_path, monkeypatch):
    asked = []

    def flock(handle, operation):
        asked.append(os.readlink(f"/proc/self/fd/{handle}"))
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert run_training(dataset, settings_of(max_epochs=1), tmp_path, silent).epochs == 1
    assert asked.count(str(tmp_path / LOCK)) == 2, "where the folder is, and where training begins"


@pytest.mark.parametrize(
    "settings",
    [
        settings_of(select="auc:purchased"),
        settings_of(negatives=1000),
        settings_of("i[t] -> a[t]", select="mrr"),
        settings_of("i[t] -> a[t]", select="ndcg@10"),
        replace(settings_of("item"), model=ModelSettings(retrieval_weight=0.0)),
    ],
)
def test_a_refused_call_leaves_no_folder(dataset, settings, tmp_path):
    with pytest.raises(ValueError):
        run_training(dataset, settings, tmp_path / "deep" / "run", silent)
    assert list(tmp_path.iterdir()) == []


def test_a_result_carries_where_it_comes_from(dataset, tmp_path):
    result = run_training(dataset, settings_of(max_epochs=1, seed=7), tmp_path, silent)
    assert result.protocol.endswith("; seed 7") and "cap 1 epochs" in result.protocol
    found = result.provenance
    assert found.version and f"torch {torch.__version__}" in found.machine
    assert found.date == datetime.date.today().isoformat()
    plain = json.loads((tmp_path / RESULT).read_text())
    assert plain["provenance"]["machine"] == found.machine and plain["settings"]["protocol"]["seed"] == 7
    del plain["provenance"], plain["protocol"]  # as before they were recorded
    (tmp_path / HASHES).unlink()
    (tmp_path / RESULT).write_text(json.dumps(plain))
    with pytest.warns(UserWarning, match=HASHES):
        assert str(load_result(tmp_path).provenance) == "not recorded"
    (tmp_path / RESULT).write_text(json.dumps(plain | {"epochs": "many"}))
    with (
        pytest.warns(UserWarning, match=HASHES),
        pytest.raises(ValueError, match="is damaged, or of another version of Plait"),
    ):
        load_result(tmp_path)


def test_the_test_runs_in_the_precision_of_validation(dataset, tmp_path, monkeypatch):
    right, enabled = answers.answers_of, []

    def answers_of(model, data, part, *more):
        enabled.append((part, torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return right(model, data, part, *more)

    for module in (loop, run_module):
        monkeypatch.setattr(module, "answers_of", answers_of)
    for precision, on in (("bf16", True), ("fp32", False)):
        settings = settings_of(max_epochs=1)
        settings = replace(settings, optim=replace(settings.optim, precision=precision))
        run_training(dataset, settings, tmp_path / precision, silent)
        assert enabled == [(part, on, torch.bfloat16) for part in ("validation", "test")]
        enabled.clear()


def test_a_device_is_chosen_or_refused(monkeypatch):
    assert resolve_device("cpu") == "cpu"
    for there, chosen in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert resolve_device("auto") == chosen
    with pytest.raises(ValueError, match="device = 'cuda:0': torch finds no GPU here; use auto or cpu"):
        resolve_device("cuda:0")
    for unknown in ("gpu", "mps", ""):
        with pytest.raises(ValueError, match=f"device = '{unknown}': expected auto, cpu or cuda"):
            resolve_device(unknown)
