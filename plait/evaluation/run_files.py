"""The folder of a run, as whoever asks about it reads it.

RUN/settings.json   what was asked for
RUN/metrics.jsonl   one row per validation
RUN/checkpoint.pt   training state, while it is not finished
RUN/model/          the best weights, and what they need to read histories
RUN/answers.npz     the model's answers on the test events
RUN/answers_without_counts.npz
                    those that it would give without its counts, where it has some
RUN/answers_counted_until_test.npz
                    those that it would give with counts of the validation's rows, too, where the data is cut in time
RUN/model-actions/, RUN/answers-actions.npz
                    the same of the best checkpoint for actions, where the layout retrieves, too; model-retrieval/
                    under protocol.deploy = actions
RUN/result.json     written last: a run that has it is finished
RUN/.lock           locked by the process that trains there, until it ends in whatever way
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, assert_never
from zipfile import BadZipFile

import msgspec
import numpy as np

from plait.evaluation.answers import Answers
from plait.evaluation.checkpoints import Checkpoint
from plait.evaluation.provenance import Provenance
from plait.evaluation.settings import Optim, Protocol
from plait.files import check_hashes, write_listed
from plait.layouts import Layout
from plait.metrics.retrieval import among_others
from plait.metrics.table import LISTS, Lists, Task
from plait.models.generative import ModelSettings
from plait.schema import Action

Kind = TypeVar("Kind")

SETTINGS, ANSWERS, RESULT, MODEL = "settings.json", "answers.npz", "result.json", "model"
CHECKPOINT, METRICS = "checkpoint.pt", "metrics.jsonl"
WITHOUT_COUNTS = "answers_without_counts.npz"
COUNTED_UNTIL_TEST = "answers_counted_until_test.npz"
ANEW = "train it again in another folder, or delete this one"


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything that decides a run apart from the dataset."""

    layout: str  # in notation
    model: ModelSettings = ModelSettings()
    optim: Optim = Optim()
    protocol: Protocol = Protocol()
    goes_on_from: str = ""  # sha256 of the weights that it goes on from; "" where they are drawn
    interests: str = ""  # of the files that a ranker's interests come from; "" where it reads none

    @cached_property
    def parsed_layout(self) -> Layout:
        return Layout.parse(self.layout, allow_leaks=self.model.allow_leaks)


@dataclass(frozen=True, kw_only=True)
class OtherCheckpoint:
    """The checkpoint that lies beside what is deployed."""

    best_for: Task
    selection: str
    best_epoch: float


@dataclass(frozen=True, kw_only=True)
class Refit:
    """What was trained once more, on all rows: its steps, and its evaluation, are those of a run's checkpoint."""

    run: str
    checkpoint: Checkpoint
    steps: int

    def __str__(self) -> str:
        return f"the model of {Path(self.run) / of_checkpoint(MODEL, self.checkpoint)}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished run cost, and how it trained. Its metrics are those of its answers."""

    dataset: str  # its name
    dataset_folder: str
    content_hash: str
    settings: RunSettings
    selection: str  # of what is deployed, as is best_epoch
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
    train_cpu_s: float | None = None  # of all threads during the steps; None where it was not yet recorded
    protocol: str = ""  # in one line, with the seed; "" in results that were written before it was recorded
    provenance: Provenance = Provenance()  # of the process that finished the run
    beside: OtherCheckpoint | None = None
    refit: Refit | None = None  # where no row was held out; its answers are then those of another model

    @property
    def measured_beside(self) -> Task | None:
        """The task that is measured on the checkpoint beside the deployed one."""
        match self.settings.protocol.judge:
            case "each":
                return self.beside.best_for if self.beside else None
            case "deployed":
                return None
            case never:
                assert_never(never)

    def measured(self, task: Task) -> "OtherCheckpoint | Result":
        """By what the checkpoint was chosen that a task is measured on, and when it was best."""
        return self.beside if self.beside and self.measured_beside == task else self


def of_checkpoint(name: str, checkpoint: Checkpoint) -> str:
    """The name of a checkpoint's file or folder.

    >>> of_checkpoint(ANSWERS, "actions"), of_checkpoint(MODEL, "deployed")
    ('answers-actions.npz', 'model')
    """
    path = Path(name)
    return name if checkpoint == "deployed" else f"{path.stem}-{checkpoint}{path.suffix}"


def save_answers(path: Path, answers: Answers) -> None:
    """Arrays only, so that reading them back runs no code."""
    arrays = {name: getattr(answers, name) for name in ("user_Q", "list_Q", "item_Q", "label_QA")}
    of_items = {"rank_Q": answers.rank_Q, "top_LK": answers.top_LK}
    arrays |= {name: value for name, value in of_items.items() if value is not None}
    arrays |= {f"predicted:{name}": value for name, value in answers.predicted.items()}

    def write(aside: Path) -> None:
        with open(aside, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_listed(path, write)


def load_result(folder: Path) -> Result:
    """Raises ValueError where the folder holds no finished run, or one of another version of Plait."""
    path = folder / RESULT
    if not path.is_file():
        raise ValueError(f"{folder} holds no finished run: it has no {RESULT}; train it, or let it finish")
    check_hashes(folder, ANEW, RESULT, SETTINGS, METRICS)
    return read_file(path, Result)


def measured_answers(folder: Path, result: Result, name: str = ANSWERS) -> Answers:
    """What a finished run is measured on: each task as the checkpoint answers it that protocol.judge says. Raises
    ValueError where the answers are not whole.

    Args:
        name: of the answers' file.
    """
    deployed = answers_of_run(folder, result, name=name)
    match result.measured_beside:
        case None:
            return deployed
        case "retrieval" as task:
            of_task = answers_of_run(folder, result, task, name)
            return replace(deployed, rank_Q=of_task.rank_Q, top_LK=of_task.top_LK)
        case "actions" as task:
            return replace(deployed, predicted=answers_of_run(folder, result, task, name).predicted)
        case never:
            assert_never(never)


def answers_of_run(
    folder: Path, result: Result, checkpoint: Checkpoint = "deployed", name: str = ANSWERS
) -> Answers:
    """The answers of a finished run's checkpoint. Raises ValueError where they are not whole."""
    return load_answers(folder, result.actions, checkpoint, result.settings.protocol.lists, name)


def answers_without_counts(folder: Path, result: Result) -> Answers | None:
    """What a finished run would be measured on without its counts; None where it has none. Raises ValueError where the
    answers are not whole."""
    return _answers_if_there(folder, result, WITHOUT_COUNTS)


def answers_counted_until_test(folder: Path, result: Result) -> Answers | None:
    """What a finished run would be measured on with counts of the validation's rows, too; None where nobody asked.
    Raises ValueError where the answers are not whole."""
    return _answers_if_there(folder, result, COUNTED_UNTIL_TEST)


def _answers_if_there(folder: Path, result: Result, name: str) -> Answers | None:
    return measured_answers(folder, result, name) if (folder / name).is_file() else None


def load_answers(
    folder: Path,
    actions: tuple[Action, ...],
    checkpoint: Checkpoint = "deployed",
    lists: Lists = LISTS,
    name: str = ANSWERS,
) -> Answers:
    """The answers in a folder, for the actions of its data, to measure in lists of these lengths. Raises ValueError
    where they are not whole."""
    path = folder / of_checkpoint(name, checkpoint)
    check_hashes(folder, ANEW, path.name)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = dict(found)
        has_lists, user_Q = "list_Q" in arrays, arrays.pop("user_Q")
        answers = Answers(
            user_Q=user_Q,
            list_Q=arrays.pop("list_Q", user_Q),
            item_Q=arrays.pop("item_Q"),
            rank_Q=arrays.pop("rank_Q", None),
            top_LK=arrays.pop("top_LK", None),  # of before they were kept: none
            label_QA=arrays.pop("label_QA"),
            predicted={name.removeprefix("predicted:"): answer for name, answer in arrays.items()},
            loss={},
            actions=actions,
            lists=lists,
        )
    except (FileNotFoundError, EOFError, KeyError, RuntimeError, TypeError, ValueError, BadZipFile) as error:
        raise _damaged(path, error) from error
    return answers if has_lists else _with_lists(answers, folder)


def _with_lists(answers: Answers, folder: Path) -> Answers:
    """Answers that were written before they had lists: all of a user's are of one, and an answer's rank counted the
    other answers that stand ahead of it.

    Raises:
        ValueError: several answers of a user were ranked each in a list of its own.
    """
    rank_Q, list_Q = answers.rank_Q, answers.list_Q
    if rank_Q is None or len(np.unique(list_Q)) == len(list_Q):
        return answers
    asked = read_file(folder / SETTINGS, RunSettings)
    if asked.protocol.negatives is not None or asked.model.exposure.time_anchor != "current":
        raise ValueError(
            f"{folder / ANSWERS} holds several answers of a user, each ranked in a list of its own by an earlier "
            f"version of Plait; they share one now: {ANEW}"
        )
    return replace(answers, rank_Q=among_others(list_Q, answers.item_Q, rank_Q))


def read_file(path: Path, kind: type[Kind]) -> Kind:
    """A file of JSON in a run's folder. Raises ValueError where it does not hold the kind."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged, or of another version of Plait ({error}); {ANEW}")
