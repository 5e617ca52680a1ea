"""What a load found, as it is written down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plait.load.figures import Ms, StageFigures
from plait.wording import setting

ANSWERED = 0.95  # the share of good answers at which a load is still within the capacity


@dataclass(frozen=True)
class Warmed:
    """The first questions about each user, one after the other: none of their states was there.

    Args:
        first_ms: the very first answer of the service.
        p50_ms: their median.
    """

    users: int
    first_ms: float
    p50_ms: Ms


@dataclass(frozen=True)
class Step:
    """Of the search for the capacity: so many askers, each waiting for an answer before the next question."""

    askers: int
    per_s: float
    good_per_s: float

    @property
    def is_answered(self) -> bool:
        """Whether nearly all got a good answer.

        >>> Step(2, per_s=50.0, good_per_s=49.0).is_answered, Step(32, per_s=600.0, good_per_s=300.0).is_answered
        (True, False)
        """
        return self.good_per_s >= ANSWERED * self.per_s


@dataclass(frozen=True)
class Capacity:
    """The most that askers got who wait for each answer, in answers by the model within the deadline.

    Where it is 0, nobody got any, and there are no multiples of it to load with.
    """

    per_s: float
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class OwnFigures:
    """What can be told of a process and a disk that are this machine's.

    Args:
        memory_mb: before the load and after it: PSS without LMDB's map; None where the kernel does not tell.
        sync_p50_ms: of `fdatasync` behind 4 KB on the store's disk, before the load.
    """

    filling_s: float
    ready_s: float
    memory_mb: tuple[float | None, float | None]
    sync_p50_ms: Ms
    sync_p99_ms: Ms
    syncs: int


@dataclass(frozen=True)
class LoadReport:
    """Args:
    service: the model that was asked, as the service tells it.
    settings: those of the load.
    machine_load: processes that wanted a processor, before the load and after it: a busy machine measures itself.
    """

    url: str
    service: Mapping[str, Any]
    settings: Mapping[str, Any]
    date: str
    machine_load: tuple[float, float]
    warmed: Warmed | None
    capacity: Capacity | None
    stages: tuple[StageFigures, ...]
    own: OwnFigures | None

    @property
    def complaint(self) -> str:
        """Why these figures are not all that was asked for, or not valid; nothing where they are."""
        late = [stage.name for stage in self.stages if not stage.is_valid]
        if late:
            return f"the generator fell behind at {', '.join(late)}; those figures are not valid"
        if self.capacity is not None and not self.capacity.per_s:
            return (
                f"nobody who waited for an answer got one by the model within {self.settings['deadline_ms']:g} ms, so "
                f"there is no capacity to load with; give more time ({setting('deadline_ms')}), or see the "
                "service's /metrics"
            )
        return ""
