"""Ranges of numbers in settings, each with its reason, and what a machine can hold.

A setting states its range beside its type:

    dim: Annotated[int, Between(1, 65_536, "...")] = 64

and `check_numbers` holds all fields of its class against theirs.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, get_type_hints

from plait.wording import setting

MOST_CODES = 2**31 - 1  # users, items, events and buckets are numbered by 32 bits with a sign
MOST_SEED = 2**63 - 1
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Between:
    """A closed range, and why it ends where it does."""

    least: int | float
    most: int | float
    why: str = ""
    above: bool = False  # whether `least` itself is outside
    below: bool = False  # whether `most` itself is

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number = value if isinstance(value, int) else float(value)  # an int may be beyond all floats
        if not self.least <= number <= self.most:  # NaN is not
            return False
        return not (self.above and number == self.least) and not (self.below and number == self.most)

    def __str__(self) -> str:
        """
        >>> print(Between(0, 1, "a share", below=True))
        a number from 0 to below 1 (a share)
        """
        low = f"{'above' if self.above else 'from'} {self.least:.12g}"
        high = f"{'below ' if self.below else ''}{self.most:.12g}"
        return f"a number {low} to {high}" + (f" ({self.why})" if self.why else "")


WHOLE = Between(1, MOST_CODES, "they are counted by 32 bits")
WIDTH = Between(1, 65_536, "no published model is as wide")
DEPTH = Between(1, 1_024, "no published model is as deep")
WINDOW = Between(1, 2**20, "a window of a million events")
WEIGHT = Between(0, 1e6, "of a loss: more drowns all others in rounding")
SEED = Between(0, MOST_SEED, "64 bits with a sign")
SHARE = Between(0, 1, "a share", below=True)
SECONDS = Between(-9 * 10**12, 9 * 10**12, "times are microseconds in 64 bits")


def check_number(name: str, value: object, between: Between) -> None:
    """Raises ValueError where a number is not in its range.

    >>> check_number("k", float("nan"), Between(1, 100))
    Traceback (most recent call last):
        ...
    ValueError: k = nan: expected a number from 1 to 100
    """
    if value not in between:
        raise ValueError(f"{name} = {value}: expected {between}")


def check_setting(name: str, value: object, between: Between, *, key: str = "") -> None:
    """The same for what people set; see `plait.wording.setting`."""
    if value not in between:
        raise ValueError(f"{setting(name, value, key=key)}: expected {between}")


def check_numbers(section: str, settings: object) -> None:
    """Holds every number of some settings against the range that its field states; None, where it may be, passes.

    Args:
        section: what comes before a field's name in what people type, with its dot.

    Raises:
        ValueError: a number is outside.
    """
    for field, between in ranges_of(type(settings)).items():
        for key, value in _numbers(getattr(settings, field)):
            check_setting(f"{section}{field}", value, between, key=key)


def _numbers(value: Any) -> Iterator[tuple[str, Any]]:
    """Those that a field holds, each behind its name where it has one."""
    if isinstance(value, tuple):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, Mapping):
        yield from value.items()
    elif value is not None:
        yield "", value


def ranges_of(settings: type) -> dict[str, Between]:
    """By field, the range of its numbers."""
    hints = get_type_hints(settings, include_extras=True)
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    return {name: mark for name, found in marks.items() for mark in found if isinstance(mark, Between)}


def memory_bytes() -> float:
    """Main memory of the machine, or of the container, where that has less; infinite where nothing tells it."""
    try:
        machine = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        machine = math.inf
    try:
        return min(machine, float(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit: "max"
        return machine


def check_fits(what: str, needed_bytes: int | float, advice: str) -> None:
    """Raises ValueError where something needs more than the machine's memory.

    >>> check_fits("a model of 10^15 parameters", 1.6e16, "lower model.trunk.dim")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: a model of 10^15 parameters needs about 14,901,161 GiB of memory, and this machine has ...
    """
    there = memory_bytes()
    if needed_bytes > there:
        raise ValueError(
            f"{what} needs about {needed_bytes / 2**30:,.0f} GiB of memory, and this machine has "
            f"{there / 2**30:,.0f} GiB; {advice}"
        )
