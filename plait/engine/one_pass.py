"""Scoring and retrieval in one pass: every history is encoded once, and what comes after it attends to its keys.

Shape letters: U users, C candidates of a user, M candidates of all users laid end to end, B lists of candidates, each
of one user, N conditions of a user, F context features, G columns of conditions, K items returned, I rows of the item
table, D width. Small ones count those of a step.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from plait.engine import asking, steps
from plait.engine.asking import Coming
from plait.engine.multiplying import as_served
from plait.engine.ranking import catalogue_of
from plait.engine.state import State, chosen_users, joined_histories, window
from plait.layouts.facts import Field
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Questions, candidate_inputs, history_inputs, next_inputs
from plait.models.late import LateStatistics
from plait.nn.encoded import Encoded
from plait.schema import UNKNOWN_ITEM, EventBatch


@dataclass(frozen=True, eq=False)
class Kept:
    """The keys of a state's histories, up to the last event of each, and whose weights made them."""

    encoded: Encoded
    first_U: Int64[np.ndarray, " U"]  # number, in the state's events, of the first event that has a token
    model: GenerativeRecommender
    version: tuple[int, ...]

    def is_of(self, model: GenerativeRecommender) -> bool:
        """Whether the model would make the same keys."""
        return self.model is model and self.version == weights_version(model)


@torch.no_grad()
def encode(model: GenerativeRecommender, state: State) -> State:
    """The state with the keys of its histories, where the model needs no moment to make them, tells when its weights
    change, and where they take no more than STATE_BYTES; else histories are encoded when they are asked about."""
    events = window(state.events, model.plan.window, model.plan.lead)
    tokens = int((events.num_events_U - events.lead_U).sum()) * model.layout.tokens_per_event
    fits = tokens * steps.kept_bytes_per_token(model) <= steps.STATE_BYTES
    if not (fits and model.plan.candidates_share_history and _tells_changes(model)):
        return replace(state, kept=None)
    encoded = encoded_histories(model, _at_the_end(events))
    return replace(state, kept=_kept(model, state, encoded, weights_version(model)))


@torch.no_grad()
def append(model: GenerativeRecommender, before: State, after: State) -> State:
    """The state after one more event with its keys, of which the old ones stay where no later event changes them: where
    the window begins where it began, and no token sees a later one. Else histories are encoded again.

    Args:
        before: what the event was appended to, as `encode` or `append` returned it.
        after: `engine.state.append` of it.
    """
    kept = before.kept
    events = window(after.events, model.plan.window, model.plan.lead)
    grew_U = (events.num_events_U - events.lead_U) * model.layout.tokens_per_event
    if kept is None or not kept.is_of(model) or model.plan.exposure.history == "full":
        return encode(model, after)
    if not np.array_equal(grew_U, kept.encoded.length_U + model.layout.tokens_per_event):
        return encode(model, after)
    later = next_inputs(model.plan, events, next(model.parameters()).device)
    with as_served(model, later.inputs.num_tokens):
        followed = model.followed(later, kept.encoded, _room(model, grew_U))
    return replace(after, kept=_kept(model, after, followed, kept.version))


def _room(model: GenerativeRecommender, length_U: Int64[np.ndarray, " U"]) -> Int64[np.ndarray, " U"]:
    """Tokens that histories get room for when their keys are copied: twice what they have, up to the window's end. None
    to spare, where that would be more than a state may keep."""
    room_U = np.minimum(2 * length_U, model.plan.window.longest * model.layout.tokens_per_event)
    fits = int(room_U.sum()) * steps.kept_bytes_per_token(model) <= steps.STATE_BYTES
    return room_U if fits else length_U


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
    """As `plain.score`, in one pass."""
    asking.check_can_score(model, item_UC)
    if context_F is None:
        context_F = asking.no_context(state.events)
    count_U = np.full(len(item_UC), item_UC.shape[1])
    context_UF = np.tile(context_F, (len(item_UC), 1))
    predicted = score_lists(
        model,
        state,
        item_UC.reshape(-1),
        count_U,
        at_s=at_s,
        request_name=request_name,
        context_UF=context_UF,
        condition_UG=condition_UG,
    )
    return {name: value.reshape(*item_UC.shape, *value.shape[1:]) for name, value in predicted.items()}


@torch.no_grad()
def score_lists(
    model: GenerativeRecommender,
    state: State,
    item_M: Int64[np.ndarray, " M"],
    count_U: Int64[np.ndarray, " U"],
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
    context_UF: Int64[np.ndarray, "U F"] | None = None,
    condition_UG: Int64[np.ndarray, "U G"] | None = None,
) -> dict[str, Float32[np.ndarray, "M ..."]]:
    """The expected actions of users on candidates of their own, `count_U` each, which may be none; the rest as in
    `plain.score`."""
    outputs = outputs_of_lists(
        model,
        state,
        item_M,
        count_U,
        at_s=at_s,
        request_name=request_name,
        context_UF=context_UF,
        condition_UG=condition_UG,
    )
    parts = []
    for out in outputs:
        assert model.heads is not None, "a layout that scores has heads"
        parts.append({name: value.cpu().numpy() for name, value in model.heads.expected(out).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def outputs_of_lists(
    model: GenerativeRecommender,
    state: State,
    item_M: Int64[np.ndarray, " M"],
    count_U: Int64[np.ndarray, " U"],
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
    context_UF: Int64[np.ndarray, "U F"] | None = None,
    condition_UG: Int64[np.ndarray, "U G"] | None = None,
) -> Iterator[tuple[Float32[Tensor, "m _"], ...]]:
    """What `score_lists` takes expectations of: the heads' raw outputs for each action, step by step."""
    asking.check_can_score(model, item_M[None])
    coming = asking.coming_of(model, "a", state, at_s, request_name)
    if context_UF is None:
        context_UF = np.tile(asking.no_context(state.events), (len(count_U), 1))
    if condition_UG is None:
        condition_UG = asking.no_condition(state.events)
    late, condition_MG = model.late_statistics(), np.repeat(condition_UG, count_U, axis=0)
    for state_MD, questions in _answers(
        model, state, coming, "a", item_M, count_U, context_UF, condition_MG, late
    ):
        yield model.action_outputs(questions, state_MD)


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
    """As `plain.retrieve`, in one pass."""
    filters = asking.checked_filters(model, state, k, filter_seen, kept_I)
    coming = asking.coming_of(model, "i", state, at_s, request_name)
    catalogue, found = catalogue_of(model), []
    for users, state_uD in item_states(model, state, coming, condition_UG):
        some = coming.of(users)
        found += asking.best_of_users(model, catalogue, some.events, state_uD, k, filters.of(users))
    item_UK, score_UK = (np.concatenate(each) for each in zip(*found, strict=True))
    return item_UK, score_UK


def item_states(
    model: GenerativeRecommender, state: State, coming: Coming, condition_UG: Int64[np.ndarray, "U G"] | None
) -> Iterator[tuple[slice, Float32[Tensor, "u D"]]]:
    """What the next item is predicted from, step by step."""
    item_U, count_U = asking.no_item(coming.events)[:, 0], np.ones(coming.events.num_users, dtype=np.int64)
    context_UF = np.tile(asking.no_context(coming.events), (len(count_U), 1))
    if condition_UG is None:
        condition_UG = asking.no_condition(coming.events)
    first = 0
    for state_uD, _ in _answers(
        model, state, coming, "i", item_U, count_U, context_UF, condition_UG, late=None
    ):
        yield slice(first, first + len(state_uD)), state_uD
        first += len(state_uD)


@torch.no_grad()
def query(
    model: GenerativeRecommender,
    state: State,
    condition_UNG: Int64[np.ndarray, "U N G"],
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
) -> Float32[np.ndarray, "U N D"]:
    """As `plain.query`, in one pass: a group query (LUM paper, section 4.2, figure 4)."""
    asking.check_can_query(model, condition_UNG)
    coming, shape = asking.coming_of(model, "i", state, at_s, request_name), condition_UNG.shape
    count_U = np.full(shape[0], shape[1])
    item_M = np.full(shape[0] * shape[1], UNKNOWN_ITEM)
    context_UF = np.tile(asking.no_context(coming.events), (shape[0], 1))
    condition_MG = condition_UNG.reshape(-1, shape[2])
    answers = _answers(model, state, coming, "i", item_M, count_U, context_UF, condition_MG, late=None)
    found = [model.retrieval.keys(state_MD).float().cpu().numpy() for state_MD, _ in answers]
    return np.concatenate(found).reshape(*shape[:2], -1)


def _answers(
    model: GenerativeRecommender,
    state: State,
    coming: Coming,
    field: Field,
    item_M: Int64[np.ndarray, " M"],
    count_U: Int64[np.ndarray, " U"],
    context_UF: Int64[np.ndarray, "U F"],
    condition_MG: Int64[np.ndarray, "M G"],
    late: LateStatistics | None,
) -> Iterator[tuple[Float32[Tensor, "m D"], Questions]]:
    """What heads read of every candidate, in order, step by step."""
    end_U = np.cumsum(count_U)
    for users, encoded in _histories(model, state, coming):
        some, first = coming.of(users), int(end_U[users.start] - count_U[users.start])
        ours = slice(first, int(end_U[users.stop - 1]))
        item_m, condition_mG = item_M[ours], condition_MG[ours]
        lists = _Lists.cut(count_U[users], max(1, steps.tokens_per_step(model) // model.plan.tokens_to_come))
        for step in steps.within(lists.count_B * model.plan.tokens_to_come, steps.tokens_per_step(model)):
            part = lists.of(step)
            events = asking.candidate_lists_of(
                some,
                part.user_B,
                part.count_B,
                item_m[part.items],
                context_UF[users][part.user_B],
                condition_mG[part.items],
            )
            later = candidate_inputs(
                model.plan,
                joined_histories(chosen_users(some.events, part.user_B), events),
                field,
                part.user_B,
                encoded.start_U1[part.user_B],
                part.count_B,
                next(model.parameters()).device,
                late,
                model.counting,
            )
            with as_served(model, later.inputs.num_tokens):
                (state_MD,) = model.answered(later, encoded)
            yield state_MD.float(), later.inputs.questions[0]


@dataclass(frozen=True)
class _Lists:
    """Lists of candidates, none longer than a step; a user's longer list is several, one after the other."""

    user_B: Int64[np.ndarray, " B"]
    first_B: Int64[np.ndarray, " B"]  # number of the list's first candidate
    count_B: Int64[np.ndarray, " B"]

    @classmethod
    def cut(cls, count_U: Int64[np.ndarray, " U"], most: int) -> "_Lists":
        parts_U = -(-count_U // most)
        user_B = np.repeat(np.arange(len(count_U)), parts_U)
        nth_B = np.arange(len(user_B)) - (np.cumsum(parts_U) - parts_U)[user_B]
        first_B = (np.cumsum(count_U) - count_U)[user_B] + nth_B * most
        return cls(user_B, first_B, np.minimum(most, count_U[user_B] - nth_B * most))

    def of(self, lists: slice) -> "_Lists":
        return _Lists(self.user_B[lists], self.first_B[lists], self.count_B[lists])

    @property
    def items(self) -> slice:
        return slice(int(self.first_B[0]), int(self.first_B[-1] + self.count_B[-1]))


def _histories(model: GenerativeRecommender, state: State, coming: Coming) -> Iterator[tuple[slice, Encoded]]:
    """Users, as many as a step holds, with the keys of their contexts: those that the state kept, where these are from
    the same first event on and may be cut where the context ends."""
    kept, users = state.kept, coming.events.num_users
    if kept is not None and kept.is_of(model) and _begin_alike(model, state, coming, kept):
        yield slice(0, users), kept.encoded
        return
    tokens_U = steps.tokens_of(model, coming.events.num_events_U)
    most = steps.step_bytes() // (steps.bytes_per_token(model) + steps.kept_bytes_per_token(model))
    for some in steps.within(tokens_U, max(1, most)):
        yield some, encoded_histories(model, coming.of(some))


def _begin_alike(model: GenerativeRecommender, state: State, coming: Coming, kept: Kept) -> bool:
    events, stride = coming.events, model.layout.tokens_per_event
    length_U, kept_U = events.num_events_U - events.lead_U, kept.encoded.length_U // stride
    if model.plan.exposure.history == "full":
        return np.array_equal(length_U, kept_U) and np.array_equal(coming.end_U, state.events.start_U1[1:])
    return np.array_equal(coming.end_U - length_U, kept.first_U)


def encoded_histories(model: GenerativeRecommender, coming: Coming) -> Encoded:
    """The histories' keys, computed so many users at a time as fit into a step."""
    tokens_U, found = steps.tokens_of(model, coming.events.num_events_U), []
    for users in steps.within(tokens_U, steps.tokens_per_step(model)):
        some = coming.of(users)
        events = some.events
        to_come = asking.candidates_of(
            some, asking.no_item(events), asking.no_context(events), asking.no_condition(events)
        )
        batch = joined_histories(some.events, to_come)
        histories = history_inputs(model.plan, batch, device=next(model.parameters()).device)
        with as_served(model, histories.num_tokens):
            found.append(model.encoded(histories))
    return found[0] if len(found) == 1 else Encoded.joined(found)


def _at_the_end(events: EventBatch) -> Coming:
    """What comes after whole histories, at a moment that no history is told."""
    last_U = events.start_U1[1:] - 1
    return Coming(events, events.time_s_E[last_U], events.request_E[last_U] + 1, events.start_U1[1:])


def _kept(model: GenerativeRecommender, state: State, encoded: Encoded, version: tuple[int, ...]) -> Kept:
    num_events_U = encoded.length_U // model.layout.tokens_per_event
    return Kept(encoded, state.events.start_U1[1:] - num_events_U, model, version)


def _tells_changes(model: GenerativeRecommender) -> bool:
    """Weights that were made in torch's inference mode do not."""
    return not any(parameter.is_inference() for parameter in model.parameters())


def weights_version(model: GenerativeRecommender) -> tuple[int, ...]:
    """Changes with every change of the weights in place, such as a step of training. (`model.parameters()` makes names,
    too, which take longer than an appended event has.)"""
    weights = chain.from_iterable(module._parameters.values() for module in model.modules())
    return tuple(weight._version for weight in weights if weight is not None)
