"""One training loop for every layout.

    train_model(dataset, model_config, optim, protocol, folder)

trains until validation has not risen for `protocol.patience` validations or a cap is reached, keeps the best
weights of each checkpoint (`plait.evaluation.checkpoints`), and can be killed at any time: started again it goes on
from its last state to the same losses, bit for bit. Asked politely (Ctrl-C, SIGTERM), it finishes the step and saves
its state first.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import torch
from jaxtyping import Int64

from plait.allocation import keep_freed_memory
from plait.data import Dataset
from plait.data.dataset import HeldOutPart
from plait.evaluation.answers import answers_of, check_negatives, metric_values, targets_of
from plait.evaluation.checkpoints import Checkpoint, Rules, note_on_rules, rules_of
from plait.evaluation.protocol_line import note_on_requests
from plait.evaluation.reachable import Reach, check_can_choose, notes_on_reach
from plait.evaluation.run_files import CHECKPOINT, METRICS
from plait.evaluation.selection import Selection
from plait.evaluation.settings import Optim, Protocol
from plait.files import write_listed
from plait.layouts import audit
from plait.models.building import built
from plait.models.combining import check_supported
from plait.models.generative import GenerativeRecommender, ModelConfig
from plait.models.inputs import Inputs
from plait.models.questions import QuestionPlan
from plait.models.told import ReadsInterests
from plait.models.two_tower import TwoTower
from plait.nn.arithmetic import Arithmetic, arithmetic_of
from plait.nn.dropout import draw_from
from plait.nn.initialising import initialised
from plait.nn.interests import InterestSource
from plait.nn.precision import autocast, products_by
from plait.nn.runtime import denormals_flushed
from plait.notices import Diverged, Interrupted, Watch
from plait.randomness import Randomness, Stream, torch_generator
from plait.training.arithmetic import made_definite
from plait.training.batches import check_labels, num_steps, training_stream
from plait.training.budget import Budget, Caps, Steps
from plait.training.checkpoint import load_training, save_training
from plait.training.flops import step_flops
from plait.training.interrupts import interrupts_kept
from plait.training.optimiser import learning_rate, make_optimiser, warmup_steps
from plait.training.progress import Best, Progress
from plait.training.start import Start
from plait.training.unread import check_read, notes_on_unread
from plait.wording import differences, setting

CHECKPOINT_EVERY_S = 20.0
START_LABELS = (
    20_000  # actions whose mean a new model starts at: its error is below a hundredth of their spread
)
DIVERGED = 3.0  # times the loss of the untrained model
NAMED_USERS = 5  # of a batch, where it is named


@dataclass(frozen=True)
class Fitted:
    """A trained model, and how it got there."""

    model: GenerativeRecommender  # with the weights that are deployed
    weights: dict[Checkpoint, dict[str, torch.Tensor]]  # the best ones, of each checkpoint
    optim: Optim  # with the precision that was chosen
    progress: Progress
    epochs: float  # trained; a cap may end inside one
    rules: Rules


def train_model(
    dataset: Dataset,
    config: ModelConfig,
    optim: Optim,
    protocol: Protocol,
    folder: Path,
    report: Callable[[str], None] = print,
    device: str = "cpu",
    watch: Watch | None = None,
    begin: Callable[[], None] | None = None,
    arithmetic: Arithmetic | None = None,
    start: Start | None = None,
    interests: InterestSource | None = None,
) -> Fitted:
    """Trains one model. `folder` keeps its checkpoint and metrics.jsonl.

    Args:
        report: takes a line per validation. Before them it takes one per setting that this layout does not read, one
            where requests are read that the log does not name, and one per part of which answers can be no hit.
        watch: is called after every step. Like `report`, it may draw from any generator: training has its own.
        begin: is called once, when the settings were found to fit and the folder was made, before anything else is
            written to it. It is not called where training goes on from a checkpoint.
        arithmetic: what matrices are multiplied in; without it, what `optim.precision` says for this machine.
        start: whose weights to go on from, by a configuration for them; without it, they are drawn.
        interests: what a ranker that reads interests looks them up in.

    Raises:
        ValueError: the settings do not fit each other, the data or the checkpoint found in the folder. Or the layout
            predicts an action that no training event has, or nothing that chooses the epoch can change, or the data
            was damaged. Nothing was written then.
        Diverged: the loss is no longer a number, or has run away.
        Interrupted: SIGINT or SIGTERM came; says where training stands.
    """
    keep_freed_memory()
    settings = config.settings
    check_supported(
        config.parsed_layout, dataset.actions, settings.trunk, settings.exposure, dataset.conditions
    )
    arithmetic = arithmetic or _arithmetic(optim, config, device)
    optim, config = made_definite(optim, arithmetic), replace(config, arithmetic=arithmetic.precision)
    layout = config.parsed_layout
    plan = protocol.plan(layout, config.settings)
    check_read(config, protocol)
    dataset.check_content()
    check_labels(dataset, layout)
    parts: tuple[HeldOutPart, ...] = get_args(HeldOutPart)
    reaches = {
        part: Reach(dataset, layout, protocol, targets_of(dataset, part, plan, protocol)) for part in parts
    }
    rules = rules_of(reaches["validation"], config.settings)
    for rule in rules.values():
        check_can_choose(reaches["validation"], rule)
    notes: list[str] = []
    for part, reach in reaches.items():  # what the test lacks is told before the training, too
        notes += notes_on_reach(reach, part)
        if protocol.negatives is not None and audit(layout).can_retrieve:
            check_negatives(dataset, part, reach.targets, protocol)
    others = (
        note_on_rules(rules, reaches["validation"]),
        note_on_requests(dataset, config.settings, protocol, layout),
    )
    for line in [*notes, *filter(None, others), *notes_on_unread(config, protocol)]:
        report(line)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        denormals_flushed(),
        products_by(optim.precision),
    ):
        run = _Run(
            dataset,
            config,
            optim,
            protocol,
            rules,
            Caps(protocol),
            folder,
            report,
            device,
            watch,
            arithmetic,
            start,
            interests,
        )
        if not run.restore():
            run.start()
            if not _are_given(rules, protocol):
                run.selected()  # settings that the data cannot meet are found before the first step, not after an epoch
            folder.mkdir(parents=True, exist_ok=True)
            if begin:
                begin()
        run.to_its_end()
        run.model.load_state_dict(run.best_weights["deployed"])
        run.model.eval()
        return Fitted(run.model, run.best_weights, optim, run.progress, run.epochs, rules)


def train_steps(
    dataset: Dataset,
    config: ModelConfig,
    optim: Optim,
    protocol: Protocol,
    steps: Steps,
    folder: Path,
    report: Callable[[str], None] = print,
    device: str = "cpu",
    watch: Watch | None = None,
    begin: Callable[[], None] | None = None,
    arithmetic: Arithmetic | None = None,
    start: Start | None = None,
) -> Fitted:
    """Trains one model for a number of steps, without validation; else as `train_model`, whose arguments these are."""
    keep_freed_memory()
    arithmetic = arithmetic or _arithmetic(optim, config, device)
    optim, config = made_definite(optim, arithmetic), replace(config, arithmetic=arithmetic.precision)
    dataset.check_content()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        denormals_flushed(),
        products_by(optim.precision),
    ):
        run = _Run(
            dataset, config, optim, protocol, {}, steps, folder, report, device, watch, arithmetic, start
        )
        if not run.restore():
            run.start()
            folder.mkdir(parents=True, exist_ok=True)
            if begin:
                begin()
        run.to_its_end()
        run.model.eval()
        return Fitted(run.model, {"deployed": _copy(run.model)}, optim, run.progress, run.epochs, {})


def _are_given(rules: Rules, protocol: Protocol) -> bool:
    """Whether it is known without a look that validation gives the metrics: `rules_of` looked, or they always are."""
    chosen = protocol.selection
    is_always = protocol.select == Selection.AUTO and str(rules["deployed"]) == Selection.RETRIEVAL
    return chosen.is_each or is_always


class _Run:
    """The mutable state of one training, and its way to the disk and back."""

    def __init__(
        self,
        dataset: Dataset,
        config: ModelConfig,
        optim: Optim,
        protocol: Protocol,
        rules: Rules,
        budget: Budget,
        folder: Path,
        report: Callable[[str], None],
        device: str,
        watch: Watch | None,
        arithmetic: Arithmetic,
        start: Start | None,
        interests: InterestSource | None = None,
    ) -> None:
        self.budget, self.arithmetic, self.given = budget, arithmetic, start
        self.dataset, self.optim, self.protocol, self.rules = dataset, optim, protocol, rules
        self.folder, self.report, self.device, self.watch = folder, report, device, watch
        weights = torch_generator(protocol.seed, Stream.WEIGHTS)  # on the CPU: the same start on every device
        self.model = initialised(built(config), weights).to(device)
        _give_interests(self.model, interests)
        protocol.check_asks(self.model.plan)  # selection and test ask by the protocol, serving by the model
        self.randomness = Randomness.of(protocol.seed, device)
        draw_from(self.model, self.randomness.dropout)
        counts_V = torch.from_numpy(dataset.train_item_counts()).to(device)
        self.model.sampler = self.model.retrieval.make_sampler(counts_V, self.randomness.negatives)
        self.optimiser = make_optimiser(self.model, optim)
        self.progress = Progress(best=dict.fromkeys(rules, Best()))
        self.best_weights: dict[Checkpoint, dict[str, torch.Tensor]] = {}
        self.steps_per_epoch = num_steps(dataset, self._plan, optim.users_per_step, protocol)
        if not self.steps_per_epoch:
            why = (
                "no user has two training events, one to see and one to predict; prepare it with later cuts, or with "
                "users of at least four events"
            )
            if len(dataset.train_users()):
                sample = setting("protocol.sample", "user")
                why = f"no user has two requests in training, so no event has a history; use {sample}"
            raise ValueError(f"{dataset.folder}: {why}")
        asked = {
            "layout": config.layout,
            "model": config.settings,
            "optim": optim,
            "protocol": protocol,
            "data": dataset.manifest.content_hash,
            "actions": dataset.actions,
        }
        asked |= {"goes on from": start.sha256} if start else {}
        asked |= {"interests": interests.sha256} if interests else {}
        asked |= {"refit": budget} if isinstance(budget, Steps) else {}
        self.fingerprint = msgspec.to_builtins(asked)
        self.saved_at_s = time.monotonic()

    def start(self) -> None:
        """What a new model takes over from the data before its first step."""
        model = self.model
        if model.items is not None and model.items.features:
            model.items.describe(self.dataset.item_features, self.dataset.train_item_counts())
        if isinstance(model, TwoTower) and model.interests is not None:
            model.describe_items(model.interests)
        if model.conditions is not None:
            model.conditions.describe(model.config.conditions, self.dataset.condition_vectors())
        if model.item_bias is not None:
            model.item_bias.count(torch.from_numpy(self.dataset.train_item_counts()).to(self.device))
        label_MA, late_MF = self._sample_of_actions()
        if label_MA is not None and model.heads is not None:
            model.heads.start_at(label_MA, late_MF)
        if self.given is not None:
            self.given.into(model, self.dataset)
        self.best_weights = dict.fromkeys(self.rules, _copy(model))

    def _sample_of_actions(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What the first steps ask about actions; None where the layout asks for none."""
        labels, late, num_labels = [], [], 0
        for _, inputs in self._stream(epoch=0, first_step=0):
            for questions in inputs.questions:
                if questions.target.fact.field == "a":
                    labels.append(inputs.action_EA[questions.label_M])
                    late += [] if questions.late_MF is None else [questions.late_MF]
                    num_labels += len(questions.label_M)
            if not labels or num_labels >= START_LABELS:
                break
        return torch.cat(labels) if labels else None, torch.cat(late) if late else None

    @property
    def _plan(self) -> QuestionPlan:
        return self.protocol.plan(self.model.layout, self.model.config.settings)

    def _stream(self, epoch: int, first_step: int) -> Iterator[tuple[Int64[np.ndarray, " U"], Inputs]]:
        model = self.model
        return training_stream(
            self.dataset,
            self._plan,
            self.optim.users_per_step,
            self.protocol,
            epoch,
            first_step,
            self.device,
            model.late_statistics(),
        )

    def to_its_end(self) -> None:
        with interrupts_kept() as arrived:
            while not self.progress.why_stopped:
                self.epoch(arrived)
                self.obey(arrived)

    def epoch(self, arrived: Sequence[signal.Signals] = ()) -> None:
        """Trains the rest of the current epoch, or up to a cap; validates when it is time; decides whether to stop.

        Args:
            arrived: where it holds something, training stops after the step.
        """
        progress = self.progress
        self.model.train()
        for users_U, inputs in self._stream(progress.epoch, progress.step):
            if self._caps_reached():  # here, because a checkpoint may be of the step that reached it
                break
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            self._step(users_U, inputs)
            progress.spent.train_wall_s += time.perf_counter() - start_s
            progress.spent.train_cpu_s += time.process_time() - start_cpu_s
            if self.watch:
                self.watch(max(self._shares_spent().values()), progress.spent.tokens_per_s)
            self.obey(arrived)
            if time.monotonic() - self.saved_at_s > CHECKPOINT_EVERY_S:
                self.save()
        self._end_epoch()

    def _end_epoch(self) -> None:
        progress = self.progress
        caps = self._caps_reached()
        progress.epoch_loss /= progress.step
        progress.epoch_losses = {task: loss / progress.step for task, loss in progress.epoch_losses.items()}
        progress.epoch, progress.step = progress.epoch + 1, 0
        if self.rules and (caps or progress.epoch % self.protocol.validate_every == 0):
            self._validate()
        elif not self.rules:
            self.report(f"epoch {self.epochs:3.4g}  loss {progress.epoch_loss:.4f}{self._parts_of_loss()}")
        progress.epoch_loss, progress.epoch_losses = 0.0, {}
        if progress.stale >= self.protocol.patience:
            progress.why_stopped = f"no rise in {self.protocol.patience} validations"
        elif caps:
            progress.why_stopped = f"cap of {', '.join(caps)} reached"
        if progress.why_stopped:
            self.save()

    def obey(self, arrived: Sequence[signal.Signals]) -> None:
        """Saves and stops where a signal asked for it: between two steps."""
        if not arrived:
            return
        self.save()
        progress = self.progress
        raise Interrupted(
            f"{arrived[0].name}: training stopped in epoch {progress.epoch + 1} after {progress.step} of "
            f"{self.steps_per_epoch} steps",
            self.folder / CHECKPOINT,
        )

    def save(self) -> None:
        save_training(
            self.folder / CHECKPOINT,
            {
                "fingerprint": self.fingerprint,
                "arithmetic_because": self.arithmetic.because,
                "progress": msgspec.to_builtins(self.progress),
                "model": self.model.state_dict(),
                "best": self.best_weights,
                "optimiser": self.optimiser.state_dict(),
                "device": torch.device(self.device).type,
                "randomness": self.randomness.state(),
            },
        )
        self.saved_at_s = time.monotonic()

    def restore(self) -> bool:
        """Goes on from the folder's checkpoint, if there is one, which must be of these very settings and data."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return False
        state = load_training(path)
        _check_version(path, state)
        unlike = differences(state.get("fingerprint"), self.fingerprint)
        if unlike:
            raise ValueError(
                f"{path} is of a run with other settings or data:\n{unlike}\n"
                "Use another folder, or delete it to start over."
            )
        self._check_draws(path, state)
        self.progress = msgspec.convert(state["progress"], Progress)
        self.model.load_state_dict(state["model"])
        self.best_weights = state["best"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.randomness.restore(state["randomness"])
        self.report(f"resumed from epoch {self.progress.epoch}, step {self.progress.step}")
        return True

    def _check_draws(self, path: Path, state: Mapping[str, Any]) -> None:
        """Raises ValueError where the checkpoint's random draws cannot go on here."""
        device = torch.device(self.device).type
        if state["device"] != device:
            raise ValueError(
                f"{path} is of a training on {state['device']}, and this one is on {device}, whose generators draw "
                f"other numbers: go on there ({setting('device', state['device'])}), or delete it to start over."
            )

    def selected(self) -> tuple[dict[str, float], dict[Checkpoint, float]]:
        """The validation metrics, and for each checkpoint what is to rise."""
        with autocast(self.optim.precision, self.device):
            answers = answers_of(self.model, self.dataset, "validation", self.protocol, self.device)
        weights = self.model.config.settings.action_weights
        metrics = metric_values(answers, [name for name, weight in weights.items() if not weight])
        return metrics, {checkpoint: rule.value(metrics) for checkpoint, rule in self.rules.items()}

    def _step(self, users_U: Int64[np.ndarray, " U"], inputs: Inputs) -> None:
        progress, spent = self.progress, self.progress.spent
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.optim, spent.steps, self.max_steps)
        with autocast(self.optim.precision, self.device):
            losses = self.model.losses(inputs)
            loss = self.model.total(losses)
        value = loss.item()
        if not progress.untrained_loss:
            progress.untrained_loss = max(value, self._loss_of_knowing_nothing(losses))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.clip_norm)
        self._check(value, norm.item(), users_U)
        self.optimiser.step()
        if (
            not progress.step or progress.epoch_losses
        ):  # a checkpoint of before they were kept lacks the first steps'
            for task, part in self.model.weighted(losses).items():
                progress.epoch_losses[task] = progress.epoch_losses.get(task, 0.0) + part.item()
        progress.epoch_loss += value
        progress.step += 1
        spent.steps += 1
        spent.tokens += inputs.num_tokens
        spent.flops += step_flops(self.model, inputs)

    @property
    def max_steps(self) -> int:
        """Steps of the whole run, as far as they are known."""
        return self.budget.max_steps(self.progress, self.steps_per_epoch)

    @property
    def epochs(self) -> float:
        """Trained so far, with the share of the one that a cap ended."""
        return self.progress.spent.steps / self.steps_per_epoch

    def _shares_spent(self) -> dict[str, float]:
        return self.budget.shares_spent(self.progress, self.steps_per_epoch)

    def _caps_reached(self) -> list[str]:
        return [cap for cap, share in self._shares_spent().items() if share >= 1]

    def _loss_of_knowing_nothing(self, losses: Mapping[str, torch.Tensor]) -> float:
        """About what these tasks cost a model that knows nothing. Losses are counted so that each costs 1 (log 2 a
        binary action, log V the next item, which is more). A rare action costs less in most batches, and so may the
        first."""
        return float(self.model.total({task: torch.ones((), dtype=torch.float32) for task in losses}))

    def _check(self, loss: float, norm: float, users_U: Int64[np.ndarray, " U"]) -> None:
        progress = self.progress
        users = self.dataset.user_ids().gather(users_U[:NAMED_USERS]).to_list()
        where = (
            f"epoch {progress.epoch + 1}, step {progress.step + 1} of {self.steps_per_epoch}, "
            f"users {', '.join(map(repr, users))}{', ...' if len(users_U) > NAMED_USERS else ''}"
        )
        advice = (
            f"Lower {setting('optim.learning_rate')}, lower {setting('optim.clip_norm')}, or train with "
            f"{setting('optim.precision', 'fp32')}."
        )
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"{where}: loss {loss}, gradient norm {norm}. {advice}")
        if loss > DIVERGED * progress.untrained_loss:
            raise Diverged(
                f"{where}: loss {loss:.3g} is over {DIVERGED:g} times that of the untrained model "
                f"({progress.untrained_loss:.3g}). {advice}"
            )

    def _validate(self) -> None:
        progress, spent = self.progress, self.progress.spent
        metrics, values = self.selected()
        tokens_per_s = self._tokens_per_s()
        risen = [one for one, value in values.items() if value > progress.best[one].value]
        if risen:
            progress.stale = 0
            progress.best |= {one: Best(values[one], self.epochs) for one in risen}
            self.best_weights |= dict.fromkeys(risen, _copy(self.model))
        elif spent.steps >= warmup_steps(self.optim, self.max_steps):
            progress.stale += 1  # before, too small a learning rate is no reason to give up
        row = {"epoch": self.epochs, "loss": progress.epoch_loss, **vars(spent), **metrics}
        row = {name: float(number) for name, number in row.items()}  # as a checkpoint gives them back
        progress.curve.append(row)
        lines = "".join(json.dumps(row) + "\n" for row in progress.curve)
        write_listed(self.folder / METRICS, lambda aside: aside.write_text(lines))
        chosen_by = "  ".join(
            f"{rule} {abs(values[one]):.4f}{self._standing(one)}" for one, rule in self.rules.items()
        )
        self.report(
            f"epoch {self.epochs:3.4g}  loss {progress.epoch_loss:.4f}{self._parts_of_loss()}  "
            f"{chosen_by}{self._patience()}  {tokens_per_s:,.0f} tokens/s"
        )

    def _tokens_per_s(self) -> float:
        """Since the validation before."""
        spent, before = self.progress.spent, self.progress.curve[-1] if self.progress.curve else {}
        seconds = spent.train_wall_s - before.get("train_wall_s", 0.0)
        return (spent.tokens - before.get("tokens", 0.0)) / seconds

    def _parts_of_loss(self) -> str:
        parts = self.progress.epoch_losses
        return (
            f" ({', '.join(f'{task} {loss:.4f}' for task, loss in parts.items())})" if len(parts) > 1 else ""
        )

    def _standing(self, checkpoint: Checkpoint) -> str:
        """How this validation stands to the best one of a checkpoint's rule."""
        best = self.progress.best[checkpoint]
        return " best" if best.epoch == self.epochs else f", best {abs(best.value):.4f} in {best.epoch:.4g}"

    def _patience(self) -> str:
        """How soon training gives up."""
        stale = self.progress.stale
        return f", no rise in {stale} of {self.protocol.patience}" if stale else ""


def _arithmetic(optim: Optim, config: ModelConfig, device: str) -> Arithmetic:
    settings = config.settings
    return arithmetic_of(optim.precision, settings.trunk.dim, device, settings.ranker.is_on)


def _give_interests(model: GenerativeRecommender, interests: InterestSource | None) -> None:
    """Raises ValueError where a model reads interests and there are none, or the other way round."""
    reads_them = isinstance(model, ReadsInterests) and model.reads_interests
    if isinstance(model, TwoTower):
        reads_them |= model.config.settings.two_tower.interests.of_item
    if reads_them != (interests is not None):
        raise ValueError(
            "the model reads interests, and none are given: train it by `plait rank train` with their files"
            if reads_them
            else "interests are given, and the model reads none"
        )
    if isinstance(model, ReadsInterests):
        model.interests = interests


def _check_version(path: Path, state: Mapping[str, Any]) -> None:
    """Raises ValueError where the checkpoint is of a Plait that drew from other generators, or kept one best epoch."""
    if "randomness" not in state or not isinstance(state["progress"]["best"], dict):
        raise ValueError(
            f"{path} is of an earlier version of Plait, which trained otherwise: finish it with that version, or "
            "delete it to start over."
        )


def _copy(model: GenerativeRecommender) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
