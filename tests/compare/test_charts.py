import re

import numpy as np
import pytest

from plait.compare.charts import Look, Measured, Trace, learning_curves, quality_against_cost


def measured(costs, values, half=0.01):
    return [
        Measured(f"layout_{n}", Look(n), cost, value, value - half, value + half)
        for n, (cost, value) in enumerate(zip(costs, values, strict=True))
    ]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_nothing_beats_the_frontier_and_everything_off_it_is_beaten(better):
    rng = np.random.default_rng(0)
    points = measured(rng.random(23).tolist(), rng.random(23).tolist())
    chart = quality_against_cost("title", points, "value", better, "seconds")
    on_it = set(re.findall(r"[\d.]+,[\d.]+", chart.frontier))
    sign = -1 if better == "higher" else 1  # y points downwards

    def beats(a, b):
        return a.x <= b.x and sign * a.y >= sign * b.y and a != b

    assert 1 < len(on_it) < len(points)
    for mark in chart.marks:
        is_beaten = any(beats(other, mark) for other in chart.marks)
        assert is_beaten == (f"{mark.x:.1f},{mark.y:.1f}" not in on_it), mark.name


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_of_equally_good_marks_the_cheapest_alone_is_on_the_frontier(better):
    chart = quality_against_cost("title", measured([1.0, 2.0, 3.0], [0.5] * 3), "value", better, "seconds")
    cheapest = min(chart.marks, key=lambda mark: mark.x)
    assert chart.frontier == f"M{cheapest.x:.1f},{cheapest.y:.1f}" and len(chart.marks) == 3


def test_marks_and_ticks_lie_where_their_numbers_say():
    points = measured([40e12, 80e12, 120e12], [0.0, 0.1, 0.2], half=0.0)
    chart = quality_against_cost("title", points, "value", "higher", "flops")
    assert chart.x_label == "training cost, TFLOP"
    for ticks, places, numbers in (
        (chart.x_ticks, [mark.x for mark in chart.marks], [40, 80, 120]),
        (chart.y_ticks, [mark.y for mark in chart.marks], [0.0, 0.1, 0.2]),
    ):
        written, at = [float(tick.text) for tick in ticks], [tick.at for tick in ticks]
        slope, start = np.polyfit(written, at, 1)
        assert len(ticks) >= 3
        np.testing.assert_allclose(at, start + slope * np.array(written), atol=1e-6)
        np.testing.assert_allclose(places, start + slope * np.array(numbers), atol=1e-6)
    assert chart.marks[2].y < chart.marks[0].y, "up is more"


def test_a_flat_line_has_an_axis_too():
    flat = [Trace("flat", Look(0), ((1.0, 0.5), (2.0, 0.5)), best=0)]
    chart = learning_curves("title", flat, "value", "epochs")
    assert len(chart.y_ticks) > 1 and 0 < chart.marks[0].y < 300


def crowded():
    """17 layouts that cost the same and do nearly the same: no room beside their marks."""
    values = [0.16 + n / 4000 for n in range(17)]
    points = measured([4e13] * 17, values, half=0.02)
    traces = [Trace(p.name, p.look, ((1.0, 0.1), (9.0, p.value)), best=1) for p in points]
    return [
        quality_against_cost("scatter", points, "value", "higher", "flops"),
        learning_curves("curves", traces, "value", "epochs"),
    ]


@pytest.mark.parametrize("chart", crowded(), ids=lambda chart: chart.title)
def test_many_layouts_keep_their_names_apart(chart):
    assert len(chart.labels) == 17
    for n, a in enumerate(chart.labels):
        assert 0 < a.x < 440 - 6.4 * len(a.text) and 10 < a.y < 264, "inside the picture"
        for b in chart.labels[:n]:
            assert abs(a.y - b.y) >= 12.9 or abs(a.x - b.x) >= 6 * len(a.text), (a, b)


def test_no_two_layouts_look_alike():
    looks = [Look(n) for n in range(19)]
    assert len({(look.colour, look.path) for look in looks}) == 19
    assert len({(look.colour, look.dash) for look in looks}) == 19
    assert len({look.path for look in looks[:8]}) == 8, "the first eight differ by shape alone"


def test_a_long_name_is_cut_in_the_picture_and_whole_in_its_title():
    name = "(i[t], a[t-1]) -> (i[t+1], a[t])"
    chart = quality_against_cost(
        "title", [Measured(name, Look(0), 1.0, 1.0, 0.9, 1.1)], "value", "lower", "seconds"
    )
    assert chart.labels[0].text == "(i[t], a[t-1]) …"
    assert chart.marks[0].title.startswith(name)
