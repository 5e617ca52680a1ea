"""What a history tells of its user: the exact forward filter over type, mood and scenario.

Shape letters: K types, M moods, S scenarios, Z = K * M * S states; L traces, B categories, V items; F features
of a response's value; U users, E events.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from plait.data.simulator.responses import ResponseChances, features, weights
from plait.data.simulator.truth import Truth, item_chances, steering, trace_of
from plait.data.simulator.world import World


@dataclass(frozen=True)
class Machine:
    """A world's truth, laid out by state."""

    world: World
    truth: Truth
    prior_Z: Float64[np.ndarray, " Z"]
    scenario_Z: Int64[np.ndarray, " Z"]
    category_LBZ: Float64[np.ndarray, "L B Z"]  # chance of the category
    chances: tuple[ResponseChances, ...]  # of each response, V x Z
    weights: tuple[Float64[np.ndarray, "_ _ _"], ...]  # of each response's features, F x V x Z
    steered_BZ: Float64[np.ndarray, "B Z"]  # chance that an unknown item of the category steers


def machine_of(world: World, truth: Truth) -> Machine:
    K, M, S, V = world.num_types, world.num_moods, world.num_scenarios, world.num_items
    by_item = [item_chances(world, truth, action) for action in range(len(world.responses))]
    chances = tuple(ResponseChances(of.hit.reshape(V, -1), of.size.reshape(V, -1)) for of in by_item)
    steered_VZ = truth.within_V[:, None] * chances[steering(world)].hit
    steered_BZ = np.stack([steered_VZ[truth.category_V == b].sum(0) for b in range(world.num_categories)])
    category_KMSLB = np.repeat(truth.category_KSLB[:, None], M, axis=1)
    category_ZLB = category_KMSLB.reshape(K * M * S, *truth.category_KSLB.shape[2:])
    prior_KMS = truth.type_K[:, None, None] * truth.first_mood_M[:, None] * truth.scenario_S
    return Machine(
        world=world,
        truth=truth,
        prior_Z=prior_KMS.ravel(),
        scenario_Z=np.tile(np.arange(S), K * M),
        category_LBZ=np.ascontiguousarray(category_ZLB.transpose(1, 2, 0)),
        chances=chances,
        weights=tuple(weights(r, of) for r, of in zip(world.responses, chances, strict=True)),
        steered_BZ=steered_BZ,
    )


def next_request(machine: Machine, chance: Float64[np.ndarray, "*X Z"]) -> Float64[np.ndarray, "*X Z"]:
    """Chances of the states after one request ends: the type stays, the mood moves, the scenario is new.

    Nothing known stays nothing known: the prior is the chain's own limit.
    """
    of = machine.world
    chance_KMS = chance.reshape(*chance.shape[:-1], of.num_types, of.num_moods, of.num_scenarios)
    moved_KM = chance_KMS.sum(-1) @ machine.truth.mood_MM
    return (moved_KM[..., None] * machine.truth.scenario_S).reshape(chance.shape)


@dataclass(frozen=True)
class Observed:
    """Histories end to end, as far as somebody may see them."""

    start_U1: Int64[np.ndarray, " U1"]
    item_E: Int64[np.ndarray, " E"]  # the world's, from 0
    new_E: Bool[np.ndarray, " E"]  # opens a request; true for a user's first event
    action_EA: Float32[np.ndarray, "E A"]
    scenario_E: Int64[np.ndarray, " E"] | None  # None: not seen


@dataclass(frozen=True)
class Belief:
    """What is known after each history's last event."""

    chance_UZ: Float64[np.ndarray, "U Z"]
    trace_U: Int64[np.ndarray, " U"]  # under which the current request was chosen
    latest_U: Int64[np.ndarray, " U"]  # what the last event leaves behind if it ends its request


def filtered(machine: Machine, seen: Observed) -> Belief:
    """Runs over all histories side by side, the longest first, so that those still running are the first rows."""
    length_U = np.diff(seen.start_U1)
    order_U = np.argsort(-length_U, kind="stable")
    chance_UZ = np.tile(machine.prior_Z, (len(length_U), 1))
    trace_U, latest_U = np.zeros((2, len(length_U)), dtype=np.int64)
    left_E = trace_of(
        machine.truth.category_V[seen.item_E],
        seen.action_EA[:, steering(machine.world)],
        machine.world.num_categories,
    )
    values = [features(r, seen.action_EA[:, column]) for column, r in enumerate(machine.world.responses)]
    for step in range(int(length_U.max(initial=0))):
        n = int((length_U > step).sum())
        row_U = seen.start_U1[order_U[:n]] + step
        new_U = seen.new_E[row_U]
        trace_U[:n] = np.where(new_U, latest_U[:n], trace_U[:n])
        prior_UZ = np.where(new_U[:, None], next_request(machine, chance_UZ[:n]), chance_UZ[:n])
        weight_UZ = prior_UZ * _likelihood(machine, seen, row_U, trace_U[:n], [v[:, row_U] for v in values])
        chance_UZ[:n] = weight_UZ / weight_UZ.sum(1, keepdims=True)
        latest_U[:n] = left_E[row_U]
    back_U = np.argsort(order_U)
    return Belief(chance_UZ[back_U], trace_U[back_U], latest_U[back_U])


def _likelihood(
    machine: Machine,
    seen: Observed,
    row_U: Int64[np.ndarray, " U"],
    trace_U: Int64[np.ndarray, " U"],
    values: list[Float64[np.ndarray, "_ U"]],
) -> Float64[np.ndarray, "U Z"]:
    """How likely one event of every user is in each state: its scenario, item and responses. Scaled per user."""
    item_U = seen.item_E[row_U]
    category_U = machine.truth.category_V[item_U]
    log_UZ = np.log(machine.category_LBZ)[trace_U, category_U]
    for value_FU, weight_FVZ in zip(values, machine.weights, strict=True):
        for value_U, weight_VZ in zip(value_FU, weight_FVZ, strict=True):
            log_UZ += value_U[:, None] * weight_VZ[item_U]
    likelihood_UZ = np.exp(log_UZ - log_UZ.max(1, keepdims=True))
    if seen.scenario_E is not None:
        likelihood_UZ *= machine.scenario_Z == seen.scenario_E[row_U][:, None]
    return likelihood_UZ
