"""One run from data to test metrics, in a folder that outlives a kill.

RUN/settings.json   what was asked for
RUN/metrics.jsonl   one row per validation
RUN/checkpoint.pt   training state, while it is not finished
RUN/model/          the best weights, and what they need to read histories
RUN/answers.npz     the model's answers on the test events
RUN/result.json     written last: a run that has it is finished
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from plait.data import Dataset
from plait.data.history import Columns, save_vocabulary
from plait.models.generative import ModelConfig, ModelSettings
from plait.models.saving import save_model
from plait.schema import Action
from plait.training.checkpoint import write_whole
from plait.training.evaluate import Answers, answers_of
from plait.training.loop import CHECKPOINT, Watch, fit
from plait.training.settings import Optim, Protocol

SETTINGS, ANSWERS, RESULT, MODEL = "settings.json", "answers.npz", "result.json", "model"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that decides a run apart from the dataset."""

    layout: str  # in notation
    model: ModelSettings = ModelSettings()
    optim: Optim = Optim()
    protocol: Protocol = Protocol()


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished run cost, and how it trained. Its metrics are those of its answers."""

    dataset: str  # its name
    dataset_folder: str
    content_hash: str
    settings: RunSettings
    selection: str
    actions: tuple[Action, ...]  # of the data, as fitted
    num_parameters: int
    epochs: int
    best_epoch: int
    why_stopped: str
    train_tokens: int
    train_flops: float
    train_wall_s: float  # optimiser steps only
    wall_s: float  # with validation, test and writing, since this process took the run up
    peak_memory_mb: float  # of the process
    curve: list[dict[str, float]]


def run(
    dataset: Dataset,
    settings: RunSettings,
    folder: Path,
    report: Callable[[str], None] = print,
    device: str = "cpu",
    watch: Watch | None = None,
) -> Result:
    """Trains and tests, or goes on where the folder stands; a finished run is only read.

    Raises:
        ValueError: the folder holds a run of other settings or data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RESULT).exists():
        return _finished(dataset, settings, folder)
    if not (folder / CHECKPOINT).exists():  # one of other settings is refused, and its folder left alone
        write_json(folder / SETTINGS, settings)
    start_s = time.perf_counter()
    config = config_of(dataset, settings)
    fitted = fit(dataset, config, settings.optim, settings.protocol, folder, report, device, watch)
    save_answers(folder / ANSWERS, answers_of(fitted.model, dataset, "test", settings.protocol, device))
    (folder / MODEL).mkdir(exist_ok=True)
    save_model(fitted.model, folder / MODEL)
    save_vocabulary(folder / MODEL, dataset.item_ids(), columns_of(dataset))
    progress = fitted.progress
    result = Result(
        dataset=dataset.manifest.name,
        dataset_folder=str(dataset.folder.absolute()),
        content_hash=dataset.manifest.content_hash,
        settings=settings,
        selection=str(fitted.selection),
        actions=dataset.actions,
        num_parameters=sum(p.numel() for p in fitted.model.parameters()),
        epochs=progress.epoch,
        best_epoch=progress.best_epoch,
        why_stopped=progress.why_stopped,
        train_tokens=progress.spent.tokens,
        train_flops=progress.spent.flops,
        train_wall_s=progress.spent.train_wall_s,
        wall_s=time.perf_counter() - start_s,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        curve=progress.curve,
    )
    write_json(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def columns_of(dataset: Dataset) -> Columns:
    """What the dataset's log called its columns."""
    log = dataset.manifest.settings
    return Columns(user=log.user, item=log.item, time=log.time, time_unit=log.time_unit, order=log.order)


def write_json(path: Path, value: object) -> None:
    text = msgspec.json.format(msgspec.json.encode(value))
    write_whole(path, lambda aside: aside.write_bytes(text))


def save_answers(path: Path, answers: Answers) -> None:
    """Arrays only, so that reading them back runs no code."""
    arrays = {"user_Q": answers.user_Q, "item_Q": answers.item_Q, "label_QA": answers.label_QA}
    if answers.rank_Q is not None:
        arrays["rank_Q"] = answers.rank_Q
    arrays |= {f"predicted:{name}": value for name, value in answers.predicted.items()}

    def write(aside: Path) -> None:
        with open(aside, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_whole(path, write)


def config_of(dataset: Dataset, settings: RunSettings) -> ModelConfig:
    """What shapes the weights of a run."""
    return ModelConfig(
        layout=settings.layout,
        settings=settings.model,
        num_items=dataset.num_items,
        actions=dataset.actions,
        max_events=settings.protocol.max_events,
    )


def load_result(folder: Path) -> Result:
    """Raises ValueError where the folder holds no finished run."""
    path = folder / RESULT
    if not path.is_file():
        raise ValueError(f"{folder} holds no finished run: it has no {RESULT}; train it, or let it finish")
    return msgspec.json.decode(path.read_bytes(), type=Result)


def load_answers(folder: Path, actions: tuple[Action, ...]) -> Answers:
    """The answers of a finished run, for the actions of its data."""
    with np.load(folder / ANSWERS, allow_pickle=False) as arrays:
        return Answers(
            user_Q=arrays["user_Q"],
            item_Q=arrays["item_Q"],
            rank_Q=arrays.get("rank_Q"),
            predicted={
                name.removeprefix("predicted:"): arrays[name]
                for name in arrays
                if name.startswith("predicted:")
            },
            label_QA=arrays["label_QA"],
            loss={},
            actions=actions,
        )


def _finished(dataset: Dataset, settings: RunSettings, folder: Path) -> Result:
    result = load_result(folder)
    for what, found, asked in (
        ("settings", result.settings, settings),
        ("data", result.content_hash, dataset.manifest.content_hash),
    ):
        if found != asked:
            raise ValueError(
                f"{folder} holds a finished run of other {what}:\n  found {found}\n  asked {asked}\n"
                "Use another folder, or delete it."
            )
    return result
