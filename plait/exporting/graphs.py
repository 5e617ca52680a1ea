"""What a model answers with, as modules of tensors alone: a history is encoded, candidates are scored, the catalogue is
ranked. They say what the engine says (`plait.engine`), for events that come after the whole history in a request of
their own.

Shape letters: U users, T events of a history (padded on the right), A action columns, L = T * M tokens of a history,
C candidates of a user, X their tokens, D width, V items of the catalogue (row 0 the unknown item), R facts of late
events that are read again, P places where the trunk attends, N heads, H head width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from plait.exporting.counted import (
    AddedToActions,
    AddedToItems,
    OfUsers,
    action_counts,
    item_counts,
    met_items,
)
from plait.exporting.dense import AmongThemselves, OverHistory, Terms
from plait.layouts.arrange import MASK, START, candidate_tokens
from plait.layouts.audit import TargetAudit, reader
from plait.layouts.facts import Fact, Field, Token
from plait.models.counted_actions import with_counts
from plait.models.generative import LEARNED, GenerativeRecommender
from plait.nn.action_kinds import modelled
from plait.nn.visibility import NO_REQUEST_BEFORE, Clock, Segments
from plait.schema import UNKNOWN_ITEM
from plait.window_rule import WindowRule

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Answering:
    """Where a field of an event to come is answered, and which late facts of the history that takes."""

    field: Field
    found: TargetAudit
    own: tuple[Token, ...]  # tokens of a candidate
    reads_history: bool

    @classmethod
    def of(cls, model: GenerativeRecommender, field: Field) -> "Answering | None":
        found, own = reader(model.layout, field), candidate_tokens(model.layout)
        if found is None:
            return None
        return cls(field, found, own, found.target.offset > 0)

    @property
    def back(self) -> int:
        """How many events before the one to come the answering token stands."""
        return self.found.target.offset

    @property
    def given(self) -> tuple[tuple[Field, int], ...]:
        """What its head is given: a field, and how many events before the one to come."""
        return tuple((fact.field, self.back - _offset(fact)) for fact in self.found.target.given)

    @property
    def late_facts(self) -> tuple[tuple[Field, int], ...]:
        """Facts of the history that candidates' tokens or heads read."""
        shown = [] if self.reads_history else [fact for token in self.own for fact in token.shown]
        back = [(fact.field, -fact.offset) for fact in shown if fact.offset]
        return tuple(dict.fromkeys([*back, *(each for each in self.given if each[1])]))

    def state_names(self, encoded: Iterable[str]) -> tuple[str, ...]:
        """What of an encoded history is read."""
        counted = ("met_item", "met_weight") if self.field == "i" else ("counted",)
        own = f"hidden_{self.field}", f"late_{self.field}", *counted
        of_keys = () if self.reads_history else ("keys", "position", "key_time_s", "requests", "last_time_s")
        return tuple(name for name in encoded if name in (*own, *of_keys))


class Encode(nn.Module):
    """Histories as candidates need them, windows cut as the model was trained."""

    def __init__(self, model: GenerativeRecommender, answers: Iterable[Answering]) -> None:
        super().__init__()
        self.model, self.facts = model, Facts(model)
        self.answers = tuple(answers)
        counts = action_counts(model.counts) if any(each.field == "a" for each in self.answers) else None
        self.of_users = None if counts is None else OfUsers(counts, model.config.num_items)

    def forward(self, history: Tensors) -> Tensors:
        """By name, what `Score` and `Rank` take.

        Args:
            history: `item` U x T, `actions` U x T x A, `time_s` U x T, `request` U x T (equal where events were shown
                together), `length` U, `before` U (how many events there were before the first): those that are read.
        """
        places = Places.of(self.model, history)
        hidden_ULD, keys = self._encoded(history, places)
        found: Tensors = {}
        if any(not each.reads_history for each in self.answers):
            found |= self._for_candidates(history, places, keys)
        for each in self.answers:
            if each.late_facts:
                late = [self.facts.back(history, *fact) for fact in each.late_facts]
                found[f"late_{each.field}"] = torch.stack(late, dim=1)
            if each.reads_history:
                found[f"hidden_{each.field}"] = self._hidden_at(hidden_ULD, history["length"], each)
        return found | self._counted(history, places)

    def _counted(self, history: Tensors, places: "Places") -> Tensors:
        """What counts need of histories. Those of items read the events before the window that the model reads."""
        found, of_items = Tensors(), item_counts(self.model.counts)
        if of_items is not None and any(each.field == "i" for each in self.answers):
            read_UT, length_U1 = places.read(self.model.plan.lead), history["length"][:, None]
            met = met_items(of_items.tables, history["item"], length_U1, read_UT)
            found["met_item"], found["met_weight"] = met
        if self.of_users is not None:
            action_UTA = self.facts.in_range(history["actions"])
            found["counted"] = self.of_users(history["item"], action_UTA, places.inside_UT)
        return found

    def _encoded(self, history: Tensors, places: "Places") -> tuple[Tensor, Tensor]:
        model, tokens = self.model, self.model.layout.tokens
        shown = [self.facts.shown_in_history(token, history) for token in tokens]
        x_ULD = torch.stack(shown, dim=2).flatten(1, 2)
        action_ULD = self.facts.of("a", history) if model.layout.rides else None
        sees_ULL, strictly_ULL = places.sees(len(tokens))
        segments, trunk = places.segments(len(tokens)), model.trunk
        where = AmongThemselves(
            segments, trunk.angles(segments), Terms(trunk.slopes_N), sees_ULL, strictly_ULL
        )
        hidden_ULD = trunk.through(x_ULD, action_ULD, where)
        return hidden_ULD, where.keys_of_all()

    def _for_candidates(self, history: Tensors, places: "Places", keys: Tensor) -> Tensors:
        stride, scheme = self.model.layout.tokens_per_event, self.model.config.settings.trunk.scheme
        found = {"keys": keys, "position": places.tokens_position(stride)}
        if self.model.config.settings.trunk.reads_time:
            found["key_time_s"] = _by_token(history["time_s"], stride)
        if scheme.adds_requests:
            last_U1 = (history["length"] - 1)[:, None]
            found["requests"] = places.request_UT.gather(1, last_U1)[:, 0]
            found["last_time_s"] = history["time_s"].gather(1, last_U1)[:, 0]
        return found

    def _hidden_at(self, hidden_ULD: Tensor, length_U: Tensor, each: Answering) -> Float[Tensor, "U D"]:
        stride = self.model.layout.tokens_per_event
        at_U = ((length_U - each.back) * stride + each.found.token).clamp(min=0)
        return hidden_ULD.gather(1, at_U[:, None, None].expand(-1, 1, hidden_ULD.shape[2]))[:, 0]


class Answer(nn.Module):
    """What a head reads of events to come."""

    def __init__(self, model: GenerativeRecommender, answering: Answering) -> None:
        super().__init__()
        self.model, self.facts, self.answering = model, Facts(model), answering

    def forward(self, state: Tensors, item_UC: Tensor) -> Float[Tensor, "U C D"]:
        asked, dim = self.answering, self.model.trunk.config.dim
        item_UCD = self.facts.items(item_UC) if self.model.items is not None else None
        if asked.reads_history:
            state_UCD = state[f"hidden_{asked.field}"][:, None].expand(-1, item_UC.shape[1], dim)
        else:
            state_UCD = self._through(state, item_UC, item_UCD)
        return self._compared(self._coupled(state, state_UCD, item_UCD))

    def _compared(self, state_UCD: Tensor) -> Tensor:
        """As states are compared with items: projected, where the settings say so."""
        project = self.model.state_interest
        if project is None or self.answering.field != "i":
            return state_UCD
        return project(state_UCD)

    def _coupled(self, state: Tensors, state_UCD: Tensor, item_UCD: Tensor | None) -> Float[Tensor, "U C D"]:
        """With what the head is given."""
        asked, size, state_MD = self.answering, state_UCD.shape, state_UCD.flatten(0, 1)
        if not asked.given:
            return state_UCD
        couplers = self.model.couplers[str(asked.found.target)]
        assert isinstance(couplers, nn.ModuleList)
        for coupler, (field, back) in zip(couplers, asked.given, strict=True):
            fact_UCD = self._late(state, (field, back)).expand(size) if back else item_UCD
            assert fact_UCD is not None
            state_MD = coupler(state_MD, fact_UCD.flatten(0, 1))
        return state_MD.view(size)

    def _through(self, state: Tensors, item_UC: Tensor, item_UCD: Tensor | None) -> Float[Tensor, "U C D"]:
        asked, trunk, num_own = self.answering, self.model.trunk, len(self.answering.own)
        shown = [self._shown(token, state, item_UC, item_UCD) for token in asked.own]
        x_UXD = torch.stack(shown, dim=2).flatten(1, 2)
        action_UXD = self.facts.no_action().expand_as(x_UXD) if self.model.layout.rides else None
        position_UK, segments = state["position"], self._segments(state, item_UC)
        where = OverHistory(
            segments,
            trunk.angles(segments),
            Terms(trunk.slopes_N),
            num_own,
            position_UK.clamp(min=0),
            state.get("key_time_s", torch.zeros_like(position_UK)),
            position_UK >= 0,
            iter(state["keys"].unbind(1)),
        )
        return trunk.through(x_UXD, action_UXD, where).unflatten(1, (-1, num_own))[:, :, asked.found.token]

    def _shown(
        self, token: Token, state: Tensors, item_UC: Tensor, item_UCD: Tensor | None
    ) -> Float[Tensor, "U C D"]:
        size = item_UC.shape
        parts = []
        for fact in token.shown:
            if fact.offset is None:
                parts.append(self.facts.special(fact.field, MASK).expand(*size, -1))
            elif fact.offset:
                parts.append(self._late(state, (fact.field, -fact.offset)).expand(*size, -1))
            elif fact.field == "i":
                assert item_UCD is not None
                parts.append(item_UCD)
            else:
                parts.append(self.facts.no_action().expand(*size, -1))
        return torch.stack(parts).sum(0)

    def _late(self, state: Tensors, fact: tuple[Field, int]) -> Float[Tensor, "U 1 D"]:
        nth = self.answering.late_facts.index(fact)
        return state[f"late_{self.answering.field}"][:, nth, None]

    def _segments(self, state: Tensors, item_UC: Tensor) -> Segments:
        """Of candidates' tokens: all candidates stand behind the history."""
        num_own, num_candidates = len(self.answering.own), item_UC.shape[1]
        first_U1 = state["position"].amax(1, keepdim=True) + 1
        position_UX = (first_U1 + torch.arange(num_own)).repeat(1, num_candidates)
        zero_UX = torch.zeros_like(position_UX)
        now_UX = zero_UX + state["at_s"][:, None] if "at_s" in state else zero_UX
        request_UX = gap_UX = zero_UX
        if "requests" in state:
            request_UX = zero_UX + state["requests"][:, None] + 1
            gap_UX = now_UX - state["last_time_s"][:, None]
        return Segments(zero_UX, position_UX, clock=Clock(now_UX, now_UX, request_UX, gap_UX, zero_UX))


class Score(nn.Module):
    """The actions of candidates: what is expected of each, and the logits behind it."""

    def __init__(self, model: GenerativeRecommender, answering: Answering) -> None:
        super().__init__()
        self.answer = Answer(model, answering)
        counts = action_counts(model.counts)
        self.added = None if counts is None else AddedToActions(counts, model.config.num_items)

    def forward(self, state: Tensors) -> Tensors:
        """By action's name what is expected, in the log's units, U x C, or U x C x values; by `logits of NAME` the
        heads' outputs.

        Args:
            state: what `Encode` gives, with `candidates` U x C and, where the model reads it, `at_s` U.
        """
        model, item_UC = self.answer.model, state["candidates"]
        state_MD = self.answer(state, item_UC).flatten(0, 1)
        heads = model.heads
        assert heads is not None, "a layout that scores has heads"
        out, size = self._with_counts(heads(state_MD), state), item_UC.shape
        found = {name: x.unflatten(0, size) for name, x in heads.expected(out).items()}
        logits = zip(model.config.actions, out, strict=True)
        return found | {f"logits of {action.name}": x.unflatten(0, size) for action, x in logits}

    def _with_counts(self, out: tuple[Tensor, ...], state: Tensors) -> tuple[Tensor, ...]:
        model = self.answer.model
        counts = action_counts(model.counts)
        if self.added is None or counts is None or model.heads is None:
            return out
        added_UCX = self.added(state["candidates"], state["counted"])
        return with_counts(model.heads.kinds, out, counts, added_UCX.flatten(0, 1))


class Rank(nn.Module):
    """Logits of the next item over the catalogue; -inf for row 0, the unknown item."""

    key_VD: Tensor
    bias_V: Tensor
    hidden_V: Tensor  # -inf where an item is never answered

    def __init__(self, model: GenerativeRecommender, answering: Answering) -> None:
        super().__init__()
        self.answer = Answer(model, answering)
        assert model.items is not None, "a layout that predicts items reads them"
        with torch.no_grad():
            item_VD, bias_V = model.compared(model.items.table()), model.bias_of_items()
            key_VD = model.retrieval.keys(item_VD)
            zero_V = key_VD.new_zeros(len(key_VD))
            hidden_V = zero_V.index_fill(0, torch.tensor([UNKNOWN_ITEM]), -torch.inf)
        self.register_buffer("key_VD", key_VD.detach().clone())
        self.register_buffer("bias_V", zero_V if bias_V is None else bias_V.detach().clone())
        self.register_buffer("hidden_V", hidden_V)
        counts = item_counts(model.counts)
        self.added = None if counts is None else AddedToItems(counts, model.config.num_items)

    def forward(self, state: Tensors) -> Tensors:
        first = state.get("hidden_i", state.get("keys"))
        assert first is not None, "a history was encoded"
        no_item_U1 = torch.full_like(first.flatten(1)[:, :1], UNKNOWN_ITEM, dtype=torch.int64)
        state_UD = self.answer(state, no_item_U1)[:, 0]
        score_UV = self.answer.model.retrieval.queries(state_UD) @ self.key_VD.T + self.bias_V
        if self.added is not None:
            score_UV = self.added(score_UV, state["met_item"], state["met_weight"])
        return {"logits": score_UV + self.hidden_V}


class Facts(nn.Module):
    """Items and actions as vectors, from tables that are whole when the program is made."""

    item_VD: Tensor

    def __init__(self, model: GenerativeRecommender) -> None:
        super().__init__()
        self.model = model
        if model.items is not None:
            with torch.no_grad():
                self.register_buffer("item_VD", model.items.table().detach().clone())

    def items(self, item: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        return nn.functional.embedding(item, self.item_VD)

    def actions(self, raw_A: Float[Tensor, "*shape A"]) -> Float[Tensor, "*shape D"]:
        """Of values in the log's units; one beyond its range counts as the nearest in it."""
        encoder = self.model.actions
        assert encoder is not None
        if not encoder.actions:
            return encoder.table.weight.new_zeros(*raw_A.shape[:-1], encoder.table.embedding_dim)
        raw_EA = self.in_range(raw_A.flatten(0, -2) if raw_A.ndim > 1 else raw_A[None])
        columns = zip(encoder.actions, raw_EA.unbind(1), strict=True)
        unit = [modelled(action.kind).to_unit(raw_E) for action, raw_E in columns]
        row_EJ, weight_EJ = encoder.rows_at(torch.stack(unit, dim=1))
        vector_ED = (nn.functional.embedding(row_EJ, encoder.table.weight) * weight_EJ[..., None]).sum(1)
        return vector_ED.view(*raw_A.shape[:-1], vector_ED.shape[1])

    def in_range(self, raw_A: Float[Tensor, "*shape A"]) -> Float[Tensor, "*shape A"]:
        columns = zip(self.model.config.actions, raw_A.unbind(-1), strict=True)
        return torch.stack([_within(raw, *action.kind.bounds) for action, raw in columns], dim=-1)

    def no_action(self) -> Float[Tensor, " D"]:
        """Of an action that is missing."""
        return self.actions(torch.full((len(self.model.config.actions),), torch.nan))

    def special(self, field: Field, special: int) -> Float[Tensor, " D"]:
        return self.model.specials[field][LEARNED.index(special)]

    def of(self, field: Field, history: Tensors) -> Float[Tensor, "U T D"]:
        """Of every event."""
        match field:
            case "i":
                return self.items(history["item"])
            case "a":
                return self.actions(history["actions"])
            case "c":
                raise AssertionError("a layout with conditions is refused")
            case never:
                assert_never(never)

    def shown_in_history(self, token: Token, history: Tensors) -> Float[Tensor, "U T D"]:
        return torch.stack([self._lagged(fact, history) for fact in token.shown]).sum(0)

    def back(self, history: Tensors, field: Field, back: int) -> Float[Tensor, "U D"]:
        """Of the event so many before the one that comes after the history; before the first stands the start."""
        of_UTD, at_U = self.of(field, history), history["length"] - back
        index_U11 = at_U.clamp(min=0)[:, None, None]
        found_UD = of_UTD.gather(1, index_U11.expand(-1, 1, of_UTD.shape[2]))[:, 0]
        return torch.where(at_U[:, None] >= 0, found_UD, self.special(field, START))

    def _lagged(self, fact: Fact, history: Tensors) -> Float[Tensor, "U T D"]:
        """The fact as each event shows it: of itself, or of an event before."""
        of_UTD, back = self.of(fact.field, history), -_offset(fact)
        if not back:
            return of_UTD
        start_UbD = self.special(fact.field, START).expand(of_UTD.shape[0], back, of_UTD.shape[2])
        return torch.cat([start_UbD, of_UTD], dim=1)[:, : of_UTD.shape[1]]


@dataclass(frozen=True, eq=False)
class Places:
    """Where the events of histories stand: in the window that questions about what comes next have."""

    event_UT: Int64[Tensor, "U T"]  # its number in the row
    first_U1: Int64[Tensor, "U 1"]  # the number of the window's first
    position_UT: Int64[Tensor, "U T"]  # number of the event in its window
    inside_UT: Bool[Tensor, "U T"]
    time_s_UT: Int64[Tensor, "U T"]
    request_UT: Int64[Tensor, "U T"]  # number of its request in the window, from 1
    gap_s_UT: Int64[Tensor, "U T"]

    @classmethod
    def of(cls, model: GenerativeRecommender, history: Tensors) -> "Places":
        length_U1, item_UT = history["length"][:, None], history["item"]
        event_UT = torch.zeros_like(item_UT) + torch.arange(item_UT.shape[1])
        time_s_UT = history.get("time_s", torch.zeros_like(item_UT))
        request_UT = gap_s_UT = torch.zeros_like(item_UT)
        first_U1 = _first_in_window(model.plan.window, history)
        inside_UT = (event_UT >= first_U1) & (event_UT < length_U1)
        if model.config.settings.trunk.scheme.adds_requests:
            opens_UT = (_opens(history["request"]) | (event_UT == first_U1)) & inside_UT
            request_UT = opens_UT.long().cumsum(1)
            gap_s_UT = _since_request_before(opens_UT, event_UT, first_U1, time_s_UT)
        position_UT = (event_UT - first_U1) * inside_UT
        return cls(event_UT, first_U1, position_UT, inside_UT, time_s_UT, request_UT, gap_s_UT)

    def read(self, lead: int) -> Bool[Tensor, "U T"]:
        """Whether events are in the window, or among so many before it."""
        is_lead_UT = (self.event_UT >= self.first_U1 - lead) & (self.event_UT < self.first_U1)
        return self.inside_UT | is_lead_UT

    def segments(self, stride: int) -> Segments:
        """Of all tokens."""
        position_UL = self.tokens_position(stride).clamp(min=0)
        time_s_UL, request_UL, gap_s_UL = (
            _by_token(x_UT, stride) for x_UT in (self.time_s_UT, self.request_UT, self.gap_s_UT)
        )
        zero_UL = torch.zeros_like(position_UL)
        clock = Clock(time_s_UL, time_s_UL, request_UL, gap_s_UL, zero_UL)
        return Segments(zero_UL, position_UL, clock=clock)

    def tokens_position(self, stride: int) -> Int64[Tensor, "U L"]:
        """-1 where a token is outside of the window."""
        position_UTM = self.position_UT[:, :, None] * stride + torch.arange(stride)
        return torch.where(self.inside_UT[:, :, None], position_UTM, -1).flatten(1, 2)

    def sees(self, stride: int) -> tuple[Bool[Tensor, "U L L"], Bool[Tensor, "U L L"]]:
        """Whether tokens see one another; and where none sees its own event."""
        inside_UL = _by_token(self.inside_UT, stride)
        token_L = torch.arange(inside_UL.shape[1])
        event_L = token_L // stride
        earlier_LL, strictly_LL = token_L[:, None] >= token_L, event_L[:, None] > event_L
        return earlier_LL & inside_UL[:, None], strictly_LL & inside_UL[:, None]


def _first_in_window(rule: WindowRule, history: Tensors) -> Int64[Tensor, "U 1"]:
    """The number of the first event that questions about what comes next see: `WindowRule`, in tensors."""
    length_U, before_U = history["length"], history["before"]
    over_U = (before_U + length_U - rule.longest).clamp(min=0)
    begin_U = (over_U + rule.step - 1) // rule.step * rule.step
    first_U1 = (begin_U - before_U).clamp(min=0)[:, None]
    if rule.opens_within == 1:
        return first_U1
    event_US = (first_U1 + torch.arange(rule.opens_within)).minimum(length_U[:, None] - 1)
    return first_U1 + _opens(history["request"]).gather(1, event_US).int().argmax(1, keepdim=True)


def _opens(request_UT: Int64[Tensor, "U T"]) -> Bool[Tensor, "U T"]:
    """Whether an event is the first of its request; the very first one is."""
    event_UT = torch.zeros_like(request_UT) + torch.arange(request_UT.shape[1])
    before_UT = request_UT.gather(1, (event_UT - 1).clamp(min=0))
    return (event_UT == 0) | (request_UT != before_UT)


def _since_request_before(
    opens_UT: Bool[Tensor, "U T"],
    event_UT: Int64[Tensor, "U T"],
    first_U1: Int64[Tensor, "U 1"],
    time_s_UT: Int64[Tensor, "U T"],
) -> Int64[Tensor, "U T"]:
    """Seconds from the last event of the request before; NO_REQUEST_BEFORE in the window's first request."""
    is_before_UTT = opens_UT[:, None] & (event_UT[:, None] <= event_UT[:, :, None])
    opened_UT = torch.where(is_before_UTT, event_UT[:, None], 0).amax(2)
    gap_s_UT = time_s_UT - time_s_UT.gather(1, (opened_UT - 1).clamp(min=0))
    return torch.where(opened_UT > first_U1, gap_s_UT, NO_REQUEST_BEFORE)


def _by_token(x_UT: Tensor, stride: int) -> Tensor:
    return x_UT[:, :, None].expand(-1, -1, stride).flatten(1, 2)


def _within(raw: Tensor, low: float, high: float) -> Tensor:
    return raw.clamp(min=low, max=high)


def _offset(fact: Fact) -> int:
    assert fact.offset is not None, "masks are for candidates' tokens alone"
    return fact.offset
