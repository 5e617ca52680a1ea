"""Training: resumed to the same bits, stopped when it should be, loud when it goes wrong."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import (
    MODEL,
    OPTIM,
    PROTOCOL,
    STEPS_PER_EPOCH,
    Killed,
    fitted,
    kill_before_step,
    settings_of,
    silent,
)
from tiny import ACTIONS, assert_caught, prepared, random_log

from plait.data import Dataset, Temporal, prepare
from plait.evaluation.run_files import RunSettings
from plait.layouts import CATALOGUE
from plait.models.generative import GenerativeRecommender
from plait.models.questions import Exposure
from plait.nn.config import TrunkConfig
from plait.nn.heads import ActionHeads
from plait.nn.losses import RetrievalLoss
from plait.randomness import Randomness
from plait.schema import Action, Regression
from plait.training import loop
from plait.training.batches import users_of_step
from plait.training.checkpoint import load_training, save_training
from plait.training.progress import Best

NAN = float("nan")


def assert_same_state(found: object, expected: object, where: str = "checkpoint") -> None:
    """Equal bit for bit, all but the clock."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys(), where
        for key in expected.keys() - {"train_wall_s", "train_cpu_s"}:
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
        if line.startswith("epoch "):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
        for step, report in ((STEPS_PER_EPOCH + 3, silent), (99, kill_after_validation), (3, silent)):
            with pytest.raises(Killed), pytest.MonkeyPatch.context() as patch_step:
                kill_before_step(patch_step, step)
                fitted(dataset, folder / "killed", settings, report)
        lines: list[str] = []
        resumed = fitted(dataset, folder / "killed", settings, lines.append)
    assert "resumed from epoch 2, step 2" in lines
    states = [load_training(folder / name / loop.CHECKPOINT) for name in ("killed", "whole")]
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
                settings_of(max_epochs=9, max_tokens=3 * 133.0),
                optim=replace(OPTIM, schedule="cosine", warmup_steps=200),
            ),
            id="token-cap",
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


def num_labels_at_the_start(dataset: Dataset, folder: Path, most: int) -> int:
    labels: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "START_LABELS", most)
        patch.setattr(ActionHeads, "start_at", lambda heads, label_EA, late_EF=None: labels.append(label_EA))
        kill_before_step(patch, 1)
        with pytest.raises(Killed):
            fitted(dataset, folder, settings_of())
    (label_EA,) = labels
    return len(label_EA)


def test_a_new_model_starts_at_the_actions_of_as_many_steps_as_it_takes(dataset, tmp_path):
    """Of one step where they are enough, of some, and of all where there are few."""
    one, some, each = (num_labels_at_the_start(dataset, tmp_path, most) for most in (1, 60, 10**6))
    asked_U = np.minimum(dataset.train_user_counts(), settings_of().protocol.max_events + 1)
    assert 1 <= one < 60 <= some < each == asked_U.sum()


@pytest.fixture(scope="module")
def in_requests(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The random log in requests of two events."""
    nth = pl.int_range(pl.len()).over("user")
    log = random_log().with_columns(time=1_000_000 + 3_600 * (nth // 2))
    return prepared(log, tmp_path_factory.mktemp("requests") / "data")


def exposed(
    layout: str, trunk: TrunkConfig, exposure: Exposure = Exposure(), **protocol: object
) -> RunSettings:
    model = replace(MODEL, trunk=replace(trunk, dim=12, dropout=0.25), exposure=exposure)
    return replace(settings_of(layout, **protocol), model=model)


GENRANK, RAB = TrunkConfig(positions="genrank"), TrunkConfig(kind="hstu", positions="rab")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(exposed("genrank", GENRANK, candidate_requests=2), id="candidates-only"),
        pytest.param(exposed("lac", MODEL.trunk, supervise="candidates", sample="event"), id="by-event"),
        pytest.param(
            exposed("interleaved", RAB, Exposure(same_request="blind"), window="random"), id="hstu-rab-blind"
        ),
    ],
)
def test_a_killed_run_on_requests_goes_on_to_the_same_bits(in_requests, settings, tmp_path):
    check_resume(in_requests, settings, tmp_path)


def check_resume_in_epoch(dataset: Dataset, settings: RunSettings, folder: Path) -> None:
    """One epoch, killed after two of its three steps: as if never killed."""
    optim = replace(settings.optim, users_per_step=8)
    settings = replace(settings, optim=optim, protocol=replace(settings.protocol, max_epochs=1))
    whole = fitted(dataset, folder / "whole", settings)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
        kill_before_step(patch, 3)
        fitted(dataset, folder / "killed", settings)
    lines: list[str] = []
    resumed = fitted(dataset, folder / "killed", settings, lines.append)
    assert "resumed from epoch 0, step 2" in lines and whole.progress.spent.steps == 3
    assert_same_state(*(load_training(folder / name / loop.CHECKPOINT) for name in ("killed", "whole")))
    assert_same_state(resumed.model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("layout", CATALOGUE)
def test_a_killed_run_of_any_layout_goes_on_to_the_same_bits(in_requests, layout, tmp_path):
    check_resume_in_epoch(in_requests, settings_of(layout), tmp_path)


def test_weights_that_are_not_restored_are_caught(in_requests, tmp_path, monkeypatch):
    """Every one counts, those of the rides among them."""
    right = loop.load_training

    def forgetful(path: Path) -> dict[str, object]:
        state = right(path)
        name = next(name for name in state["model"] if "pooling" in name)
        return state | {"model": state["model"] | {name: torch.zeros_like(state["model"][name])}}

    monkeypatch.setattr(loop, "load_training", forgetful)
    assert_caught(check_resume_in_epoch, in_requests, settings_of("attn_dhn"), tmp_path)


def test_a_stream_of_samples_that_starts_again_is_caught(in_requests, tmp_path, monkeypatch):
    """The samples of the first steps come twice, those of the last ones never."""
    right = loop.training_stream
    monkeypatch.setattr(loop, "training_stream", lambda *given: right(*given[:5], 0, *given[6:]))
    settings = exposed("lac", MODEL.trunk, supervise="candidates", sample="event")
    assert_caught(check_resume, in_requests, settings, tmp_path)


@pytest.mark.parametrize("stream", ("dropout", "negatives"))
def test_a_random_state_that_is_not_restored_is_caught(dataset, stream, tmp_path, monkeypatch):
    right = Randomness.restore

    def forgetful(self: Randomness, state: dict[str, torch.Tensor]) -> None:
        right(self, state | {stream: self.state()[stream]})

    monkeypatch.setattr(Randomness, "restore", forgetful)
    sampled = replace(MODEL, retrieval=RetrievalLoss(kind="sampled", num_negatives=5))
    assert_caught(check_resume, dataset, replace(settings_of(), model=sampled), tmp_path)


def test_a_checkpoint_whose_draws_cannot_go_on_is_refused(dataset, tmp_path):
    path = half_done(dataset, tmp_path)
    state = load_training(path)
    old = {name: value for name, value in state.items() if name not in ("randomness", "device")}
    for changed, why in (
        (old, "an earlier version of Plait"),
        (state | {"device": "cuda"}, "device = 'cuda'"),
    ):
        save_training(path, changed)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}.*{why}"):
            fitted(dataset, tmp_path, settings_of())


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
        ValueError, match=rf"{path} is damaged .*delete {path} to train this run from the start"
    ):
        fitted(dataset, tmp_path, settings_of())


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("layout", settings_of("pc")),
        (r"protocol\.seed", settings_of(seed=1)),
        (r"optim\.learning_rate", replace(settings_of(), optim=replace(OPTIM, learning_rate=0.1))),
        (r"model\.retrieval_weight", replace(settings_of(), model=replace(MODEL, retrieval_weight=0.5))),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(dataset, key, settings, tmp_path):
    """And nothing but the key that differs is named."""
    half_done(dataset, tmp_path)
    with pytest.raises(
        ValueError, match=rf"of a run with other settings or data:\n  {key}: found .*\nUse another"
    ):
        fitted(dataset, tmp_path, settings)


def test_a_checkpoint_of_other_data_is_refused(dataset, tmp_path):
    half_done(dataset, tmp_path / "run")
    log, stars = random_log().rename({"rating": "stars"}), Action("stars", Regression(1, 5))
    renamed = prepared(log, tmp_path / "renamed", actions=(stars, ACTIONS[1]))
    assert renamed.manifest.content_hash == dataset.manifest.content_hash
    with pytest.raises(ValueError, match=r"other settings or data:\n  actions: found .*'rating'"):
        fitted(renamed, tmp_path / "run", settings_of())
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
    users = users_of_step(dataset, OPTIM.users_per_step, PROTOCOL, epoch=0)[0].user_B
    with pytest.raises(
        loop.Diverged, match=r"epoch 1, step 1 of 5, users 'u.*loss nan.*Lower optim"
    ) as stopped:
        fitted(dataset, tmp_path, settings_of())
    assert f"users {', '.join(f'{chr(39)}u{user:02d}{chr(39)}' for user in users)}:" in str(stopped.value)


@pytest.mark.parametrize("calm_steps", [0, 1, 12])
def test_a_loss_that_runs_away_stops(dataset, calm_steps, tmp_path, monkeypatch):
    """However soon: also an explosion in the first steps is judged, by the loss of the untrained model."""

    def explode(optim, step, max_steps):
        return 1e-3 if step < calm_steps else 3.0

    monkeypatch.setattr(loop, "learning_rate", explode)
    with pytest.raises(loop.Diverged, match=r"is over 3 times that of the untrained model") as stopped:
        fitted(dataset, tmp_path, settings_of())
    epoch, step = map(int, re.match(r"epoch (\d+), step (\d+) of 5", str(stopped.value)).groups())
    assert calm_steps + 1 < (epoch - 1) * STEPS_PER_EPOCH + step <= calm_steps + 6


def test_a_rare_action_is_no_divergence(dataset, tmp_path, monkeypatch):
    """A first batch without it costs nearly nothing, and one with it many times that."""
    given = iter([0.001, *(0.05 for _ in range(99))])

    def rare(self, losses):
        return losses["liked"] * 0 + next(given)

    monkeypatch.setattr(GenerativeRecommender, "total", lambda self, losses: rare(self, losses))
    monkeypatch.setattr(loop._Run, "_loss_of_knowing_nothing", lambda self, losses: 2.0)
    assert fitted(dataset, tmp_path / "kept", settings_of("action_out", max_epochs=1)).progress.epoch == 1
    given = iter([0.001, *(0.05 for _ in range(99))])
    monkeypatch.setattr(loop._Run, "_loss_of_knowing_nothing", lambda self, losses: 0.0)
    with pytest.raises(loop.Diverged):
        fitted(dataset, tmp_path / "mutant", settings_of("action_out", max_epochs=1))


def test_knowing_nothing_costs_the_weights_of_the_tasks(dataset, tmp_path, monkeypatch):
    found = []
    right = loop._Run._loss_of_knowing_nothing
    monkeypatch.setattr(
        loop._Run,
        "_loss_of_knowing_nothing",
        lambda self, losses: found.append(right(self, losses)) or found[-1],
    )
    settings = replace(
        settings_of(max_epochs=1), model=replace(MODEL, retrieval_weight=0.5, action_weights={"liked": 3.0})
    )
    fitted(dataset, tmp_path, settings)
    assert found == [0.5 + 1.0 + 3.0]


def test_patience_does_not_count_while_the_learning_rate_warms_up(dataset, tmp_path, monkeypatch):
    optim = replace(OPTIM, warmup_steps=1000)
    settings = replace(settings_of(max_epochs=40, patience=2), optim=optim)
    with_validations(monkeypatch, *(0.3 - n / 100 for n in range(40)))
    found = fitted(dataset, tmp_path / "warm", settings).progress
    assert found.why_stopped == "no rise in 2 validations"
    assert found.epoch == 5, "warm-up is 20 of 200 steps, 4 epochs: those of its end and after it count"
    monkeypatch.setattr(loop, "warmup_steps", lambda optim, max_steps: 0)  # the mutant
    with_validations(monkeypatch, *(0.3 - n / 100 for n in range(40)))
    assert fitted(dataset, tmp_path / "mutant", settings).progress.epoch == 3


def with_validations(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Validation gives these values of NDCG@10, one after the other, whatever the model does, and actions that never
    get better."""
    given = iter(values)
    monkeypatch.setattr(
        loop,
        "metric_values",
        lambda answers, untrained: {"ndcg@10": next(given), "normalised_error:actions": 1.0},
    )


def test_training_stops_by_patience_with_the_best_weights(dataset, tmp_path, monkeypatch):
    with_validations(monkeypatch, 0.1, 0.3, 0.2, 0.3, 0.2)
    optim = replace(OPTIM, warmup_steps=1)  # the same for 2 epochs as for 50
    found = fitted(dataset, tmp_path / "long", replace(settings_of(max_epochs=50, patience=3), optim=optim))
    assert (found.progress.epoch, found.progress.best["deployed"]) == (5, Best(0.3, 2.0))
    assert found.progress.why_stopped == "no rise in 3 validations"
    with_validations(monkeypatch, 0.1, 0.3)
    best = fitted(dataset, tmp_path / "best", replace(settings_of(max_epochs=2), optim=optim))
    assert_same_state(found.model.state_dict(), best.model.state_dict())
    with_validations(monkeypatch, 0.1, 0.3, 0.2)
    last = load_training(tmp_path / "long" / loop.CHECKPOINT)["model"]
    assert not torch.equal(last["items.embedding.weight"], best.model.state_dict()["items.embedding.weight"])


def test_a_metric_that_is_better_when_lower_is_selected_downwards(dataset, tmp_path, monkeypatch):
    given = iter((0.1, 0.5, 0.4, 0.2))  # the first before training, to see that the metric is there
    monkeypatch.setattr(loop, "metric_values", lambda answers, untrained: {"rmse:rating": next(given)})
    found = fitted(dataset, tmp_path, settings_of(select="rmse:rating"))
    assert found.progress.best == {"deployed": Best(-0.2, 3.0)}


@pytest.mark.parametrize(
    ("protocol", "epochs", "steps", "why"),
    [
        ({"max_epochs": 2}, 2, 10, "cap of 2 epochs reached"),
        ({"max_epochs": 9, "max_tokens": 134.0}, 2, 6, "cap of 134 tokens reached"),
        ({"max_epochs": 9, "max_flops": 1.0}, 1, 1, "cap of 1 FLOPs reached"),
        ({"max_epochs": 1, "max_tokens": 133.0}, 1, 5, "cap of 1 epochs, 133 tokens reached"),
        ({"max_epochs": 1, "max_tokens": 1.0, "max_flops": 1.0}, 1, 1, "cap of 1 tokens, 1 FLOPs reached"),
    ],
)
def test_training_stops_with_the_step_that_reaches_a_cap(dataset, protocol, epochs, steps, why, tmp_path):
    """And is validated there; only the caps that were reached are named."""
    found = fitted(dataset, tmp_path, settings_of(validate_every=7, **protocol)).progress
    assert dataset.train_lengths(7).sum() == 133, "a history of 6, and the event that comes"
    assert (found.epoch, found.spent.steps, found.why_stopped) == (epochs, steps, why)
    assert [(row["epoch"], row["steps"]) for row in found.curve] == [(steps / STEPS_PER_EPOCH, steps)]


def rates_of(dataset, folder, settings, monkeypatch) -> list[float]:
    """The learning rate of every step."""
    right, found = loop.learning_rate, []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "learning_rate", lambda *given: found.append(right(*given)) or found[-1])
        fitted(dataset, folder, settings)
    return found[::2]  # each step asks for its two groups of weights


def check_rates_follow_the_cap(dataset, folder, monkeypatch) -> None:
    optim = replace(OPTIM, learning_rate=1e-3, warmup_steps=200, schedule="cosine")
    tokens = 60 / STEPS_PER_EPOCH * float(dataset.train_lengths(7).sum())
    for name, cap in (("max_tokens", tokens), ("max_flops", 60 * 0.66e6)):
        settings = replace(settings_of(max_epochs=400, validate_every=400, **{name: cap}), optim=optim)
        rates = rates_of(dataset, folder / name, settings, monkeypatch)
        assert 50 < len(rates) < 70, "of 2,000 that the epochs would allow"
        top = max(rates)
        assert rates.index(top) <= 0.1 * len(rates) + 1 and top > 0.95e-3, "warm in a tenth of the run"
        assert rates[-1] == pytest.approx(1e-4, rel=0.05), "the cosine ends with the cap"


def test_warm_up_and_cosine_follow_the_cap_that_ends_the_run(dataset, tmp_path, monkeypatch):
    check_rates_follow_the_cap(dataset, tmp_path / "right", monkeypatch)
    of_epochs = property(lambda run: run.steps_per_epoch * run.protocol.max_epochs)
    monkeypatch.setattr(loop._Run, "max_steps", of_epochs)  # the mutant
    assert_caught(check_rates_follow_the_cap, dataset, tmp_path / "mutant", monkeypatch)


def test_caps_that_end_no_run_leave_its_rates_as_they_are(dataset, tmp_path, monkeypatch):
    settings = replace(settings_of(max_epochs=3), optim=replace(OPTIM, schedule="cosine"))
    far = replace(settings, protocol=replace(settings.protocol, max_tokens=1e9, max_flops=1e15))
    one, other = (rates_of(dataset, tmp_path / str(n), s, monkeypatch) for n, s in enumerate((settings, far)))
    assert one == other and len(one) == 3 * STEPS_PER_EPOCH and one[0] > one[-1]


def test_a_run_killed_at_its_cap_takes_no_step_more(dataset, tmp_path, monkeypatch):
    """The checkpoint of the step that reached the cap is there, the validation that follows was never done."""
    settings = settings_of(max_epochs=9, max_tokens=160.0)
    whole = fitted(dataset, tmp_path / "whole", settings)
    assert STEPS_PER_EPOCH < whole.progress.spent.steps < 2 * STEPS_PER_EPOCH - 1, "in the middle of an epoch"

    def killed(self):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
        right = loop._Run._validate
        patch.setattr(
            loop._Run, "_validate", lambda self: right(self) if self.progress.epoch == 1 else killed(self)
        )
        fitted(dataset, tmp_path / "killed", settings)
    fitted(dataset, tmp_path / "killed", settings)
    assert_same_state(*(load_training(tmp_path / name / loop.CHECKPOINT) for name in ("killed", "whole")))


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
        ({"negatives": 1000}, "negatives = 1000 is too much for the validation: .* asked for 1000"),
        (
            {"negatives": 8},
            "negatives = 8 is too much for the test: .* asked for 8",
        ),  # and fits the validation
    ],
)
def test_settings_that_the_data_cannot_meet_are_found_before_training(dataset, protocol, problem, tmp_path):
    said = []
    with pytest.raises(ValueError, match=problem):
        fitted(dataset, tmp_path / "run", settings_of(**protocol), said.append)
    assert not any(line.startswith("epoch") for line in said) and not (tmp_path / "run").exists()


def in_one_request(folder: Path) -> Dataset:
    log = random_log().with_columns(time=pl.lit(1_000).cast(pl.Int64))
    return prepared(log, folder)


def without_test(folder: Path) -> Dataset:
    """Users come one after the other: the last one has no history before the cut."""
    log = random_log()
    first_s = log.group_by("user").agg(pl.col("time").min()).sort("user")["time"]
    return prepared(log, folder, split=Temporal(cut_validation_s=first_s[-2], cut_test_s=first_s[-1]))


@pytest.mark.parametrize(
    ("made", "exposure", "problem"),
    [
        (without_test, Exposure(), "has no (validation|test) events to evaluate: no user with"),
        (in_one_request, Exposure(same_request="blind"), "to evaluate: under same_request = blind, no user"),
    ],
)
def test_data_that_has_nothing_to_ask_is_found_before_training(made, exposure, problem, tmp_path):
    settings = settings_of()
    settings = replace(settings, model=replace(settings.model, exposure=exposure))
    with pytest.raises(ValueError, match=problem):
        fitted(made(tmp_path / "data"), tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


def test_samples_without_a_history_are_refused(tmp_path):
    settings = settings_of(supervise="candidates", sample="event")
    with pytest.raises(ValueError, match="no user has two requests in training"):
        fitted(in_one_request(tmp_path / "data"), tmp_path / "run", settings)


def test_retrieval_that_is_not_trained_does_not_choose_the_epoch(dataset, tmp_path):
    settings = settings_of(max_epochs=1)
    assert str(fitted(dataset, tmp_path / "both", settings).rules["deployed"]) == "ndcg@10"
    silent = replace(settings, model=replace(settings.model, retrieval_weight=0.0))
    [only] = fitted(dataset, tmp_path / "actions", silent).rules.values()
    assert str(only) == "normalised_error:actions"


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


def without_ratings(folder: Path) -> Dataset:
    """The tiny log, with an action column in which training finds nothing: its only value is a test event's."""
    is_last = pl.int_range(pl.len()).over("user") == pl.len().over("user") - 1
    only_test = pl.when(is_last & (pl.col("user") == "u00")).then(3.0)
    return prepared(random_log().with_columns(rating=only_test), folder)


def test_an_action_that_training_never_shows_is_refused_where_it_is_predicted(tmp_path):
    data = without_ratings(tmp_path / "data")
    with pytest.raises(
        ValueError,
        match=r"predicts action 'rating', which has 0 labels in the training events of .*data: prepare",
    ):
        fitted(data, tmp_path / "run", settings_of("action_out", max_epochs=1))
    assert not (tmp_path / "run").exists()
    for layout in ("item", "action_in"):  # they predict none
        fitted(data, tmp_path / layout, settings_of(layout, max_epochs=1))
