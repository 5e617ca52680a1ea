"""From an event batch to the tensors a model takes: the one place where a layout meets values.

Shape letters: U users, E events, A action columns, N tokens, M questions of one target, R rows, L slots of a row,
F late features, G columns of conditions, X numbers that are counted beside a model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from plait.counts.actions import ActionQuestions
from plait.layouts import Layout
from plait.layouts.arrange import (
    SPECIALS,
    Predictions,
    Tokens,
    arrange,
    candidate_predictions,
    candidate_tokens,
)
from plait.layouts.audit import reader
from plait.layouts.event_roles import EventRoles, begin_of_request
from plait.layouts.facts import Field, Target
from plait.layouts.packing import PackedRows, in_one_row, pack
from plait.models.late import LateStatistics
from plait.models.questions import QuestionPlan
from plait.nn.cached import Lists
from plait.nn.positions import TimeAnchor
from plait.nn.read import Read
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
    condition_EG: Int64[Tensor, "E G"]
    user_code_UK: Int64[Tensor, "U K"]
    user_N: Int64[Tensor, " N"]
    user_U: Int64[
        np.ndarray, " U"
    ]  # dense user index, and which of its events each is: keys of what is kept elsewhere
    number_E: Int64[np.ndarray, " E"]
    read: Read | None = None  # the cells where answers are read; None: as good as all

    @property
    def num_tokens(self) -> int:
        return len(self.cell_N)


@dataclass(frozen=True)
class LaterInputs:
    """Events that come after histories encoded before: their tokens in one row, and the questions about them."""

    inputs: Inputs
    lists: Lists
    reads_history: bool
    """Answers stand at tokens of the histories, whose numbers the questions' cells then are; there is no own token."""


def training_inputs(
    plan: QuestionPlan,
    batch: EventBatch,
    packer: Packer = pack,
    device: torch.device | str = "cpu",
    late: LateStatistics | None = None,
    counting: Counting | None = None,
) -> Inputs:
    """The tokens of a batch of windows, with every question that training asks about an event inside.

    Args:
        late: what the model's `late_statistics` says.
        counting: what the model's `counting` says. Training counts nothing.
    """
    roles = plan.training_roles(batch)
    return _inputs(plan, batch, roles, plan.asked_in_training(batch, roles), packer, device, late, counting)


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


def history_inputs(
    plan: QuestionPlan, batch: EventBatch, packer: Packer = pack, device: torch.device | str = "cpu"
) -> Inputs:
    """The tokens of the histories alone, as `query_inputs` arranges them, with no question.

    Args:
        batch: the last event of every user is not of its history; histories that know the moment know it from there.
    """
    roles = plan.query_roles(batch)
    tokens = arrange(plan.layout, roles)
    tokens = tokens.only(tokens.slot_N < plan.layout.tokens_per_event)
    rows = packer(tokens.length_U)
    inputs = _rows_of(plan, batch, roles, tokens, rows, (), device)
    cell_M = rows.cell_N[_answers_later(plan.layout, batch, roles, tokens)]
    return replace(inputs, read=Read.some_of([cell_M], rows.segment_RL, device))


def _answers_later(
    layout: Layout, batch: EventBatch, roles: EventRoles, tokens: Tokens
) -> Bool[np.ndarray, " N"]:
    """Which tokens of histories answer questions about events that come after them, now or when more were appended.

    Such an event may be of the last request, and come after what lay before that.
    """
    found = [each for each in (reader(layout, "i"), reader(layout, "a")) if each and each.target.offset]
    farthest = max((each.target.offset for each in found), default=0)
    is_near_N = np.zeros(len(tokens.event_N), dtype=bool)
    for end_U in (roles.history_end_U, _begin_of_last(batch, roles)):
        end_N = np.repeat(end_U, tokens.length_U)
        is_near_N |= (tokens.event_N < end_N) & (tokens.event_N >= end_N - farthest)
    return is_near_N & np.isin(tokens.slot_N, [each.token for each in found])


def _begin_of_last(batch: EventBatch, roles: EventRoles) -> Int64[np.ndarray, " U"]:
    """The first event of the last request of each history."""
    return begin_of_request(batch.start_U1, batch.request_E)[roles.history_end_U - 1]


def candidate_inputs(
    plan: QuestionPlan,
    batch: EventBatch,
    field: Field,
    user_B: Int64[np.ndarray, " B"],
    start_B: Int64[np.ndarray, " B"],
    count_B: Int64[np.ndarray, " B"],
    device: torch.device | str = "cpu",
    late: LateStatistics | None = None,
    counting: Counting | None = None,
) -> LaterInputs:
    """The tokens of candidates alone, as `query_inputs` arranges them, and the question about each.

    Args:
        batch: lists of candidates of one moment, each behind its history.
        user_B: whose history it is, of those that were encoded.
        start_B: the number of that history's first token among the encoded.
        count_B: how many candidates every list has, one or more.
    """
    roles = plan.query_roles(batch, count_B)
    tokens = arrange(plan.layout, roles)
    predictions = candidate_predictions(plan.layout, field, roles)
    assert predictions is not None, "the layout predicts what it is asked about"
    is_own_N = tokens.slot_N >= plan.layout.tokens_per_event
    reads_history = not is_own_N[predictions.token_M].any()
    if reads_history:
        cell_M = start_B[roles.user_C] + tokens.nth_N[predictions.token_M]
        is_own_N = np.zeros_like(is_own_N)
    else:
        cell_M = (np.cumsum(is_own_N) - 1)[predictions.token_M]
    own = tokens.only(is_own_N)
    questions = _questions(batch, roles, predictions, cell_M, device, late, counting)
    inputs = _rows_of(plan, batch, roles, own, in_one_row(own.length_U), (questions,), device)
    first_B = np.cumsum(count_B) - count_B
    seen_B = np.maximum(roles.context_end_C[first_B] - roles.first_U, 0) * plan.layout.tokens_per_event
    lists = Lists(user_B, seen_B, count_B, len(candidate_tokens(plan.layout)))
    return LaterInputs(_of_events_read(inputs), lists, reads_history)


def next_inputs(plan: QuestionPlan, batch: EventBatch, device: torch.device | str = "cpu") -> LaterInputs:
    """The tokens of every user's last event, as `history_inputs` arranges them where it is of the history."""
    roles = plan.history_roles(batch)
    tokens = arrange(plan.layout, roles)
    last_U, stride = batch.start_U1[1:] - 1, plan.layout.tokens_per_event
    own = tokens.only(np.isin(tokens.event_N, last_U))
    inputs = _rows_of(plan, batch, roles, own, in_one_row(own.length_U), (), device)
    seen_U = np.maximum(roles.visible_end_E[last_U] - roles.first_U, 0) * stride
    users = np.arange(batch.num_users)
    return LaterInputs(
        _of_events_read(inputs), Lists(users, seen_U, np.ones_like(users), stride), reads_history=False
    )


def _of_events_read(inputs: Inputs) -> Inputs:
    """The same, of the events alone that tokens or heads read: not of whole histories."""
    sources = [source_N for _, source_N in inputs.shown]
    sources += [source_M for asked in inputs.questions for _, source_M in asked.given_M]
    labels = [asked.label_M + SPECIALS for asked in inputs.questions]
    read_P = torch.cat([*sources, *labels, inputs.event_N + SPECIALS])
    event_E = read_P[read_P >= SPECIALS].unique() - SPECIALS
    number_P = torch.arange(SPECIALS + len(inputs.item_E), device=read_P.device)
    number_P[SPECIALS + event_E] = SPECIALS + torch.arange(len(event_E), device=read_P.device)
    return replace(
        inputs,
        item_E=inputs.item_E[event_E],
        action_EA=inputs.action_EA[event_E],
        context_EF=inputs.context_EF[event_E],
        condition_EG=inputs.condition_EG[event_E],
        number_E=inputs.number_E[event_E.cpu().numpy()],
        shown=tuple((field, number_P[source_N]) for field, source_N in inputs.shown),
        event_N=number_P[inputs.event_N + SPECIALS] - SPECIALS,
        questions=tuple(
            replace(
                asked,
                label_M=number_P[asked.label_M + SPECIALS] - SPECIALS,
                given_M=tuple((field, number_P[source_M]) for field, source_M in asked.given_M),
            )
            for asked in inputs.questions
        ),
    )


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
    questions = tuple(
        _questions(batch, roles, each, rows.cell_N[each.token_M], device, late, counting)
        for each in predictions
    )
    inputs = _rows_of(plan, batch, roles, tokens, rows, questions, device)
    cells = [rows.cell_N[each.token_M] for each in predictions]
    return replace(inputs, read=Read.some_of(cells, rows.segment_RL, device))


def _rows_of(
    plan: QuestionPlan,
    batch: EventBatch,
    roles: EventRoles,
    tokens: Tokens,
    rows: PackedRows,
    questions: tuple[Questions, ...],
    device: torch.device | str,
) -> Inputs:
    tensor = partial(_tensor, device)
    return Inputs(
        item_E=tensor(batch.item_E),
        action_EA=tensor(batch.action_EA),
        shown=tuple((shown.field, tensor(shown.source_N)) for shown in tokens.shown),
        cell_N=tensor(rows.cell_N),
        segments=_segments(plan, batch, roles, tokens, rows, device),
        event_N=tensor(tokens.event_N),
        questions=questions,
        context_EF=tensor(batch.context_EF),
        condition_EG=tensor(batch.condition_EG),
        user_code_UK=tensor(batch.user_code_UK),
        user_N=tensor(np.repeat(np.arange(batch.num_users), tokens.length_U)),
        user_U=batch.user_U,
        number_E=batch.number_E,
    )


def _questions(
    batch: EventBatch,
    roles: EventRoles,
    predictions: Predictions,
    cell_M: Int64[np.ndarray, " M"],
    device: torch.device | str,
    late: LateStatistics | None,
    counting: Counting | None,
) -> Questions:
    tensor, is_of_actions = partial(_tensor, device), predictions.target.fact.field == "a"
    late_MF = counted_MX = None
    if is_of_actions and late is not None:
        late_MF = tensor(_late(late, batch, roles, predictions))
    if is_of_actions and counting is not None:
        counted_MX = tensor(_counted(counting, batch, roles, predictions))
    return Questions(
        predictions.target,
        tensor(cell_M),
        tensor(predictions.label_M),
        tuple((field, tensor(source_M)) for field, source_M in predictions.given_M),
        late_MF,
        counted_MX,
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
