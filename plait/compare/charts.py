"""The geometry of the report's charts: numbers in, coordinates and labels out; the template draws them.

Coordinates are those of the SVG's view box, y downwards. A layout keeps its look in every chart: a colour, a
shape and a dash pattern, so that no chart speaks by colour alone.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 440.0, 300.0
LEFT, TOP, BOTTOM = 50.0, 12.0, 42.0  # margins
CHAR, LINE = 6.4, 13.0  # of a label, in 12 px type
LABEL_CHARS = 16  # longer names are cut; the full name is the mark's title
PATH = (  # one shape per layout, about 9 wide around the origin
    "M-4.2,0a4.2,4.2 0 1,0 8.4,0a4.2,4.2 0 1,0 -8.4,0",
    "M-3.8,-3.8h7.6v7.6h-7.6z",
    "M0,-5L4.7,3.6h-9.4z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0z",
    "M0,5L4.7,-3.6h-9.4z",
    "M-1.6,-4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
    "M-5,0L-2.5,-4.3h5L5,0L2.5,4.3h-5z",
    "M0,-5.4L1.5,-1.7L5.2,-1.7L2.3,0.8L3.4,4.6L0,2.4L-3.4,4.6L-2.3,0.8L-5.2,-1.7L-1.5,-1.7z",
)
DASHES = ("none", "6 3", "2 2.5", "9 3 2 3", "4 2", "1 3", "12 4", "6 2 2 2 2 2")


@dataclass(frozen=True)
class Look:
    """How a layout is drawn everywhere. Eight colours; from the ninth layout on they meet other shapes."""

    index: int

    @property
    def colour(self) -> int:
        return self.index % 8

    @property
    def path(self) -> str:
        return PATH[(self.index + self.index // 8) % 8]

    @property
    def dash(self) -> str:
        return DASHES[(self.index + self.index // 8) % 8]


@dataclass(frozen=True)
class Measured:
    """A layout's place in a quality-against-cost chart."""

    name: str
    look: Look
    cost: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Trace:
    """One run's learning curve, oldest point first."""

    name: str
    look: Look
    points: tuple[tuple[float, float], ...]
    best: int  # index of the point that was selected


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Label:
    text: str
    x: float
    y: float
    leader: tuple[float, float, float, float] | None  # x, y, x, y of a thin line that ties it to its mark


@dataclass(frozen=True)
class Mark:
    name: str
    look: Look
    x: float
    y: float
    low_y: float
    high_y: float
    title: str


@dataclass(frozen=True)
class Curve:
    name: str
    look: Look
    path: str


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws, in view-box coordinates."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    right: float  # x of the plot's right edge
    marks: tuple[Mark, ...] = ()
    curves: tuple[Curve, ...] = ()
    labels: tuple[Label, ...] = ()
    frontier: str = ""  # through the marks that no other mark beats in both cost and quality


@dataclass(frozen=True)
class Axis:
    """A linear scale from data to the view box."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int, divisor: float = 1.0) -> tuple[Tick, ...]:
        """About `count` round numbers, written in units of `divisor`."""
        step = _round_step((self.high - self.low) / divisor / count)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(self.low / divisor / step - 1e-9)
        last = math.floor(self.high / divisor / step + 1e-9)
        return tuple(
            Tick(self(n * step * divisor), f"{n * step:,.{decimals}f}") for n in range(first, last + 1)
        )


def quality_against_cost(
    title: str,
    points: Sequence[Measured],
    y_label: str,
    better: Literal["higher", "lower"],
    cost: Literal["flops", "seconds"],
) -> Chart:
    """Marks with their intervals, and the frontier: no mark on it is beaten in both cost and quality."""
    assert points, "a chart of nothing"
    divisor, unit = _unit([point.cost for point in points], cost)
    right = _right_edge([point.name for point in points])
    x = _axis([0.0, *(point.cost for point in points)], LEFT, right, from_zero=True)
    y = _axis([bound for point in points for bound in (point.low, point.high)], HEIGHT - BOTTOM, TOP)
    marks = tuple(
        Mark(p.name, p.look, at, y(p.value), y(p.low), y(p.high), _title_of(p, divisor, unit))
        for p, at in zip(points, _spread_out([x(p.cost) for p in points]), strict=True)
    )
    return Chart(
        title,
        f"training cost, {unit}",
        f"{y_label}, {better} is better",
        x.ticks(5, divisor),
        y.ticks(5),
        right,
        marks=marks,
        labels=_beside(marks),
        frontier=_polyline(_frontier(marks, better)),
    )


def learning_curves(
    title: str, traces: Sequence[Trace], y_label: str, x: Literal["epochs", "seconds"]
) -> Chart:
    """One line per run, its selected point marked; a layout's name stands where its last run ends."""
    assert traces and all(trace.points for trace in traces), "a chart of nothing"
    across = [point[0] for trace in traces for point in trace.points]
    divisor, unit = (1.0, "epochs") if x == "epochs" else _unit(across, "seconds")
    right = _right_edge([trace.name for trace in traces])
    to_x = _axis([0.0, *across], LEFT, right, from_zero=True)
    to_y = _axis([point[1] for trace in traces for point in trace.points], HEIGHT - BOTTOM, TOP)
    curves, marks, ends = [], [], {}
    for trace in traces:
        path = [(to_x(across), to_y(value)) for across, value in trace.points]
        curves.append(Curve(trace.name, trace.look, _polyline(path)))
        best_x, best_y = path[trace.best]
        marks.append(Mark(trace.name, trace.look, best_x, best_y, best_y, best_y, trace.name))
        ends[trace.name] = path[-1]
    x_label = unit if x == "epochs" else f"training time, {unit}"
    return Chart(
        title,
        x_label,
        y_label,
        to_x.ticks(5, divisor),
        to_y.ticks(5),
        right,
        marks=tuple(marks),
        curves=tuple(curves),
        labels=_in_margin(ends, right),
    )


def _round_step(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten.

    >>> _round_step(0.034), _round_step(7.0)
    (0.05, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _axis(values: Iterable[float], start: float, end: float, from_zero: bool = False) -> Axis:
    """Covers the values with a little room; a single value stands in the middle."""
    kept = list(values)
    low, high = min(kept), max(kept)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(low if from_zero else low - room, high + room, start, end)


def _spread_out(x: Sequence[float]) -> list[float]:
    """Moves apart, by a few units, what stands closer than 6: intervals would cover each other.

    >>> _spread_out([100.0, 50.0, 101.0])
    [97.5, 50.0, 103.5]
    """
    order = sorted(range(len(x)), key=x.__getitem__)
    groups: list[list[int]] = []
    for n in order:
        if groups and x[n] - x[groups[-1][-1]] < 6:
            groups[-1].append(n)
        else:
            groups.append([n])
    moved = list(x)
    for group in groups:
        middle, gap = sum(x[n] for n in group) / len(group), min(6.0, 32 / len(group))
        for place, n in enumerate(group):
            moved[n] = middle + (place - (len(group) - 1) / 2) * gap
    return moved


def _unit(values: Sequence[float], kind: Literal["flops", "seconds"]) -> tuple[float, str]:
    """A divisor that leaves the largest value at a readable size, and its name.

    >>> _unit([3.2e12], "flops"), _unit([5400.0], "seconds")
    ((1000000000000.0, 'TFLOP'), (60.0, 'minutes'))
    """
    largest = max(values)
    if kind == "seconds":
        steps = [(1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours")]
        return next((step for step in reversed(steps) if largest >= 2 * step[0]), steps[0])
    prefixes = [(10.0 ** (3 * n), f"{p}FLOP") for n, p in enumerate(["", "k", "M", "G", "T", "P", "E", "Z"])]
    return next((step for step in reversed(prefixes) if largest >= step[0]), prefixes[0])


def _title_of(point: Measured, divisor: float, unit: str) -> str:
    interval = f"{point.low:.4f} to {point.high:.4f}"
    return f"{point.name}: {point.value:.4f} ({interval}), {point.cost / divisor:.3g} {unit}"


def _right_edge(names: Sequence[str]) -> float:
    """Where the plot ends, so that the longest name fits beside it."""
    return WIDTH - 14 - CHAR * max(len(_short(name)) for name in names)


def _short(name: str) -> str:
    return name if len(name) <= LABEL_CHARS else name[: LABEL_CHARS - 1] + "…"


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) if points else ""


def _frontier(marks: Sequence[Mark], better: Literal["higher", "lower"]) -> list[tuple[float, float]]:
    """From the cheapest mark on, each that is better than all cheaper ones."""
    up = 1 if better == "lower" else -1  # y points downwards
    kept: list[tuple[float, float]] = []
    for mark in sorted(marks, key=lambda mark: (mark.x, -up * mark.y)):
        if not kept or up * mark.y > up * kept[-1][1]:
            kept.append((mark.x, mark.y))
    return kept


def _in_margin(ends: dict[str, tuple[float, float]], right: float) -> tuple[Label, ...]:
    """Names in the right margin, level with where their line ends, pushed apart where they would collide."""
    names = sorted(ends, key=lambda name: ends[name][1])
    groups: list[list[str]] = []  # each stands as a block around the middle of its lines' ends

    def top(group: list[str]) -> float:
        middle = sum(ends[name][1] for name in group) / len(group)
        extent = (len(group) - 1) * LINE
        return max(TOP, min(middle - extent / 2, HEIGHT - BOTTOM - extent))

    for name in names:
        groups.append([name])
        while len(groups) > 1 and top(groups[-2]) + len(groups[-2]) * LINE > top(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    heights = [top(group) + n * LINE for group in groups for n in range(len(group))]
    return tuple(
        Label(_short(name), right + 10, y + 4, (*ends[name], right + 8, y))
        for name, y in zip(names, heights, strict=True)
    )


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, other: "_Box") -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def _beside(marks: Sequence[Mark]) -> tuple[Label, ...]:
    """Names next to their marks, in the nearest free place; a thin line ties those that had to move away.

    Where no place is free of everything, a name may cross an interval, but no mark and no other name.
    """
    plot = _Box(LEFT + 2, TOP, WIDTH - 2, HEIGHT - BOTTOM)
    taken = [_Box(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    bars = [_Box(mark.x - 1, mark.high_y, mark.x + 1, mark.low_y) for mark in marks]
    labels = []
    for mark in sorted(marks, key=lambda mark: mark.y):
        inside = [place for place in _places(mark) if place.within(plot)]
        clear = [place for place in inside if not any(place.meets(other) for other in taken)]
        free = (place for place in clear if not any(place.meets(bar) for bar in bars))
        place = next(free, None) or next(iter(clear or inside))
        taken.append(place)
        middle = (place.top + place.bottom) / 2
        near = place.left - 2 if place.left > mark.x else place.right + 2
        leader = (mark.x, mark.y, near, middle) if abs(middle - mark.y) > 1 else None
        labels.append(Label(_short(mark.name), place.left, middle + 4, leader))
    return tuple(labels)


def _places(mark: Mark) -> Iterator[_Box]:
    """Where a mark's name could stand: right or left of it, nearest first."""
    width = CHAR * len(_short(mark.name))
    for step in sorted(range(-80, 81), key=abs):
        middle = mark.y + step * LINE / 4
        for left in (mark.x + 9, mark.x - 9 - width):
            yield _Box(left, middle - LINE / 2, left + width, middle + LINE / 2)
