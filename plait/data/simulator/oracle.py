"""The best that can be predicted of a simulated log from what a model may see, and from what it may not.

Shape letters: Q targets, U users of a chunk, E events of their histories; Z states, L traces, B categories, V items
of the dataset, V1 with the unknown item before them; A actions; R rows asked for, or targets of a step.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Float64, Int64

from plait.data.dataset import Dataset, HeldOutPart, Targets
from plait.data.manifest import LeaveOneOut, Split, SplitColumn, Temporal
from plait.data.simulator import ahead
from plait.data.simulator.filtering import Machine, Observed, filtered, machine_of
from plait.data.simulator.responses import ResponseChances, expected
from plait.data.simulator.simulating import QUERY, SCENARIO, TRUTH
from plait.data.simulator.truth import query_chances, truth_of
from plait.data.simulator.world import World
from plait.data.windows import concatenated_ranges, opens_request
from plait.schema import UNKNOWN_ITEM, Action

USERS_AT_ONCE = 512  # what is held of a user has the size of a world, whatever its catalogue and history
WHOLE = 1 << 40  # events: no history is as long


@dataclass(frozen=True)
class Knows:
    """What the oracle is told beside the items, actions and requests of the history.

    The defaults are what a model sees that, as in the default protocol, does not know when the target happens.

    Args:
        scenario: "with_item": of every event whose item is known, so of the target when its actions are
            predicted; "before_item": of the target when its item is predicted, too; None: as the dataset shows
            scenarios to models: "before_item" as a condition, "with_item" as context, else "never".
        query: of the target when its item is predicted; None: where queries are conditions of the dataset.
        time: whether the target shares its request with the event before it.
        latents: type, mood, scenario and trace. No history tells as much: an upper bound.
    """

    scenario: Literal["never", "with_item", "before_item"] | None = None
    query: bool | None = None
    time: bool = False
    latents: bool = False


@dataclass(frozen=True)
class Oracle:
    """Exact predictions for every target, in the order of `dataset.targets`."""

    user_Q: Int64[np.ndarray, " Q"]
    item_Q: Int64[np.ndarray, " Q"]  # dense index of the item that came
    label_QA: Float32[np.ndarray, "Q A"]  # in the log's units
    actions: tuple[Action, ...]
    # Given the item that came, as a model's head defines it; of an ordinal, all three hold the chances of its levels.
    predicted: dict[str, Float64[np.ndarray, "Q ..."]]
    mean: dict[str, Float64[np.ndarray, "Q ..."]]  # lowest RMSE in the log's units
    log_mean: dict[str, Float64[np.ndarray, "Q ..."]]  # of amounts, lowest RMSE at model scale
    category_QB: Float64[np.ndarray, "Q B"]  # chances of the next item's category
    category_V: Int64[np.ndarray, " V"]
    within_V: Float64[np.ndarray, " V"]  # chance of an item, given its category

    def item_probability(self, rows: Int64[np.ndarray, " R"] | slice) -> Float64[np.ndarray, "R V1"]:
        """Chances of the next item by dense index, that of the unknown item being 0.

        A row falls short of 1 by the chance of items that never occur in the log.
        """
        known_RV = self.category_QB[rows][:, self.category_V] * self.within_V
        return np.pad(known_RV, ((0, 0), (UNKNOWN_ITEM + 1, 0)))

    def item_scores(self, rows: Int64[np.ndarray, " R"] | slice) -> Float64[np.ndarray, "R V1"]:
        """`item_probability` to rank by: items of equal chance stand in an arbitrary, fixed order.

        Ties count against a scorer, and a world with popularity=0 is full of them: a model that breaks them
        somehow would pass its own bound.
        """
        tiebreak_V1 = np.random.default_rng(0).random(len(self.within_V) + 1)
        return self.item_probability(rows) * (1 + 1e-9 * tiebreak_V1)


def oracle(
    dataset: Dataset,
    part: HeldOutPart,
    knows: Knows = Knows(),
    same_request: Literal["causal", "blind"] = "causal",
    *,
    rolling: bool = False,
) -> Oracle:
    """The Bayes-optimal predictions for the held-out events of a simulated dataset.

    A history is all that the user did before `Targets.history_end_Q`, in order: no window of T events limits it. Of a
    segment with several events, the oracle is told how many lie between history and target (a model is not), but not
    what they were.

    Args:
        same_request: whether a target sees the events of its own request that stand before it, or ("blind") none of
            them; what these were, where nobody saw it, changes nothing of the events that follow in that request.
        rolling: whether histories roll on through the part, as `Dataset.targets` has it.

    Raises:
        ValueError: the dataset was not simulated, or its truth does not fit its events.
    """
    world = World.open(dataset.folder)
    truth = truth_of(world)
    machine = machine_of(world, truth)
    asked = _asked(dataset, part, same_request, rolling)
    asked_under = [feature.name for feature in dataset.conditions]
    if knows.query is None:
        knows = replace(knows, query=QUERY in asked_under)
    if knows.scenario is None:
        is_shown = SCENARIO in (feature.name for feature in dataset.context)
        as_context: Literal["with_item", "never"] = "with_item" if is_shown else "never"
        knows = replace(knows, scenario="before_item" if SCENARIO in asked_under else as_context)
    found = _Found.empty(world, len(asked.targets))
    steps = _known(machine, asked) if knows.latents else _looked_ahead(machine, asked, knows)
    for query_R, ahead_RLZ in steps:
        _answer(machine, asked, knows, query_R, ahead_RLZ, found)
    names = [action.name for action in dataset.actions]
    return Oracle(
        user_Q=asked.targets.user_Q,
        item_Q=asked.item_Q,
        label_QA=asked.label_QA,
        actions=dataset.actions,
        predicted=dict(zip(names, found.predicted, strict=True)),
        mean=dict(zip(names, found.mean, strict=True)),
        log_mean=dict(zip(names, found.log_mean, strict=True)),
        category_QB=found.category_QB,
        category_V=truth.category_V[asked.world_item_V],
        within_V=truth.within_V[asked.world_item_V],
    )


@dataclass(frozen=True)
class _Asked:
    """The targets, what came, and the truth beside them."""

    dataset: Dataset
    truth: pl.DataFrame  # by row of the dataset
    world_item_V: Int64[np.ndarray, " V"]  # by dense index - 1
    targets: Targets
    item_Q: Int64[np.ndarray, " Q"]
    label_QA: Float32[np.ndarray, "Q A"]
    new_Q: Float64[
        np.ndarray, " Q"
    ]  # 1 where a request begins between the target and the event before it, else 0
    # Right after the history or, where that is blind, after events of the target's own request.
    first_Q: Bool[np.ndarray, " Q"]
    opens_Q: Bool[np.ndarray, " Q"]  # whoever is asked knows that the target opens a request

    def hidden(self, name: str, row_E: Int64[np.ndarray, " E"]) -> Int64[np.ndarray, " E"]:
        return self.truth[name].to_numpy()[row_E].astype(np.int64)

    def world_item(self, item_E: Int64[np.ndarray, " E"]) -> Int64[np.ndarray, " E"]:
        return self.world_item_V[item_E - 1]


@dataclass(frozen=True)
class _Found:
    """Where the answers are gathered; of actions, an array for each."""

    predicted: list[Float64[np.ndarray, "Q ..."]]
    mean: list[Float64[np.ndarray, "Q ..."]]
    log_mean: list[Float64[np.ndarray, "Q ..."]]
    category_QB: Float64[np.ndarray, "Q B"]

    @classmethod
    def empty(cls, world: World, num_targets: int) -> "_Found":
        outcomes = [response.action.kind.outcomes for response in world.responses]
        shapes = [(num_targets, len(values)) if values else (num_targets,) for values in outcomes]
        predicted, mean, log_mean = ([np.empty(shape) for shape in shapes] for _ in range(3))
        return cls(predicted, mean, log_mean, np.empty((num_targets, world.num_categories)))


def _asked(
    dataset: Dataset,
    part: HeldOutPart,
    same_request: Literal["causal", "blind"],
    rolling: bool,
) -> _Asked:
    path = dataset.folder / TRUTH
    truth = pl.read_parquet(path, glob=False) if path.is_file() else None
    events = dataset.manifest.counts.events
    if truth is None or truth.height != events:
        found = "is missing" if truth is None else f"has {truth.height} rows"
        raise ValueError(
            f"{dataset.folder / TRUTH} {found}; expected one row for each of {events} events: simulate again"
        )
    targets = dataset.targets(part, same_request, rolling=rolling)
    pairs = dataset.target_batch(targets, 1, 0)  # the last event of the history and the target
    request_Q2 = pairs.request_E.reshape(-1, 2)
    of_user_Q = np.diff(targets.user_Q, prepend=-1) != 0
    first_Q = np.ones(len(targets), dtype=bool) if rolling else of_user_Q
    before_Q = np.where(first_Q, request_Q2[:, 0], np.roll(request_Q2[:, 1], 1))
    return _Asked(
        dataset=dataset,
        truth=truth,
        world_item_V=dataset.item_ids().to_numpy().astype(np.int64) - 1,
        targets=targets,
        item_Q=pairs.item_E[1::2],
        label_QA=pairs.action_EA[1::2],
        new_Q=(request_Q2[:, 1] != before_Q).astype(np.float64),
        first_Q=first_Q,
        opens_Q=_opens_requests(dataset, first_Q, of_user_Q, same_request),
    )


def _keeps_requests(split: Split) -> bool:
    """Whether no request lies on two sides of it. Events of one request have one time, which no cut parts."""
    match split:
        case Temporal():
            return True
        case LeaveOneOut() | SplitColumn():
            return False
        case _:
            assert_never(split)


def _opens_requests(
    dataset: Dataset,
    first_Q: Bool[np.ndarray, " Q"],
    of_user_Q: Bool[np.ndarray, " Q"],
    same_request: Literal["causal", "blind"],
) -> Bool[np.ndarray, " Q"]:
    """Which targets open a request whoever is asked: how they are asked, or how the log was split, tells it.

    Args:
        of_user_Q: which are their user's first.
    """
    match same_request:
        case "causal":
            return of_user_Q & _keeps_requests(dataset.manifest.split)
        case "blind":
            return first_Q
        case _:
            assert_never(same_request)


def _looked_ahead(
    machine: Machine, asked: _Asked, knows: Knows
) -> Iterator[tuple[Int64[np.ndarray, " R"], Float64[np.ndarray, "R L Z"]]]:
    """Queries, and the chances of state and trace of their events: first those right after histories, then on."""
    new_Q = asked.new_Q if knows.time else _chance_of_new(machine, asked)
    first_U = np.flatnonzero(asked.first_Q)
    count_U = np.diff(first_U, append=len(asked.targets))
    for begin in range(0, len(first_U), USERS_AT_ONCE):
        query_R, left_R = first_U[begin : begin + USERS_AT_ONCE], count_U[begin : begin + USERS_AT_ONCE]
        belief = filtered(machine, _history(asked, query_R, knows))
        ahead_RLZ = ahead.next_event(machine, belief, new_Q[query_R])
        yield query_R, ahead_RLZ
        while (left_R > 1).any():
            query_R, ahead_RLZ, left_R = (
                query_R[left_R > 1] + 1,
                ahead_RLZ[left_R > 1],
                left_R[left_R > 1] - 1,
            )
            ahead_RLZ = ahead.event_after(machine, ahead_RLZ, new_Q[query_R])
            yield query_R, ahead_RLZ


def _chance_of_new(machine: Machine, asked: _Asked) -> Float64[np.ndarray, " Q"]:
    """Requests end by the toss of a coin."""
    chance_Q = np.full(len(asked.targets), 1 / machine.world.request_events)
    chance_Q[asked.opens_Q] = 1.0
    return chance_Q


def _history(asked: _Asked, query_R: Int64[np.ndarray, " R"], knows: Knows) -> Observed:
    targets = asked.targets[query_R]
    batch = asked.dataset.target_batch(targets, WHOLE, 0)
    is_history_E = np.ones(len(batch.item_E), dtype=bool)
    is_history_E[batch.start_U1[1:] - 1] = False  # the target itself
    start_U1 = batch.start_U1 - np.arange(len(batch.start_U1))
    row_E, _ = concatenated_ranges(targets.history_end_Q - np.diff(start_U1), targets.history_end_Q)
    return Observed(
        start_U1=start_U1,
        item_E=asked.world_item(batch.item_E[is_history_E]),
        new_E=opens_request(batch.request_E[is_history_E], start_U1),
        action_EA=batch.action_EA[is_history_E],
        scenario_E=None if knows.scenario == "never" else asked.hidden(SCENARIO, row_E),
    )


def _known(
    machine: Machine, asked: _Asked
) -> Iterator[tuple[Int64[np.ndarray, " R"], Float64[np.ndarray, "R L Z"]]]:
    """The truth itself, in place of what can be known of it."""
    of = machine.world
    for begin in range(0, len(asked.targets), USERS_AT_ONCE):
        query_R = np.arange(begin, min(begin + USERS_AT_ONCE, len(asked.targets)))
        row_R = asked.targets.event_Q[query_R]
        type_R, mood_R, scenario_R, trace_R = (
            asked.hidden(name, row_R) for name in ("type", "mood", SCENARIO, "trace")
        )
        ahead_RLZ = np.zeros((len(query_R), *machine.category_LBZ.shape[::2]))
        state_R = (type_R * of.num_moods + mood_R) * of.num_scenarios + scenario_R
        ahead_RLZ[np.arange(len(query_R)), trace_R, state_R] = 1.0
        yield query_R, ahead_RLZ


def _answer(
    machine: Machine,
    asked: _Asked,
    knows: Knows,
    query_R: Int64[np.ndarray, " R"],
    ahead_RLZ: Float64[np.ndarray, "R L Z"],
    found: _Found,
) -> None:
    """Fills in the answers of some queries."""
    scenario_R = asked.hidden(SCENARIO, asked.targets.event_Q[query_R])
    if knows.scenario == "before_item":
        ahead_RLZ = ahead.given_scenario(machine, ahead_RLZ, scenario_R)
    category_RB = ahead.category_chances(machine, ahead_RLZ)
    if knows.query:
        asked_for_R = asked.hidden(QUERY, asked.targets.event_Q[query_R])
        category_RB = category_RB * query_chances(machine.world)[asked_for_R]
        category_RB /= category_RB.sum(1, keepdims=True)
    found.category_QB[query_R] = category_RB
    if knows.scenario == "with_item":
        ahead_RLZ = ahead.given_scenario(machine, ahead_RLZ, scenario_R)
    item_R = asked.world_item(asked.item_Q[query_R])
    state_RZ = ahead.given_category(machine, ahead_RLZ, machine.truth.category_V[item_R])
    for column, (response, of) in enumerate(zip(machine.world.responses, machine.chances, strict=True)):
        best = expected(response, ResponseChances(of.hit[item_R], of.size[item_R]), state_RZ)
        found.predicted[column][query_R] = best.predicted
        found.mean[column][query_R] = best.mean
        found.log_mean[column][query_R] = best.log_mean
