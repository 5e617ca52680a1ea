"""Whether a model says the same whatever way it is asked: as it was trained, and in each of the engine's ways.

Shape letters: U users, C candidates of a user, S sequences, E events, M questions, Z outputs of an action, or the items
that are compared, W users that are asked in one way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64

from plait.engine import one_pass, steps
from plait.engine.multiplying import multiplied_in, served_in
from plait.engine.ranking import FIRST_ITEM, Catalogue, beside_of, catalogue_of, scores_at
from plait.engine.state import (
    State,
    append,
    before,
    behind,
    chosen_users,
    encode,
    joined_histories,
    repeated,
    some_users,
    window,
)
from plait.engine.state_file import load_state, save_state
from plait.engine.state_parts import joined_states, some_of_state
from plait.layouts import audit
from plait.layouts.audit import reader
from plait.layouts.facts import Field
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Questions, training_inputs
from plait.models.saving import load_model, save_model
from plait.nn.precision import Multiplied, autocast, products_by
from plait.schema import EventBatch

NUM_USERS = 256
NUM_ENDS = 8  # of those users, the shortest histories, and as many longest ones
NUM_SOME = 16  # of them, who are asked about in ways that cost much
NUM_OTHERS = 3  # candidates beside the item that came
NUM_ITEMS = 512  # of the catalogue, whose logits are compared
DAY_S = 86_400

NEXT_ITEM = "next item"
TO_COME = "to come"  # the name of a request that no history has

# U x C x Z, of the next item (C = 1) and of each action; NaN where training does not ask.
Logits = dict[str, Float[np.ndarray, "_ _ _"]]


@dataclass(frozen=True)
class Allowance:
    """How far logits may lie apart: so much of their spread, and so much of their size."""

    of_spread: float
    of_size: float = 0.0

    def of(self, logits: Float[np.ndarray, "..."]) -> float:
        """The spread is the standard deviation, the size that of the largest."""
        return self.of_spread * _spread(logits) + self.of_size * float(np.abs(logits).max())


EXACT = Allowance(1e-5, 2e-6)  # for fp32
ROUNDED = Allowance(0.05)  # where one side multiplies in bf16


@dataclass(frozen=True)
class Agreement:
    """How far one way of asking lies from another, in the logits of one thing."""

    way: str
    logits: str  # of the next item, or of an action
    num_users: int
    num_logits: int
    difference: float  # the largest, in standard deviations of the logits
    allowed: float  # likewise

    @property
    def agrees(self) -> bool:
        return self.difference <= self.allowed  # NaN does not


@dataclass(frozen=True)
class Check:
    """What was compared, and in words what could not be, and why."""

    compared: tuple[Agreement, ...]
    left_out: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        return all(each.agrees for each in self.compared)


def users_to_check(
    length_U: Int64[np.ndarray, " U"], model: GenerativeRecommender, seed: int
) -> Int64[np.ndarray, " W"]:
    """Up to NUM_USERS users who have an event behind another: those of the shortest and of the longest histories, then
    in equal parts those who fill the model's window and any others, drawn.

    Raises:
        ValueError: there are none.
    """
    user_W = np.flatnonzero(length_U > 1)
    if not len(user_W):
        raise ValueError(
            "no user has two events, one to see and one to be asked about: there is nothing to check"
        )
    by_length_W = user_W[np.argsort(length_U[user_W], kind="stable")]
    drawn_W = np.random.default_rng(seed).permutation(user_W)
    past_W = drawn_W[length_U[drawn_W] > model.plan.window.longest][: NUM_USERS // 2]
    in_order = np.concatenate([by_length_W[:NUM_ENDS], by_length_W[-NUM_ENDS:], past_W, drawn_W])
    _, first = np.unique(in_order, return_index=True)
    return np.sort(in_order[np.sort(first)][:NUM_USERS])


@torch.no_grad()
def check(
    model: GenerativeRecommender, histories: EventBatch, seed: int, more_ways: Sequence["Way"] = ()
) -> Check:
    """Compares the ways of asking a model in evaluation mode about events of users.

    The reference is the forward pass of training: a window of events, all in one pass. Counts stand beside the model on
    either side. Both sides multiply in fp32, but where a way says otherwise.

    Args:
        histories: whole ones, of two events or more.
        seed: of the candidates and items that are drawn.
        more_ways: beside those of the engine.

    Raises:
        ValueError: no user can be asked about, or the model predicts nothing of an event to come.
    """
    left_out, compared = list(_not_asked(model)), list[Agreement]()
    if not fields_asked(model):
        raise ValueError(f"there is nothing to check: {'; '.join(left_out)}")
    case = CheckCase.of(model, histories, seed)
    for way in (*WAYS, *more_ways):
        why_not = way.why_not(case)
        if why_not:
            left_out.append(f"{way.name}: {why_not}")
            continue
        with multiplied_in("fp32"):
            expected, found = way.ask(case)
        compared += [
            _compared(way, name, expected[name], found[name], way.allowance(model)) for name in expected
        ]
    return Check(tuple(compared), tuple(left_out))


def _compared(
    way: "Way",
    name: str,
    expected_UCZ: Float[np.ndarray, "U C Z"],
    found_UCZ: Float[np.ndarray, "U C Z"],
    allowance: Allowance,
) -> Agreement:
    """Of the output that lies farthest from what is allowed. (Outputs of one action have spreads of their own.)"""
    asked_U = ~np.isnan(expected_UCZ).all(axis=(1, 2))
    assert asked_U.any(), f"{way.name} compares no {name}"
    columns = [...] if name == NEXT_ITEM else [np.s_[..., [z]] for z in range(expected_UCZ.shape[2])]
    worst = (0.0, 0.0)
    for column in columns:
        expected, found = expected_UCZ[asked_U][column], found_UCZ[asked_U][column]
        spread = _spread(expected) or 1.0  # of equal logits
        far = float(np.abs(found - expected).max()) / spread
        allowed = allowance.of(expected) / spread
        if not far * worst[1] < worst[0] * allowed:
            worst = far, allowed
    return Agreement(way.name, name, int(asked_U.sum()), expected_UCZ[asked_U].size, *worst)


def _spread(logits: Float[np.ndarray, "..."]) -> float:
    return float(logits.std())


@dataclass(frozen=True)
class _Moment:
    """Events to come, and the same questions as training asks them: sequences of events, of which one is to come."""

    history: EventBatch  # what states are made of
    time_s_U: Int64[np.ndarray, " U"]
    at_s: (
        int | None
    )  # one time for all users; None: each its own, which is read by no answer unless asked one by one
    request_U: tuple[int | str, ...]
    context_UF: Int64[np.ndarray, "U F"]
    condition_UG: Int64[np.ndarray, "U G"]
    context: EventBatch  # what is seen, as far as the model reads: a sequence for each of training's
    to_come: EventBatch  # the first of each sequence's is asked about
    num_asked: int  # candidates of a user in training's sequences

    @property
    def training(self) -> EventBatch:
        return joined_histories(self.context, self.to_come)

    @property
    def label_S(self) -> Int64[np.ndarray, " S"]:
        return self.training.start_U1[1:] - self.to_come.num_events_U


@dataclass(frozen=True)
class CheckCase:
    """A model, and what it is asked."""

    model: GenerativeRecommender
    items: Int64[np.ndarray, " Z"]  # whose logits are compared
    item_UC: Int64[np.ndarray, "U C"]  # candidates, of which the first is the item that came
    as_it_came: _Moment
    later: _Moment

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
        return {name: x[:, :1] for name, x in _together(parts).items()}

    @cached_property
    def trained_later(self) -> Logits:
        return self.trained(self.later, "fp32")

    def trained(self, moment: _Moment, precision: Multiplied) -> Logits:
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
        self, state: State, moment: _Moment, user_W: Int64[np.ndarray, " W"], at_s: int | None
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


def _not_asked(model: GenerativeRecommender) -> Iterator[str]:
    """Why the rest is not asked about, or not seen."""
    verdict, layout = audit(model.layout), model.layout
    if not verdict.can_retrieve:
        yield f"{NEXT_ITEM}: layout '{layout}' cannot retrieve: it predicts no item"
    if verdict.can_score == "no":
        yield f"actions: layout '{layout}' cannot score a given item: {verdict.why_not_score}"
    elif not model.predicts_actions:
        yield "actions: the data has none"
    for name in _counted_alone(model):
        yield f"{name}: counts have all the weight, so whatever the network says of it is not seen"


def _counted_alone(model: GenerativeRecommender) -> Iterator[str]:
    """What counts beside the model decide without it."""
    if model.counts is None:
        return
    items, actions = model.counts.items, model.counts.actions
    if items is not None and items.pay and not items.weight_T[0]:
        yield NEXT_ITEM
    if actions is not None:
        for action, counted in zip(model.config.actions, actions.actions, strict=True):
            if counted.pay and not any(part.weights.weight_T[0] for part in counted.parts):
                yield action.name


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


def _as_it_came(model: GenerativeRecommender, histories: EventBatch) -> _Moment:
    """Each user's last event, or the first of its request where the model knows requests; where that is of the time of
    those behind, they are in the state, which has to leave them out."""
    end_U, last_U = _end_of_context(model, histories), histories.start_U1[1:] - 1
    time_s_U = histories.time_s_E[end_U]
    held_U = np.where(time_s_U == histories.time_s_E[last_U], last_U, end_U)
    plan = model.plan
    return _Moment(
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


def _later(model: GenerativeRecommender, histories: EventBatch, item_UC: Int64[np.ndarray, "U C"]) -> _Moment:
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
    return _Moment(
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


def _trained(case: CheckCase, moment: _Moment, some: slice) -> dict[str, Float[np.ndarray, "_ _"]]:
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
    moment: _Moment,
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


# The ways of asking. Each gives what training says, and what it says itself.

Pair = tuple[Logits, Logits]


def _possible(case: CheckCase) -> str:
    return ""


def _exact(model: GenerativeRecommender) -> Allowance:
    return EXACT


@dataclass(frozen=True)
class Way:
    """A way of asking, beside the forward pass of training."""

    name: str
    ask: Callable[[CheckCase], Pair]
    why_not: Callable[[CheckCase], str] = _possible  # empty where there is nothing against it
    allowance: Callable[[GenerativeRecommender], Allowance] = _exact


def _ask_as_it_came(case: CheckCase) -> Pair:
    """The item that came, among others."""
    return case.trained_as_it_came, case.asked_as_it_came()


def _ask_at_once(case: CheckCase) -> Pair:
    return case.trained_later, case.asked(
        case.state(case.later.history), case.later, case.everyone(), case.later.at_s
    )


def _ask_in_small_steps(case: CheckCase) -> Pair:
    """Some users, a few tokens at a time: histories apart, and lists of candidates cut. With keys, and without."""
    model, moment, user_W = case.model, case.later, case.some
    history = chosen_users(moment.history, user_W)
    size = NUM_OTHERS * max(1, model.plan.tokens_to_come)
    with steps.smaller(size * steps.bytes_per_token(model)):
        states = case.state(history), case.events(history)
        found = [case.asked(state, moment, user_W, moment.at_s) for state in states]
    expected = {name: x[user_W] for name, x in case.trained_later.items()}
    return _together([expected] * len(found)), _together(found)


def _ask_appended(case: CheckCase) -> Pair:
    """Each of some users from a state of before its window began anew, or of half its events; event by event."""
    moment, user_W = case.later, case.some
    parts = []
    for user in user_W:
        history = chosen_users(moment.history, user[None])
        state = _grown(case, history, _first_appended(case.model, int(history.num_events_U[0])))
        parts.append(case.asked(state, moment, user[None], moment.at_s))
    return {name: x[user_W] for name, x in case.trained_later.items()}, _together(parts)


def _first_appended(model: GenerativeRecommender, num_events: int) -> int:
    """How many events a state has before others are appended, up to so many: two less than where the window last began
    anew; half of them, where it never did."""
    begin = model.plan.window.begin(np.arange(num_events + 1))
    earlier = np.flatnonzero(begin < begin[-1])
    return max(1, int(earlier[-1]) - 1 if len(earlier) else num_events // 2)


def _grown(case: CheckCase, history: EventBatch, first: int) -> State:
    """The history of one user as a state of its first events, to which the others were appended."""
    plan, model = case.model.plan, case.model
    num_events = int(history.num_events_U[0])
    state = case.state(before(history, np.array([num_events - first])))
    for length in range(first, num_events):
        event = behind(before(history, np.array([num_events - length - 1])), np.array([1]))
        name = event.request_E.tolist()
        state = one_pass.append(
            model, state, append(state, event, plan.window, plan.lead, request_name_U=name)
        )
    return state


def _ask_split_and_joined(case: CheckCase) -> Pair:
    """States of one user each, in the order turned round, joined again."""
    state = case.state(case.later.history)
    turned = case.everyone()[::-1].copy()
    joined = joined_states([some_of_state(state, slice(user, user + 1)) for user in turned])
    found = case.asked(joined, case.later, turned, case.later.at_s)
    return {name: x[turned] for name, x in case.trained_later.items()}, found


def _keeps_no_keys(case: CheckCase) -> str:
    if case.model.plan.candidates_share_history:
        return ""
    return (
        f"states keep no keys, since under time_anchor = '{case.model.plan.exposure.time_anchor}' a history knows when "
        "what comes after it comes; it is encoded when it is asked about"
    )


def _ask_stored_and_loaded(case: CheckCase) -> Pair:
    """The model from its folder, and a state that was stored with its keys."""
    model, moment = case.model, case.later
    with TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        loaded = load_model(Path(folder)).to(next(model.parameters()).device)
        save_state(case.state(moment.history), model, Path(folder) / "state")
        state = load_state(loaded, Path(folder) / "state")
    return case.trained_later, replace(case, model=loaded).asked(state, moment, case.everyone(), moment.at_s)


def _ask_as_multiplied(case: CheckCase) -> Pair:
    """Both in the arithmetic that the model was trained and tested in."""
    precision = case.model.config.arithmetic
    assert precision is not None, "it is recorded, or else there is nothing to ask"
    with multiplied_in(precision):
        return case.trained(case.as_it_came, precision), case.asked_as_it_came()


def _ask_as_served(case: CheckCase) -> Pair:
    """One pass as this machine multiplies for users. Training in bf16 may be answered in anything; any other in what is
    as exact as fp32."""
    with multiplied_in(None):
        right = served_in(case.model) if case.model.config.arithmetic == "bf16" else "fp32"
        return case.trained(case.as_it_came, right), case.asked_as_it_came()


def _served_alike(case: CheckCase) -> str:
    with multiplied_in(None):
        served = served_in(case.model)
    if served == "fp32":
        return "this machine serves it in fp32, that of all comparisons"
    return "it is that of its training" if served == case.model.config.arithmetic else ""


def _of_served(model: GenerativeRecommender) -> Allowance:
    """Of bf16 alone, where both sides are in it."""
    with multiplied_in(None):
        both_rounded = served_in(model) == "bf16" and model.config.arithmetic == "bf16"
    return ROUNDED if both_rounded else EXACT


def _multiplies_alike(case: CheckCase) -> str:
    match case.model.config.arithmetic:
        case None:
            return "what the model was trained in was not recorded"
        case "fp32":
            return "it is that of all comparisons"
        case "fp32_onednn" | "bf16":
            return ""
        case never:
            assert_never(never)


def _of_arithmetic(model: GenerativeRecommender) -> Allowance:
    return ROUNDED if model.config.arithmetic == "bf16" else EXACT


def _together(parts: Sequence[Mapping[str, np.ndarray]]) -> Logits:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


WAYS: tuple[Way, ...] = (
    Way("one pass, events as they came", _ask_as_it_came),
    Way("one pass, all at one moment", _ask_at_once),
    Way("in small steps", _ask_in_small_steps),
    Way("appended event by event", _ask_appended, _keeps_no_keys),
    Way("states split and joined", _ask_split_and_joined, _keeps_no_keys),
    Way("stored and loaded", _ask_stored_and_loaded),
    Way("in the arithmetic of its training", _ask_as_multiplied, _multiplies_alike, _of_arithmetic),
    Way("in the arithmetic of this machine", _ask_as_served, _served_alike, _of_served),
)
