"""Step 2 of LUM: what users want under conditions, as tables that rankers read: now, or at every event of training.

`interest` is a vector of half precision, `condition` its condition as text, or `own`: what the event itself came with.

Source: the LUM paper, section 4.2.

Shape letters: N conditions, G columns of conditions, Q events, U users, W width of an interest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import polars as pl
from jaxtyping import Float32, Int64

from plait.conditions import INTEREST, OWN, condition_codes, conditions_frame, text_of
from plait.data import Dataset
from plait.data.dataset import EventPart, Targets
from plait.engine.asking import Coming, answers_conditions
from plait.engine.moments import query_moments, wanted_at_moments
from plait.engine.state import State, before
from plait.evaluation.answers import in_context
from plait.models.generative import GenerativeRecommender
from plait.recommender import Recommender
from plait.schema import MISSING_VALUE

BYTES_PER_NUMBER = 2  # half precision


@dataclass(frozen=True)
class Asked:
    """What a model is asked under: some conditions, and what events came with."""

    conditions: tuple[Mapping[str, Any], ...]
    code_NG: Int64[np.ndarray, "N G"]

    @classmethod
    def of(cls, model: GenerativeRecommender, conditions: Sequence[Mapping[str, Any]]) -> "Asked":
        """Raises ValueError where the model is not asked under these, or two are one."""
        texts = [text_of(condition) for condition in conditions]
        if len(set(texts)) < len(texts):
            twice = next(text for text in texts if texts.count(text) > 1)
            raise ValueError(f"condition {twice!r} is given more than once; each is asked once")
        code_NG = condition_codes(conditions_frame(conditions), len(conditions), model.config.conditions)
        return cls(tuple(conditions), code_NG)

    @property
    def texts(self) -> list[str]:
        return [text_of(condition) for condition in self.conditions]

    def of_users(self, num_users: int) -> Int64[np.ndarray, "U N G"]:
        return np.tile(self.code_NG, (num_users, 1, 1))


def num_bytes(model: GenerativeRecommender, num_rows: int) -> int:
    """What the interests of so many rows take, beside their keys."""
    return num_rows * width_of(model) * BYTES_PER_NUMBER


def width_of(model: GenerativeRecommender) -> int:
    """Numbers in an interest."""
    settings = model.config.settings
    return settings.interest_dim or settings.trunk.dim


def interests_of_users(
    model: Recommender, state: State, asked: Asked, version: str, *, at: Any = None
) -> pl.DataFrame:
    """A row for each user of a state and condition: `user`, `condition`, `time` of the last event in unix seconds,
    `version` of the model, `interest`."""
    found = model.query(state, asked.conditions, at=at)
    time_s_U = state.events.time_s_E[state.events.start_U1[1:] - 1]
    keys = {
        "condition": np.tile(asked.texts, len(time_s_U)).tolist(),
        "time": np.repeat(time_s_U, len(asked.conditions)),
    }
    return _table(found.select("user"), keys, version, found[INTEREST])


def moments_of(
    dataset: Dataset,
    part: EventPart,
    model: GenerativeRecommender,
    since_s: int | None = None,
    *,
    rolling: bool = False,
) -> Targets:
    """Every event of a part that is asked about, from what lay before it, as the model is asked.

    Args:
        since_s: unix seconds; events before are left out, such as those that the model was trained on.
        rolling: of validation and test, histories roll on through the part (`protocol.rolling_history`). Else they end
            where it begins, as those of the rankers that read the interests. In training they always roll on.
    """
    match part:
        case "train":
            moments = dataset.moments(part)
        case "validation" | "test":
            moments = dataset.moments(part) if rolling else dataset.targets(part)
        case _:
            assert_never(part)
    moments = in_context(dataset, moments, model.plan)
    return moments if since_s is None else moments[dataset.target_times(moments) >= since_s]


def coming_of_targets(dataset: Dataset, targets: Targets, model: Recommender) -> Coming:
    """What each event is asked from, when it came, and in which request."""
    plan = model.model.plan
    batch = dataset.in_items_of(model.vocabulary, dataset.target_batch(targets, plan.window, plan.lead))
    events, last_Q = before(batch, np.ones(batch.num_users, dtype=np.int64)), batch.start_U1[1:] - 1
    return Coming(events, batch.time_s_E[last_Q], batch.request_E[last_Q], events.start_U1[1:])


def own_conditions(dataset: Dataset, targets: Targets) -> Int64[np.ndarray, "Q G"]:
    """What each event came with: of the moment. What is of its item is asked, never given, since it tells the item."""
    code_QG = dataset.conditions_of(targets.event_Q)
    of_moment = sum(feature.num_columns for feature in dataset.manifest.conditions)
    code_QG[:, of_moment:] = MISSING_VALUE
    return code_QG


def interests_of_events(
    model: Recommender, dataset: Dataset, targets: Targets, asked: Asked, version: str, *, own: bool
) -> pl.DataFrame:
    """A row for each event and condition: `user`, `event` (which of the user's events it is, from 0), `known` (how many
    of the user's events lay before what it was asked from ended), `condition`, `time` of the event, `version`,
    `interest`.

    Args:
        own: asks under what each event came with, too; a model that is asked under no condition, what comes next.

    Raises:
        ValueError: nothing is asked, or a model that is asked under no condition is given some.
    """
    coming = coming_of_targets(dataset, targets, model)
    query = query_moments if answers_conditions(model.model.layout) or asked.conditions else wanted_at_moments
    condition_QNG = asked.of_users(len(targets))
    if own:
        own_Q1G = own_conditions(dataset, targets)[:, None]
        condition_QNG = np.concatenate([own_Q1G, condition_QNG], axis=1)
    interest_QNW = query(model.model, coming, condition_QNG)
    num = interest_QNW.shape[1]
    keys = {
        "event": np.repeat(dataset.number_among_own(targets), num),
        "known": np.repeat(dataset.target_lengths(targets), num),
        "condition": np.tile([OWN] * own + asked.texts, len(targets)).tolist(),
        "time": np.repeat(coming.time_s_U, num),
    }
    users = dataset.user_ids().gather(np.repeat(targets.user_Q, num)).alias("user").to_frame()
    return _table(users, keys, version, _column(interest_QNW))


def interests_of_items(model: Recommender, version: str) -> pl.DataFrame:
    """What interests are compared with: `item`, `version`, `interest`."""
    found = model.item_interests()
    return _table(found.select("item"), {}, version, found[INTEREST])


def _column(interest_QNW: Float32[np.ndarray, "Q N W"]) -> pl.Series:
    width = interest_QNW.shape[2]
    return pl.Series(INTEREST, interest_QNW.reshape(-1, width), dtype=pl.Array(pl.Float32, width))


def _table(rows: pl.DataFrame, keys: Mapping[str, Any], version: str, interest: pl.Series) -> pl.DataFrame:
    width = interest.dtype.shape[0]  # type: ignore[attr-defined]
    halves = interest.cast(pl.Array(pl.Float16, width))
    return rows.with_columns(
        *(pl.Series(name, column) for name, column in keys.items()), pl.lit(version).alias("version"), halves
    )
