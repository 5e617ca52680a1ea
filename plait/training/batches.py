"""The order of the data, and batches made ahead of the step that needs them.

Shape letters: U users, B stretches of users, Q targets.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar, assert_never

import numpy as np
from jaxtyping import Int64

from plait.data import Dataset, Targets
from plait.data.windows import Stretches
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


def users_of_step(dataset: Dataset, users_per_step: int, protocol: Protocol, epoch: int) -> list[Stretches]:
    """The users of each step of an epoch: a function of seed and epoch alone, so the same for every layout."""
    asked = _asked(dataset.whole_training(dataset.train_users()), dataset, protocol)
    order_B = numpy_generator(protocol.seed, Stream.ORDER, epoch).permutation(len(asked))
    return [asked[order_B[at : at + users_per_step]] for at in range(0, len(order_B), users_per_step)]


def parts_of_step(dataset: Dataset, users_per_step: int, protocol: Protocol, epoch: int) -> list[Stretches]:
    """The parts of users that each step takes: each has more users than a step of whole ones, and about as many
    candidates."""
    parts = dataset.training_parts(protocol.candidate_requests, protocol.requests_per_part)
    asked = _asked(parts, dataset, protocol)
    num_users = len(np.unique(asked.user_B))
    return [asked[chosen_B] for chosen_B in _dealt(len(asked), num_users, users_per_step, protocol, epoch)]


def _asked(of: Stretches, dataset: Dataset, protocol: Protocol) -> Stretches:
    """Those that training asks about: from a time on, where that is set, those whose last event is not before it."""
    if protocol.asked_from_s is None:
        return of
    return of[dataset.last_times(of) >= protocol.asked_from_s]


def targets_of_step(dataset: Dataset, users_per_step: int, protocol: Protocol, epoch: int) -> list[Targets]:
    """The candidates of every step of an epoch where each is a sample."""
    targets = dataset.train_targets(protocol.candidate_requests)
    num_users = len(dataset.train_users())
    return [
        targets[chosen_Q] for chosen_Q in _dealt(len(targets), num_users, users_per_step, protocol, epoch)
    ]


def _dealt(
    num_samples: int, num_users: int, users_per_step: int, protocol: Protocol, epoch: int
) -> list[Int64[np.ndarray, " _"]]:
    """Samples in an order of their own, over as many steps as there are of whole users."""
    if not num_samples:
        return []
    order_Q = numpy_generator(protocol.seed, Stream.ORDER, epoch).permutation(num_samples)
    num_steps = -(-num_users // users_per_step)
    return [chosen_Q for chosen_Q in np.array_split(order_Q, num_steps) if len(chosen_Q)]


def num_steps(dataset: Dataset, plan: QuestionPlan, users_per_step: int, protocol: Protocol) -> int:
    """Steps of an epoch."""
    return _batches(dataset, plan, users_per_step, protocol, epoch=0)[0]


def training_batch(
    dataset: Dataset,
    plan: QuestionPlan,
    of: Stretches,
    protocol: Protocol,
    epoch: int,
    step: int,
) -> EventBatch:
    """The windows of a step; random windows depend on seed, epoch and step alone.

    A window holds the history that evaluation and serving read, and what comes as they have it, too: the next event
    or, where events are asked from before their request, that request. So every position that is read then was
    trained. (Random windows take one event: where they end inside of a request, their histories are shorter.)

    Where every event is asked about, the history is the longest there is: a shorter one is the beginning of it. Where
    only last requests are, it is that of the last one, and requests before it are asked about from what it holds; of a
    part, that of the part's last one.
    """
    rule = plan.window
    match protocol.window:
        case "last":
            num_events = _history_lengths(dataset, plan, of) + _to_come(dataset, plan, of)
            return dataset.stretch_batch(of, num_events, plan.lead, opens_within=rule.opens_within)
        case "random":
            rng = numpy_generator(protocol.seed, Stream.WINDOWS, epoch, step)
            if plan.asks_candidates:
                targets = dataset.random_train_targets(of.user_B, rule.max_events + 1, rng)
                return dataset.target_batch(targets, rule, plan.lead)
            return dataset.stretch_batch(of, rule.longest + 1, plan.lead, rng, rule.opens_within)
        case _:
            assert_never(protocol.window)


def _history_lengths(dataset: Dataset, plan: QuestionPlan, of: Stretches) -> int | Int64[np.ndarray, " B"]:
    """How many events lie before what comes last."""
    if not plan.asks_candidates:
        return plan.window.longest
    return plan.window.length(dataset.stretch_lengths(of) - dataset.last_request_lengths(of))


def _to_come(dataset: Dataset, plan: QuestionPlan, of: Stretches) -> int | Int64[np.ndarray, " B"]:
    match plan.context_ends_before:
        case "event":
            return 1
        case "request":
            return dataset.last_request_lengths(of)
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
    match plan.sample_taken:
        case "event":
            targets = targets_of_step(dataset, users_per_step, protocol, epoch)
            return len(targets), lambda step: dataset.target_batch(targets[step], plan.window, plan.lead)
        case "part":
            parts = parts_of_step(dataset, users_per_step, protocol, epoch)
            return len(parts), lambda step: training_batch(dataset, plan, parts[step], protocol, epoch, step)
        case "user":
            users = users_of_step(dataset, users_per_step, protocol, epoch)
            return len(users), lambda step: training_batch(dataset, plan, users[step], protocol, epoch, step)
        case _:
            assert_never(plan.sample)
