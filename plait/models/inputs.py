"""From an event batch to the tensors a model takes: the one place where a layout meets values.

Shape letters: U users, E events, A action columns, N tokens, M tokens of one target, R rows, L slots of a row,
F late features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from plait.layouts import Layout
from plait.layouts.arrange import Supervised, Tokens, arrange, candidate_tokens, read, supervise
from plait.layouts.casting import Cast, SameRequest, all_history, begin_of_request, last_events, last_requests
from plait.layouts.facts import Field, Target
from plait.layouts.packing import Rows, pack
from plait.models.late import LateStatistics
from plait.nn.visibility import NO_REQUEST_BEFORE, Clock, Segments
from plait.schema import EventBatch

History = Literal["causal", "full"]
TimeAnchor = Literal["current", "next", "request"]
Packer = Callable[[np.ndarray], Rows]


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What was exposed together, and what one event may know of another."""

    same_request: SameRequest = "causal"
    """Whether events of one request see each other in the order of the log, or not at all."""
    history: History = "causal"
    """full: the history sees the whole history (GenRank paper, section 3.1); only candidates can be supervised."""
    time_anchor: TimeAnchor = "current"
    """What a token takes for now, of positions that read times against it. next (rab alone): it knows when the event
    that it predicts happens, as HSTU does; request: when the candidates are asked about."""


@dataclass(frozen=True)
class Asked:
    """One target's questions: where in the rows its answers are read, the true events, what heads are given."""

    target: Target
    cell_M: Int64[Tensor, " M"]
    label_M: Int64[Tensor, " M"]
    given_M: tuple[tuple[Field, Int64[Tensor, " M"]], ...]
    late_MF: Float[Tensor, "M F"] | None = None  # of actions, where the heads take any


@dataclass(frozen=True)
class Inputs:
    """A batch of users as tokens in rows."""

    item_E: Int64[Tensor, " E"]
    action_EA: Float[Tensor, "E A"]
    shown: tuple[tuple[Field, Int64[Tensor, " N"]], ...]
    cell_N: Int64[Tensor, " N"]
    segments: Segments
    event_N: Int64[Tensor, " N"]  # whose token it is
    asked: tuple[Asked, ...]
    context_EF: Int64[Tensor, "E F"]
    user_code_UK: Int64[Tensor, "U K"]
    user_N: Int64[Tensor, " N"]

    @property
    def num_tokens(self) -> int:
        return len(self.cell_N)


def training_inputs(
    layout: Layout,
    batch: EventBatch,
    packer: Packer = pack,
    device: torch.device | str = "cpu",
    exposure: Exposure = Exposure(),
    candidate_requests: int | None = None,
    late: LateStatistics | None = None,
) -> Inputs:
    """The tokens of a batch of windows, with every target whose event lies inside.

    Args:
        candidate_requests: supervise the events of each user's last so many requests only, as candidates.
        late: what the model's `late_statistics` says.
    """
    requests_E = batch.request_E if exposure.same_request == "blind" else None
    if candidate_requests is None:
        cast = all_history(batch.start_U1, batch.lead_U, requests_E)
    else:
        cast = last_requests(
            batch.start_U1, batch.lead_U, batch.request_E, candidate_requests, exposure.same_request
        )
    return _inputs(layout, batch, cast, supervise(layout, cast), packer, device, exposure, late)


def query_inputs(
    layout: Layout,
    batch: EventBatch,
    fields: tuple[Field, ...],
    packer: Packer = pack,
    device: torch.device | str = "cpu",
    exposure: Exposure = Exposure(),
    num_candidates_U: Int64[np.ndarray, " U"] | None = None,
    late: LateStatistics | None = None,
) -> Inputs:
    """The tokens of histories and of the events to come: one question per candidate and field.

    Args:
        batch: the last events of every user are candidates, not history.
        fields: what to ask for; a field that the layout does not predict is left out.
        num_candidates_U: how many candidates every user has; one, where they are not given.
        late: what the model's `late_statistics` says.
    """
    requests_E = batch.request_E if exposure.same_request == "blind" else None
    cast = last_events(batch.start_U1, batch.lead_U, num_candidates_U, requests_E)
    reads = (read(layout, field, cast) for field in fields)
    asked = tuple(found for found in reads if found is not None)
    return _inputs(layout, batch, cast, asked, packer, device, exposure, late)


def _inputs(
    layout: Layout,
    batch: EventBatch,
    cast: Cast,
    asked: tuple[Supervised, ...],
    packer: Packer,
    device: torch.device | str,
    exposure: Exposure,
    late: LateStatistics | None,
) -> Inputs:
    _check_one_moment(cast, exposure)
    tokens = arrange(layout, cast, full_history=exposure.history == "full")
    rows = packer(tokens.length_U)
    tensor, in_rows = partial(_tensor, device), partial(_in_rows, device, rows)
    sight, clock = tokens.sight, _clock(layout, batch, cast, tokens, exposure.time_anchor)
    return Inputs(
        item_E=tensor(batch.item_E),
        action_EA=tensor(batch.action_EA),
        shown=tuple((shown.field, tensor(shown.source_N)) for shown in tokens.shown),
        cell_N=tensor(rows.cell_N),
        segments=Segments(
            tensor(rows.segment_RL),
            in_rows(tokens.position_N),
            None if sight is None else in_rows(sight.owner_N),
            None if sight is None else in_rows(sight.seen_N),
            Clock(**{name: in_rows(value_N) for name, value_N in clock.items()}),
        ),
        event_N=tensor(tokens.event_N),
        asked=tuple(
            Asked(
                each.target,
                tensor(rows.cell_N[each.row_M]),
                tensor(each.label_M),
                tuple((field, tensor(source_M)) for field, source_M in each.given_M),
                None
                if late is None or each.target.fact.field != "a"
                else tensor(_late(late, batch, cast, each)),
            )
            for each in asked
        ),
        context_EF=tensor(batch.context_EF),
        user_code_UK=tensor(batch.user_code_UK),
        user_N=tensor(np.repeat(np.arange(batch.num_users), tokens.length_U)),
    )


def _tensor(device: torch.device | str, array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)


def _in_rows(device: torch.device | str, rows: Rows, value_N: np.ndarray) -> Tensor:
    value_RL = np.zeros_like(rows.segment_RL)
    value_RL.reshape(-1)[rows.cell_N] = value_N
    return _tensor(device, value_RL)


def _check_one_moment(cast: Cast, exposure: Exposure) -> None:
    """A history that sees all of itself, or knows when it is asked about, is the history of one moment."""
    at_end = np.maximum(cast.now_C, cast.first_U[cast.user_C]) == cast.history_end_U[cast.user_C]
    for setting, is_set in (
        ("history = 'full'", exposure.history == "full"),
        ("time_anchor = 'request'", exposure.time_anchor == "request"),
    ):
        if is_set and not (len(at_end) and at_end.all()):
            raise ValueError(
                f"{setting}: a history then tells what happened, or when, to everything asked about it before; ask "
                "about candidates that come after all of it (protocol.candidate_requests = 1)"
            )


def _late(
    late: LateStatistics, batch: EventBatch, cast: Cast, asked: Supervised
) -> Float32[np.ndarray, "M F"]:
    """Of the events of the window only: how many lie before it would tell layouts apart by their lag."""
    first_E = np.repeat(cast.first_U, np.diff(cast.start_U1))
    return late.of(batch, first_E[asked.label_M], asked.now_M, asked.label_M)


def _clock(
    layout: Layout, batch: EventBatch, cast: Cast, tokens: Tokens, anchor: TimeAnchor
) -> dict[str, Int64[np.ndarray, " N"]]:
    """For every token the time of its event, the time it takes for now, its request within the window, and how much
    of the history is left."""
    event_N = tokens.event_N
    user_N = np.repeat(np.arange(cast.num_users), tokens.length_U)
    first_N = cast.first_U[user_N]
    time_s_N = batch.time_s_E[event_N]
    # The request before: of a candidate, the last one of the history that it sees.
    begin_E = begin_of_request(batch.start_U1, batch.request_E)
    before_N = np.clip(begin_E[event_N], first_N, tokens.now_N) - 1
    has_before_N = before_N >= first_N
    opened_E = np.cumsum(begin_E == np.arange(len(begin_E)))  # requests up to an event, over all users
    earlier_N = np.where(has_before_N, before_N, first_N)
    return {
        "time_s_RL": time_s_N,
        "anchor_s_RL": _anchor(layout, batch, cast, tokens, user_N, anchor),
        "request_RL": 1 + np.where(has_before_N, opened_E[earlier_N] - opened_E[first_N] + 1, 0),
        "gap_s_RL": np.where(has_before_N, time_s_N - batch.time_s_E[earlier_N], NO_REQUEST_BEFORE),
        "left_RL": np.maximum(0, cast.num_history_U[user_N] * layout.tokens_per_event - tokens.position_N),
    }


def _anchor(
    layout: Layout,
    batch: EventBatch,
    cast: Cast,
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
