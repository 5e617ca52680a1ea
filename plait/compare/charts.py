"""The geometry of the report's charts: numbers in, coordinates and labels out; the template draws them.

Coordinates are those of the SVG's view box, y downwards. A layout keeps its look in every chart: a colour, a shape and
a dash pattern, so that no chart speaks by colour alone. A filled mark and a hollow one are told apart by the caption.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, final

WIDTH, HEIGHT = 440.0, 300.0  # a chart of many names is higher
LEFT, TOP, BOTTOM = 54.0, 12.0, 44.0  # margins
CHAR, LINE = 7.8, 15.0  # of a label, in 13 px type of a wide sort (DejaVu Sans)
ROW = 26.0  # of a chart with a row for each layout
LABEL_CHARS = 16  # longer names are cut; the full name is the mark's title
WIDE = 8.0  # costs that differ by more stand on a logarithmic scale
SETTLED = 0.25  # the share of a curve after which the scale has to hold it
BEST_COUNT = "best count"  # the label of a line across
LOOKS = 8  # colours, and as many shapes and dashes
PATH = (  # one shape per layout, about 9 wide around the origin
    "M-4.2,0a4.2,4.2 0 1,0 8.4,0a4.2,4.2 0 1,0 -8.4,0z",
    "M-3.8,-3.8h7.6v7.6h-7.6z",
    "M0,-5L4.7,3.6h-9.4z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0z",
    "M0,5L4.7,-3.6h-9.4z",
    "M-1.6,-4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
    "M-5,0L-2.5,-4.3h5L5,0L2.5,4.3h-5z",
    "M0,-5.4L1.5,-1.7L5.2,-1.7L2.3,0.8L3.4,4.6L0,2.4L-3.4,4.6L-2.3,0.8L-5.2,-1.7L-1.5,-1.7z",
)
DASHES = ("none", "8 4", "2 3", "12 3 2 3", "5 2", "1 5", "16 5", "8 3 2 3 2 3")


@dataclass(frozen=True)
class Look:
    """How a layout is drawn everywhere. From the ninth layout on, colours meet other shapes and dashes."""

    index: int

    @property
    def colour(self) -> int:
        return self.index % LOOKS

    @property
    def path(self) -> str:
        return PATH[(self.index + self.index // LOOKS) % LOOKS]

    @property
    def dash(self) -> str:
        return DASHES[(self.index + self.index // LOOKS) % LOOKS]


@dataclass(frozen=True)
class Contrasted:
    """A layout's row in a forest plot: a difference, and what was told of it."""

    name: str
    look: Look
    value: float
    low: float
    high: float
    is_told: bool
    p: str  # in words; "" where one seed alone was run, and p covers no seeds

    @property
    def remark(self) -> str:
        return self.p or "one seed"


@dataclass(frozen=True)
class CostPoint:
    """A layout's place in a quality-against-cost chart."""

    name: str
    look: Look
    cost: float
    value: float
    is_among_best: bool


@dataclass(frozen=True)
class Level:
    """What the best baseline reaches, drawn as a line across: it costs no training."""

    name: str
    value: float


@dataclass(frozen=True)
class Run:
    """One seed's learning curve, oldest point first, and the points that were tested and best in it."""

    points: tuple[tuple[float, float], ...]
    tested: int | None
    best: int


@dataclass(frozen=True)
class Learning:
    """A layout's learning curves, a run for each seed."""

    name: str
    look: Look
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Label:
    text: str
    x: float
    y: float
    anchor: Literal["start", "end"] = "start"
    leader: tuple[float, float, float, float] | None = (
        None  # x, y, x, y of a thin line that ties it to its mark
    )


@dataclass(frozen=True)
class Mark:
    look: Look
    x: float
    y: float
    title: str
    is_filled: bool = True
    bar: tuple[float, float] | None = None  # from x to x


@dataclass(frozen=True)
class Curve:
    name: str
    look: Look
    path: str
    is_thin: bool = False


@dataclass(frozen=True)
class Band:
    look: Look
    path: str


@dataclass(frozen=True)
class Frame:
    """Where data are drawn."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws, in view-box coordinates."""

    kind: Literal["forest", "costs", "learning"]
    title: str
    alt: str
    x_label: str
    y_label: str
    frame: Frame
    height: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...] = ()
    marks: tuple[Mark, ...] = ()
    curves: tuple[Curve, ...] = ()
    bands: tuple[Band, ...] = ()
    labels: tuple[Label, ...] = ()
    zero: float | None = None  # x of the line of no difference
    level: float | None = None  # y of a line across
    caption: str = ""  # of what is drawn, and of nothing else


@dataclass(frozen=True)
class AxisScale(ABC):
    """From data to the view box."""

    low: float
    high: float
    start: float
    end: float

    @abstractmethod
    def __call__(self, value: float) -> float: ...

    @abstractmethod
    def ticks(self, count: int, divisor: float = 1.0) -> tuple[Tick, ...]:
        """About `count` round numbers, written in units of `divisor`."""


@final
class LinearScale(AxisScale):
    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int, divisor: float = 1.0) -> tuple[Tick, ...]:
        step = _round_step((self.high - self.low) / divisor / count)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first = math.ceil(self.low / divisor / step - 1e-9)
        last = math.floor(self.high / divisor / step + 1e-9)
        return tuple(
            Tick(self(n * step * divisor), _unsigned_zero(f"{n * step:,.{decimals}f}"))
            for n in range(first, last + 1)
        )


@final
class LogScale(AxisScale):
    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int, divisor: float = 1.0) -> tuple[Tick, ...]:
        powers = range(
            math.floor(math.log10(self.low / divisor)), math.ceil(math.log10(self.high / divisor)) + 1
        )
        factors = (1, 2, 5) if len(powers) <= 3 else (1,)
        numbers = [factor * 10.0**power for power in powers for factor in factors]
        inside = [number for number in numbers if self.low <= number * divisor <= self.high]
        every = max(1, len(inside) // count)
        return tuple(Tick(self(number * divisor), f"{number:g}") for number in inside[::every])


def forest(title: str, rows: Sequence[Contrasted], x_label: str, better: Literal["higher", "lower"]) -> Chart:
    """A row for each difference, with its interval and the line of no difference; filled where it is told."""
    assert rows, "a chart of nothing"
    names = _width_of([row.name for row in rows]) + 26
    remarks = CHAR * max(len(row.remark) for row in rows)
    height = TOP + ROW * len(rows) + BOTTOM + 14
    frame = Frame(names, TOP, WIDTH - remarks - 16, height - BOTTOM - 14)
    x = _linear([0.0, *(end for row in rows for end in (row.low, row.high))], frame.left, frame.right)
    marks, labels = [], []
    for n, row in enumerate(rows):
        y = TOP + ROW * (n + 0.5)
        words = f"{row.name}: {row.value:+.4f} ({row.low:+.4f} to {row.high:+.4f}), {row.remark}"
        marks.append(Mark(row.look, x(row.value), y, words, row.is_told, (x(row.low), x(row.high))))
        labels += [
            Label(_short(row.name), 20.0, y + 4.5),
            Label(row.remark, WIDTH - 4, y + 4.5, "end"),
        ]
    sides = ("worse", "better") if better == "higher" else ("better", "worse")
    alt = f"{title}. {'; '.join(mark.title for mark in marks)}"
    return Chart(
        "forest",
        title,
        alt,
        x_label,
        f"← {sides[0]} · {sides[1]} →",
        frame,
        height,
        _apart(x),
        marks=tuple(marks),
        labels=tuple(labels),
        zero=x(0.0),
        caption=_caption(
            {
                "bars: 95 % intervals, all at once, of the p beside them": any(row.p for row in rows),
                "of one seed the bar covers users alone": not all(row.p for row in rows),
                "filled: told apart": any(row.is_told for row in rows),
                "hollow: not told apart": not all(row.is_told for row in rows),
            }
        ),
    )


def quality_against_cost(
    title: str,
    points: Sequence[CostPoint],
    y_label: str,
    better: Literal["higher", "lower"],
    unit: str,
    what: str = "training cost",
    level: Level | None = None,
) -> Chart:
    """A mark for each layout; hollow where it is told to be worse than the best.

    Args:
        unit: of the costs, such as FLOP; written with a prefix.
        what: the costs are.
        level: the best baseline, if there is one.
    """
    assert points and all(point.cost > 0 for point in points), "costs nothing"
    names = [*(point.name for point in points), *([BEST_COUNT] if level else [])]
    height = _height_for(len(names))
    frame = Frame(LEFT, TOP, _right_edge(names), height - BOTTOM)
    costs = [point.cost for point in points]
    divisor, prefix = _prefix(max(costs))
    x = _cost_scale(costs, frame)
    values = [*(point.value for point in points), *([level.value] if level else [])]
    y = _linear(values, frame.bottom, frame.top)
    marks = tuple(
        Mark(
            p.look,
            x(p.cost),
            y(p.value),
            f"{p.name}: {p.value:.4f}, {p.cost / divisor:.3g} {prefix}{unit}",
            p.is_among_best,
        )
        for p in points
    )
    ends = {p.name: (mark.x, mark.y) for p, mark in zip(points, marks, strict=True)}
    across = []
    if level:
        ends[BEST_COUNT] = (frame.right, y(level.value))
        across = [f"{BEST_COUNT}, {level.name}: {level.value:.4f}"]
    return Chart(
        "costs",
        title,
        f"{title}. {'; '.join([*(mark.title for mark in marks), *across])}",
        f"{what}, {prefix}{unit}",
        f"{y_label}, {better} is better",
        frame,
        height,
        _apart(x, divisor),
        y.ticks(5),
        marks=marks,
        labels=_in_margin(ends, frame),
        level=y(level.value) if level else None,
        caption=_caption(
            {
                "filled: not told from the best layout": True,
                "hollow: worse than the best layout": not all(point.is_among_best for point in points),
                f"dashed: the best count, {level.name if level else ''}, which trains nothing": level
                is not None,
                "costs on a logarithmic scale": isinstance(x, LogScale),
            }
        ),
    )


def learning_curves(
    title: str, layouts: Sequence[Learning], y_label: str, better: Literal["higher", "lower"]
) -> Chart:
    """The mean over a layout's seeds with a band from the lowest to the highest, as far as all of them trained; what a
    seed trained longer is a thin line. The scale holds what came after a curve's first quarter, and whatever was
    tested or best."""
    assert layouts and all(run.points for its in layouts for run in its.runs), "a chart of nothing"
    height = _height_for(len(layouts))
    frame = Frame(LEFT, TOP, _right_edge([its.name for its in layouts]), height - BOTTOM)
    points = [point for its in layouts for run in its.runs for point in run.points]
    x = _linear([0.0, *(across for across, _ in points)], frame.left, frame.right, from_zero=True)
    y = _linear(
        [value for its in layouts for run in its.runs for value in _settled(run)], frame.bottom, frame.top
    )
    curves, bands, marks, ends = [], [], [], {}
    for its in layouts:
        middle, around = _mean_and_band(its.runs, x, y)
        curves.append(Curve(its.name, its.look, _polyline(middle)))
        bands += [Band(its.look, around)] if around else []
        curves += [Curve(its.name, its.look, tail, True) for tail in _tails(its.runs, x, y)]
        marks += [mark for run in its.runs for mark in _marks_of(its, run, x, y)]
        ends[its.name] = (middle[-1][0], min(max(middle[-1][1], frame.top), frame.bottom))
    return Chart(
        "learning",
        title,
        f"{title}. The numbers of the tested checkpoints stand in the tables.",
        "epochs",
        f"{y_label}, {better} is better",
        frame,
        height,
        _apart(x),
        y.ticks(5),
        tuple(marks),
        tuple(curves),
        tuple(bands),
        _in_margin(ends, frame),
        caption=_caption(
            {
                "line: the mean over seeds": any(len(its.runs) > 1 for its in layouts),
                "band: from the lowest to the highest seed": bool(bands),
                "thin: a seed that trained on": any(curve.is_thin for curve in curves),
                "filled: the checkpoint that was tested": any(mark.is_filled for mark in marks),
                "hollow: where a run was best in this metric": not all(mark.is_filled for mark in marks),
                "earlier values lie outside": any(not y.low <= value <= y.high for _, value in points),
            }
        ),
    )


def _caption(parts: Mapping[str, bool]) -> str:
    """The parts that are drawn, as a sentence.

    >>> _caption({"filled: tested": True, "hollow: best": False})
    'Filled: tested.'
    """
    text = "; ".join(part for part, is_drawn in parts.items() if is_drawn)
    return f"{text[:1].upper()}{text[1:]}."


def _settled(run: Run) -> list[float]:
    """The values that the scale has to hold."""
    after = SETTLED * run.points[-1][0]
    kept = [value for across, value in run.points if across >= after]
    chosen = [run.best] if run.tested is None else [run.best, run.tested]
    return [*kept, *(run.points[n][1] for n in chosen)]


def _mean_and_band(runs: Sequence[Run], x: AxisScale, y: AxisScale) -> tuple[list[tuple[float, float]], str]:
    """Over the points that all runs have; of one run, its own and no band."""
    values = [dict(run.points) for run in runs]
    common = [across for across in values[0] if all(across in its for its in values)]
    if not common:  # seeds that were validated at other times have no mean
        return [(x(across), y(value)) for across, value in runs[0].points], ""
    several = [[its[across] for its in values] for across in common]
    middle = [(x(across), y(sum(its) / len(its))) for across, its in zip(common, several, strict=True)]
    if len(runs) == 1:
        return middle, ""
    upper = [(x(across), y(max(its))) for across, its in zip(common, several, strict=True)]
    lower = [(x(across), y(min(its))) for across, its in zip(common, several, strict=True)]
    return middle, f"{_polyline([*upper, *reversed(lower)])}Z"


def _tails(runs: Sequence[Run], x: AxisScale, y: AxisScale) -> list[str]:
    """What runs went on with after one of their layout had stopped."""
    stopped = min(run.points[-1][0] for run in runs)
    tails = [[(x(across), y(value)) for across, value in run.points if across >= stopped] for run in runs]
    return [_polyline(tail) for tail in tails if len(tail) > 1]


def _marks_of(its: Learning, run: Run, x: AxisScale, y: AxisScale) -> list[Mark]:
    def at(n: int, what: str, is_filled: bool) -> Mark:
        across, value = run.points[n]
        return Mark(its.look, x(across), y(value), f"{its.name}: {what}, {value:.4f}", is_filled)

    own = [at(run.best, "its own best", False)] if run.best != run.tested else []
    return own + ([] if run.tested is None else [at(run.tested, "tested", True)])


def _round_step(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten.

    >>> _round_step(0.034), _round_step(7.0)
    (0.05, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= step * (1 - 1e-9))


def _unsigned_zero(text: str) -> str:
    """
    >>> _unsigned_zero("-0.00"), _unsigned_zero("-0.01")
    ('0.00', '-0.01')
    """
    return text.removeprefix("-") if not text.strip("-0.,") else text


def _linear(values: Iterable[float], start: float, end: float, from_zero: bool = False) -> LinearScale:
    """Covers the values with a little room; a single value stands in the middle."""
    kept = list(values)
    low, high = min(kept), max(kept)
    size = max(abs(low), abs(high))
    room = 0.06 * (high - low) if high - low > 1e-9 * size else 0.1 * size or 1.0
    return LinearScale(low if from_zero else low - room, high + room, start, end)


def _cost_scale(costs: Sequence[float], frame: Frame) -> AxisScale:
    """From zero on, or by factors where the dearest would press all others against the axis."""
    low, high = min(costs), max(costs)
    if high < WIDE * low:
        return _linear([0.0, *costs], frame.left, frame.right, from_zero=True)
    room = (high / low) ** 0.06
    return LogScale(low / room, high * room, frame.left, frame.right)


def _apart(x: AxisScale, divisor: float = 1.0) -> tuple[Tick, ...]:
    """As many ticks of a horizontal axis as leave room for their numbers."""
    for count in (5, 4, 3, 2):
        ticks = x.ticks(count, divisor)
        width = CHAR * max((len(tick.text) for tick in ticks), default=0) + 6
        if all(right.at - left.at >= width for left, right in pairwise(ticks)):
            return ticks
    return x.ticks(1, divisor)


def _prefix(largest: float) -> tuple[float, str]:
    """A divisor that leaves the largest value at a readable size, and its prefix.

    >>> _prefix(3.2e12), _prefix(0.004)
    ((1000000000000.0, 'T'), (0.001, 'm'))
    """
    prefixes = ["µ", "m", "", "k", "M", "G", "T", "P", "E", "Z"]
    steps = [(10.0 ** (3 * n), prefix) for n, prefix in enumerate(prefixes, start=-2)]
    return next((step for step in reversed(steps) if largest >= step[0]), steps[0])


def _height_for(names: int) -> float:
    """Of a chart with so many names one below the other."""
    return max(HEIGHT, TOP + BOTTOM + LINE * names)


def _width_of(names: Iterable[str]) -> float:
    return CHAR * max(len(_short(name)) for name in names)


def _right_edge(names: Sequence[str]) -> float:
    """Where the plot ends, so that the longest name fits beside it."""
    return WIDTH - 14 - _width_of(names)


def _short(name: str) -> str:
    return name if len(name) <= LABEL_CHARS else name[: LABEL_CHARS - 1] + "…"


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _in_margin(ends: Mapping[str, tuple[float, float]], frame: Frame) -> tuple[Label, ...]:
    """Names in the right margin, level with what they name, pushed apart where they would collide."""
    names = sorted(ends, key=lambda name: ends[name][1])
    groups: list[list[str]] = []  # each stands as a block around the middle of what it names

    def top(group: list[str]) -> float:
        middle = sum(ends[name][1] for name in group) / len(group)
        extent = (len(group) - 1) * LINE
        return max(frame.top, min(middle - extent / 2, frame.bottom - extent))

    for name in names:
        groups.append([name])
        while len(groups) > 1 and top(groups[-2]) + len(groups[-2]) * LINE > top(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    heights = [top(group) + n * LINE for group in groups for n in range(len(group))]
    return tuple(
        Label(_short(name), frame.right + 10, y + 4.5, leader=(*ends[name], frame.right + 8, y))
        for name, y in zip(names, heights, strict=True)
    )
