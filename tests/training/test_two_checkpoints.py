"""Two checkpoints of one training: each the best by its own rule, and each measured in what it is best for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import MODEL, OPTIM, Killed, fitted, kill_before_step, settings_of, silent
from test_loop import check_resume
from tiny import assert_caught, prepared, random_log

from plait.data import Dataset
from plait.evaluation import checkpoints
from plait.evaluation.answers import Answers, answers_of, targets_of
from plait.evaluation.checkpoints import Rules, rules_of
from plait.evaluation.reachable import Reach
from plait.evaluation.run_files import (
    RESULT,
    SETTINGS,
    Result,
    RunSettings,
    load_answers,
    load_result,
    measured_answers,
)
from plait.files import HASHES
from plait.layouts import resolve
from plait.models.saving import load_model
from plait.recommender import Recommender
from plait.training import loop
from plait.training import run as run_module
from plait.training.checkpoint import load_training, save_training
from plait.training.run import run_training

BY_ITEMS, BY_ACTIONS = "ndcg@10", "normalised_error:actions"
AT_ITEMS, AT_ACTIONS = 2, 3  # where the made-up validations below are best
MADE_UP = {BY_ITEMS: (0.1, 0.3, 0.2, 0.2), BY_ACTIONS: (2.0, 1.9, 1.5, 1.8)}


def validations(patch: pytest.MonkeyPatch, values: Mapping[str, Sequence[float]]) -> None:
    """Validation gives these, epoch after epoch, whatever the model does."""

    def selected(self: loop._Run) -> tuple[dict[str, float], dict[checkpoints.Checkpoint, float]]:
        metrics = {name: its[self.progress.epoch - 1] for name, its in values.items()}
        return metrics, {checkpoint: rule.value(metrics) for checkpoint, rule in self.rules.items()}

    patch.setattr(loop._Run, "selected", selected)


def settings(layout: str = "lac", **protocol: object) -> RunSettings:
    of = settings_of(layout, **({"max_epochs": 4} | protocol))
    return replace(of, optim=replace(OPTIM, warmup_steps=1))


def assert_same_answers(found: Answers, expected: Answers, *parts: str) -> None:
    """Of these parts: "items", "actions"."""
    if "items" in parts:
        np.testing.assert_array_equal(found.rank_Q, expected.rank_Q)
    if "actions" in parts:
        for name, predicted_Q in expected.predicted.items():
            np.testing.assert_array_equal(found.predicted[name], predicted_Q)


def after_epochs(dataset: Dataset, folder: Path, count: int) -> Answers:
    """What a run of so many epochs answers to the test by its last weights."""
    of = settings(max_epochs=count, select=BY_ITEMS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Run, "selected", lambda self: ({}, {"deployed": float(self.progress.epoch)}))
        model = fitted(dataset, folder / f"epochs{count}", of).model
    return answers_of(model, dataset, "test", of.protocol)


def check_columns(dataset: Dataset, folder: Path, deploy: str = "retrieval") -> None:
    """Items are ranked by the weights of the one epoch, and actions predicted by those of the other."""
    with pytest.MonkeyPatch.context() as patch:
        validations(patch, MADE_UP)
        result = run_training(dataset, settings(deploy=deploy), folder / "run", silent)
    of_items, of_actions = (after_epochs(dataset, folder, count) for count in (AT_ITEMS, AT_ACTIONS))
    assert not np.array_equal(of_items.rank_Q, of_actions.rank_Q), "nothing would be shown"
    assert not np.array_equal(of_items.predicted["liked"], of_actions.predicted["liked"])
    measured = measured_answers(folder / "run", result)
    assert_same_answers(measured, of_items, "items")
    assert_same_answers(measured, of_actions, "actions")
    deployed = load_answers(folder / "run", dataset.actions)
    assert_same_answers(deployed, of_items if deploy == "retrieval" else of_actions, "items", "actions")


@pytest.mark.parametrize("deploy", ["retrieval", "actions"])
def test_each_column_comes_from_the_checkpoint_that_is_best_for_it(dataset, deploy, tmp_path):
    check_columns(dataset, tmp_path, deploy)


def test_swapped_rules_are_caught(dataset, tmp_path, monkeypatch):
    def swapped(reach, model) -> Rules:
        right = rules_of(reach, model)
        return dict(zip(right, reversed(right.values()), strict=True))

    monkeypatch.setattr(loop, "rules_of", swapped)
    assert_caught(check_columns, dataset, tmp_path)


def test_a_column_of_the_wrong_checkpoint_is_caught(dataset, tmp_path, monkeypatch):
    other = {"retrieval": "actions", "actions": "retrieval"}

    def answers(folder: Path, result: Result) -> Answers:
        beside = load_answers(folder, result.actions, result.beside.best_for)
        deployed = load_answers(folder, result.actions)
        return replace(deployed, rank_Q=beside.rank_Q) if other else deployed

    monkeypatch.setitem(globals(), "measured_answers", answers)
    assert_caught(check_columns, dataset, tmp_path)


def test_a_run_says_which_checkpoints_it_kept_and_each_is_a_model(dataset, tmp_path, monkeypatch):
    validations(monkeypatch, MADE_UP)
    result = run_training(dataset, settings(), tmp_path, silent)
    assert (result.selection, result.best_epoch) == (BY_ITEMS, AT_ITEMS)
    assert result.beside is not None
    assert (result.beside.selection, result.beside.best_epoch) == (BY_ACTIONS, AT_ACTIONS)
    assert load_result(tmp_path) == result
    for folder, checkpoint in (("model", "deployed"), ("model-actions", "actions")):
        kept = load_answers(tmp_path, dataset.actions, checkpoint)
        again = answers_of(load_model(tmp_path / folder), dataset, "test", result.settings.protocol)
        assert_same_answers(kept, again, "items", "actions")
        assert Recommender.from_pretrained(tmp_path / folder).items.to_list() == dataset.item_ids().to_list()


def test_what_is_judged_by_the_deployed_one_is_measured_on_it(dataset, tmp_path, monkeypatch):
    validations(monkeypatch, MADE_UP)
    result = run_training(dataset, settings(judge="deployed"), tmp_path, silent)
    assert result.beside is not None and result.measured_beside is None
    found = measured_answers(tmp_path, result)
    assert_same_answers(found, load_answers(tmp_path, dataset.actions), "items", "actions")


KEPT = {
    ("item", "retrieval"): {"deployed": BY_ITEMS},
    ("action_in", "actions"): {"deployed": BY_ITEMS},
    ("action_out", "retrieval"): {"deployed": BY_ACTIONS},
    ("interleaved", "retrieval"): {"deployed": BY_ITEMS, "actions": BY_ACTIONS},
    ("lac", "retrieval"): {"deployed": BY_ITEMS, "actions": BY_ACTIONS},
    ("lac", "actions"): {"deployed": BY_ACTIONS, "retrieval": BY_ITEMS},
}


def kept_of(dataset: Dataset, of: RunSettings) -> dict[str, str]:
    layout = resolve(of.layout)
    targets = targets_of(dataset, "validation", of.protocol.plan(layout, of.model), of.protocol)
    rules = rules_of(Reach(dataset, layout, of.protocol, targets), of.model)
    return {checkpoint: str(rule) for checkpoint, rule in rules.items()}


@pytest.mark.parametrize(("layout", "deploy"), KEPT)
def test_a_layout_keeps_what_it_can_be_best_in(dataset, layout, deploy):
    assert kept_of(dataset, settings(layout, deploy=deploy)) == KEPT[layout, deploy]


def test_one_rule_that_is_asked_for_keeps_one_checkpoint(dataset):
    assert kept_of(dataset, settings(select="mrr")) == {"deployed": "mrr"}
    assert kept_of(dataset, settings(select="auto")) == {"deployed": BY_ITEMS}
    assert kept_of(dataset, settings("i[t] -> a[t]", select="auto")) == {"deployed": "loss:actions"}


def test_tasks_that_are_not_trained_choose_nothing(dataset):
    for weights, kept in (
        ({"retrieval_weight": 0.0}, {"deployed": BY_ACTIONS}),
        ({"action_weights": {"rating": 0.0, "liked": 0.0}}, {"deployed": BY_ITEMS}),
        ({"action_weights": {"rating": 0.0}}, {"deployed": BY_ITEMS, "actions": BY_ACTIONS}),
    ):
        assert kept_of(dataset, replace(settings(), model=replace(MODEL, **weights))) == kept


def test_validations_in_which_no_action_varies_choose_no_checkpoint_by_them(tmp_path):
    """A layout that retrieves says so and keeps one; another is refused, with what to do."""
    place = pl.len().over("user") - pl.int_range(pl.len()).over("user")
    alike = random_log().with_columns(
        rating=pl.when(place == 2).then(3.0).otherwise(pl.col("rating")),
        liked=pl.when(place == 2).then(1.0).otherwise(pl.col("liked")),
    )
    data = prepared(alike, tmp_path / "data")
    lines: list[str] = []
    result = run_training(data, settings(max_epochs=1), tmp_path / "lac", lines.append)
    assert result.beside is None and sum("one checkpoint is kept" in line for line in lines) == 1
    with pytest.raises(
        ValueError, match=r"no action .* two different values .*protocol.select = 'loss:actions'"
    ):
        run_training(data, settings("i[t] -> a[t]", max_epochs=1), tmp_path / "refused", silent)
    assert not (tmp_path / "refused").exists()
    asked = settings("i[t] -> a[t]", max_epochs=1, select="loss:actions")
    assert run_training(data, asked, tmp_path / "asked", silent).epochs == 1


def test_training_stops_when_neither_has_risen(dataset, tmp_path, monkeypatch):
    values = {
        BY_ITEMS: (0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2),
        BY_ACTIONS: (3.0, 2.0, 1.5, 1.5, 1.5, 1.5, 1.5),
    }
    validations(monkeypatch, values)
    for name, select, last in (("each", "each", 5), ("one", BY_ITEMS, 3)):
        of = settings(select=select, max_epochs=7, patience=2)
        monkeypatch.setattr(loop, "_are_given", lambda rules, protocol: True)
        found = fitted(dataset, tmp_path / name, of).progress
        assert (found.epoch, found.why_stopped) == (last, "no rise in 2 validations")


def passes(dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, of: RunSettings) -> list[str]:
    """The parts that a run asks its model about, pass after pass."""
    asked: list[str] = []

    def counted(model, data, part, *more):
        asked.append(part)
        return answers_of(model, data, part, *more)

    with monkeypatch.context() as patch:
        for module in (loop, run_module):
            patch.setattr(module, "answers_of", counted)
        run_training(dataset, of, folder, silent)
    return asked


def test_two_checkpoints_cost_no_validation_more_than_one(dataset, tmp_path, monkeypatch):
    one, two = (
        passes(dataset, tmp_path / select, monkeypatch, settings(select=select, patience=9))
        for select in ("auto", "each")
    )
    assert one.count("validation") == two.count("validation") == 4
    assert one.count("test") == 1 and two.count("test") in (1, 2), "of one epoch the test is asked once"


BEFORE_THE_KILL = {BY_ITEMS: (0.1, 0.3, 0.2), BY_ACTIONS: (1.5, 1.9, 1.8)}


def check_both_survive(dataset: Dataset, folder: Path) -> None:
    """Both were best before the kill; what goes on holds the weights of both."""
    with pytest.MonkeyPatch.context() as patch:
        validations(patch, BEFORE_THE_KILL)
        check_resume(dataset, settings(max_epochs=3), folder)
    state = load_training(folder / "killed" / loop.CHECKPOINT)
    assert [state["progress"]["best"][one]["epoch"] for one in ("deployed", "actions")] == [2, 1]
    deployed, actions = (state["best"][one]["items.embedding.weight"] for one in ("deployed", "actions"))
    assert not torch.equal(deployed, actions)


def test_both_checkpoints_survive_a_kill(dataset, tmp_path):
    check_both_survive(dataset, tmp_path)


def test_a_checkpoint_that_does_not_survive_is_caught(dataset, tmp_path, monkeypatch):
    right = loop.load_training

    def forgetful(path: Path) -> dict[str, object]:
        state = right(path)
        return state | {"best": state["best"] | {"actions": state["best"]["deployed"]}}

    monkeypatch.setattr(loop, "load_training", forgetful)
    assert_caught(check_both_survive, dataset, tmp_path)


def test_a_run_killed_between_its_checkpoints_keeps_both(dataset, tmp_path, monkeypatch):
    """Killed while the second of them is written, after the first."""
    validations(monkeypatch, MADE_UP)
    whole = run_training(dataset, settings(), tmp_path / "whole", silent)
    right, saved = run_module.save_answers, []

    def killed(path: Path, answers: Answers) -> None:
        saved.append(path.name)
        if len(saved) == 2:
            raise Killed
        right(path, answers)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_module, "save_answers", killed)
        run_training(dataset, settings(), tmp_path / "killed", silent)
    assert saved == ["answers-actions.npz", "answers.npz"]
    result = run_training(dataset, settings(), tmp_path / "killed", silent)
    assert result.beside == whole.beside
    both = (measured_answers(tmp_path / name, result) for name in ("killed", "whole"))
    assert_same_answers(*both, "items", "actions")


def as_before(folder: Path) -> None:
    """A finished run as a version wrote it that knew one rule, which it called auto."""
    for name in (SETTINGS, RESULT):
        plain = json.loads((folder / name).read_text())
        protocol = plain["protocol"] if name == SETTINGS else plain["settings"]["protocol"]
        del protocol["deploy"], protocol["judge"]
        plain.pop("beside", None)
        (folder / name).write_text(json.dumps(plain))
    (folder / HASHES).unlink()


def test_a_finished_run_of_before_is_read_under_its_own_rule_alone(dataset, tmp_path):
    run_training(dataset, settings(select="auto", max_epochs=1), tmp_path, silent)
    as_before(tmp_path)
    with pytest.warns(UserWarning, match=HASHES):
        again = run_training(dataset, settings(select="auto", max_epochs=1), tmp_path, silent)
        assert again.beside is None and again.measured("actions") is again
        with pytest.raises(
            ValueError, match=r"protocol.select: found 'auto', asked 'each'\nUse another folder"
        ):
            run_training(dataset, settings(max_epochs=1), tmp_path, silent)


@pytest.mark.parametrize("missing", ["one best epoch", "randomness"])
def test_a_training_of_before_is_refused_with_what_to_do(missing, dataset, tmp_path):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
        kill_before_step(patch, 3)
        run_training(dataset, settings(), tmp_path, silent)
    path = tmp_path / loop.CHECKPOINT
    state = load_training(path)
    of_before = {
        "one best epoch": state | {"progress": state["progress"] | {"best": 0.5, "best_epoch": 1.0}},
        "randomness": {name: value for name, value in state.items() if name != "randomness"},
    }
    save_training(path, of_before[missing])
    with pytest.raises(
        ValueError, match=f"{path} is of an earlier version of Plait.* delete it to start over"
    ):
        run_training(dataset, settings(), tmp_path, silent)
