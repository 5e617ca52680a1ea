"""Scoring and retrieval, the plain way: one sequence per candidate. The reference for every faster way.

Shape letters: U users, C candidates of a user, N conditions of a user, F context features, G columns of conditions, M
questions, K items returned, I rows of the item table, D width. Small ones count those of a step: u users, c
candidates.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from plait.engine import asking, steps
from plait.engine.asking import Coming
from plait.engine.ranking import catalogue_of
from plait.engine.state import State, joined_histories, repeated
from plait.layouts.facts import Field
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Inputs, query_inputs
from plait.models.late import LateStatistics
from plait.schema import EventBatch


@torch.no_grad()
def score(
    model: GenerativeRecommender,
    state: State,
    item_UC: Int64[np.ndarray, "U C"],
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
    context_F: Int64[np.ndarray, " F"] | None = None,
    condition_UG: Int64[np.ndarray, "U G"] | None = None,
) -> dict[str, Float32[np.ndarray, "U C ..."]]:
    """The expected actions of every user on its candidates, in the log's units; a category's probabilities.

    Args:
        at_s: when the candidates are shown, in unix seconds; only models that know the time or requests look at it.
        request_name: what tells the candidates' request from others, as `encode` takes it of the history's. Candidates
            of the last event's request are asked about as they were trained; without `at_s`, they are of a later one.
        context_F: codes of what is known of that moment; without it all are missing.
        condition_UG: codes of the condition that each user is asked under; without it all are missing.

    Raises:
        ValueError: the layout cannot score a given candidate, there are no candidates, the time is needed and not
            given, or lies before the last event of a user, or nothing is left of a history from which to ask.
    """
    asking.check_can_score(model, item_UC)
    coming = asking.coming_of(model, "a", state, at_s, request_name)
    if context_F is None:
        context_F = asking.no_context(state.events)
    if condition_UG is None:
        condition_UG = asking.no_condition(state.events)
    late = model.late_statistics()
    most, tokens_U = steps.tokens_per_step(model), steps.tokens_of(model, coming.events.num_events_U)
    found = []
    for users in steps.within(tokens_U * item_UC.shape[1], most):
        item_uC, some = item_UC[users], coming.of(users)
        parts = steps.even(item_uC.shape[1], max(1, most // int(tokens_U[users].sum())))
        found.append(
            _joined(
                [
                    _score_step(model, some, item_uC[:, c], context_F, condition_UG[users], late)
                    for c in parts
                ],
                axis=1,
            )
        )
    return _joined(found, axis=0)


@torch.no_grad()
def retrieve(
    model: GenerativeRecommender,
    state: State,
    k: int,
    filter_seen: bool,
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
    kept_I: Bool[np.ndarray, " I"] | None = None,
    condition_UG: Int64[np.ndarray, "U G"] | None = None,
) -> tuple[Int64[np.ndarray, "U K"], Float32[np.ndarray, "U K"]]:
    """The `k` items most likely to come next for every user, best first, and their scores: logits, or their
    weighted sum with what counts say.

    Equal scores are in the catalogue's order, and no score depends on `k`: a longer list begins with the shorter one.
    Items that are described alike have equal ones, unless counts tell them apart. Others that differ by less than
    rounding, about a millionth of the largest, may change places when the user is asked about in other company.

    Args:
        at_s, request_name: when they are shown, and in which request, as in `score`.
        kept_I: whether each dense item may be returned; by default all may.
        condition_UG: as in `score`.

    Raises:
        ValueError: the layout predicts no item, fewer than `k` items are left to a user, the time is needed and not
            given, or lies before the last event of a user, or nothing is left of a history from which to ask.
    """
    filters = asking.checked_filters(model, state, k, filter_seen, kept_I)
    coming = asking.coming_of(model, "i", state, at_s, request_name)
    if condition_UG is None:
        condition_UG = asking.no_condition(state.events)
    tokens_U = steps.tokens_of(model, coming.events.num_events_U)
    catalogue, found = catalogue_of(model), []
    for users in steps.within(tokens_U, steps.tokens_per_step(model)):
        some = coming.of(users)
        found += asking.best_of_users(
            model, catalogue, some.events, _item_step(model, some, condition_UG[users]), k, filters.of(users)
        )
    item_UK, score_UK = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return item_UK, score_UK


@torch.no_grad()
def query(
    model: GenerativeRecommender,
    state: State,
    condition_UNG: Int64[np.ndarray, "U N G"],
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
) -> Float32[np.ndarray, "U N D"]:
    """What every user would want under each of some conditions: what is compared with items' vectors, of length 1 where
    the loss compares directions.

    Args:
        condition_UNG: codes of the conditions.
        at_s, request_name: when, and in which request, as in `score`.

    Raises:
        ValueError: the layout is not asked under conditions, there are none, or as in `score` of the time.

    Source: the LUM paper, section 4.2.
    """
    asking.check_can_query(model, condition_UNG)
    coming = asking.coming_of(model, "i", state, at_s, request_name)
    found = []
    for condition_UG in condition_UNG.swapaxes(0, 1):
        users = steps.within(steps.tokens_of(model, coming.events.num_events_U), steps.tokens_per_step(model))
        states = [_item_step(model, coming.of(some), condition_UG[some]) for some in users]
        found.append(model.retrieval.keys(torch.cat(states)).float().cpu().numpy())
    return np.stack(found, axis=1)


def _inputs(
    model: GenerativeRecommender, batch: EventBatch, field: Field, late: LateStatistics | None
) -> Inputs:
    device = next(model.parameters()).device
    return query_inputs(model.plan, batch, (field,), device=device, late=late, counting=model.counting)


def _joined(parts: Sequence[dict[str, np.ndarray]], axis: int) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts], axis=axis) for name in parts[0]}


def _score_step(
    model: GenerativeRecommender,
    coming: Coming,
    item_uc: Int64[np.ndarray, "u c"],
    context_F: Int64[np.ndarray, " F"],
    condition_uG: Int64[np.ndarray, "u G"],
    late: LateStatistics | None,
) -> dict[str, Float32[np.ndarray, "u c ..."]]:
    shape = item_uc.shape
    candidates = asking.candidates_of(coming, item_uc, context_F, condition_uG)
    inputs = _inputs(model, joined_histories(repeated(coming.events, shape[1]), candidates), "a", late)
    (state_MD,) = model(inputs)
    assert model.heads is not None, "a layout that scores has heads"
    predicted = model.heads.expected(model.action_outputs(inputs.questions[0], state_MD))
    return {name: value.unflatten(0, shape).cpu().numpy() for name, value in predicted.items()}


def _item_step(
    model: GenerativeRecommender, coming: Coming, condition_uG: Int64[np.ndarray, "u G"]
) -> Float32[Tensor, "u D"]:
    to_come = asking.candidates_of(
        coming, asking.no_item(coming.events), asking.no_context(coming.events), condition_uG
    )
    (state_uD,) = model(_inputs(model, joined_histories(coming.events, to_come), "i", late=None))
    return state_uD
