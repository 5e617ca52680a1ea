"""Tiny models, batches and logs for tests, and the bookkeeping that keeps such tests honest.

Shape letters: U users, E events, A action columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pytest
import torch

from plait.data import Dataset, LeaveOneOut, prepare
from plait.data.manifest import Split
from plait.engine.state import joined_histories
from plait.layouts import CATALOGUE, Layout, audit, resolve
from plait.layouts.packing import pack
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import Inputs, Packer, training_inputs
from plait.models.questions import Exposure, QuestionPlan
from plait.nn.config import TrunkConfig
from plait.nn.dropout import draw_from
from plait.nn.initialising import initialised
from plait.schema import (
    MISSING_VALUE,
    UNKNOWN_ITEM,
    Action,
    Binary,
    Category,
    EventBatch,
    Feature,
    Number,
    Regression,
)
from plait.window_rule import WindowRule

Module = TypeVar("Module", bound=torch.nn.Module)

ACTIONS = (Action("rating", Regression(1, 5)), Action("liked", Binary()))
# Of the moment; fitted, as a model takes them.
CONDITIONS = (Feature("scenario", Category(("home", "search"))), Feature("hour", Number(3, (8.0, 16.0))))
NUM_CONDITIONS = np.array([feature.num_codes for feature in CONDITIONS])
NUM_ITEMS = 17
MAX_EVENTS = 11

EVERY_LAYOUT = [pytest.param(entry.layout, id=name) for name, entry in CATALOGUE.items()]
EVERY_POSITION = ("learned", "rope", "alibi")
RETRIEVERS = [p for p in EVERY_LAYOUT if audit(p.values[0]).can_retrieve]
SCORERS = [p for p in EVERY_LAYOUT if audit(p.values[0]).can_score != "no"]
NO_SCORERS = [p for p in EVERY_LAYOUT if audit(p.values[0]).can_score == "no"]


def trunk_of(positions: str = "learned", dropout: float = 0.0) -> TrunkConfig:
    return TrunkConfig(dim=12, num_layers=2, num_heads=2, dropout=dropout, positions=positions)


def started(module: Module, seed: int = 0) -> Module:
    """The module with weights as training starts, and a generator for what it draws."""
    draw_from(module, torch.Generator().manual_seed(seed + 1))
    return initialised(module, torch.Generator().manual_seed(seed))


def model_of(
    layout: Layout | str,
    positions: str = "learned",
    *,
    actions: tuple[Action, ...] = ACTIONS,
    max_events: int = MAX_EVENTS,
    window_step: int = 1,
    settings: ModelSettings | None = None,
    asked_as_candidates: bool = False,
    **features: tuple[Feature, ...],
) -> GenerativeRecommender:
    """A model in evaluation mode whose weights are large, so that no path through it is near to zero, and whose
    predicted actions lie well inside their ranges. `features` are a `ModelConfig`'s, fitted; a layout that shows
    conditions has those of `batch_of`."""
    torch.manual_seed(3)
    parsed = layout if isinstance(layout, Layout) else Layout.parse(layout)
    if "c" in parsed.fields:
        features = {"conditions": CONDITIONS, **features}
    settings = settings or ModelSettings(trunk=trunk_of(positions))
    config = ModelConfig(
        layout=str(layout),
        settings=replace(settings, allow_leaks=isinstance(layout, Layout) and layout.allow_leaks),
        num_items=NUM_ITEMS,
        actions=actions,
        max_events=max_events,
        window_step=window_step,
        asked_as_candidates=asked_as_candidates,
        **features,
    )
    model = started(GenerativeRecommender(config)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    if model.heads is not None:
        torch.nn.init.normal_(model.heads.weight_KD, std=0.02)
        torch.nn.init.constant_(model.heads.bias_K, 0.5)
    return model


def batch_of(length_U: Sequence[int], lead_U: Sequence[int] | None = None, seed: int = 5) -> EventBatch:
    """Random histories: half-star ratings and likes, a fifth of each missing; one event a minute. Conditions are drawn,
    and may be missing or unseen.

    User numbers are large and different in every batch, so that a test which confuses them fails.
    """
    rng = np.random.default_rng(seed)
    start_U1 = np.cumsum([0, *length_U])
    num_events = int(start_U1[-1])
    action_EA = np.stack(
        [rng.integers(2, 11, num_events) / 2, rng.integers(0, 2, num_events)], axis=1, dtype=np.float32
    )
    action_EA[rng.random(action_EA.shape) < 0.2] = np.nan
    nth_E = np.arange(num_events) - np.repeat(start_U1[:-1], np.diff(start_U1))
    return EventBatch(
        user_U=100 * seed + np.arange(len(length_U)),
        start_U1=start_U1,
        lead_U=np.array(lead_U if lead_U is not None else [0] * len(length_U)),
        item_E=rng.integers(1, NUM_ITEMS + 1, num_events),
        action_EA=action_EA,
        time_s_E=1_000_000 + 60 * nth_E,
        request_E=nth_E,
        condition_EG=rng.integers(0, NUM_CONDITIONS, (num_events, len(CONDITIONS))),
    )


def plan_of(
    layout: Layout | str,
    exposure: Exposure = Exposure(),
    candidate_requests: int | None = None,
    max_events: int = MAX_EVENTS,
) -> QuestionPlan:
    """Asks about every event where it stands, or by choice about the last requests' events as candidates."""
    return QuestionPlan(
        layout=layout if isinstance(layout, Layout) else resolve(layout),
        window=WindowRule(max_events),
        exposure=exposure,
        supervise="all" if candidate_requests is None else "candidates",
        candidate_requests=candidate_requests or 1,
    )


def asked_in_training(layout: Layout, batch: EventBatch, packer: Packer = pack, **kwargs: Any) -> Inputs:
    """Training inputs that supervise every event; as candidates, where the layout allows nothing else."""
    if layout.candidate:
        kwargs = {"candidate_requests": len(batch.item_E), **kwargs}
    return training_inputs(plan_of(layout, **kwargs), batch, packer)


def part_of(
    batch: EventBatch, user: int, begin: int = 0, end: int | None = None, lead: int = 0
) -> EventBatch:
    """Events `begin : end` of one user, the first `lead` of them before the window."""
    first, last = batch.start_U1[user : user + 2]
    rows = slice(first + begin, last if end is None else first + end)
    item_E = batch.item_E[rows]
    return EventBatch(
        user_U=batch.user_U[user : user + 1],
        start_U1=np.array([0, len(item_E)]),
        lead_U=np.array([lead]),
        item_E=item_E,
        action_EA=batch.action_EA[rows],
        time_s_E=batch.time_s_E[rows],
        request_E=batch.request_E[rows],
        context_EF=batch.context_EF[rows],
        condition_EG=batch.condition_EG[rows],
        user_code_UK=batch.user_code_UK[user : user + 1],
        number_E=batch.number_E[rows],
    )


def together(*batches: EventBatch) -> EventBatch:
    """The users of several batches as one."""
    length_U = np.concatenate([batch.num_events_U for batch in batches])
    start_U1 = np.cumsum([0, *length_U])
    names = [field.name for field in fields(EventBatch) if field.name != "start_U1"]
    rest = {name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names}
    return EventBatch(start_U1=start_U1, **rest)


def random_log(num_users: int = 23, seed: int = 7) -> pl.DataFrame:
    """A log of users u00, u01, ... and items i00, i01, ...: ratings from 1 to 5 and likes, a fifth missing."""
    rng = np.random.default_rng(seed)
    length_U = rng.integers(5, 13, num_users)
    num_events = int(length_U.sum())
    user_E = np.repeat(np.arange(num_users), length_U)
    rating_E = rng.integers(1, 6, num_events).astype(np.float32)
    liked_E = (rating_E > 3).astype(np.float32)
    rating_E[rng.random(num_events) < 0.2] = np.nan
    liked_E[rng.random(num_events) < 0.2] = np.nan
    scenario_E = np.random.default_rng(seed + 1).choice(["home", "search"], num_events)
    return pl.DataFrame(
        {
            "user": [f"u{user:02d}" for user in user_E],
            "item": [f"i{item:02d}" for item in rng.integers(0, NUM_ITEMS, num_events)],
            "time": 1_000_000 + 60 * np.arange(num_events),
            "rating": rating_E,
            "liked": liked_E,
            "scenario": scenario_E,
        }
    )


def prepared(
    log: pl.DataFrame,
    out: Path,
    actions: Sequence[Action] = ACTIONS,
    split: Split = LeaveOneOut(),
) -> Dataset:
    """The log, prepared; items without a least number of events, so that all of them stay."""
    conditions = (
        {"scenario": Category()} if isinstance(log, pl.DataFrame) and "scenario" in log.columns else {}
    )
    return prepare(
        log,
        conditions=conditions,
        user="user",
        item="item",
        time="time",
        actions=list(actions),
        out=out,
        min_item_events=1,
        split=split,
    )


def before_the_next(events: EventBatch, time_s_U: np.ndarray | None = None) -> EventBatch:
    """The histories, each with one event to come of which nothing is known, or only when; by default as if it came
    with the last one, but in a request of its own."""
    coming = together(*(part_of(events, user, int(n) - 1) for user, n in enumerate(events.num_events_U)))
    return joined_histories(
        events,
        replace(
            coming,
            item_E=np.full_like(coming.item_E, UNKNOWN_ITEM),
            action_EA=np.full_like(coming.action_EA, np.nan),
            condition_EG=np.full_like(coming.condition_EG, MISSING_VALUE),
            time_s_E=coming.time_s_E if time_s_U is None else time_s_U,
            request_E=coming.request_E + 1,
        ),
    )


def assert_not_vacuous(counts: Mapping[str, int], above: int = 0) -> None:
    """A property must have met every case that it is about. Fails otherwise than by an assertion, so that
    `assert_caught` cannot mistake it for the property."""
    if min(counts.values()) <= above:
        pytest.fail(f"proves too little: {dict(counts)}")


def assert_caught(check: Callable[..., object], *arguments: object) -> None:
    """`check` runs over a deliberately broken variant: it must fail, or it proves nothing."""
    with pytest.raises(AssertionError):
        check(*arguments)
