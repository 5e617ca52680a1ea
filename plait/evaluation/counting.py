"""Baselines under a protocol: asked the questions that models are asked, ranked as these are, and kept beside a run.

FOLDER/NAME/answers.npz  the answers of one way of counting on the test events
FOLDER/baselines.json    written last: what they were asked, and the settings that the validation chose

Shape letters: Q questions, H different histories.
"""

import difflib
import importlib.metadata
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import torch
from jaxtyping import Float32, Int64

from plait.baselines import actions, retrieval
from plait.baselines.actions import Predictor, predictors
from plait.baselines.asking import BaselineQuestions, SameRequest, TrainingLog, questions, training_log
from plait.baselines.choosing import best_of
from plait.baselines.retrieval import Retriever
from plait.data import Dataset, Targets
from plait.engine import steps
from plait.engine.ranking import FIRST_ITEM, Scores
from plait.evaluation.answers import (
    Answers,
    Ranked,
    kept_of_lists,
    measure,
    negatives_of,
    ranked_in_catalogue,
)
from plait.evaluation.run_files import ANSWERS, load_answers, read_file, save_answers
from plait.evaluation.selection import Selection
from plait.evaluation.settings import Protocol
from plait.files import write_whole
from plait.metrics.intervals import bootstrap, paired_difference
from plait.metrics.statistic import Statistic
from plait.metrics.table import shown_of_kind
from plait.schema import Action

QUESTIONS = 4_096  # of the validation, by which settings are chosen: spread evenly, where there are more
BASELINES = "baselines"  # the folder's name beside a run, and in it the file's
NO_VALIDATION = "no validation part to choose settings by: they are the usual ones"
LEVEL = 0.05  # of the test that a model beats the best of them
HISTORIES_AT_A_TIME = 4_096  # that are held together

Named = TypeVar("Named", retrieval.RetrievalBaseline, actions.ActionBaseline)


class Asked(msgspec.Struct, frozen=True):
    """Everything that decides what baselines answer."""

    content_hash: str  # of the data
    same_request: SameRequest
    filter_seen: bool
    negatives: int | None
    seed: int | None  # that negatives follow from; None where the full catalogue is ranked
    version: str  # of Plait
    kept_of_lists: int = 0  # items; 0 in files of before any were kept
    rolling_history: bool = False

    @classmethod
    def of(cls, dataset: Dataset, protocol: Protocol, same_request: SameRequest) -> "Asked":
        return cls(
            dataset.manifest.content_hash,
            same_request,
            protocol.filter_seen,
            protocol.negatives,
            None if protocol.negatives is None else protocol.seed,
            importlib.metadata.version("plait"),
            kept_of_lists("test"),
            protocol.rolling_history,
        )


class ChosenBaseline(msgspec.Struct, frozen=True):
    """One way of counting, under a protocol."""

    name: str
    settings: str  # that the validation chose, in words; "" where there is nothing to choose


class Baselines(msgspec.Struct, frozen=True):
    """All that can be asked."""

    asked: Asked
    counted: tuple[ChosenBaseline, ...]
    left_out: dict[str, str]  # by name, why
    note: str
    wall_s: float


def baselines_of(
    dataset: Dataset, protocol: Protocol, same_request: SameRequest, folder: Path
) -> tuple[Baselines, dict[str, Answers]]:
    """Counts on the training rows, chooses settings on the validation, and answers about the test; or reads what the
    folder holds, where that answers the same.

    Returns:
        What was counted, and by name the answers.

    Raises:
        ValueError: there is no test event to ask about.
    """
    kept = kept_baselines(dataset, protocol, same_request, folder)
    return kept or _counted_now(dataset, protocol, same_request, folder)


def kept_baselines(
    dataset: Dataset, protocol: Protocol, same_request: SameRequest, folder: Path
) -> tuple[Baselines, dict[str, Answers]] | None:
    """As `baselines_of`, where the folder holds them already; None where it holds none, or others."""
    path = folder / f"{BASELINES}.json"
    if not path.is_file():
        return None
    kept = read_file(path, Baselines)
    if kept.asked != Asked.of(dataset, protocol, same_request):
        return None
    return kept, {
        its.name: load_answers(_folder_of(folder, its.name), dataset.actions, lists=protocol.lists)
        for its in kept.counted
    }


def _counted_now(
    dataset: Dataset, protocol: Protocol, same_request: SameRequest, folder: Path
) -> tuple[Baselines, dict[str, Answers]]:
    start_s, log = time.perf_counter(), training_log(dataset, same_request)
    validation = _some(dataset, protocol, same_request)
    found = list(_counted(dataset, protocol, same_request, log, validation))
    baselines = Baselines(
        Asked.of(dataset, protocol, same_request),
        tuple(its for its, _ in found),
        _left_out(log, protocol),
        "" if len(validation) else NO_VALIDATION,
        time.perf_counter() - start_s,
    )
    answers = {its.name: its_answers for its, its_answers in found}
    with suppress(OSError):  # a folder may be read-only, or a disk full: then all is counted again next time
        _keep(folder, baselines, answers)
    return baselines, answers


def _keep(folder: Path, baselines: Baselines, answers: Mapping[str, Answers]) -> None:
    for name, its in answers.items():
        place = _folder_of(folder, name)
        place.mkdir(parents=True, exist_ok=True)
        save_answers(place / ANSWERS, its)
    json = msgspec.json.format(msgspec.json.encode(baselines))
    write_whole(folder / f"{BASELINES}.json", lambda aside: aside.write_bytes(json))


def _folder_of(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "-")


def _some(dataset: Dataset, protocol: Protocol, same_request: SameRequest) -> Targets:
    """Those of the validation that settings are chosen by."""
    targets = dataset.targets("validation", same_request, rolling=protocol.rolling_history)
    return targets[spread(len(targets))]


def spread(count: int, most: int = QUESTIONS) -> Int64[np.ndarray, " Q"]:
    """Of so many things the places of at most so many, evenly spread.

    >>> spread(5, most=3).tolist()
    [0, 2, 4]
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _counted(
    dataset: Dataset, protocol: Protocol, same_request: SameRequest, log: TrainingLog, validation: Targets
) -> Iterator[tuple[ChosenBaseline, Answers]]:
    """Every way of counting, fitted one after the other, so that the memory of one is needed at a time."""
    test = dataset.targets("test", same_request, rolling=protocol.rolling_history)
    if not len(test):
        raise ValueError(f"{dataset.folder} has no test events to evaluate")
    judge = partial(_selected_metric, dataset, protocol, log, validation) if len(validation) else None
    for baseline in retrieval.RETRIEVAL_BASELINES:
        if not baseline.why_not(log, protocol.filter_seen):
            retriever = best_of(baseline.options(log), judge)
            answers = _answers_of_items(dataset, protocol, log, test, retriever, kept_of_lists("test"))
            yield ChosenBaseline(baseline.name, retriever.settings), answers
    if dataset.actions:
        asked = questions(dataset, validation, log) if len(validation) else None
        for predictor in predictors(log, dataset.actions, asked):
            answers = _answers_of_actions(dataset, protocol, log, test, predictor)
            yield ChosenBaseline(predictor.name, predictor.settings), answers


def fitted_retriever(dataset: Dataset, protocol: Protocol, same_request: SameRequest, name: str) -> Retriever:
    """One way of counting that ranks items, with the settings that the validation chooses.

    Raises:
        ValueError: there is none of that name, or it is not counted here.
    """
    baseline = _named(name, retrieval.RETRIEVAL_BASELINES, "ranks items")
    log, validation = training_log(dataset, same_request), _some(dataset, protocol, same_request)
    if why := baseline.why_not(log, protocol.filter_seen):
        raise ValueError(f"baseline {baseline.name!r} is not counted here: {why}")
    judge = partial(_selected_metric, dataset, protocol, log, validation) if len(validation) else None
    return best_of(baseline.options(log), judge)


def fitted_predictor(dataset: Dataset, same_request: SameRequest, name: str) -> Predictor:
    """One way of counting that predicts actions, likewise. Histories end where the validation begins.

    Raises:
        ValueError: there is none of that name, or the data have no actions.
    """
    baseline = _named(name, actions.ACTION_BASELINES, "predicts actions")
    if not dataset.actions:
        raise ValueError(f"{dataset.folder} has no actions to predict")
    log, validation = training_log(dataset, same_request), _some(dataset, Protocol(), same_request)
    asked = questions(dataset, validation, log) if len(validation) else None
    return next(predictors(log, dataset.actions, asked, [baseline]))


def _named(name: str, baselines: Sequence[Named], does: str) -> Named:
    """
    >>> _named("sequential-rules", retrieval.RETRIEVAL_BASELINES, "ranks items").name
    'sequential rules'
    >>> _named("EASY", retrieval.RETRIEVAL_BASELINES, "ranks items")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: no baseline that ranks items is called 'EASY'; did you mean 'EASE'? There are popularity, ...
    """
    known = {its.name.lower().replace(" ", "-"): its for its in baselines}
    asked = name.lower().replace(" ", "-")
    if asked in known:
        return known[asked]
    near = [f"; did you mean {known[it].name!r}?" for it in difflib.get_close_matches(asked, known, n=1)]
    names = ", ".join(its.name for its in baselines)
    raise ValueError(f"no baseline that {does} is called {name!r}{''.join(near) or '.'} There are {names}")


def _left_out(log: TrainingLog, protocol: Protocol) -> dict[str, str]:
    reasons = {
        baseline.name: baseline.why_not(log, protocol.filter_seen)
        for baseline in retrieval.RETRIEVAL_BASELINES
    }
    return {name: why for name, why in reasons.items() if why}


def _selected_metric(
    dataset: Dataset, protocol: Protocol, log: TrainingLog, validation: Targets, retriever: Retriever
) -> float:
    answers = _answers_of_items(dataset, protocol, log, validation, retriever)
    value = measure(answers)[Selection.RETRIEVAL].value
    assert value is not None, "a mean over users"
    return value


def _answers_of_items(
    dataset: Dataset,
    protocol: Protocol,
    log: TrainingLog,
    targets: Targets,
    retriever: Retriever,
    keep: int = 0,
) -> Answers:
    negatives = negatives_of(dataset, targets, protocol)
    ranked = [
        _ranked(dataset, protocol, chunk, asked, retriever, negatives, keep)
        for chunk, asked in _asked(dataset, targets, log, steps.rows_per_step(dataset.num_items))
    ]
    return _answers(dataset, protocol, targets, ranked=Ranked.joined(ranked))


def _ranked(
    dataset: Dataset,
    protocol: Protocol,
    chunk: Targets,
    asked: BaselineQuestions,
    retriever: Retriever,
    negatives: Iterator[Int64[np.ndarray, " N"]] | None,
    keep: int,
) -> Ranked:
    score_QV = retriever.scores(asked.histories)[asked.history_Q, FIRST_ITEM:]
    whole = (Scores(torch.arange(FIRST_ITEM, dataset.num_items + 1), torch.from_numpy(score_QV)),)
    return ranked_in_catalogue(partial(iter, whole), dataset, chunk, protocol, negatives, keep)


def _answers_of_actions(
    dataset: Dataset, protocol: Protocol, log: TrainingLog, targets: Targets, predictor: Predictor
) -> Answers:
    parts = [
        predictor.predicted(asked, asked.item_Q)
        for _, asked in _asked(dataset, targets, log, HISTORIES_AT_A_TIME)
    ]
    predicted = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _answers(dataset, protocol, targets, predicted=predicted)


def _asked(
    dataset: Dataset, targets: Targets, log: TrainingLog, at_a_time: int
) -> Iterator[tuple[Targets, BaselineQuestions]]:
    for rows in steps.even(len(targets), min(at_a_time, HISTORIES_AT_A_TIME)):
        yield targets[rows], questions(dataset, targets[rows], log)


def _answers(
    dataset: Dataset,
    protocol: Protocol,
    targets: Targets,
    *,
    ranked: Ranked | None = None,
    predicted: Mapping[str, Float32[np.ndarray, "Q ..."]] | None = None,
) -> Answers:
    list_Q = dataset.lists(targets)
    return Answers(
        user_Q=targets.user_Q,
        item_Q=dataset.target_items(targets),
        list_Q=list_Q,
        rank_Q=None if ranked is None else ranked.rank_Q,
        top_LK=None if ranked is None else ranked.top_of_lists(list_Q),
        predicted=dict(predicted or {}),
        label_QA=dataset.target_actions(targets),
        loss={},
        actions=dataset.actions,
        lists=protocol.lists,
    )


def against_counting(answers: Answers, counted: Mapping[str, Answers]) -> str:
    """One line that says, metric by metric, by how much a model beats the best of the baselines, or does not.

    Where a baseline is better, p is corrected for its being the best of several. It covers users, not how another seed
    would have come out.
    """
    found, baselines = measure(answers), {name: measure(its) for name, its in counted.items()}
    told = [_told(metric, found, baselines) for metric in told_of(answers.actions)]
    return f"against counting: {'; '.join(filter(None, told)) or 'nothing that both are measured in'}"


def told_of(actions: Sequence[Action]) -> list[str]:
    """The metrics by which a run is told, where there is one line for each task.

    >>> from plait.schema import Binary
    >>> told_of([Action("like", Binary())])
    ['ndcg@10', 'auc:like']
    """
    chief = [
        f"{metric.name}:{action.name}" for action in actions for metric in shown_of_kind(action.kind)[:1]
    ]
    return [Selection.RETRIEVAL, *chief]


def _told(
    metric: str, found: Mapping[str, Statistic], baselines: Mapping[str, Mapping[str, Statistic]]
) -> str:
    """
    >>> from plait.metrics.statistic import mean_over_users
    >>> model, rules = (mean_over_users(np.arange(20), np.full(20, value)) for value in (0.5, 0.25))
    >>> _told("ndcg@10", {"ndcg@10": model}, {"rules": {"ndcg@10": rules}})
    'ndcg@10 +0.2500 (0.2500 to 0.2500) to the 0.2500 of rules, p = 0.001: beaten'
    """
    counted = {name: bootstrap(its[metric]) for name, its in baselines.items() if metric in its}
    counted = {name: its for name, its in counted.items() if its.value is not None}
    model = bootstrap(found[metric]) if metric in found else None
    if model is None or model.value is None or not counted:
        return ""
    sign = 1 if model.better == "higher" else -1
    differences = {name: paired_difference(model, its) for name, its in counted.items()}
    name = min(differences, key=lambda its: sign * differences[its].value)
    its = differences[name]
    # To beat the best of them is to beat each, which needs no correction. To be beaten by any of several does.
    is_above = its.value * sign > 0
    p = its.p if is_above else min(1.0, len(differences) * its.p)
    outcome = "beaten" if is_above else "it is better"
    return (
        f"{metric} {its.value:+.4f} ({its.low:.4f} to {its.high:.4f}) to the {counted[name].value:.4f} of {name}, "
        f"p = {p:.2g}: {outcome if p < LEVEL else 'not told apart'}"
    )
