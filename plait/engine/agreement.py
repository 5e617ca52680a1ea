"""Whether a model says the same whatever way it is asked: as it was trained, and in each of the engine's ways.

Shape letters: U users, C candidates of a user, Z outputs of an action, or the items that are compared, W users that are
checked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64

from plait.engine.agreement_cases import NEXT_ITEM, CheckCase, fields_asked
from plait.engine.agreement_ways import WAYS, Allowance, Way, spread_of
from plait.engine.multiplying import multiplied_in
from plait.layouts import audit
from plait.models.generative import GenerativeRecommender
from plait.schema import EventBatch

NUM_USERS = 256
NUM_ENDS = 8  # of those users, the shortest histories, and as many longest ones


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
    length_U: Int64[np.ndarray, " U"],
    model: GenerativeRecommender,
    seed: int,
    num_users: int = NUM_USERS,
    num_ends: int = NUM_ENDS,
) -> Int64[np.ndarray, " W"]:
    """Up to `num_users` users who have an event behind another: those of the shortest and of the longest histories,
    then in equal parts those who fill the model's window and any others, drawn.

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
    past_W = drawn_W[length_U[drawn_W] > model.plan.window.longest][: num_users // 2]
    in_order = np.concatenate([by_length_W[:num_ends], by_length_W[-num_ends:], past_W, drawn_W])
    _, first = np.unique(in_order, return_index=True)
    return np.sort(in_order[np.sort(first)][:num_users])


@torch.no_grad()
def check(
    model: GenerativeRecommender, histories: EventBatch, seed: int, more_ways: Sequence[Way] = ()
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
    way: Way,
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
        spread = spread_of(expected) or 1.0  # of equal logits
        far = float(np.abs(found - expected).max()) / spread
        allowed = allowance.of(expected) / spread
        if not far * worst[1] < worst[0] * allowed:
            worst = far, allowed
    return Agreement(way.name, name, int(asked_U.sum()), expected_UCZ[asked_U].size, *worst)


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
