"""One run from data to test metrics, in a folder that outlives a kill.

RUN/settings.json   what was asked for
RUN/metrics.jsonl   one row per validation
RUN/checkpoint.pt   training state, while it is not finished
RUN/model/          the best weights, and what they need to read histories
RUN/answers.npz     the model's answers on the test events
RUN/result.json     written last: a run that has it is finished
RUN/.lock           locked by the process that trains there, until it ends in whatever way
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import msgspec
import numpy as np

from plait.data import Dataset
from plait.data.history import Columns, save_vocabulary
from plait.data.storage.locks import kept_alone
from plait.data.storage.whole_folders import MANIFEST
from plait.evaluation.answers import Answers, answers_of
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.provenance import Provenance, provenance
from plait.evaluation.settings import Optim, Protocol
from plait.files import check, is_listed, write_listed, write_whole
from plait.models.generative import ModelConfig, ModelSettings
from plait.models.saving import save_model
from plait.nn.device import resolve_device
from plait.nn.precision import autocast
from plait.nn.runtime import denormals_flushed
from plait.schema import Action
from plait.training.checkpoint import differences
from plait.training.loop import CHECKPOINT, METRICS, Fitted, Watch, fit
from plait.training.memory import check_fits_memory, forget_peak_memory, peak_memory_mb

Kind = TypeVar("Kind")

SETTINGS, ANSWERS, RESULT, MODEL = "settings.json", "answers.npz", "result.json", "model"
LOCK = ".lock"
ANEW = "train it again in another folder, or delete this one"


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
    epochs: float  # trained; a cap may end inside one
    best_epoch: float
    why_stopped: str
    train_tokens: int
    train_flops: float
    train_wall_s: float  # optimiser steps only
    wall_s: float  # with validation, test and writing, since this process took the run up
    peak_memory_mb: float | None  # main memory of the whole process, since then; None where nothing tells it
    curve: list[dict[str, float]]
    protocol: str = ""  # in one line, with the seed; "" in results that were written before it was recorded
    provenance: Provenance = Provenance()  # of the process that finished the run


def run(
    dataset: Dataset,
    settings: RunSettings,
    folder: Path,
    report: Callable[[str], None] = print,
    device: str = "auto",
    watch: Watch | None = None,
) -> Result:
    """Trains and tests, or goes on where the folder stands; a finished run is only read.

    Raises:
        ValueError: the folder holds a run of other settings or data, or one that another process trains just now, or
            is none for runs; or the settings, the data and the device do not fit each other. Nothing was written then.
        Diverged, KeyboardInterrupt: as `plait.training.loop.fit`.
    """
    device = resolve_device(device)
    check_fits_memory(config_of(dataset, settings))
    if (folder / RESULT).exists():
        return _finished(dataset, settings, folder)
    check_takes_runs(folder)
    busy = f"{folder}: another process trains there; let it end or stop it, or use another folder"
    with kept_alone(folder / LOCK, busy) as alone:
        return _train(dataset, settings, folder, report, device, watch, alone)


@denormals_flushed()
def _train(
    dataset: Dataset,
    settings: RunSettings,
    folder: Path,
    report: Callable[[str], None],
    device: str,
    watch: Watch | None,
    alone: Callable[[], None],
) -> Result:
    _check_begun(folder)
    start_s, origin, has_own_peak = time.perf_counter(), provenance(device), forget_peak_memory()
    if not (folder / CHECKPOINT).exists():  # of a checkpoint, `fit` knows more: the data that it is of
        _check_settings(folder, settings)

    def begin() -> None:
        alone()
        _check_settings(folder, settings)  # once more: another process may have begun meanwhile
        _write_listed_json(folder / SETTINGS, settings)

    config = config_of(dataset, settings)
    fitted = fit(dataset, config, settings.optim, settings.protocol, folder, report, device, watch, begin)
    with autocast(fitted.optim.precision, device):  # as validation ran
        answers = answers_of(fitted.model, dataset, "test", settings.protocol, device)
    save_answers(folder / ANSWERS, answers)
    (folder / MODEL).mkdir(exist_ok=True)
    save_model(fitted.model, folder / MODEL)
    save_vocabulary(folder / MODEL, dataset.items, columns_of(dataset))
    result = _result(
        dataset,
        settings,
        fitted,
        device,
        origin,
        wall_s=time.perf_counter() - start_s,
        peak_memory_mb=peak_memory_mb() if has_own_peak else None,
    )
    _write_listed_json(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def _result(
    dataset: Dataset,
    settings: RunSettings,
    fitted: Fitted,
    device: str,
    origin: Provenance,
    *,
    wall_s: float,
    peak_memory_mb: float | None,
) -> Result:
    progress, protocol = fitted.progress, settings.protocol
    return Result(
        dataset=dataset.manifest.name,
        dataset_folder=str(dataset.folder.absolute()),
        content_hash=dataset.manifest.content_hash,
        settings=settings,
        selection=str(fitted.selection),
        actions=dataset.actions,
        num_parameters=sum(p.numel() for p in fitted.model.parameters()),
        epochs=fitted.epochs,
        best_epoch=progress.best_epoch,
        why_stopped=progress.why_stopped,
        train_tokens=progress.spent.tokens,
        train_flops=progress.spent.flops,
        train_wall_s=progress.spent.train_wall_s,
        wall_s=wall_s,
        peak_memory_mb=peak_memory_mb,
        curve=progress.curve,
        protocol=protocol_line(
            dataset, settings.model, settings.optim, protocol, [protocol.seed], device, fitted.model.layout
        ),
        provenance=origin,
    )


def check_takes_runs(folder: Path) -> None:
    """Raises ValueError where a folder cannot be made, or is a prepared dataset's."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file; name a folder (--out), which is made where it is missing")
    if (folder / MANIFEST).exists():
        raise ValueError(
            f"{folder} holds a prepared dataset; name another folder for what is trained (--out)"
        )


def columns_of(dataset: Dataset) -> Columns:
    """What the dataset's log called its columns."""
    log = dataset.manifest.settings
    return Columns(
        user=log.user,
        item=log.item,
        time=log.time,
        time_unit=log.time_unit,
        time_format=log.time_format,
        time_offset=log.time_offset,
        user_ids="numbers" if dataset.user_ids().dtype.is_integer() else "text",
        order=log.order,
        request=log.request,
        context=dataset.context,
        user_features=dataset.manifest.user_features,
        text=log.text,
    )


def write_json(path: Path, value: object) -> None:
    write_whole(path, lambda aside: aside.write_bytes(_json(value)))


def _write_listed_json(path: Path, value: object) -> None:
    write_listed(path, lambda aside: aside.write_bytes(_json(value)))


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value))


def save_answers(path: Path, answers: Answers) -> None:
    """Arrays only, so that reading them back runs no code."""
    arrays = {"user_Q": answers.user_Q, "item_Q": answers.item_Q, "label_QA": answers.label_QA}
    if answers.rank_Q is not None:
        arrays["rank_Q"] = answers.rank_Q
    arrays |= {f"predicted:{name}": value for name, value in answers.predicted.items()}

    def write(aside: Path) -> None:
        with open(aside, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_listed(path, write)


def config_of(dataset: Dataset, settings: RunSettings) -> ModelConfig:
    """What shapes the weights of a run, and how they are asked.

    Raises:
        ValueError: the model reads times, and the log has none.
    """
    if dataset.manifest.settings.time is None and settings.model.trunk.reads_time:
        raise ValueError(
            f"positions = '{settings.model.trunk.positions}' read when events happened, and the log has no times, only "
            "the order of its rows; use positions that count events, such as learned or rope"
        )
    return ModelConfig(
        layout=settings.layout,
        settings=settings.model,
        num_items=dataset.num_items,
        actions=dataset.actions,
        max_events=settings.protocol.max_events,
        item_features=dataset.manifest.item_features,
        user_features=dataset.manifest.user_features,
        context=dataset.context,
        asked_as_candidates=settings.protocol.supervise == "candidates",
    )


def load_result(folder: Path) -> Result:
    """Raises ValueError where the folder holds no finished run, or one of another version of Plait."""
    path = folder / RESULT
    if not path.is_file():
        raise ValueError(f"{folder} holds no finished run: it has no {RESULT}; train it, or let it finish")
    check(folder, ANEW, RESULT, SETTINGS, METRICS)
    return _read(path, Result)


def load_answers(folder: Path, actions: tuple[Action, ...]) -> Answers:
    """The answers of a finished run, for the actions of its data. Raises ValueError where they are not whole."""
    path = folder / ANSWERS
    check(folder, ANEW, ANSWERS)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = dict(found)
        return Answers(
            user_Q=arrays.pop("user_Q"),
            item_Q=arrays.pop("item_Q"),
            rank_Q=arrays.pop("rank_Q", None),
            label_QA=arrays.pop("label_QA"),
            predicted={name.removeprefix("predicted:"): answer for name, answer in arrays.items()},
            loss={},
            actions=actions,
        )
    except (FileNotFoundError, EOFError, KeyError, RuntimeError, TypeError, ValueError, BadZipFile) as error:
        raise _damaged(path, error) from error


def _finished(dataset: Dataset, settings: RunSettings, folder: Path) -> Result:
    result = load_result(folder)
    _check_same(folder, "a finished run of other settings", result.settings, settings)
    of_run = {"content_hash": result.content_hash, "actions": result.actions}
    asked = {"content_hash": dataset.manifest.content_hash, "actions": dataset.actions}
    _check_same(folder, "a finished run of other data", of_run, asked)
    return result


def _check_begun(folder: Path) -> None:
    """Raises ValueError where files of a run that was begun there are damaged, or are gone that a kill leaves."""
    is_going = (folder / CHECKPOINT).exists()
    if not is_going and is_listed(folder / RESULT):  # a checkpoint goes only after the result was there
        check(folder, ANEW, RESULT)
    if is_going or (folder / SETTINGS).exists():
        check(folder, ANEW, SETTINGS)
    if (folder / METRICS).exists():
        check(folder, f"delete {folder / METRICS}: it is written again from the checkpoint", METRICS)


def _check_settings(folder: Path, settings: RunSettings) -> None:
    """A run that was begun there, and has no checkpoint yet, must be this one."""
    if (folder / SETTINGS).exists():
        begun = _read(folder / SETTINGS, RunSettings)
        _check_same(folder, "the beginning of a run of other settings", begun, settings)


def _check_same(folder: Path, what: str, found: object, asked: object) -> None:
    unlike = differences(msgspec.to_builtins(found), msgspec.to_builtins(asked))
    if unlike:
        raise ValueError(f"{folder} holds {what}:\n{unlike}\nUse another folder, or delete it.")


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged, or of another version of Plait ({error}); {ANEW}")
