"""The rankers' extractors: from what happened to what it says of each candidate.

Shape letters: M questions (candidates), N events, D width, X width of what is read, U users, H events of a user.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from plait.nn.activation_unit import ActivationUnit
from plait.nn.candidate_blocks import CandidateBlocks
from plait.nn.dropout import DrawingModule
from plait.nn.evolving import AttentionalGru, Gru, auxiliary_loss, other_items
from plait.nn.positions import TIME_BUCKETS
from plait.nn.ranker_settings import RankerSettings
from plait.nn.target_attention import (
    GAP_WIDTH,
    Moments,
    SearchedAttention,
    SoftSearch,
    TwinAttention,
    latest_alike,
)


@dataclass(frozen=True, eq=False)
class Asked:
    """Which events each question sees: `first_M : end_M`, those of its user before it; users one after another."""

    user_M: Int64[np.ndarray, " M"]
    first_M: Int64[np.ndarray, " M"]
    end_M: Int64[np.ndarray, " M"]

    def blocks(self, device: torch.device, last: int | None = None) -> CandidateBlocks:
        """Of all that is seen, or of the `last` events of it."""
        begin_M = self.first_M if last is None else np.maximum(self.first_M, self.end_M - last)
        return CandidateBlocks.of(self.user_M, begin_M, self.end_M, device)

    @property
    def histories(self) -> tuple[Int64[np.ndarray, " U"], Int64[np.ndarray, " U"]]:
        """Where each user's events begin and end, as far as any question sees them."""
        opens_M = np.ones(len(self.user_M), dtype=bool)
        opens_M[1:] = self.user_M[1:] != self.user_M[:-1]
        start_U = np.flatnonzero(opens_M)
        if not len(start_U):
            return start_U, start_U
        return self.first_M[start_U], np.maximum.reduceat(self.end_M, start_U)


@dataclass(frozen=True, eq=False)
class Behaviours:
    """What happened, and the candidates that are asked about."""

    asked: Asked
    query_MD: Float[Tensor, "M D"]
    item_ND: Float[Tensor, "N D"]
    action_ND: Float[Tensor, "N D"] | None
    moments: Moments
    code_MK: Int64[Tensor, "M K"]  # of what hard search goes by; else no columns
    code_NK: Int64[Tensor, "N K"]
    other_ND: Float[Tensor, "N D"] | None = None
    """Vectors of other items than those of the events; in training, where the extractor has a loss of its own."""

    @property
    def event_ND(self) -> Float[Tensor, "N D"]:
        """Items with their actions, as a token shows both: their sum."""
        return self.item_ND if self.action_ND is None else self.item_ND + self.action_ND


@dataclass(frozen=True, eq=False)
class Interest:
    """What a history says of each candidate."""

    read_MX: Float[Tensor, "M X"]
    searched_MD: Float[Tensor, "M D"] | None = None  # what the task of a search reads
    loss: Float[Tensor, ""] | None = None  # of the extractor's own


@dataclass(frozen=True)
class Amounts:
    """How much an extractor is given."""

    tokens: int  # events and candidates
    events: int  # of histories
    questions: int
    recent_pairs: int  # of a question and an event, of the last ones
    pairs: int  # of all that is seen


class Extractor(nn.Module, ABC):
    """From a history to what it says of a candidate."""

    num_out: int

    @abstractmethod
    def forward(self, happened: Behaviours) -> Interest: ...

    def others(self, item_E: Int64[Tensor, " E"], num_items: int) -> Int64[Tensor, " E"] | None:
        """In training, other items to tell those of events from; None where the extractor does not."""
        return None

    @abstractmethod
    def flops(self, of: Amounts) -> float:
        """FLOPs of a forward pass: every matrix product."""


class Din(Extractor):
    """The interest of activation units, and its product with the candidate, as in the authors' published code. Here
    rankmixer reads the same of a history.

    Source: DIN (Zhou et al., KDD 2018).
    """

    def __init__(self, settings: RankerSettings, dim: int) -> None:
        super().__init__()
        self.recent_events, self.dim, self.width = settings.recent_events, dim, settings.unit_width
        self.unit = ActivationUnit(dim, settings.unit_width)
        self.num_out = 2 * dim

    def forward(self, happened: Behaviours) -> Interest:
        query_MD = happened.query_MD
        blocks = happened.asked.blocks(query_MD.device, self.recent_events)
        interest_MD = self.unit(query_MD, happened.event_ND, blocks)
        return Interest(torch.cat([interest_MD, interest_MD * query_MD], dim=1))

    def flops(self, of: Amounts) -> float:
        of_each = 2.0 * self.dim * self.width
        of_pair = of_each + 2.0 * self.width + 2.0 * self.dim
        return of_each * of.questions + of_pair * of.recent_pairs


class Dien(Extractor, DrawingModule):
    """Interests that a GRU extracts from the whole window, and that evolve towards the candidate over the last ones.

    The GRU is causal, so one pass over a history serves all of its candidates.

    Source: DIEN (Zhou et al., AAAI 2019).
    """

    def __init__(self, settings: RankerSettings, dim: int) -> None:
        super().__init__()
        self.recent_events, self.dim = settings.recent_events, dim
        self.extractor = Gru(dim)
        self.evolving = AttentionalGru(dim)
        self.num_out = dim

    def forward(self, happened: Behaviours) -> Interest:
        query_MD, asked = happened.query_MD, happened.asked
        begin_U, end_U = asked.histories
        state_ND = self._extracted(happened.event_ND, begin_U, end_U)
        blocks = asked.blocks(query_MD.device, self.recent_events)
        loss = None
        if happened.other_ND is not None:
            before_N = _all_but_last(begin_U, end_U, query_MD.device)
            of_next = [x_ND[before_N + 1] for x_ND in (happened.item_ND, happened.other_ND)]
            loss = auxiliary_loss(state_ND[before_N], *of_next)
        return Interest(self.evolving(query_MD, state_ND, blocks), loss=loss)

    def others(self, item_E: Int64[Tensor, " E"], num_items: int) -> Int64[Tensor, " E"] | None:
        return other_items(item_E, num_items, self.own_generator) if self.training else None

    def _extracted(
        self, event_ND: Tensor, begin_U: Int64[np.ndarray, " U"], end_U: Int64[np.ndarray, " U"]
    ) -> Float[Tensor, "N D"]:
        """The state after each event that any question sees; zero elsewhere."""
        event_UH = begin_U[:, None] + np.arange(max(1, int((end_U - begin_U).max(initial=0))))
        is_there_UH = torch.from_numpy(event_UH < end_U[:, None]).to(event_ND.device)
        row_UH = torch.from_numpy(np.where(event_UH < end_U[:, None], event_UH, 0)).to(event_ND.device)
        state_UHD, _ = self.extractor(event_ND[row_UH])
        return event_ND.new_zeros(event_ND.shape).index_put(
            (row_UH[is_there_UH],), state_UHD[is_there_UH].to(event_ND.dtype)
        )

    def flops(self, of: Amounts) -> float:
        square = 2.0 * self.dim**2
        of_pair = 2.0 * self.dim + 3 * square
        return square * (6 * of.events + 3 * of.tokens + of.questions) + of_pair * of.recent_pairs


class Sim(Extractor):
    """A search in the whole history and attention to what it finds, beside attention to the last events.

    The paper's short-term part is a DIEN of its own; here it is attention of the same form with weights of its own.

    Source: SIM (Pi et al., CIKM 2020).
    """

    def __init__(self, settings: RankerSettings, dim: int, num_heads: int) -> None:
        super().__init__()
        self.settings, self.dim, self.num_heads = settings, dim, num_heads
        self.search = SoftSearch(dim) if settings.search == "soft" else None
        self.exact = SearchedAttention(dim, num_heads)
        self.recent = SearchedAttention(dim, num_heads)
        self.num_out = self.exact.num_out + self.recent.num_out

    def forward(self, happened: Behaviours) -> Interest:
        query_MD, event_ND, top_k = happened.query_MD, happened.event_ND, self.settings.top_k
        device, searched_MD = query_MD.device, None
        blocks = happened.asked.blocks(device)
        if self.search is None:
            found = latest_alike(happened.code_MK, happened.code_NK, top_k, blocks)
        else:
            found, searched_MD = self.search(query_MD, event_ND, top_k, blocks)
        of_all = self.exact(query_MD, event_ND, happened.moments, found, blocks)
        of_last = _of_last_events(self.recent, happened, self.settings.recent_events)
        return Interest(torch.cat([of_all, of_last], dim=1), searched_MD)

    def flops(self, of: Amounts) -> float:
        search = 2.0 * self.dim**2 * (of.tokens + of.questions) + 4.0 * self.dim * of.pairs
        attention = self.exact.flops(of.tokens, of.questions, of.pairs)
        attention += self.recent.flops(of.tokens, of.questions, of.recent_pairs)
        return attention + (search if self.search else 0.0)


class Twin(Extractor):
    """One attention for the search and for what it finds, over items and cross features apart, beside attention to the
    last events, as sim has it.

    Source: TWIN (Chang et al., KDD 2023).
    """

    def __init__(self, settings: RankerSettings, dim: int, num_heads: int, reads_actions: bool) -> None:
        super().__init__()
        self.settings, self.dim, self.num_heads = settings, dim, num_heads
        self.attention = TwinAttention(dim, num_heads, reads_actions)
        self.recent = SearchedAttention(dim, num_heads)
        self.num_out = dim + self.recent.num_out

    def forward(self, happened: Behaviours) -> Interest:
        query_MD, moments = happened.query_MD, happened.moments
        blocks = happened.asked.blocks(query_MD.device)
        of_all = self.attention(
            query_MD, happened.item_ND, happened.action_ND, moments, self.settings.top_k, blocks
        )
        of_last = _of_last_events(self.recent, happened, self.settings.recent_events)
        return Interest(torch.cat([of_all, of_last], dim=1))

    def flops(self, of: Amounts) -> float:
        dim, reads_actions = self.dim, self.attention.number_of_actions is not None
        square, of_gaps = 2.0 * dim**2, 2.0 * dim * TIME_BUCKETS
        of_tokens = (2 + reads_actions) * square + 2.0 * dim * reads_actions
        of_tables = 2.0 * TIME_BUCKETS * GAP_WIDTH * (dim + 1)
        of_pairs = 4.0 * dim * of.pairs
        of_last = self.recent.flops(of.tokens, of.questions, of.recent_pairs)
        return of_tokens * of.tokens + (2 * square + of_gaps) * of.questions + of_tables + of_pairs + of_last


def _of_last_events(attention: SearchedAttention, happened: Behaviours, num: int) -> Float[Tensor, "M X"]:
    """The short-term interest: attention to all of the last events."""
    last = happened.asked.blocks(happened.query_MD.device, num)
    all_of_them = tuple(block.sees_BCH for block in last.blocks)
    return attention(happened.query_MD, happened.event_ND, happened.moments, all_of_them, last)


def extractor_of(settings: RankerSettings, dim: int, num_heads: int, reads_actions: bool) -> Extractor:
    """The extractor of a kind that is one."""
    match settings.kind:
        case "din" | "rankmixer":
            return Din(settings, dim)
        case "dien":
            return Dien(settings, dim)
        case "sim":
            return Sim(settings, dim, num_heads)
        case "twin":
            return Twin(settings, dim, num_heads, reads_actions)
        case "none":
            raise AssertionError("a model without a ranker has a trunk")
        case _:
            assert_never(settings.kind)


def _all_but_last(
    begin_U: Int64[np.ndarray, " U"], end_U: Int64[np.ndarray, " U"], device: torch.device
) -> Int64[Tensor, " N"]:
    """Every event that another of its user follows."""
    length_U = np.maximum(end_U - begin_U - 1, 0)
    first_U = np.cumsum(length_U) - length_U
    return torch.from_numpy(np.repeat(begin_U - first_U, length_U) + np.arange(length_U.sum())).to(device)
