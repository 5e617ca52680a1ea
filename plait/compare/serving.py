"""What serving takes each layout: requests of one user, on the model of its first run, by the one-pass engine.

The user stands in the middle of all by the length of the history, which is encoded before anything is measured.

Shape letters: U users, C candidates of a user.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from plait.compare.results import Comparison, LayoutCard, Request, Serving, ServingCost
from plait.compare.words import run_folder
from plait.data import Dataset
from plait.engine import one_pass
from plait.engine.ranking import FIRST_ITEM
from plait.engine.state import append, encode, window
from plait.evaluation.run_files import MODEL
from plait.models.generative import GenerativeRecommender
from plait.models.saving import load_model
from plait.nn.runtime import denormals_flushed
from plait.schema import EventBatch

CANDIDATES: Mapping[Request, int] = {"score 1": 1, "score 100": 100, "score 1000": 1000}
K = 10  # items retrieved
MOST_S, MOST_TIMES = 0.2, 20  # of one request, after a first time that is not counted
LATER_S = 1  # after the last event of the history


def serving(
    dataset: Dataset, comparison: Comparison, folder: Path, device: str, filter_seen: bool
) -> Serving | None:
    """Median seconds of every request, by layout; None where no run kept its model.

    A layout whose first run kept no model has no row.
    """
    begun_s, on = time.perf_counter(), torch.device(device)
    history = dataset.history(_middle_user(dataset))
    with denormals_flushed():
        costs = tuple(
            _cost(load_model(run / MODEL).to(on), card, history, filter_seen)
            for card in comparison.layouts
            if (run := _first_run(comparison, card.name, folder)) is not None
        )
    if not costs:
        return None
    return Serving(costs, len(history.item_E), K, time.perf_counter() - begun_s)


def _middle_user(dataset: Dataset) -> int:
    count_U = dataset.train_user_counts()
    return int(np.argsort(count_U, kind="stable")[len(count_U) // 2])


def _first_run(comparison: Comparison, layout: str, folder: Path) -> Path | None:
    seeds = [row.seed for row in comparison.rows if row.layout == layout and row.status != "failed"]
    run = folder / run_folder(layout, min(seeds, default=0))
    return run if seeds and (run / MODEL).is_dir() else None


def _cost(
    model: GenerativeRecommender, card: LayoutCard, history: EventBatch, filter_seen: bool
) -> ServingCost:
    median_s: dict[Request, float] = {}
    why_not: dict[Request, str] = {}
    for request, ask in _requests(model, history, filter_seen).items():
        if not card.answers(request):
            continue
        try:
            median_s[request] = _median_s(ask, next(model.parameters()).device)
        except ValueError as error:  # this user has too short a history, say
            why_not[request] = str(error)
    return ServingCost(card.name, median_s, why_not)


def _requests(
    model: GenerativeRecommender, history: EventBatch, filter_seen: bool
) -> Mapping[Request, Callable[[], object]]:
    rule, lead = model.plan.window, model.plan.lead
    state = one_pass.encode(model, encode(history, rule, lead))
    at_s = int(history.time_s_E[-1]) + LATER_S
    event = replace(window(history, 1, 0), time_s_E=np.array([at_s]))
    num_items = model.config.num_items
    k = max(1, min(K, num_items - (len(state.seen_U[0]) if filter_seen else 0)))

    def scored(count: int) -> object:
        item_UC = FIRST_ITEM + np.arange(count)[None] % num_items
        return one_pass.score(model, state, item_UC, at_s=at_s)

    return {
        **{request: partial(scored, count) for request, count in CANDIDATES.items()},
        "retrieve": lambda: one_pass.retrieve(model, state, k, filter_seen, at_s=at_s),
        "append": lambda: one_pass.append(model, state, append(state, event, rule, lead)),
    }


def _median_s(ask: Callable[[], object], device: torch.device) -> float:
    """Of some repetitions, at least one."""
    ask()  # what is kept from one call to the next is there from now on
    first_s, taken_s = time.perf_counter(), list[float]()
    while len(taken_s) < MOST_TIMES and (not taken_s or time.perf_counter() - first_s < MOST_S):
        _finish(device)
        begun_s = time.perf_counter()
        ask()
        _finish(device)
        taken_s.append(time.perf_counter() - begun_s)
    return median(taken_s)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":  # which works on after a call has returned
        torch.cuda.synchronize(device)
