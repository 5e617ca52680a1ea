"""The parts of a layout: facts, targets and tokens, printing in the notation of `plait.layouts.notation`."""

from dataclasses import dataclass
from typing import Literal

Field = Literal["i", "a", "c"]
Ride = Literal["values", "pool", "helix"]
RIDE_NAMES: dict[Ride, str] = {
    "values": "mixed values",
    "pool": "late fusion",
    "helix": "dual helix",
}  # in the papers

FIELD_NAMES: dict[Field, str] = {"i": "item", "a": "action", "c": "condition"}


@dataclass(frozen=True, order=True)
class Fact:
    """A field at an event `offset` events after the current one; None is the learned mask `a[?]`."""

    field: Field
    offset: int | None = 0

    def __str__(self) -> str:
        if self.offset is None:
            return f"{self.field}[?]"
        return f"{self.field}[t{self.offset:+d}]" if self.offset else f"{self.field}[t]"


@dataclass(frozen=True)
class Target:
    """A fact that a token predicts, and the facts given to its head after the trunk (`target | fact`)."""

    fact: Fact
    given: tuple[Fact, ...] = ()

    @property
    def offset(self) -> int:
        assert self.fact.offset is not None, "Layout refuses a mask as a target"
        return self.fact.offset

    def __str__(self) -> str:
        return " | ".join(map(str, (self.fact, *self.given)))


@dataclass(frozen=True)
class Token:
    """One position of the sequence: the facts it shows, those read from its hidden state, and the rides."""

    shown: tuple[Fact, ...]
    predicted: tuple[Target, ...] = ()
    rides: tuple[Ride, ...] = ()

    def __str__(self) -> str:
        rides = f" {{{', '.join(self.rides)}}}" if self.rides else ""
        return f"{_group(self.shown)} -> {_group(self.predicted)}{rides}"


def _group(parts: tuple[Fact, ...] | tuple[Target, ...]) -> str:
    return str(parts[0]) if len(parts) == 1 else f"({', '.join(map(str, parts))})"
