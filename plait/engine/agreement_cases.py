"""What a model is asked to see whether it agrees with itself: events to come, as training asks and as one pass does.

Shape letters: U users, C candidates of a user, S sequences, E events, M questions, Z outputs of an action, or the items
that are compared, W users that are asked in one way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from plait.engine import one_pass, steps
from plait.engine.ranking import FIRST_ITEM, Catalogue, beside_of, catalogue_of, scores_at
from plait.engine.state import (
    State,
    before,
    behind,
    chosen_users,
    encode,
    joined_histories,
    repeated,
    some_users,
    window,
)
from plait.layouts import audit
from plait.layouts.audit import reader
from plait.layouts.facts import Field
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Questions, training_inputs
from plait.nn.precision import Multiplied, autocast, products_by
from plait.schema import EventBatch

NUM_SOME = 16  # of the users, who are asked about in ways that cost much
NUM_OTHERS = 3  # candidates beside the item that came
NUM_ITEMS = 512  # of the catalogue, whose logits are compared
DAY_S = 86_400

NEXT_ITEM = "next item"
TO_COME = "to come"  # the name of a request that no history has

# U x C x Z, of the next item (C = 1) and of each action; NaN where training does not ask.
Logits = dict[str, Float[np.ndarray, "_ _ _"]]


@dataclass(frozen=True)
class Moment:
    """Events to come, and the same questions as training asks them: sequences of events, of which one is to come."""

    history: EventBatch  # what states are made of
    time_s_U: Int64[np.ndarray, " U"]
    at_s: int | None  # of all users; None: each its own, which is read by no answer unless asked one by one
    request_U: tuple[int | str, ...]
    context_UF: Int64[np.ndarray, "U F"]
    condition_UG: Int64[np.ndarray, "U G"]
    context: EventBatch  # what is seen, as far as the model reads: a sequence for each of training's
    to_come: EventBatch  # the first of each sequence's is asked about
    num_asked: int  # candidates of a user in training's sequences

    @property
    def training(self) -> EventBatch:
        return joined_histories(self.context, self.to_come)

    def under(self, condition_UG: Int64[np.ndarray, "U G"]) -> "Moment":
        """The same questions, asked under other conditions."""
        condition_SG = np.repeat(condition_UG, self.num_asked, axis=0)
        condition_EG = np.repeat(condition_SG, self.to_come.num_events_U, axis=0)
        to_come = replace(self.to_come, condition_EG=condition_EG)
        return replace(self, condition_UG=condition_UG, to_come=to_come)

    @property
    def label_S(self) -> Int64[np.ndarray, " S"]:
        return self.training.start_U1[1:] - self.to_come.num_events_U


@dataclass(frozen=True)
class CheckCase:
    """A model, and what it is asked."""

    model: GenerativeRecommender
    items: Int64[np.ndarray, " Z"]  # whose logits are compared
    item_UC: Int64[np.ndarray, "U C"]  # candidates, of which the first is the item that came
    as_it_came: Moment
    later: Moment

    @classmethod
    def of(cls, model: GenerativeRecommender, histories: EventBatch, seed: int) -> "CheckCase":
        rng = np.random.default_rng(seed)
        num_items = model.config.num_items
        items = np.sort(rng.permutation(num_items)[:NUM_ITEMS] + FIRST_ITEM)
        histories = _askable(model, histories)
        as_it_came = _as_it_came(model, histories)
        item_UC = rng.integers(FIRST_ITEM, num_items + 1, (histories.num_users, 1 + NUM_OTHERS))
        item_UC[:, 0] = as_it_came.to_come.item_E[as_it_came.to_come.start_U1[:-1]]
        item_UC[:, -1] = item_UC[:, 0]  # a candidate that comes twice
        return cls(model, items, item_UC, as_it_came, _later(model, histories, item_UC))

    @property
    def num_users(self) -> int:
        return len(self.item_UC)

    @cached_property
    def catalogue(self) -> Catalogue:
        return catalogue_of(self.model)

    @cached_property
    def trained_as_it_came(self) -> Logits:
        return self.trained(self.as_it_came, "fp32")

    def asked_as_it_came(self) -> Logits:
        """By one pass: each user at its own moment, where the model looks at it; else all at once."""
        moment, at_own = self.as_it_came, _reads_moments(self.model)
        parts = []
        for user_W in [np.array([user]) for user in self.everyone()] if at_own else [self.everyone()]:
            state = self.state(chosen_users(moment.history, user_W))
            at_s = int(moment.time_s_U[user_W[0]]) if at_own else None
            parts.append(self.asked(state, moment, user_W, at_s))
        return {name: x[:, :1] for name, x in joined_parts(parts).items()}

    @cached_property
    def trained_later(self) -> Logits:
        return self.trained(self.later, "fp32")

    def trained(self, moment: Moment, precision: Multiplied) -> Logits:
        """What the forward pass of training gives."""
        parts, tokens_S = [], steps.tokens_of(self.model, moment.training.num_events_U)
        device = next(self.model.parameters()).device.type
        for some in steps.within(tokens_S, steps.tokens_per_step(self.model)):
            with products_by(precision), autocast(precision, device):
                parts.append(_trained(self, moment, some))
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        per_user = {name: x.reshape(self.num_users, -1, x.shape[-1]) for name, x in joined.items()}
        return {name: x[:, :1] if name == NEXT_ITEM else x for name, x in per_user.items()}

    def state(self, history: EventBatch) -> State:
        """With keys, where the model keeps any."""
        return one_pass.encode(self.model, self.events(history))

    def events(self, history: EventBatch) -> State:
        """Without."""
        last_U = history.request_E[history.start_U1[1:] - 1]
        plan = self.model.plan
        return encode(history, plan.window, plan.lead, request_name_U=last_U.tolist())

    def asked(
        self, state: State, moment: Moment, user_W: Int64[np.ndarray, " W"], at_s: int | None
    ) -> Logits:
        """What one pass over the users' histories gives, for all candidates and items."""
        model = self.model
        found: Logits = {}
        name, condition_WG = moment.request_U[int(user_W[0])], moment.condition_UG[user_W]
        if "a" in fields_asked(model):
            item_WC = self.item_UC[user_W]
            count_W = np.full(len(item_WC), item_WC.shape[1])
            context_WF = moment.context_UF[user_W]
            parts = list(
                one_pass.outputs_of_lists(
                    model,
                    state,
                    item_WC.reshape(-1),
                    count_W,
                    context_UF=context_WF,
                    condition_UG=condition_WG,
                    at_s=at_s,
                    request_name=name,
                )
            )
            for action, *out in zip(model.config.actions, *parts, strict=True):
                out_MZ = torch.cat(out).double().cpu().numpy()
                found[action.name] = out_MZ.reshape(*item_WC.shape, -1)
        if "i" in fields_asked(model):
            kept_I = np.zeros(model.config.num_items + 1, dtype=bool)
            kept_I[self.items] = True
            item_WZ, score_WZ = one_pass.retrieve(
                model,
                state,
                len(self.items),
                False,
                kept_I=kept_I,
                at_s=at_s,
                request_name=name,
                condition_UG=condition_WG,
            )
            by_item_WZ = np.argsort(item_WZ, axis=1)
            found[NEXT_ITEM] = np.take_along_axis(score_WZ.astype(np.float64), by_item_WZ, axis=1)[:, None]
        return found

    def scores_of_interests(self, interest_UD: Float[np.ndarray, "U D"]) -> Float[np.ndarray, "U Z"]:
        """What interests of `query` say of the items, as if they were states."""
        plan, device = self.model.plan, next(self.model.parameters()).device
        contexts = window(self.later.history, plan.window, plan.lead)
        state_UD = torch.from_numpy(interest_UD).to(device)
        parts = self.catalogue.parts(state_UD, beside_of(self.model, contexts))
        item_UZ = np.tile(self.items, (self.num_users, 1))
        return scores_at(parts, item_UZ).double().cpu().numpy()

    @cached_property
    def some(self) -> Int64[np.ndarray, " W"]:
        """Users from the longest history to the shortest, evenly, for ways that cost much."""
        longest_first_U = np.argsort(-self.later.history.num_events_U, kind="stable")
        return longest_first_U[:: -(-self.num_users // NUM_SOME)]

    def everyone(self) -> Int64[np.ndarray, " U"]:
        return np.arange(self.num_users)


def fields_asked(model: GenerativeRecommender) -> tuple[Field, ...]:
    """What is asked about."""
    verdict, found = audit(model.layout), list[Field]()
    if verdict.can_retrieve:
        found.append("i")
    if verdict.can_score != "no" and model.predicts_actions:
        found.append("a")
    return tuple(found)


def _askable(model: GenerativeRecommender, histories: EventBatch) -> EventBatch:
    """The users whose last event can be asked about: enough lies before it, or before its request."""
    ends = [reader(model.layout, field) for field in fields_asked(model)]
    needed = max(1, *(found.target.offset for found in ends if found is not None))
    seen_U = _end_of_context(model, histories) - histories.start_U1[:-1]
    user_W = np.flatnonzero(seen_U >= needed)
    if not len(user_W):
        raise ValueError(
            f"none of {histories.num_users} users has {needed} events before what the model is asked about"
        )
    return chosen_users(histories, user_W)


def _end_of_context(model: GenerativeRecommender, histories: EventBatch) -> Int64[np.ndarray, " U"]:
    """Where the context of each user's last event ends: the number of an event of the batch's."""
    ones_U = np.ones(histories.num_users, dtype=np.int64)
    last_U, known = histories.start_U1[1:] - 1, before(histories, ones_U)
    is_of_last_U = histories.request_E[last_U] == histories.request_E[np.maximum(last_U - 1, 0)]
    seen_U = model.plan.end_of_context(known, is_of_last_U) - known.start_U1[:-1]
    return histories.start_U1[:-1] + seen_U


def _as_it_came(model: GenerativeRecommender, histories: EventBatch) -> Moment:
    """Each user's last event, or the first of its request where the model knows requests; where that is of the time of
    those behind, they are in the state, which has to leave them out."""
    end_U, last_U = _end_of_context(model, histories), histories.start_U1[1:] - 1
    time_s_U = histories.time_s_E[end_U]
    held_U = np.where(time_s_U == histories.time_s_E[last_U], last_U, end_U)
    plan = model.plan
    return Moment(
        history=before(histories, histories.start_U1[1:] - held_U),
        time_s_U=time_s_U,
        at_s=None,
        request_U=tuple(histories.request_E[end_U].tolist()),
        context_UF=histories.context_EF[end_U],
        condition_UG=histories.condition_EG[end_U],
        context=window(histories, plan.window, plan.lead, end_U),
        to_come=behind(histories, histories.start_U1[1:] - end_U),
        num_asked=1,
    )


def _later(model: GenerativeRecommender, histories: EventBatch, item_UC: Int64[np.ndarray, "U C"]) -> Moment:
    """All candidates of all users at one moment behind what each did but for its last event."""
    plan, num_asked = model.plan, item_UC.shape[1]
    ones_U = np.ones(histories.num_users, dtype=np.int64)
    history, last = before(histories, ones_U), behind(histories, ones_U)
    known_U = history.start_U1[1:] - 1
    at_s = int(history.time_s_E.max()) + DAY_S if _reads_moments(model) else None
    time_s_U = history.time_s_E[known_U] if at_s is None else np.full_like(ones_U, at_s)
    request_U = history.request_E[known_U] + 1
    each = replace(
        last, time_s_E=time_s_U, request_E=request_U, action_EA=np.full_like(last.action_EA, np.nan)
    )
    return Moment(
        history=history,
        time_s_U=time_s_U,
        at_s=at_s,
        request_U=(TO_COME,) * len(ones_U),
        context_UF=last.context_EF,
        condition_UG=last.condition_EG,
        context=repeated(window(history, plan.window, plan.lead), num_asked),
        to_come=replace(repeated(each, num_asked), item_E=item_UC.reshape(-1)),
        num_asked=num_asked,
    )


def _reads_moments(model: GenerativeRecommender) -> bool:
    """Whether it matters when, or in which request, an event comes."""
    return model.reads_requests or model.config.settings.reads_time


def _trained(case: CheckCase, moment: Moment, some: slice) -> dict[str, Float[np.ndarray, "_ _"]]:
    model = case.model
    batch = some_users(moment.training, some)
    label_s = batch.start_U1[1:] - moment.to_come.num_events_U[some]
    inputs = training_inputs(
        model.plan,
        batch,
        device=next(model.parameters()).device,
        late=model.late_statistics(),
        counting=model.counting,
    )
    found: dict[str, np.ndarray] = {}
    for field in fields_asked(model):
        answers = reader(model.layout, field)
        assert answers is not None, "the layout predicts it"
        ((questions, state_MD),) = (
            pair
            for pair in zip(inputs.questions, model(inputs), strict=True)
            if pair[0].target == answers.target
        )
        with torch.autocast(state_MD.device.type, enabled=False):
            found |= _logits(case, moment, some, field, questions, state_MD.float(), label_s)
    return found


def _logits(
    case: CheckCase,
    moment: Moment,
    some: slice,
    field: Field,
    questions: Questions,
    state_MD: torch.Tensor,
    label_s: Int64[np.ndarray, " s"],
) -> dict[str, Float[np.ndarray, "s _"]]:
    """What heads say of the questions about the events to come; NaN where training asks none."""
    row_s, asked_s = _rows(questions.label_M.cpu().numpy(), label_s)
    if field == "i":
        contexts = chosen_users(some_users(moment.context, some), np.flatnonzero(asked_s))
        state_sD = state_MD[torch.from_numpy(row_s[asked_s]).to(state_MD.device)]
        parts = case.catalogue.parts(state_sD, beside_of(case.model, contexts))
        item_sZ = np.tile(case.items, (len(state_sD), 1))
        values = {NEXT_ITEM: scores_at(parts, item_sZ)}
    else:
        rows = torch.from_numpy(row_s[asked_s]).to(state_MD.device)
        outputs = case.model.action_outputs(questions, state_MD)
        names = (action.name for action in case.model.config.actions)
        values = {name: out_MZ[rows] for name, out_MZ in zip(names, outputs, strict=True)}
    found = {}
    for name, value_sZ in values.items():
        found[name] = np.full((len(label_s), value_sZ.shape[1]), np.nan)
        found[name][asked_s] = value_sZ.double().cpu().numpy()
    return found


def _rows(
    label_M: Int64[np.ndarray, " M"], label_s: Int64[np.ndarray, " s"]
) -> tuple[Int64[np.ndarray, " s"], Bool[np.ndarray, " s"]]:
    """The question about each event, and whether there is one."""
    row_E = np.full(max(label_M.max(initial=-1), label_s.max()) + 1, -1)
    row_E[label_M] = np.arange(len(label_M))
    return row_E[label_s], row_E[label_s] >= 0


def joined_parts(parts: Sequence[Mapping[str, np.ndarray]]) -> Logits:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
