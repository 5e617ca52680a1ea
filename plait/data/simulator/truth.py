"""The parameters of a world, drawn from its seed: the same arrays wherever they are made.

Shape letters: K types, M moods, S scenarios, B categories, V items, A actions; L traces, what the last request
left behind: 0 nothing, 1 + b its last item's category with the steering action 0, 1 + B + b with it 1;
E events, C chances to choose from.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer

from plait.data.simulator.responses import ResponseChances, bias_for, chances_of
from plait.data.simulator.world import World

SHOWN = 1 << 13  # events over which the rates of responses are set


@dataclass(frozen=True)
class Truth:
    """Chances and effects. Every array of chances sums to 1 over its last axis, `within_V` over a category."""

    type_K: Float64[np.ndarray, " K"]
    first_mood_M: Float64[np.ndarray, " M"]
    mood_MM: Float64[np.ndarray, "M M"]  # from the mood of a request to that of the next
    scenario_S: Float64[np.ndarray, " S"]
    category_KSLB: Float64[np.ndarray, "K S L B"]  # of an item of a request
    category_V: Int64[np.ndarray, " V"]
    within_V: Float64[np.ndarray, " V"]  # of the item, given its category
    bias_A: Float64[np.ndarray, " A"]
    effect_AKMSB: Float64[np.ndarray, "A K M S B"]  # on the logit of a response, beside the item's quality
    quality_AV: Float64[np.ndarray, "A V"]


def truth_of(world: World) -> Truth:
    """Draws what is random and scales it by the strengths, so that a strength changes nothing but itself."""
    taste_rng, item_rng, response_rng, quality_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence(world.seed).spawn(4)
    )
    K, S, B, A = world.num_types, world.num_scenarios, world.num_categories, len(world.responses)
    taste_KB = _centred(taste_rng.standard_normal((K, B))) if world.tastes is None else np.array(world.tastes)
    scene_SB = taste_rng.standard_normal((S, B))
    item_order_V = item_rng.permutation(world.num_items)
    category_V = item_rng.permutation(world.num_items) % B
    weight_V = (1.0 + item_order_V) ** -world.popularity
    weight_B = np.bincount(category_V, weights=weight_V)
    value_M, first_M, mood_MM = mood_chain(world.num_moods, world.persistence)
    mood_A = _mixed(np.ones(()), A, world.overlap, response_rng)
    taste_AKB = _mixed(taste_KB, A, world.overlap, response_rng)
    scene_ASB = _mixed(response_rng.standard_normal((S, B)), A, world.overlap, response_rng)
    effect_AKMSB = (
        world.taste * taste_AKB[:, :, None, None, :]
        + world.mood * (mood_A[:, None] * value_M)[:, None, :, None, None]
        + world.scenario * scene_ASB[:, None, None, :, :]
    )
    shared_V = quality_rng.standard_normal(world.num_items)
    truth = Truth(
        type_K=np.full(K, 1 / K),
        first_mood_M=first_M,
        mood_MM=mood_MM,
        scenario_S=np.full(S, 1 / S),
        category_KSLB=_category_chances(world, np.log(weight_B), taste_KB, scene_SB),
        category_V=category_V,
        within_V=weight_V / weight_B[category_V],
        bias_A=np.zeros(A),
        effect_AKMSB=effect_AKMSB,
        quality_AV=world.quality * _mixed(shared_V, A, world.overlap, quality_rng),
    )
    return replace(truth, bias_A=_biases(world, truth))


def trace_of(
    category_E: Integer[np.ndarray, " E"], steered_E: Float[np.ndarray, " E"], num_categories: int
) -> Int64[np.ndarray, " E"]:
    """What an event leaves behind if it ends its request.

    >>> trace_of(np.array([0, 1]), np.array([0.0, 1.0]), num_categories=2).tolist()
    [1, 4]
    """
    return (1 + category_E + num_categories * (steered_E > 0)).astype(np.int64)


def steering(world: World) -> int:
    """The column of the response that steers."""
    return [response.action.name for response in world.responses].index(world.steer)


def item_chances(world: World, truth: Truth, action: int) -> ResponseChances:
    """One response's distribution in every state, by item: V x K x M x S."""
    effect_VKMS = np.moveaxis(truth.effect_AKMSB[action], -1, 0)[truth.category_V]
    bias = float(truth.bias_A[action])
    return chances_of(
        world.responses[action], bias, effect_VKMS + truth.quality_AV[action][:, None, None, None]
    )


def mood_chain(
    num_moods: int, persistence: float
) -> tuple[Float64[np.ndarray, " M"], Float64[np.ndarray, " M"], Float64[np.ndarray, "M M"]]:
    """Values, stationary chances and transitions of an AR(1) chain on a grid: mean 0, variance 1, and
    E[next | now] = persistence * now exactly.

    A mood is the sum of `num_moods - 1` coins, each of which keeps its side with chance (1 + persistence) / 2.

    Source: Rouwenhorst's method (Kopecky and Suen, Review of Economic Dynamics 13(3), 2010).

    >>> value_M, first_M, step_MM = mood_chain(3, 0.5)
    >>> (step_MM @ value_M / value_M.clip(1)).round(3)[[0, 2]], first_M
    (array([-0.707,  0.5  ]), array([0.25, 0.5 , 0.25]))
    """
    coins, keep = num_moods - 1, (1 + persistence) / 2
    value_M = (2 * np.arange(num_moods) - coins) / math.sqrt(coins or 1)
    step_MM = [np.convolve(_heads(up, keep), _heads(coins - up, 1 - keep)) for up in range(num_moods)]
    return value_M, _heads(coins, 0.5), np.stack(step_MM)


def _heads(coins: int, chance: float) -> Float64[np.ndarray, " heads"]:
    """Chances of 0, 1, ... heads."""
    return np.array([math.comb(coins, n) * chance**n * (1 - chance) ** (coins - n) for n in range(coins + 1)])


def _category_chances(
    world: World,
    base_B: Float64[np.ndarray, " B"],
    taste_KB: Float64[np.ndarray, "K B"],
    scene_SB: Float64[np.ndarray, "S B"],
) -> Float64[np.ndarray, "K S L B"]:
    """Without any strength, a category is as likely as its items are popular."""
    same_BB = np.eye(world.num_categories)
    follow_LB = world.follow * np.concatenate([np.zeros((1, world.num_categories)), -same_BB, same_BB])
    logit_KSLB = (
        base_B
        + world.choice * taste_KB[:, None, None, :]
        + world.scenario_choice * scene_SB[:, None, :]
        + follow_LB
    )
    chance_KSLB = np.exp(logit_KSLB - logit_KSLB.max(-1, keepdims=True))
    return chance_KSLB / chance_KSLB.sum(-1, keepdims=True)


def _biases(world: World, truth: Truth) -> Float64[np.ndarray, " A"]:
    """So that every response comes at its rate, whatever the strengths: else a strength, by way of what users are
    shown, would move the rates too, and with them every metric."""
    uniform_5E = np.random.default_rng((world.seed, 2)).random((5, SHOWN))
    type_E, scenario_E = choose(truth.type_K, uniform_5E[0]), choose(truth.scenario_S, uniform_5E[1])
    mood_E = choose(truth.first_mood_M, uniform_5E[2])
    category_E = choose(truth.category_KSLB[type_E, scenario_E, 0], uniform_5E[3])
    item_E = choose_item(truth, category_E, uniform_5E[4])
    effect_AE = truth.effect_AKMSB[:, type_E, mood_E, scenario_E, category_E] + truth.quality_AV[:, item_E]
    return np.array(
        [bias_for(r.rate, effect_E) for r, effect_E in zip(world.responses, effect_AE, strict=True)]
    )


def choose(
    chance_C: Float[np.ndarray, "*E C"], uniform_E: Float64[np.ndarray, " E"]
) -> Int64[np.ndarray, " E"]:
    """The choice that each number falls to; one table of chances for all events, or one each.

    >>> choose(np.array([0.3, 0.7]), np.array([0.2, 0.4])).tolist()
    [0, 1]
    """
    upto_C = np.cumsum(chance_C, axis=-1)[..., :-1]  # what is left belongs to the last
    return (uniform_E[:, None] >= upto_C).sum(-1)


def choose_item(
    truth: Truth, category_E: Int64[np.ndarray, " E"], uniform_E: Float64[np.ndarray, " E"]
) -> Int64[np.ndarray, " E"]:
    """An item of each category, by its popularity: the categories lie end to end, each of length 1."""
    by_category_V = np.argsort(truth.category_V, kind="stable")
    upto_V = np.cumsum(truth.within_V[by_category_V])
    place_E = np.searchsorted(upto_V, category_E + uniform_E, side="right")
    end_B = np.cumsum(np.bincount(truth.category_V))
    begin_B = np.concatenate([[0], end_B[:-1]])
    return by_category_V[np.clip(place_E, begin_B[category_E], end_B[category_E] - 1)]


def query_chances(world: World) -> Float64[np.ndarray, "B1 B"]:
    """How likely each query is, none first, where the item that comes is of each category.

    >>> query_chances(World(queries=0.5, num_categories=2, query_accuracy=0.6)).round(2).tolist()
    [[0.5, 0.5], [0.4, 0.1], [0.1, 0.4]]
    """
    B = world.num_categories
    named_BB = world.query_accuracy * np.eye(B) + (1 - world.query_accuracy) / B
    return np.concatenate([np.full((1, B), 1 - world.queries), world.queries * named_BB])


def _centred(drawn_KB: Float64[np.ndarray, "K B"]) -> Float64[np.ndarray, "K B"]:
    """Mean 0 and variance 1 for every type; 0 where there is one category, and nothing to prefer."""
    drawn_KB = drawn_KB - drawn_KB.mean(1, keepdims=True)
    return drawn_KB / np.maximum(drawn_KB.std(1, keepdims=True), 1e-9)


def _mixed(
    shared: Float64[np.ndarray, "*X"], num_actions: int, overlap: float, rng: np.random.Generator
) -> Float64[np.ndarray, " A *X"]:
    """For every response the shared effect and one of its own, in shares of the variance."""
    own = rng.standard_normal((num_actions, *shared.shape))
    return math.sqrt(overlap) * shared + math.sqrt(1 - overlap) * own
