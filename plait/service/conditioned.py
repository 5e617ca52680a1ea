"""What a large user model says of a user under conditions: interests, and the items nearest to each."""

from collections.abc import Mapping, Sequence
from typing import Any

from plait.conditions import INTEREST, condition_codes, conditions_frame
from plait.engine.filters import Filters
from plait.engine.state import State
from plait.recommender import Recommender
from plait.schema import UNSEEN_VALUE
from plait.service.wire import Conditioned, InterestsRequest, QueryRequest


def interests(recommender: Recommender, state: State, asked: InterestsRequest) -> dict[str, Any]:
    """The interest of one user under each condition, all in one pass over its history (LUM paper, section 4.2).

    Raises:
        ValueError: as `Recommender.query`.
    """
    return {
        "conditions": asked.conditions,
        "unseen": [unseen_of(recommender, condition) for condition in asked.conditions],
        "interests": _vectors(recommender, state, asked),
    }


def nearest(recommender: Recommender, state: State, asked: QueryRequest) -> dict[str, Any]:
    """The items that come next most likely, under each condition by itself; by choice with the interests.

    Raises:
        ValueError: as `Recommender.retrieve`, or `Recommender.query`.
    """
    left = Filters.joined(len(recommender.items), state.seen_U, asked.filter_seen, None).left_U
    k = int(min(asked.k, left[0]))
    tables = [
        recommender.retrieve(state, k, filter_seen=asked.filter_seen, at=asked.at, condition=condition)
        for condition in (asked.conditions if k else ())
    ]
    lists = [{"items": table["item"].to_list(), "scores": table["score"].to_numpy()} for table in tables]
    none: dict[str, Any] = {"items": [], "scores": []}
    return {
        "conditions": asked.conditions,
        "unseen": [unseen_of(recommender, condition) for condition in asked.conditions],
        "lists": lists or [none] * len(asked.conditions),
        **({"interests": _vectors(recommender, state, asked)} if asked.with_interests else {}),
    }


def _vectors(recommender: Recommender, state: State, asked: Conditioned) -> list[Any]:
    """One for each condition."""
    return list(recommender.query(state, asked.conditions, at=asked.at)[INTEREST].to_numpy())


def unseen_of(recommender: Recommender, condition: Mapping[str, Any]) -> Sequence[str]:
    """The names of a condition whose values no training event has: the model was not told what they mean.

    Raises:
        ValueError: the model is asked under no condition of a name, or a value is none of its kind.
    """
    features = recommender.model.config.conditions
    (code_G,) = condition_codes(conditions_frame([condition]), 1, features)
    return [
        feature.name for feature, code in zip(features, code_G.tolist(), strict=True) if code == UNSEEN_VALUE
    ]
