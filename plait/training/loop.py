"""One training loop for every layout.

    fit(dataset, model_config, optim, protocol, folder)

trains until validation has not risen for `protocol.patience` validations or the cap is reached, keeps the best
weights, and can be killed at any time: started again it goes on from its last checkpoint to the same losses,
bit for bit.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from jaxtyping import Int64

from plait.data import Dataset
from plait.layouts import Layout, audit
from plait.layouts.cost import BACKWARD, trunk_flops
from plait.models.generative import GenerativeRecommender, ModelConfig
from plait.models.inputs import Inputs
from plait.nn.runtime import multiplies_bf16_faster, tune_process
from plait.training.batches import training_stream, users_of_step
from plait.training.checkpoint import load_state, save_state, write_whole
from plait.training.evaluate import answers_of, values_of
from plait.training.optimiser import learning_rate, make_optimiser
from plait.training.selection import Selection
from plait.training.settings import Optim, Precision, Protocol

CHECKPOINT_EVERY_S = 20.0
DIVERGED = 3.0  # times the largest loss of the first steps
FIRST_STEPS = 10
CHECKPOINT, METRICS = "checkpoint.pt", "metrics.jsonl"  # files of a run's folder


Watch = Callable[[float, float], None]  # called after every step: share of the cap spent, tokens per second


class Diverged(ArithmeticError):
    """Training went wrong in a way that more steps will not mend. The message names the batch."""


@dataclass
class Spent:
    """What training has cost so far. FLOPs count the trunk and the item head, forward and backward."""

    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    train_wall_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.train_wall_s


@dataclass
class Progress:
    """Where a run stands: everything of a checkpoint that is not a tensor of the model or the optimiser."""

    epoch: int = 0  # epochs finished
    step: int = 0  # steps of the current epoch finished
    epoch_loss: float = 0.0  # sum over those steps
    first_losses: list[float] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    curve: list[dict[str, float]] = field(default_factory=list)  # one row per validation
    best: float = -math.inf
    best_epoch: int = 0
    stale: int = 0  # validations since the best
    why_stopped: str = ""


@dataclass(frozen=True)
class Fitted:
    """A trained model, with its best weights, and how it got there."""

    model: GenerativeRecommender
    progress: Progress
    selection: Selection


def fit(
    dataset: Dataset,
    config: ModelConfig,
    optim: Optim,
    protocol: Protocol,
    folder: Path,
    report: Callable[[str], None] = print,
    device: str = "cpu",
    watch: Watch | None = None,
) -> Fitted:
    """Trains one model. `folder` keeps its checkpoint and metrics.jsonl; it is made when missing.

    Args:
        report: takes a line per validation.
        watch: is called after every step.

    Raises:
        ValueError: the settings do not fit each other, the data or the checkpoint found in the folder.
        Diverged: the loss is no longer a number, or has run away.
    """
    tune_process()
    optim = replace(optim, precision=resolve_precision(optim.precision, device))
    layout = Layout.parse(config.layout, allow_leaks=config.settings.allow_leaks)
    selection = Selection.parse(protocol.select).resolve(audit(layout).can_retrieve)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(dataset, config, optim, protocol, selection, folder, report, device, watch)
    if not run.restore() and (protocol.select != Selection.AUTO or protocol.negatives):
        run.selected()  # settings that the data cannot meet are found before the first step, not after an epoch
    while not run.progress.why_stopped:
        run.epoch()
    run.model.load_state_dict(run.best_weights)
    run.model.eval()
    return Fitted(run.model, run.progress, selection)


class _Run:
    """The mutable state of one training, and its way to the disk and back."""

    def __init__(
        self,
        dataset: Dataset,
        config: ModelConfig,
        optim: Optim,
        protocol: Protocol,
        selection: Selection,
        folder: Path,
        report: Callable[[str], None],
        device: str,
        watch: Watch | None,
    ) -> None:
        torch.manual_seed(protocol.seed)
        self.dataset, self.optim, self.protocol, self.selection = dataset, optim, protocol, selection
        self.folder, self.report, self.device, self.watch = folder, report, device, watch
        self.model = GenerativeRecommender(config).to(device)
        counts_V = torch.from_numpy(dataset.train_item_counts()).to(device)
        self.model.sampler = self.model.retrieval.make_sampler(counts_V)
        self.optimiser = make_optimiser(self.model, optim)
        self.progress = Progress()
        self.best_weights = _copy(self.model)
        self.steps_per_epoch = len(users_of_step(dataset, optim.users_per_step, protocol.seed, 0))
        if not self.steps_per_epoch:
            raise ValueError(
                f"{dataset.folder}: no user has two training events, one to see and one to predict; prepare it with "
                "later cuts, or with users of at least four events"
            )
        self.fingerprint = json.dumps(
            msgspec.to_builtins([config, optim, protocol, dataset.manifest.content_hash]), sort_keys=True
        )
        self.saved_at_s = time.monotonic()

    def epoch(self) -> None:
        """Trains the rest of the current epoch, validates when it is time, and decides whether to stop."""
        progress = self.progress
        stream = training_stream(
            self.dataset,
            self.model.layout,
            self.optim.users_per_step,
            self.protocol,
            progress.epoch,
            progress.step,
            self.device,
        )
        self.model.train()
        for users_U, inputs in stream:
            start_s = time.perf_counter()
            self._step(users_U, inputs)
            progress.spent.train_wall_s += time.perf_counter() - start_s
            if self.watch:
                self.watch(self._share_spent(), progress.spent.tokens_per_s)
            if time.monotonic() - self.saved_at_s > CHECKPOINT_EVERY_S:
                self.save()
        progress.epoch, progress.step = progress.epoch + 1, 0
        capped = self._share_spent() >= 1
        if capped or progress.epoch % self.protocol.validate_every == 0:
            self._validate()
        progress.epoch_loss = 0.0
        if progress.stale >= self.protocol.patience:
            progress.why_stopped = f"no rise in {self.protocol.patience} validations"
        elif capped:
            progress.why_stopped = f"cap of {self.protocol.cap} reached"
        if progress.why_stopped:
            self.save()

    def save(self) -> None:
        save_state(
            self.folder / CHECKPOINT,
            {
                "fingerprint": self.fingerprint,
                "progress": msgspec.to_builtins(self.progress),
                "model": self.model.state_dict(),
                "best": self.best_weights,
                "optimiser": self.optimiser.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
        )
        self.saved_at_s = time.monotonic()

    def restore(self) -> bool:
        """Goes on from the folder's checkpoint, if there is one, which must be of these very settings and data."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return False
        state = load_state(path)
        if state.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"{path} is of a run with other settings or data. Use another folder, or delete it to start over."
            )
        self.progress = msgspec.convert(state["progress"], Progress)
        self.model.load_state_dict(state["model"])
        self.best_weights = state["best"]
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.report(f"resumed from epoch {self.progress.epoch}, step {self.progress.step}")
        return True

    def selected(self) -> tuple[dict[str, float], float]:
        """The validation metrics, and the one that is to rise."""
        with autocast(self.optim.precision, self.device):
            answers = answers_of(self.model, self.dataset, "validation", self.protocol, self.device)
        metrics = values_of(answers)
        return metrics, self.selection.value(metrics)

    def _step(self, users_U: Int64[np.ndarray, "U"], inputs: Inputs) -> None:
        progress, spent = self.progress, self.progress.spent
        total_steps = self.steps_per_epoch * self.protocol.max_epochs
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.optim, spent.steps, total_steps)
        with autocast(self.optim.precision, self.device):
            loss = self.model.total(self.model.losses(inputs))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.clip_norm)
        self._check(loss.item(), norm.item(), users_U)
        self.optimiser.step()
        progress.epoch_loss += loss.item()
        progress.step += 1
        spent.steps += 1
        spent.tokens += inputs.num_tokens
        spent.flops += step_flops(self.model, inputs)

    def _share_spent(self) -> float:
        """Of the cap that is nearest: at 1 the run ends."""
        progress, spent, protocol = self.progress, self.progress.spent, self.protocol
        epochs = progress.epoch + progress.step / self.steps_per_epoch
        caps = (
            (epochs, protocol.max_epochs),
            (spent.tokens, protocol.max_tokens),
            (spent.flops, protocol.max_flops),
        )
        return max(amount / cap for amount, cap in caps if cap is not None)

    def _check(self, loss: float, norm: float, users_U: Int64[np.ndarray, "U"]) -> None:
        progress = self.progress
        where = (
            f"epoch {progress.epoch + 1}, step {progress.step + 1} of {self.steps_per_epoch}, "
            f"dense users {users_U[:5].tolist()}{'...' if len(users_U) > 5 else ''}"
        )
        advice = "Lower optim.learning_rate, lower optim.clip_norm, or train with optim.precision = 'fp32'."
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"{where}: loss {loss}, gradient norm {norm}. {advice}")
        if len(progress.first_losses) < FIRST_STEPS:
            progress.first_losses.append(loss)
        elif loss > DIVERGED * max(progress.first_losses):
            raise Diverged(
                f"{where}: loss {loss:.3g} is over {DIVERGED:g} times the largest of the first {FIRST_STEPS} steps "
                f"({max(progress.first_losses):.3g}). {advice}"
            )

    def _validate(self) -> None:
        progress, spent = self.progress, self.progress.spent
        metrics, value = self.selected()
        if value > progress.best:
            progress.best, progress.best_epoch, progress.stale = value, progress.epoch, 0
            self.best_weights = _copy(self.model)
        else:
            progress.stale += 1
        loss = progress.epoch_loss / self.steps_per_epoch
        row = {"epoch": progress.epoch, "loss": loss, **vars(spent), **metrics}
        row = {name: float(number) for name, number in row.items()}  # as a checkpoint gives them back
        progress.curve.append(row)
        lines = "".join(json.dumps(row) + "\n" for row in progress.curve)
        write_whole(self.folder / METRICS, lambda aside: aside.write_text(lines))
        self.report(
            f"epoch {progress.epoch:3d}  loss {loss:.4f}  {self.selection} {abs(value):.4f}"
            f"{' best' if progress.stale == 0 else ''}  {spent.tokens_per_s:,.0f} tokens/s"
        )


def step_flops(model: GenerativeRecommender, inputs: Inputs) -> float:
    """FLOPs of one training step: the trunk by the LAC paper's formula, and the item head's products."""
    length_U = torch.bincount(inputs.segments.segment_RL.flatten() + 1)[1:].double()
    trunk = model.config.settings.trunk
    forward = trunk_flops(inputs.num_tokens, float((length_U**2).sum()) / 2, trunk.dim, trunk.num_layers)
    asked = sum(len(asked.cell_M) for asked in inputs.asked if asked.target.fact.field == "i")
    num_scored = model.retrieval.num_scored(model.config.num_items, asked)
    forward += 2 * asked * trunk.dim * num_scored
    return (1 + BACKWARD) * forward


def resolve_precision(precision: Precision, device: str) -> Precision:
    """`auto` made definite for this machine."""
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16_faster(device) else "fp32"


def autocast(precision: str, device: str) -> torch.autocast:
    """bf16 matrix products over fp32 weights, or nothing."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def _copy(model: GenerativeRecommender) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
