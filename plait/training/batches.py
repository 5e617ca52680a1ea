"""The order of the data, and batches made ahead of the step that needs them."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar, assert_never

import numpy as np
from jaxtyping import Int64

from plait.data import Dataset, Targets
from plait.evaluation.ahead import ahead
from plait.evaluation.settings import Protocol
from plait.layouts import Layout
from plait.layouts.facts import Field
from plait.models.inputs import Inputs, training_inputs
from plait.models.late import LateStatistics
from plait.models.questions import QuestionPlan
from plait.randomness import Stream, numpy_generator
from plait.schema import EventBatch

Key = TypeVar("Key")
Value = TypeVar("Value")


def users_of_step(
    dataset: Dataset, users_per_step: int, seed: int, epoch: int, since_s: int | None = None
) -> list[Int64[np.ndarray, " U"]]:
    """The users of every step of an epoch: a function of seed and epoch alone, so the same for every layout."""
    order_U = numpy_generator(seed, Stream.ORDER, epoch).permutation(_asked_users(dataset, since_s))
    return [order_U[at : at + users_per_step] for at in range(0, len(order_U), users_per_step)]


def _asked_users(dataset: Dataset, since_s: int | None) -> Int64[np.ndarray, " U"]:
    """Whom training asks about: of `since_s` on, those whose last training event is not before it."""
    user_U = dataset.train_users()
    if since_s is None:
        return user_U
    return user_U[dataset.last_train_times(user_U) >= since_s]


def targets_of_step(dataset: Dataset, users_per_step: int, protocol: Protocol, epoch: int) -> list[Targets]:
    """The candidates of every step of an epoch where each is a sample: as many steps as there are of whole users."""
    if not len(targets := dataset.train_targets(protocol.candidate_requests)):
        return []
    order_Q = numpy_generator(protocol.seed, Stream.ORDER, epoch).permutation(len(targets))
    num_steps = -(-len(dataset.train_users()) // users_per_step)
    return [targets[chosen_Q] for chosen_Q in np.array_split(order_Q, num_steps) if len(chosen_Q)]


def num_steps(dataset: Dataset, users_per_step: int, protocol: Protocol) -> int:
    """Steps of an epoch."""
    if protocol.sample == "event":
        return len(targets_of_step(dataset, users_per_step, protocol, epoch=0))
    return len(users_of_step(dataset, users_per_step, protocol.seed, 0, protocol.asked_from_s))


def training_batch(
    dataset: Dataset,
    plan: QuestionPlan,
    users_U: Int64[np.ndarray, " U"],
    protocol: Protocol,
    epoch: int,
    step: int,
) -> EventBatch:
    """The windows of a step's users; random windows depend on seed, epoch and step alone.

    A window holds the history that evaluation and serving read, and what comes as they have it, too: the next event
    or, where events are asked from before their request, that request. So every position that is read then was
    trained. (Random windows take one event: where they end inside of a request, their histories are shorter.)

    Where every event is asked about, the history is the longest there is: a shorter one is the beginning of it. Where
    only last requests are, it is that of the last one, and requests before it are asked about from what it holds.
    """
    rule = plan.window
    match protocol.window:
        case "last":
            num_events = _history_lengths(dataset, plan, users_U) + _to_come(dataset, plan, users_U)
            return dataset.train_batch(users_U, num_events, plan.lead, opens_within=rule.opens_within)
        case "random":
            rng = numpy_generator(protocol.seed, Stream.WINDOWS, epoch, step)
            if plan.asks_candidates:
                targets = dataset.random_train_targets(users_U, rule.max_events + 1, rng)
                return dataset.target_batch(targets, rule, plan.lead)
            return dataset.train_batch(users_U, rule.longest + 1, plan.lead, rng, rule.opens_within)
        case _:
            assert_never(protocol.window)


def _history_lengths(
    dataset: Dataset, plan: QuestionPlan, users_U: Int64[np.ndarray, " U"]
) -> int | Int64[np.ndarray, " U"]:
    """How many events lie before what comes last in training."""
    if not plan.asks_candidates:
        return plan.window.longest
    return plan.window.length(dataset.num_train_events(users_U) - dataset.last_request_lengths(users_U))


def _to_come(
    dataset: Dataset, plan: QuestionPlan, users_U: Int64[np.ndarray, " U"]
) -> int | Int64[np.ndarray, " U"]:
    match plan.context_ends_before:
        case "event":
            return 1
        case "request":
            return dataset.last_request_lengths(users_U)
        case _:
            assert_never(plan.context_ends_before)


def check_labels(dataset: Dataset, layout: Layout) -> None:
    """Raises ValueError where an action is to be predicted of which training shows nothing."""
    if "a" not in layout.predicts:
        return
    for action, num_labels in zip(dataset.actions, dataset.train_action_counts(), strict=True):
        if not num_labels:
            raise ValueError(
                f"layout '{layout}' predicts action {action.name!r}, which has 0 labels in the training events of "
                f"{dataset.folder}: prepare the log without that action, or fill its column"
            )


def training_stream(
    dataset: Dataset,
    plan: QuestionPlan,
    users_per_step: int,
    protocol: Protocol,
    epoch: int,
    first_step: int,
    device: str,
    late: LateStatistics | None = None,
) -> Iterator[tuple[Int64[np.ndarray, " U"], Inputs]]:
    """The users and inputs of every step from `first_step` on, prepared while the step before is computed."""
    num, batch_of = _batches(dataset, plan, users_per_step, protocol, epoch)

    def make(step: int) -> tuple[Int64[np.ndarray, " U"], Inputs]:
        batch = batch_of(step)
        return batch.user_U, training_inputs(plan, batch, device=device, late=late)

    return ahead(make, range(first_step, num))


def targets_per_epoch(
    dataset: Dataset, plan: QuestionPlan, users_per_step: int, protocol: Protocol
) -> dict[Field, int]:
    """How many events the first epoch supervises, by what is predicted of them."""
    num, batch_of = _batches(dataset, plan, users_per_step, protocol, epoch=0)
    found: Counter[Field] = Counter()
    for step in range(num):
        batch = batch_of(step)
        for asked in plan.asked_in_training(batch, plan.training_roles(batch)):
            found[asked.target.fact.field] += len(asked.label_M)
    return dict(found)


def _batches(
    dataset: Dataset, plan: QuestionPlan, users_per_step: int, protocol: Protocol, epoch: int
) -> tuple[int, Callable[[int], EventBatch]]:
    """How many steps an epoch has, and the events of each."""
    match plan.sample:
        case "event":
            targets = targets_of_step(dataset, users_per_step, protocol, epoch)
            return len(targets), lambda step: dataset.target_batch(targets[step], plan.window, plan.lead)
        case "user":
            users = users_of_step(dataset, users_per_step, protocol.seed, epoch, protocol.asked_from_s)
            return len(users), lambda step: training_batch(dataset, plan, users[step], protocol, epoch, step)
        case _:
            assert_never(plan.sample)
