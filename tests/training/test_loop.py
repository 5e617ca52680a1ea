"""Training: resumed to the same bits, stopped when it should be, loud when it goes wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import (
    MODEL,
    OPTIM,
    STEPS_PER_EPOCH,
    Killed,
    fitted,
    kill_before_step,
    settings_of,
    silent,
)
from tiny import ACTIONS, assert_caught, prepared, random_log

from plait.data import Dataset, prepare
from plait.nn.losses import RetrievalLoss
from plait.training import loop
from plait.training.batches import users_of_step
from plait.training.checkpoint import load_state
from plait.training.run import RunSettings

NAN = float("nan")


def assert_same_state(found: object, expected: object, where: str = "checkpoint") -> None:
    """Equal bit for bit, all but the clock."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys(), where
        for key in expected.keys() - {"train_wall_s"}:
            assert_same_state(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same_state(one, other, f"{where}[{place}]")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    else:
        assert found == expected, where


def check_resume(dataset: Dataset, settings: RunSettings, folder: Path) -> None:
    """Killed in the second epoch, right after its validation, and again in the third: as if never killed."""
    whole = fitted(dataset, folder / "whole", settings)
    assert whole.progress.spent.steps == 3 * STEPS_PER_EPOCH

    def kill_after_validation(line: str) -> None:
        if line.startswith("epoch   2"):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
        for step, report in ((STEPS_PER_EPOCH + 3, silent), (99, kill_after_validation), (3, silent)):
            with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch_step:
                kill_before_step(patch_step, step)
                fitted(dataset, folder / "killed", settings, report)
        lines: list[str] = []
        resumed = fitted(dataset, folder / "killed", settings, lines.append)
    assert lines[0] == "resumed from epoch 2, step 2"
    states = [load_state(folder / name / loop.CHECKPOINT) for name in ("killed", "whole")]
    assert_same_state(*states)
    assert_same_state(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(settings_of(), id="fp32"),
        pytest.param(settings_of("interleaved", window="random"), id="random-windows"),
        pytest.param(
            replace(settings_of("pc"), optim=replace(OPTIM, precision="bf16", schedule="cosine")), id="bf16"
        ),
        pytest.param(
            replace(
                settings_of(), model=replace(MODEL, retrieval=RetrievalLoss(kind="sampled", num_negatives=5))
            ),
            id="sampled-negatives",
        ),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bits(dataset, settings, tmp_path):
    check_resume(dataset, settings, tmp_path)


def test_a_random_state_that_is_not_restored_is_caught(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    assert_caught(check_resume, dataset, settings_of(), tmp_path)


def test_a_step_taken_twice_is_caught(dataset, tmp_path, monkeypatch):
    right = loop.training_stream

    def broken(*arguments):
        return right(*arguments[:5], max(0, arguments[5] - 1), arguments[6])

    monkeypatch.setattr(loop, "training_stream", broken)
    assert_caught(check_resume, dataset, settings_of(), tmp_path)


def half_done(dataset: Dataset, folder: Path) -> Path:
    """A run killed in its second epoch; its checkpoint."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
        kill_before_step(patch, STEPS_PER_EPOCH + 2)
        fitted(dataset, folder, settings_of())
    return folder / loop.CHECKPOINT


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_truncated_checkpoint_says_what_to_do(dataset, kept, tmp_path):
    path = half_done(dataset, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(
        ValueError, match=r"is not a checkpoint that can be read .*Delete it to train"
    ) as refused:
        fitted(dataset, tmp_path, settings_of())
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        settings_of("pc"),
        settings_of(seed=1),
        replace(settings_of(), optim=replace(OPTIM, learning_rate=0.1)),
        replace(settings_of(), model=replace(MODEL, retrieval_weight=0.5)),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(dataset, settings, tmp_path):
    half_done(dataset, tmp_path)
    with pytest.raises(ValueError, match=r"of a run with other settings or data. Use another folder"):
        fitted(dataset, tmp_path, settings)


def test_a_checkpoint_of_other_data_is_refused(dataset, tmp_path):
    half_done(dataset, tmp_path / "run")
    other = prepared(random_log(seed=8), tmp_path / "other")
    with pytest.raises(ValueError, match="of a run with other settings or data"):
        fitted(other, tmp_path / "run", settings_of())


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight of the trunk is not a number."""
    right = loop.make_optimiser

    def poison(model, optim):
        model.trunk.blocks[0].mlp_in.weight.data[0, 0] = NAN
        return right(model, optim)

    monkeypatch.setattr(loop, "make_optimiser", poison)


@pytest.mark.usefixtures("poisoned")
def test_a_loss_that_is_no_number_stops_and_names_the_batch(dataset, tmp_path):
    users = users_of_step(dataset, OPTIM.users_per_step, seed=0, epoch=0)[0]
    with pytest.raises(
        loop.Diverged, match=r"epoch 1, step 1 of 5, dense users \[.*loss nan.*Lower optim"
    ) as stopped:
        fitted(dataset, tmp_path, settings_of())
    assert str(users.tolist()) in str(stopped.value)


def test_a_loss_that_runs_away_stops(dataset, tmp_path, monkeypatch):
    def explode(optim, step, total_steps):
        return 1e-3 if step < loop.FIRST_STEPS else 1.0

    monkeypatch.setattr(loop, "learning_rate", explode)
    with pytest.raises(
        loop.Diverged, match=r"epoch 3, step [2-5] of 5.*is over 3 times the largest of the first 10"
    ):
        fitted(dataset, tmp_path, settings_of())


def with_validations(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Validation gives these values of NDCG@10, one after the other, whatever the model does."""
    given = iter(values)
    monkeypatch.setattr(loop, "values_of", lambda answers: {"ndcg@10": next(given)})


def test_training_stops_by_patience_with_the_best_weights(dataset, tmp_path, monkeypatch):
    with_validations(monkeypatch, 0.1, 0.3, 0.2, 0.3, 0.2)
    found = fitted(dataset, tmp_path / "long", settings_of(max_epochs=50, patience=3))
    assert (found.progress.epoch, found.progress.best_epoch, found.progress.best) == (5, 2, 0.3)
    assert found.progress.why_stopped == "no rise in 3 validations"
    with_validations(monkeypatch, 0.1, 0.3)
    best = fitted(dataset, tmp_path / "best", settings_of(max_epochs=2))
    assert_same_state(found.model.state_dict(), best.model.state_dict())
    with_validations(monkeypatch, 0.1, 0.3, 0.2)
    last = load_state(tmp_path / "long" / loop.CHECKPOINT)["model"]
    assert not torch.equal(last["items.embedding.weight"], best.model.state_dict()["items.embedding.weight"])


def test_a_metric_that_is_better_when_lower_is_selected_downwards(dataset, tmp_path, monkeypatch):
    given = iter((0.1, 0.5, 0.2, 0.4))  # the first before training, to see that the metric is there
    monkeypatch.setattr(loop, "values_of", lambda answers: {"rmse:rating": next(given)})
    found = fitted(dataset, tmp_path, settings_of(select="rmse:rating"))
    assert found.progress.best_epoch == 2


@pytest.mark.parametrize(
    ("protocol", "epochs", "why"),
    [
        ({"max_epochs": 2}, 2, "cap of 2 epochs reached"),
        ({"max_epochs": 9, "max_tokens": 134.0}, 2, "cap of 9 epochs, 134 tokens reached"),
        ({"max_epochs": 9, "max_flops": 1.0}, 1, "cap of 9 epochs, 1 FLOPs reached"),
    ],
)
def test_training_stops_at_the_first_cap(dataset, protocol, epochs, why, tmp_path):
    """A cap is noticed at the end of an epoch, which is then validated."""
    found = fitted(dataset, tmp_path, settings_of(validate_every=7, **protocol)).progress
    assert dataset.train_lengths(7).sum() == 133, "a history of 6, and the event that comes"
    assert (found.epoch, found.why_stopped) == (epochs, why)
    assert [row["epoch"] for row in found.curve] == [epochs]


def test_validations_are_as_far_apart_as_asked(dataset, tmp_path):
    found = fitted(dataset, tmp_path, settings_of(max_epochs=5, validate_every=2)).progress
    assert [row["epoch"] for row in found.curve] == [2, 4, 5]


def test_one_run_twice_is_one_result_and_another_seed_another(dataset, tmp_path):
    curves = [
        [row["loss"] for row in fitted(dataset, tmp_path / name, settings_of(seed=seed)).progress.curve]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert curves[0] == curves[1] != curves[2]


def test_spent_counts_tokens_and_flops_of_the_layout(dataset, tmp_path):
    one, two = (
        fitted(dataset, tmp_path / layout, settings_of(layout, max_epochs=1)).progress.spent
        for layout in ("lac", "interleaved")
    )
    assert one.tokens == dataset.train_lengths(7).sum()
    assert two.tokens == 2 * one.tokens
    assert 1 < two.flops / one.flops < 2.5


@pytest.mark.parametrize(
    ("protocol", "problem"),
    [
        (
            {"select": "auc:purchased"},
            "protocol.select names 'auc:purchased', which this layout and data do not give",
        ),
        ({"negatives": 1000}, "asked for 1000"),
    ],
)
def test_settings_that_the_data_cannot_meet_are_found_before_training(dataset, protocol, problem, tmp_path):
    stepped = []
    with pytest.raises(ValueError, match=problem):
        fitted(dataset, tmp_path, settings_of(**protocol), stepped.append)
    assert not stepped and not (tmp_path / loop.CHECKPOINT).exists()


@pytest.mark.parametrize(("faster", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_precision_follows_the_machine(faster, chosen, monkeypatch):
    monkeypatch.setattr(loop, "multiplies_bf16_faster", lambda device: faster)
    assert loop.resolve_precision("auto", "cpu") == chosen
    assert {loop.resolve_precision(asked, "cpu") for asked in ("bf16", "fp32")} == {"bf16", "fp32"}


def test_users_too_short_to_train_on_are_named(tmp_path):
    log = random_log().group_by("user", maintain_order=True).head(3)
    short = prepare(
        log,
        user="user",
        item="item",
        time="time",
        actions=list(ACTIONS),
        out=tmp_path / "short",
        min_user_events=3,
        min_item_events=1,
    )
    with pytest.raises(ValueError, match="no user has two training events"):
        fitted(short, tmp_path / "run", settings_of())
