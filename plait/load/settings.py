"""How a service is loaded, in numbers with their ranges."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from plait.limits import SEED, Between, check_numbers
from plait.load.mix import Kind

PER_S = Between(0, 1e6, "one process does not send more", above=True)
TIMES = Between(0, 1e3, "times the capacity", above=True)


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """What is sent, how often, and for how long.

    Args:
        rates: stages of so many requests a second.
        of_capacity: further stages, as multiples of the capacity, which is measured first.
        seconds: of each stage.
        mix: shares of the kinds of requests. Empty: what the model can, and appends where the service is ours.
        candidates: items of a score.
        hit_rate: the share of questions about users whose states the service has; the others ask about users in turn.
        users: those whose states it is made to have.
        deadline_ms: of every request. What takes longer, from the moment it was due, is late.
        patience_s: a request that took so long has no answer.
        connections: at most so many at once. A request that finds none waits, and its wait counts.

    Raises:
        ValueError: a number is out of its range.
    """

    rates: Annotated[tuple[float, ...], PER_S] = (5.0, 10.0, 20.0)
    of_capacity: Annotated[tuple[float, ...], TIMES] = ()
    seconds: Annotated[float, Between(0, 86_400, "a day", above=True)] = 30.0
    mix: Mapping[Kind, float] = field(default_factory=dict)
    candidates: Annotated[int, Between(1, 10_000, "a service takes no more")] = 1_000
    k: Annotated[int, Between(1, 1_000, "a service answers no more")] = 10
    hit_rate: Annotated[float, Between(0, 1, "a share")] = 1.0
    users: Annotated[int, Between(1, 1_000_000, "each is asked about before")] = 100
    deadline_ms: Annotated[float, Between(0, 600_000, "ten minutes", above=True)] = 500.0
    patience_s: Annotated[float, Between(0, 3_600, "an hour", above=True)] = 30.0
    connections: Annotated[int, Between(1, 60_000, "an address has so many ports")] = 1_000
    seed: Annotated[int, SEED] = 0

    def __post_init__(self) -> None:
        check_numbers("", self)
