"""Simulated users who come again, and do something with whatever they are shown: how a served model is tried.

Shape letters: U users, V items of the world, E items shown, A actions.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from plait.data.simulator.drawing import DrawnLog, Minds, chances_to, responses_to
from plait.data.simulator.truth import Truth, choose, truth_of
from plait.data.simulator.world import World


@dataclass(frozen=True)
class Visitors:
    """All users of a world during one visit; users and items are numbered from 0. A visit is a request: mood and
    scenario hold for all of it.
    """

    world: World
    truth: Truth
    minds: Minds

    @classmethod
    def after(cls, world: World, log: DrawnLog) -> "Visitors":
        """Users as their last event in a log of the world left them."""
        last_U = np.append(np.flatnonzero(np.diff(log.user_E)), len(log.user_E) - 1)
        return cls(
            world,
            truth_of(world),
            Minds(log.type_E[last_U], log.mood_E[last_U], log.scenario_E[last_U]),
        )

    def again(self, rng: np.random.Generator) -> "Visitors":
        """Their next visit: moods have moved on, and scenarios are drawn anew."""
        uniform_2U = rng.random((2, self.world.num_users))
        mood_U = choose(self.truth.mood_MM[self.minds.mood_E], uniform_2U[0])
        scenario_U = choose(self.truth.scenario_S, uniform_2U[1])
        return Visitors(self.world, self.truth, Minds(self.minds.type_E, mood_U, scenario_U))

    def respond(
        self, user_E: Int64[np.ndarray, " E"], item_E: Int64[np.ndarray, " E"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "E A"]:
        """What users do with items, in the log's units; the columns are those of `world.responses`."""
        uniform_AE = rng.random((len(self.world.responses), len(user_E)))
        return responses_to(self.world, self.truth, self._minds_of(user_E), item_E, uniform_AE, rng)

    def chances(self, action: str) -> Float64[np.ndarray, "U V"]:
        """How likely each user is to take a binary action on each item, if it is shown: what no model can know better.

        Raises:
            ValueError: there is no such response.
        """
        names = [response.action.name for response in self.world.responses]
        if action not in names:
            raise ValueError(f"{action!r} is no response of the world; expected one of {', '.join(names)}")
        U, V = self.world.num_users, self.world.num_items
        user_E, item_E = np.repeat(np.arange(U), V), np.tile(np.arange(V), U)
        found = chances_to(self.world, self.truth, self._minds_of(user_E), item_E, names.index(action))
        return found.hit.reshape(U, V)

    def _minds_of(self, user_E: Int64[np.ndarray, " E"]) -> Minds:
        minds = self.minds
        return Minds(minds.type_E[user_E], minds.mood_E[user_E], minds.scenario_E[user_E])
