"""A refit repeats a checkpoint's steps on all rows, and says whose evaluation stands beside it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import STEPS_PER_EPOCH, Killed, kill_before_step, settings_of, silent
from tiny import prepared, random_log

import plait
from plait.cli.evaluate import evaluate
from plait.data import Dataset
from plait.evaluation.run_files import (
    MODEL,
    WITHOUT_COUNTS,
    RunSettings,
    answers_of_run,
    answers_without_counts,
    load_result,
    of_checkpoint,
)
from plait.models.saving import RECORDED, load_model
from plait.training import loop
from plait.training.refit import run_refit
from plait.training.run import run_training


def cosine(**protocol: object) -> RunSettings:
    """Whose learning rate is another in every step, and whose items have a term that counts them."""
    settings = settings_of("lac", **protocol)
    retrieval = replace(settings.model.retrieval, item_bias="learned")
    model = replace(settings.model, retrieval=retrieval, counts="auto")
    return replace(settings, optim=replace(settings.optim, schedule="cosine"), model=model)


@pytest.fixture(scope="module")
def of(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    out = tmp_path_factory.mktemp("refit") / "run"
    run_training(dataset, cosine(max_epochs=4), out, silent)
    return out


def weights_of(run: Path, checkpoint: str = "deployed") -> dict[str, torch.Tensor]:
    return load_model(run / of_checkpoint(MODEL, checkpoint)).state_dict()


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


@pytest.mark.parametrize("checkpoint", ["deployed", "actions"])
def test_on_the_same_rows_a_refit_is_the_checkpoint(of, dataset, tmp_path, monkeypatch, checkpoint):
    """Bit for bit: it took the same steps at the same learning rates."""
    monkeypatch.setattr(Dataset, "whole", lambda self: self)
    result = run_refit(of, dataset, tmp_path, checkpoint, silent)
    held_out = load_result(of)
    best_epoch = held_out.best_epoch if checkpoint == "deployed" else held_out.beside.best_epoch
    assert result.refit.steps == best_epoch * STEPS_PER_EPOCH > 0
    assert same_weights(weights_of(tmp_path), weights_of(of, checkpoint))
    counts, before = (
        load_model(tmp_path / MODEL).counts,
        load_model(of / of_checkpoint(MODEL, checkpoint)).counts,
    )
    ease, ease_before = (its.items.tables.ease.toarray() for its in (counts, before))
    assert np.allclose(ease, ease_before, rtol=1e-5)
    assert (counts.items.weight_T == before.items.weight_T).all()
    for action, action_before in zip(counts.actions.actions, before.actions.actions, strict=True):
        for part, part_before in zip(action.parts, action_before.parts, strict=True):
            assert (part.counted.totals.events_V == part_before.counted.totals.events_V).all()
            assert (part.weights.weight_T == part_before.weights.weight_T).all()


def test_a_refit_at_other_learning_rates_is_caught(of, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Dataset, "whole", lambda self: self)
    monkeypatch.setattr("plait.training.refit._steps_of_all", lambda held_out, refit, dataset: refit.steps)
    run_refit(of, dataset, tmp_path, "deployed", silent)
    assert not same_weights(weights_of(tmp_path), weights_of(of))


def test_a_refit_trains_on_every_row_and_is_not_judged_by_them(of, dataset, tmp_path, capsys):
    whole = dataset.whole()
    assert (
        whole.train_item_counts().sum() == dataset.manifest.counts.events > dataset.train_item_counts().sum()
    )
    assert len(whole.targets("test")) == len(whole.targets("validation")) == 0
    again, arguments = whole.__reduce__()
    assert (again(*arguments).train_item_counts() == whole.train_item_counts()).all()

    lines: list[str] = []
    model = plait.refit(of, out=tmp_path, report=lines.append)
    result, held_out = load_result(tmp_path), load_result(of)
    again = [str(line).partition(": none")[0] for line in lines if "counted again on all rows" in str(line)]
    assert again == ["model/: counts", "model/: counts of rating", "model/: counts of liked"], lines
    epochs = [line for line in map(str, lines) if line.startswith("epoch ")]
    assert epochs and all(float(line.split("loss ")[1].split()[0]) > 0 for line in epochs), lines
    assert not same_weights(weights_of(tmp_path), weights_of(of))
    popularity = model.model.item_bias.popularity_V[1:]
    assert torch.allclose(popularity, torch.from_numpy(np.log(whole.train_item_counts()[1:] + 0.5)).float())
    for found, expected in (
        (answers_of_run(tmp_path, result), answers_of_run(of, held_out)),
        (answers_without_counts(tmp_path, result), answers_without_counts(of, held_out)),
    ):
        assert (found.rank_Q == expected.rank_Q).all()
    assert (tmp_path / WITHOUT_COUNTS).is_file() and (tmp_path / MODEL / RECORDED).is_file()
    assert (result.settings, result.protocol) == (held_out.settings, held_out.protocol)
    evaluate(tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert f"evaluation: of the model of {of / MODEL}, which the held-out rows were kept from" in said
    assert f"{result.refit.steps} steps, as many as that model took" in said


def test_a_killed_refit_ends_in_the_same_model(of, dataset, tmp_path, monkeypatch):
    run_refit(of, dataset, tmp_path / "whole", report=silent)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_before_step(patch, 4)
        run_refit(of, dataset, tmp_path / "killed", report=silent)
    with pytest.raises(ValueError, match=r"refit: found .*, asked nothing"):
        run_training(dataset, cosine(max_epochs=4), tmp_path / "killed", silent)
    run_refit(of, dataset, tmp_path / "killed", report=silent)
    assert same_weights(weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed"))
    lines: list[str] = []
    run_refit(of, dataset, tmp_path / "killed", report=lines.append)
    assert lines == [f"{tmp_path / 'killed'} holds this run, finished; nothing is trained"]
    with pytest.raises(ValueError, match=r"holds a finished run"):
        run_refit(of, dataset, tmp_path / "killed", "actions", report=silent)
    with pytest.raises(ValueError, match=r"holds a finished run of other data:\n  refit"):
        run_training(dataset, cosine(max_epochs=4), tmp_path / "killed", silent)
    with pytest.raises(ValueError, match=f"is trained on all rows already; name the run that it is of: {of}"):
        run_refit(tmp_path / "killed", dataset, tmp_path / "again", report=silent)


def test_what_a_run_lacks_is_refused(of, dataset, tmp_path):
    other = prepared(random_log(seed=8), tmp_path / "other")
    with pytest.raises(ValueError, match=r"holds other data .*: a refit is of the same log"):
        run_refit(of, other, tmp_path / "refused", report=silent)
    with pytest.raises(ValueError, match=r"has no checkpoint 'retrieval'; it has deployed, actions"):
        run_refit(of, dataset, tmp_path / "refused", "retrieval", silent)
    with pytest.raises(ValueError, match="holds no finished run"):
        plait.refit(tmp_path / "nothing")
    assert not (tmp_path / "refused").exists()
