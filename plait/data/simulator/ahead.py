"""What comes after a history: chances of the state and the trace under which each later event is chosen.

Shape letters: U users, Z states, L traces, B categories.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64

from plait.data.simulator.filtering import Belief, Machine, next_request


def next_event(
    machine: Machine, belief: Belief, new_U: Float64[np.ndarray, " U"]
) -> Float64[np.ndarray, "U L Z"]:
    """For the event right after the history, which opens a request with chance `new_U`."""
    user_U = np.arange(len(new_U))
    ahead_ULZ = np.zeros((len(new_U), *machine.category_LBZ.shape[::2]))
    ahead_ULZ[user_U, belief.trace_U] = (1 - new_U)[:, None] * belief.chance_UZ
    ahead_ULZ[user_U, belief.latest_U] += new_U[:, None] * next_request(machine, belief.chance_UZ)
    return ahead_ULZ


def event_after(
    machine: Machine, ahead_ULZ: Float64[np.ndarray, "U L Z"], new_U: Float64[np.ndarray, " U"]
) -> Float64[np.ndarray, "U L Z"]:
    """One event further, where the event between is not seen: every item and response that it may have had."""
    category_UBZ = np.einsum("ulz,lbz->ubz", ahead_ULZ, machine.category_LBZ)
    steered_UBZ = category_UBZ * machine.steered_BZ
    left_ULZ = np.concatenate(
        [np.zeros_like(ahead_ULZ[:, :1]), category_UBZ - steered_UBZ, steered_UBZ], axis=1
    )
    new_U11 = new_U[:, None, None]
    return (1 - new_U11) * ahead_ULZ + new_U11 * next_request(machine, left_ULZ)


def given_scenario(
    machine: Machine, ahead_ULZ: Float64[np.ndarray, "U L Z"], scenario_U: Int64[np.ndarray, " U"]
) -> Float64[np.ndarray, "U L Z"]:
    is_so_UZ: Bool[np.ndarray, "U Z"] = machine.scenario_Z == scenario_U[:, None]
    ahead_ULZ = ahead_ULZ * is_so_UZ[:, None]
    return ahead_ULZ / ahead_ULZ.sum((1, 2), keepdims=True)


def category_chances(machine: Machine, ahead_ULZ: Float64[np.ndarray, "U L Z"]) -> Float64[np.ndarray, "U B"]:
    return np.einsum("ulz,lbz->ub", ahead_ULZ, machine.category_LBZ)


def given_category(
    machine: Machine, ahead_ULZ: Float64[np.ndarray, "U L Z"], category_U: Int64[np.ndarray, " U"]
) -> Float64[np.ndarray, "U Z"]:
    """Chances of the state once the item's category is known: an item that is shown tells of its user."""
    joint_UZ = np.einsum("ulz,luz->uz", ahead_ULZ, machine.category_LBZ[:, category_U])
    return joint_UZ / joint_UZ.sum(1, keepdims=True)
