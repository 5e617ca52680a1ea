"""A log drawn from a world: all users at once, one event after another.

Shape letters: U users, T steps, E events, A actions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from plait.data.simulator.responses import ResponseChances, chances_of, draw
from plait.data.simulator.truth import Truth, choose, choose_item, steering, trace_of, truth_of
from plait.data.simulator.world import World

START_S = 1_600_000_000  # unix seconds: no user begins earlier
BEGIN_WITHIN_S = 30 * 86_400  # ... nor later than this after it
MEAN_GAP_S = 86_400  # between requests; tells nothing, except where one ends

UNIFORMS = 5  # numbers that decide a step, beside one for each response


@dataclass(frozen=True)
class DrawnLog:
    """Events by user and order, with all that no model is told."""

    user_E: Int64[np.ndarray, " E"]
    item_E: Int64[np.ndarray, " E"]  # from 0
    time_s_E: Int64[np.ndarray, " E"]
    request_E: Int64[np.ndarray, " E"]  # running number within the user
    action_EA: Float64[np.ndarray, "E A"]
    scenario_E: Int64[np.ndarray, " E"]
    query_E: Int64[np.ndarray, " E"]  # 0: none; else one more than the category that it names
    type_E: Int64[np.ndarray, " E"]
    mood_E: Int64[np.ndarray, " E"]
    trace_E: Int64[np.ndarray, " E"]  # what the request before left behind


@dataclass
class _Now:
    """Where every user stands; changed from step to step."""

    type_U: Int64[np.ndarray, " U"]
    mood_U: Int64[np.ndarray, " U"]
    scenario_U: Int64[np.ndarray, " U"]
    trace_U: Int64[np.ndarray, " U"]
    latest_U: Int64[np.ndarray, " U"]  # the trace that the latest event would leave


@dataclass(frozen=True)
class Minds:
    """All of users that decides what they do with an item."""

    type_E: Int64[np.ndarray, " E"]
    mood_E: Int64[np.ndarray, " E"]
    scenario_E: Int64[np.ndarray, " E"]


def draw_log(world: World) -> DrawnLog:
    """One log of the world; the same wherever it is drawn."""
    truth = truth_of(world)
    rng = np.random.default_rng((world.seed, 1))  # apart from the parameters' own
    U, low, high = world.num_users, world.num_events // 2, world.num_events + world.num_events // 2
    length_U = rng.integers(low, high, U, endpoint=True)
    T = int(length_U.max())
    now = _start(truth, rng.random((2, U)))
    steps = [_step(world, truth, now, rng, is_first=step == 0) for step in range(T)]
    happened_UT = np.arange(T) < length_U[:, None]
    columns = {name: np.stack([step[name] for step in steps], axis=1)[happened_UT] for name in steps[0]}
    request_UT = np.cumsum(np.stack([step["new"] for step in steps], axis=1), axis=1) - 1
    gap_s_UT = 1 + (rng.standard_exponential((U, T)) * MEAN_GAP_S).astype(np.int64)
    begin_s_U = START_S + rng.integers(0, BEGIN_WITHIN_S, U)
    time_s_UT = begin_s_U[:, None] + np.take_along_axis(np.cumsum(gap_s_UT, axis=1), request_UT, axis=1)
    return DrawnLog(
        user_E=np.repeat(np.arange(U), length_U),
        item_E=columns["item"],
        time_s_E=time_s_UT[happened_UT],
        request_E=request_UT[happened_UT],
        action_EA=columns["action"],
        scenario_E=columns["scenario"],
        query_E=_queries(world, truth.category_V[columns["item"]]),
        type_E=np.repeat(now.type_U, length_U),
        mood_E=columns["mood"],
        trace_E=columns["trace"],
    )


def _queries(world: World, category_E: Int64[np.ndarray, " E"]) -> Int64[np.ndarray, " E"]:
    """What was asked for before each item, from numbers of its own: a world with queries is the same in all else."""
    rng, num_events = np.random.default_rng((world.seed, 2)), len(category_E)
    asks_E, names_it_E = rng.random(num_events) < world.queries, rng.random(num_events) < world.query_accuracy
    any_E = rng.integers(0, world.num_categories, num_events)
    return np.where(asks_E, 1 + np.where(names_it_E, category_E, any_E), 0)


def _start(truth: Truth, uniform_2U: Float64[np.ndarray, "2 U"]) -> _Now:
    type_U = choose(truth.type_K, uniform_2U[0])
    mood_U = choose(truth.first_mood_M, uniform_2U[1])
    nothing_U = np.zeros_like(type_U)
    return _Now(type_U, mood_U, nothing_U, nothing_U, nothing_U)


def _step(
    world: World, truth: Truth, now: _Now, rng: np.random.Generator, is_first: bool
) -> dict[str, np.ndarray]:
    """One more event of every user. Draws the same numbers whatever the strengths."""
    uniform_NU = rng.random((UNIFORMS + len(world.responses), world.num_users))
    new_U = (uniform_NU[0] < 1 / world.request_events) | is_first
    if not is_first:
        next_mood_U = choose(truth.mood_MM[now.mood_U], uniform_NU[1])
        now.mood_U = np.where(new_U, next_mood_U, now.mood_U)
    now.scenario_U = np.where(new_U, choose(truth.scenario_S, uniform_NU[2]), now.scenario_U)
    now.trace_U = np.where(new_U, now.latest_U, now.trace_U)
    category_U = choose(truth.category_KSLB[now.type_U, now.scenario_U, now.trace_U], uniform_NU[3])
    item_U = choose_item(truth, category_U, uniform_NU[4])
    minds = Minds(now.type_U, now.mood_U, now.scenario_U)
    action_UA = responses_to(world, truth, minds, item_U, uniform_NU[UNIFORMS:], rng)
    now.latest_U = trace_of(category_U, action_UA[:, steering(world)], world.num_categories)
    return {
        "new": new_U,
        "mood": now.mood_U,
        "scenario": now.scenario_U,
        "trace": now.trace_U,
        "item": item_U,
        "action": action_UA,
    }


def responses_to(
    world: World,
    truth: Truth,
    minds: Minds,
    item_E: Int64[np.ndarray, " E"],
    uniform_AE: Float64[np.ndarray, "A E"],
    rng: np.random.Generator,
) -> Float64[np.ndarray, "E A"]:
    """What is done with items, in the log's units.

    Args:
        uniform_AE: as `draw` takes it, for each response.
    """
    action_EA = np.empty((len(item_E), len(world.responses)))
    for action, response in enumerate(world.responses):
        chances = chances_to(world, truth, minds, item_E, action)
        action_EA[:, action] = draw(response, chances, uniform_AE[action], rng)
    return action_EA


def chances_to(
    world: World, truth: Truth, minds: Minds, item_E: Int64[np.ndarray, " E"], action: int
) -> ResponseChances:
    """How one response to items is distributed."""
    category_E = truth.category_V[item_E]
    effect_E = truth.effect_AKMSB[action, minds.type_E, minds.mood_E, minds.scenario_E, category_E]
    return chances_of(
        world.responses[action], float(truth.bias_A[action]), effect_E + truth.quality_AV[action, item_E]
    )
