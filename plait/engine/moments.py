"""Questions about many moments of one user: what lay before each is the beginning of one window, which is encoded once.

Shape letters: Q moments, users in order and each user's in order; N conditions of a moment, G columns of conditions,
W width of an interest, B lists of candidates. Small ones count those of a step.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32, Int64

from plait.engine import asking, steps
from plait.engine.asking import Coming
from plait.engine.multiplying import as_served
from plait.engine.one_pass import encoded_histories
from plait.engine.state import chosen_users, joined_histories
from plait.layouts.arrange import candidate_tokens
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import candidate_inputs
from plait.models.questions import QuestionPlan
from plait.schema import UNKNOWN_ITEM


@torch.no_grad()
def query_moments(
    model: GenerativeRecommender, coming: Coming, condition_QNG: Int64[np.ndarray, "Q N G"]
) -> Float32[np.ndarray, "Q N W"]:
    """As `plain.query` of each moment alone: what its user would have wanted then, under each condition.

    A window begins anew every S events (`WindowRule`), so about S moments share one encoding, where histories tell
    nobody when they are asked about; else each has its own.

    Args:
        coming: a sequence for each moment: what it is asked from, as far as the model looks.
    """
    asking.check_can_query(model, condition_QNG)
    return wanted_at_moments(model, coming, condition_QNG)


@torch.no_grad()
def wanted_at_moments(
    model: GenerativeRecommender, coming: Coming, condition_QNG: Int64[np.ndarray, "Q N G"]
) -> Float32[np.ndarray, "Q N W"]:
    """As `query_moments`, of a layout that is asked under no condition, too: each of the N is then what its user would
    have wanted next (LUM paper, section 5.3: without condition token)."""
    found = [
        _answer(model, coming.of(rows), condition_QNG[rows])
        for rows in _parts(model, coming, len(condition_QNG[0]))
    ]
    return np.concatenate(found)


def num_encodings(plan: QuestionPlan, coming: Coming) -> int:
    """How many windows are encoded for these moments."""
    return int(_opens_window(plan, coming).sum())


def _opens_window(plan: QuestionPlan, coming: Coming) -> np.ndarray:
    """Whether a moment's window is not that of the moment before it. Where the answer is a history's own state, it
    never is: of a history the last states alone are kept."""
    events, opens_Q = coming.events, np.ones(coming.events.num_users, dtype=bool)
    if not candidate_tokens(plan.layout):
        return opens_Q
    if plan.candidates_share_history and plan.exposure.history == "causal":
        first_Q = events.number_E[events.start_U1[:-1] + events.lead_U]
        opens_Q[1:] = (np.diff(events.user_U) != 0) | (np.diff(first_Q) != 0)
    return opens_Q


def _parts(model: GenerativeRecommender, coming: Coming, num_conditions: int) -> Iterator[slice]:
    """Moments of whole windows, as many as a step holds."""
    first_W = np.flatnonzero(_opens_window(model.plan, coming))
    tokens_Q = steps.tokens_of(model, coming.events.num_events_U, num_conditions)
    cost_W = np.add.reduceat(tokens_Q, first_W)
    end_W = np.append(first_W[1:], len(tokens_Q))
    for windows in steps.within(cost_W, steps.tokens_per_step(model)):
        yield slice(int(first_W[windows.start]), int(end_W[windows.stop - 1]))


def _answer(
    model: GenerativeRecommender, coming: Coming, condition_qNG: Int64[np.ndarray, "q N G"]
) -> Float32[np.ndarray, "q N W"]:
    """One encoding for each window, of its last moment, which holds what lay before the others."""
    opens_q, (num_moments, num_conditions, columns) = _opens_window(model.plan, coming), condition_qNG.shape
    window_q, device = np.cumsum(opens_q) - 1, next(model.parameters()).device
    last_W = np.append(np.flatnonzero(opens_q)[1:], num_moments) - 1
    encoded = encoded_histories(model, _chosen(coming, last_W))
    events = coming.events
    count_q = np.full(num_moments, num_conditions)
    to_come = asking.candidate_lists_of(
        coming,
        np.arange(num_moments),
        count_q,
        np.full(num_moments * num_conditions, UNKNOWN_ITEM),
        np.tile(asking.no_context(events), (num_moments, 1)),
        condition_qNG.reshape(num_moments * num_conditions, columns),
    )
    later = candidate_inputs(
        model.plan,
        joined_histories(events, to_come),
        "i",
        window_q,
        encoded.start_U1[window_q],
        count_q,
        device,
    )
    with as_served(model, later.inputs.num_tokens):
        (state_MD,) = model.answered(later, encoded)
    interest_MW = model.retrieval.keys(state_MD).float().cpu().numpy()
    return interest_MW.reshape(num_moments, num_conditions, -1)


def _chosen(coming: Coming, row_W: Int64[np.ndarray, " W"]) -> Coming:
    events = chosen_users(coming.events, row_W)
    return Coming(events, coming.time_s_U[row_W], coming.request_U[row_W], events.start_U1[1:])
