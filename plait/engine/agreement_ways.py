"""The ways of asking a model. Each gives what training says, and what it says itself.

Shape letters: U users, C candidates of a user, Z outputs of an action, or the items that are compared, W users
that are asked in one way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import assert_never

import numpy as np
from jaxtyping import Float

from plait.engine import one_pass, steps
from plait.engine.agreement_cases import NEXT_ITEM, NUM_OTHERS, TO_COME, CheckCase, Logits, joined_parts
from plait.engine.asking import answers_conditions
from plait.engine.multiplying import multiplied_in, served_in
from plait.engine.state import State, append, before, behind, chosen_users
from plait.engine.state_file import load_state, save_state
from plait.engine.state_parts import joined_states, some_of_state
from plait.models.generative import GenerativeRecommender
from plait.models.saving import load_model, save_model
from plait.schema import EventBatch

NUM_CONDITIONS = 3  # of a user, in one query


@dataclass(frozen=True)
class Allowance:
    """How far logits may lie apart: so much of their spread, and so much of their size."""

    of_spread: float
    of_size: float = 0.0

    def of(self, logits: Float[np.ndarray, "..."]) -> float:
        """The spread is the standard deviation, the size that of the largest."""
        return self.of_spread * spread_of(logits) + self.of_size * float(np.abs(logits).max())


EXACT = Allowance(1e-5, 2e-6)  # for fp32
ROUNDED = Allowance(0.05)  # where one side multiplies in bf16


def spread_of(logits: Float[np.ndarray, "..."]) -> float:
    return float(logits.std())


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
    return joined_parts([expected] * len(found)), joined_parts(found)


def _ask_appended(case: CheckCase) -> Pair:
    """Each of some users from a state of before its window began anew, or of half its events; event by event."""
    moment, user_W = case.later, case.some
    parts = []
    for user in user_W:
        history = chosen_users(moment.history, user[None])
        state = _grown(case, history, _first_appended(case.model, int(history.num_events_U[0])))
        parts.append(case.asked(state, moment, user[None], moment.at_s))
    return {name: x[user_W] for name, x in case.trained_later.items()}, joined_parts(parts)


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


def _ask_group(case: CheckCase) -> Pair:
    """Each user under its own condition and under its neighbour's, in one query; training asks under one at a time."""
    model, moment = case.model, case.later
    asked = [np.roll(moment.condition_UG, shift, axis=0) for shift in range(NUM_CONDITIONS)]
    interest_UND = one_pass.query(
        model, case.state(moment.history), np.stack(asked, axis=1), at_s=moment.at_s, request_name=TO_COME
    )
    expected = [case.trained(moment.under(condition_UG), "fp32")[NEXT_ITEM] for condition_UG in asked]
    found = [case.scores_of_interests(interest_UND[:, nth]) for nth in range(NUM_CONDITIONS)]
    return {NEXT_ITEM: np.concatenate(expected, axis=1)}, {NEXT_ITEM: np.stack(found, axis=1)}


def _not_queried(case: CheckCase) -> str:
    if answers_conditions(case.model.layout):
        return ""
    return f"layout '{case.model.layout}' is not asked under conditions"


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


WAYS: tuple[Way, ...] = (
    Way("one pass, events as they came", _ask_as_it_came),
    Way("one pass, all at one moment", _ask_at_once),
    Way("in small steps", _ask_in_small_steps),
    Way("appended event by event", _ask_appended, _keeps_no_keys),
    Way("states split and joined", _ask_split_and_joined, _keeps_no_keys),
    Way("stored and loaded", _ask_stored_and_loaded),
    Way("many conditions in one query", _ask_group, _not_queried),
    Way("in the arithmetic of its training", _ask_as_multiplied, _multiplies_alike, _of_arithmetic),
    Way("in the arithmetic of this machine", _ask_as_served, _served_alike, _of_served),
)
