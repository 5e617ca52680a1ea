"""From an event batch to the tensors a model takes: the one place where a layout meets values.

Shape letters: U users, E events, A action columns, N tokens, M questions of one target, R rows, L slots of a row,
F late features, X numbers that are counted beside a model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from plait.counts.actions import ActionQuestions
from plait.layouts import Layout
from plait.layouts.arrange import (
    Predictions,
    Tokens,
    arrange,
    candidate_predictions,
    candidate_tokens,
    training_predictions,
)
from plait.layouts.event_roles import EventRoles, begin_of_request
from plait.layouts.facts import Field, Target
from plait.layouts.packing import PackedRows, pack
from plait.models.late import LateStatistics
from plait.models.questions import QuestionPlan
from plait.nn.positions import TimeAnchor
from plait.nn.visibility import NO_REQUEST_BEFORE, Clock, Segments
from plait.schema import EventBatch

Packer = Callable[[np.ndarray], PackedRows]
Counting = Callable[[ActionQuestions], Float[np.ndarray, "M X"]]  # what is counted of questions about actions


@dataclass(frozen=True)
class Questions:
    """Questions about one target: where in the rows its answers are read, the true events, what heads are given."""

    target: Target
    cell_M: Int64[Tensor, " M"]
    label_M: Int64[Tensor, " M"]
    given_M: tuple[tuple[Field, Int64[Tensor, " M"]], ...]
    late_MF: Float[Tensor, "M F"] | None = None  # of actions, where the heads take any
    counted_MX: Float[Tensor, "M X"] | None = None  # of actions, where something is counted


@dataclass(frozen=True)
class Inputs:
    """A batch of users as tokens in rows."""

    item_E: Int64[Tensor, " E"]
    action_EA: Float[Tensor, "E A"]
    shown: tuple[tuple[Field, Int64[Tensor, " N"]], ...]
    cell_N: Int64[Tensor, " N"]
    segments: Segments
    event_N: Int64[Tensor, " N"]  # whose token it is
    questions: tuple[Questions, ...]
    context_EF: Int64[Tensor, "E F"]
    user_code_UK: Int64[Tensor, "U K"]
    user_N: Int64[Tensor, " N"]

    @property
    def num_tokens(self) -> int:
        return len(self.cell_N)


def training_inputs(
    plan: QuestionPlan,
    batch: EventBatch,
    packer: Packer = pack,
    device: torch.device | str = "cpu",
    late: LateStatistics | None = None,
) -> Inputs:
    """The tokens of a batch of windows, with every question of training whose event lies inside.

    Args:
        late: what the model's `late_statistics` says.
    """
    roles = plan.training_roles(batch)
    return _inputs(plan, batch, roles, training_predictions(plan.layout, roles), packer, device, late, None)


def query_inputs(
    plan: QuestionPlan,
    batch: EventBatch,
    fields: tuple[Field, ...],
    packer: Packer = pack,
    device: torch.device | str = "cpu",
    num_candidates_U: Int64[np.ndarray, " U"] | None = None,
    late: LateStatistics | None = None,
    counting: Counting | None = None,
) -> Inputs:
    """The tokens of histories and of the events to come: one question per candidate and field.

    Args:
        batch: the last events of every user are candidates, not history.
        fields: what to ask for; a field that the layout does not predict is left out.
        num_candidates_U: how many candidates every user has; one, where they are not given.
        late: what the model's `late_statistics` says.
        counting: what the model's `counting` says.
    """
    roles = plan.query_roles(batch, num_candidates_U)
    found = (candidate_predictions(plan.layout, field, roles) for field in fields)
    predictions = tuple(each for each in found if each is not None)
    return _inputs(plan, batch, roles, predictions, packer, device, late, counting)


def _inputs(
    plan: QuestionPlan,
    batch: EventBatch,
    roles: EventRoles,
    predictions: tuple[Predictions, ...],
    packer: Packer,
    device: torch.device | str,
    late: LateStatistics | None,
    counting: Counting | None,
) -> Inputs:
    tokens = arrange(plan.layout, roles)
    rows = packer(tokens.length_U)
    tensor = partial(_tensor, device)
    counts = (
        None if late is None else partial(_late, late, batch, roles),
        None if counting is None else partial(_counted, counting, batch, roles),
    )
    return Inputs(
        item_E=tensor(batch.item_E),
        action_EA=tensor(batch.action_EA),
        shown=tuple((shown.field, tensor(shown.source_N)) for shown in tokens.shown),
        cell_N=tensor(rows.cell_N),
        segments=_segments(plan, batch, roles, tokens, rows, device),
        event_N=tensor(tokens.event_N),
        questions=tuple(
            Questions(
                each.target,
                tensor(rows.cell_N[each.token_M]),
                tensor(each.label_M),
                tuple((field, tensor(source_M)) for field, source_M in each.given_M),
                *(
                    None if count is None or each.target.fact.field != "a" else tensor(count(each))
                    for count in counts
                ),
            )
            for each in predictions
        ),
        context_EF=tensor(batch.context_EF),
        user_code_UK=tensor(batch.user_code_UK),
        user_N=tensor(np.repeat(np.arange(batch.num_users), tokens.length_U)),
    )


def _segments(
    plan: QuestionPlan,
    batch: EventBatch,
    roles: EventRoles,
    tokens: Tokens,
    rows: PackedRows,
    device: torch.device | str,
) -> Segments:
    in_rows, visibility = partial(_in_rows, device, rows), tokens.visibility
    clock = _clock(plan.layout, batch, roles, tokens, plan.exposure.time_anchor)
    return Segments(
        _tensor(device, rows.segment_RL),
        in_rows(tokens.position_N),
        None if visibility is None else in_rows(visibility.owner_N),
        None if visibility is None else in_rows(visibility.seen_N),
        Clock(**{name: in_rows(value_N) for name, value_N in clock.items()}),
    )


def _tensor(device: torch.device | str, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)


def _in_rows(device: torch.device | str, rows: PackedRows, value_N: np.ndarray) -> Tensor:
    value_RL = np.zeros_like(rows.segment_RL)
    value_RL.reshape(-1)[rows.cell_N] = value_N
    return _tensor(device, value_RL)


def _late(
    late: LateStatistics, batch: EventBatch, roles: EventRoles, predictions: Predictions
) -> Float32[np.ndarray, "M F"]:
    """Counts of the window's events alone: how many lie before it would tell layouts apart by their lag."""
    first_M = _window_begins(roles, predictions)
    return late.of(batch, first_M, predictions.context_end_M, predictions.label_M)


def _counted(
    counting: Counting, batch: EventBatch, roles: EventRoles, predictions: Predictions
) -> Float[np.ndarray, "M X"]:
    """Of the events that late features count."""
    first_M = _window_begins(roles, predictions)
    return counting(ActionQuestions.of(batch, first_M, predictions.context_end_M, predictions.label_M))


def _window_begins(roles: EventRoles, predictions: Predictions) -> Int64[np.ndarray, " M"]:
    first_E = np.repeat(roles.first_U, np.diff(roles.start_U1))
    return first_E[predictions.label_M]


def _clock(
    layout: Layout, batch: EventBatch, roles: EventRoles, tokens: Tokens, anchor: TimeAnchor
) -> dict[str, Int64[np.ndarray, " N"]]:
    """For every token the time of its event, the time it takes for now, its request within the window, and how much
    of the history is left."""
    event_N = tokens.event_N
    user_N = np.repeat(np.arange(roles.num_users), tokens.length_U)
    first_N = roles.first_U[user_N]
    time_s_N = batch.time_s_E[event_N]
    # The request before: of a candidate, the last one of the history that it sees.
    begin_E = begin_of_request(batch.start_U1, batch.request_E)
    before_N = np.clip(begin_E[event_N], first_N, tokens.context_end_N) - 1
    has_before_N = before_N >= first_N
    opened_E = np.cumsum(begin_E == np.arange(len(begin_E)))  # requests up to an event, over all users
    earlier_N = np.where(has_before_N, before_N, first_N)
    return {
        "time_s_RL": time_s_N,
        "anchor_s_RL": _anchor(layout, batch, roles, tokens, user_N, anchor),
        "request_RL": 1 + np.where(has_before_N, opened_E[earlier_N] - opened_E[first_N] + 1, 0),
        "gap_s_RL": np.where(has_before_N, time_s_N - batch.time_s_E[earlier_N], NO_REQUEST_BEFORE),
        "left_RL": np.maximum(0, roles.num_history_U[user_N] * layout.tokens_per_event - tokens.position_N),
    }


def _anchor(
    layout: Layout,
    batch: EventBatch,
    roles: EventRoles,
    tokens: Tokens,
    user_N: Int64[np.ndarray, " N"],
    anchor: TimeAnchor,
) -> Int64[np.ndarray, " N"]:
    last_N = batch.start_U1[1:][user_N] - 1
    if anchor == "request":  # when it opens: its later events are not known to its first
        return batch.time_s_E[begin_of_request(batch.start_U1, batch.request_E)[last_N]]
    slots = (*layout.tokens, *candidate_tokens(layout))
    is_of_next = [bool(token.predicted) and all(t.offset > 0 for t in token.predicted) for token in slots]
    of_next_N = np.array(is_of_next)[tokens.slot_N] & (anchor == "next")
    return batch.time_s_E[np.minimum(tokens.event_N + of_next_N, last_N)]
