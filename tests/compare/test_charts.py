"""The charts' geometry: over random values everything lies where its number says, inside the picture, and apart."""

import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tiny import assert_caught, assert_not_vacuous

from plait.compare import charts
from plait.compare.charts import (
    BEST_COUNT,
    CHAR,
    LINE,
    WIDTH,
    Chart,
    Contrasted,
    CostPoint,
    Learning,
    Level,
    Look,
    Run,
    forest,
    learning_curves,
    quality_against_cost,
)
from plait.metrics.statistic import Better


def value_of(rng: np.random.Generator) -> float:
    """Of any size, and often the same as others."""
    common = float(rng.choice([0.0, 0.16, 0.1601]))
    return common if rng.random() < 0.3 else float(rng.normal() * 10.0 ** rng.integers(-6, 7))


def names(rng: np.random.Generator) -> list[str]:
    count = int(rng.integers(1, 7 if rng.random() < 0.7 else 31))
    return [f"{'long_' * int(rng.integers(0, 18))}{n}" for n in range(count)]


def contrasted(rng: np.random.Generator) -> Chart:
    rows = []
    for n, name in enumerate(names(rng)):
        value, half = value_of(rng), abs(value_of(rng))
        rows.append(
            Contrasted(name, Look(n), value, value - half, value + half, rng.random() < 0.5, "p < 0.001")
        )
    return forest("title", rows, "difference", either(rng))


def measured(rng: np.random.Generator) -> Chart:
    span = float(rng.choice([0.0, 0.1, 2.0, 20.0]))
    points = [
        CostPoint(name, Look(n), float(10 ** (3 + span * rng.random())), value_of(rng), rng.random() < 0.5)
        for n, name in enumerate(names(rng))
    ]
    level = Level("rules", value_of(rng)) if rng.random() < 0.5 else None
    return quality_against_cost("title", points, "value", either(rng), "FLOP", level=level)


def learning(rng: np.random.Generator) -> Chart:
    layouts = []
    for n, name in enumerate(names(rng)):
        every, runs = float(rng.choice([0.25, 1.0])), []
        for _ in range(rng.integers(1, 4)):
            points = tuple((every * (epoch + 1), value_of(rng)) for epoch in range(rng.integers(1, 9)))
            tested = None if rng.random() < 0.2 else int(rng.integers(len(points)))
            runs.append(Run(points, tested, int(rng.integers(len(points)))))
        layouts.append(Learning(name, Look(n), tuple(runs)))
    return learning_curves("title", layouts, "value", either(rng))


def either(rng: np.random.Generator) -> Better:
    return "higher" if rng.random() < 0.5 else "lower"


def numbers_of(path):
    return [float(number) for number in re.findall(r"-?[\d.]+(?:e[+-]?\d+)?", path)]


def check_inside(chart: Chart) -> None:
    """Marks and bars in the frame, names in the picture and none over another, all of it finite numbers."""
    frame, slack = chart.frame, 0.01
    assert 0 <= frame.left < frame.right <= WIDTH and 0 <= frame.top < frame.bottom < chart.height
    for mark in chart.marks:
        assert frame.left - slack <= mark.x <= frame.right + slack, mark
        assert frame.top - slack <= mark.y <= frame.bottom + slack, mark
        if mark.bar:
            assert frame.left - slack <= mark.bar[0] <= mark.x + slack
            assert mark.x - slack <= mark.bar[1] <= frame.right + slack
    for label in chart.labels:
        left = label.x - CHAR * len(label.text) * (label.anchor == "end")
        assert (
            left >= 0 and left + CHAR * len(label.text) <= WIDTH and LINE / 2 <= label.y <= chart.height - 20
        ), label
    for one, other in combinations(chart.labels, 2):
        assert abs(one.y - other.y) >= LINE - slack or one.anchor != other.anchor, (one, other)
    for path in [curve.path for curve in chart.curves] + [band.path for band in chart.bands]:
        assert path.startswith("M") and "nan" not in path and "inf" not in path


def check_scale(ticks, start: float, end: float, met: Counter) -> None:
    """Ticks lie in the frame, in the order of their numbers, and evenly or by factors, as these are."""
    assert 1 <= len(ticks) <= 12, ticks
    at, written = [tick.at for tick in ticks], [float(tick.text.replace(",", "")) for tick in ticks]
    assert len(set(written)) == len(written) and written == sorted(written), ticks
    low, high = sorted((start, end))
    assert low - 0.01 <= min(at) and max(at) <= high + 0.01
    if len(ticks) < 3:
        return
    even = np.ptp(np.diff(written)) <= 1e-6 * abs(written[-1] - written[0])
    numbers = written if even else np.log(written)
    slope, first = np.polyfit(numbers, at, 1)
    np.testing.assert_allclose(at, first + slope * np.array(numbers), atol=0.05)
    assert slope * (end - start) > 0
    met["even" if even else "by factors"] += 1


def check_charts(examples: int, seen: set[str]) -> None:
    met = Counter()

    @settings(max_examples=examples, phases=[Phase.generate])
    @given(st.sampled_from([contrasted, measured, learning]), st.integers(0, 2**32))
    def each(made: Callable[[np.random.Generator], Chart], seed: int) -> None:
        chart = made(np.random.default_rng(seed))
        met[chart.kind] += 1
        check_inside(chart)
        for one, other in pairwise(chart.x_ticks):
            assert other.at - one.at >= CHAR * (len(one.text) + len(other.text)) / 2, "numbers stand apart"
        check_scale(chart.x_ticks, chart.frame.left, chart.frame.right, met)
        if chart.y_ticks:
            check_scale(chart.y_ticks, chart.frame.bottom, chart.frame.top, met)
        met["filled"] += any(mark.is_filled for mark in chart.marks)
        assert ("illed" in chart.caption) == (
            any(mark.is_filled for mark in chart.marks) or chart.kind == "costs"
        )
        assert ("ollow" in chart.caption) == (not all(mark.is_filled for mark in chart.marks))
        assert ("and: from" in chart.caption) == bool(chart.bands)
        has_level = chart.level is not None
        assert ("best count, rules" in chart.caption) == ("best count, rules" in chart.alt) == has_level
        if chart.level is not None:
            assert chart.frame.top <= chart.level <= chart.frame.bottom
            assert [label.leader[1] for label in chart.labels if label.text == BEST_COUNT] == [chart.level]
        met["level"] += has_level

    each()
    assert_not_vacuous({kind: met[kind] for kind in seen}, above=4)


ALL = {"forest", "costs", "learning", "even", "by factors", "filled", "level"}


def test_over_random_values_everything_has_its_place():
    check_charts(250, ALL)


@pytest.mark.parametrize(
    ("where", "broken"),
    [
        (
            "_in_margin",
            lambda ends, frame: tuple(
                charts.Label(name[:9], frame.right, y) for name, (_, y) in ends.items()
            ),
        ),
        ("_caption", lambda parts: ". ".join(parts)),
        ("_round_step", lambda step: step / 9),
        ("_height_for", lambda names: charts.HEIGHT),
        ("_short", lambda name: name),
        ("_apart", lambda x, divisor=1.0: x.ticks(9, divisor)),
    ],
)
def test_what_is_out_of_place_is_noticed(where, broken, monkeypatch):
    monkeypatch.setattr(charts, where, broken)
    assert_caught(check_charts, 100, set())


def test_five_cheap_layouts_beside_one_sixty_times_dearer():
    points = [
        CostPoint(f"layout_{n}", Look(n), cost, 0.16 + n / 1000, True)
        for n, cost in enumerate([1e12, 1.1e12, 1.2e12, 1.3e12, 1.4e12, 60e12])
    ]
    chart = quality_against_cost("title", points, "value", "higher", "FLOP")
    check_inside(chart)
    assert "logarithmic" in chart.caption and chart.x_label == "training cost, TFLOP"
    assert chart.marks[4].x - chart.marks[0].x > 10, "the cheap ones stand apart"


def test_up_is_more_and_right_is_dearer():
    points = [CostPoint(f"layout_{n}", Look(n), 1e12 * (n + 1), 0.1 * n, True) for n in range(3)]
    marks = quality_against_cost("title", points, "value", "lower", "FLOP").marks
    assert marks[0].x < marks[1].x < marks[2].x and marks[0].y > marks[1].y > marks[2].y
    assert marks[1].x - marks[0].x == pytest.approx(marks[2].x - marks[1].x)


def test_the_forest_says_what_was_told():
    rows = [
        Contrasted("pc", Look(1), 0.004, 0.001, 0.007, True, "p = 0.012"),
        Contrasted("lac", Look(2), -0.002, -0.005, 0.001, False, "p = 0.40"),
    ]
    chart = forest("NDCG@10 against item", rows, "difference", "higher")
    pc, lac = chart.marks
    assert pc.is_filled and not lac.is_filled
    assert chart.zero < pc.bar[0] and lac.bar[0] < chart.zero < lac.bar[1]
    assert (
        chart.y_label == "← worse · better →" and "lac: -0.0020 (-0.0050 to +0.0010), p = 0.40" in chart.alt
    )
    assert forest("t", rows, "d", "lower").y_label == "← better · worse →"
    one_seed = Contrasted("lac", Look(2), 0.2, 0.1, 0.3, False, "")
    caption = forest("t", [one_seed], "d", "higher").caption
    assert caption == "Of one seed the bar covers users alone; hollow: not told apart."


def test_a_curve_marks_what_was_tested_apart_from_its_own_best():
    points = ((1.0, 0.2), (2.0, 0.5), (3.0, 0.45))
    chart = learning_curves("t", [Learning("lac", Look(0), (Run(points, 2, 1),))], "value", "higher")
    assert [(mark.title, mark.is_filled) for mark in chart.marks] == [
        ("lac: its own best, 0.5000", False),
        ("lac: tested, 0.4500", True),
    ]
    (same,) = learning_curves("t", [Learning("lac", Look(0), (Run(points, 1, 1),))], "v", "higher").marks
    assert same.is_filled
    (unknown,) = learning_curves(
        "t", [Learning("lac", Look(0), (Run(points, None, 1),))], "v", "higher"
    ).marks
    assert not unknown.is_filled, "what was tested is not known, so nothing is called tested"


def test_a_band_ends_where_a_seed_stopped_and_the_scale_holds_what_settled():
    long = tuple((float(epoch), 0.9 - math.exp(-epoch)) for epoch in range(1, 21))
    chart = learning_curves(
        "t", [Learning("lac", Look(0), (Run(long, 19, 19), Run(long[:9], 8, 8)))], "v", "higher"
    )
    thick, thin = chart.curves
    assert not thick.is_thin and thin.is_thin and len(chart.bands) == 1
    assert numbers_of(thick.path)[-2:] == numbers_of(thin.path)[:2], (
        "the thin line goes on where the mean ends"
    )
    assert chart.caption.endswith("earlier values lie outside.")


def test_no_two_layouts_look_alike():
    looks = [Look(n) for n in range(19)]
    assert len({(look.colour, look.path) for look in looks}) == 19
    assert len({(look.colour, look.dash) for look in looks}) == 19
    for of in ("colour", "path", "dash"):
        assert len({getattr(look, of) for look in looks[:8]}) == 8, f"the first eight differ by {of} alone"


def test_a_long_name_is_cut_in_the_picture_and_whole_in_its_title():
    name = "(i[t], a[t-1]) -> (i[t+1], a[t])"
    chart = quality_against_cost(
        "title", [CostPoint(name, Look(0), 1.0, 1.0, True)], "value", "lower", "FLOP"
    )
    assert chart.labels[0].text == "(i[t], a[t-1]) …"
    assert chart.marks[0].title.startswith(name)
