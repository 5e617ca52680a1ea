"""What a chart or a table writes, number and unit together, is the number that it was given, in every unit."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.studies import charts
from plait.studies.charts import Chart, Look, Measured, Tick, Trace, learning_curves, quality_against_cost
from plait.studies.words import PREFIXES, duration, number, percent, signed, times, with_prefix

SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
FLOPS = {f"{prefix}FLOP": 1000.0**n for n, prefix in enumerate(("", "k", "M", "G", "T", "P", "E", "Z"))}
EPOCHS = {"epochs": 1.0}


def scatter(costs: Sequence[float], kind: str) -> Chart:
    points = [Measured(f"at {n}", Look(n), cost, 0.1 * n, 0.1 * n, 0.1 * n) for n, cost in enumerate(costs)]
    return quality_against_cost("title", points, "value", "higher", "flops" if kind == "flops" else "seconds")


def curves(across: Sequence[float], kind: str) -> Chart:
    traces = [
        Trace(f"at {n}", Look(n), ((0.0, 0.1), (x, 0.1 * n + 0.2)), best=1) for n, x in enumerate(across)
    ]
    return learning_curves("title", traces, "value", "seconds" if kind == "seconds" else "epochs")


CHARTS = {"flops": (scatter, FLOPS), "seconds": (scatter, SECONDS)}
TRACES = {"seconds": (curves, SECONDS), "epochs": (curves, EPOCHS)}


def values_at(ticks: Sequence[Tick], places: Sequence[float]) -> np.ndarray:
    """What the axis says of these places."""
    written = [float(tick.text.replace(",", "")) for tick in ticks]
    slope, start = np.polyfit([tick.at for tick in ticks], written, 1)
    return start + slope * np.array(places)


def check_charts() -> None:
    met = Counter[tuple[str, str]]()
    for drawn in (CHARTS, TRACES):
        for kind, (draw, scale_of) in drawn.items():
            for size in np.geomspace(3, 400 * max(scale_of.values()), 60).tolist():
                costs = [size, 0.6 * size, 0.2 * size]
                chart = draw(costs, kind)
                unit = chart.x_label.rpartition(", ")[2]
                assert len(chart.x_ticks) >= 3, chart.x_label
                said = values_at(chart.x_ticks, [mark.x for mark in chart.marks]) * scale_of[unit]
                np.testing.assert_allclose(said, costs, rtol=1e-6, err_msg=chart.x_label)
                assert size / scale_of[unit] < 1000 or unit in ("hours", "epochs"), "a readable size"
                for mark, cost in zip(chart.marks, costs, strict=True):
                    title = re.search(rf", ([\d.e+]+) {unit}$", mark.title)
                    if draw is scatter:
                        assert title and abs(float(title[1]) * scale_of[unit] / cost - 1) < 0.01, mark.title
                met[draw.__name__, unit] += 1
    expected = [
        (draw.__name__, unit)
        for drawn in (CHARTS, TRACES)
        for draw, units in drawn.values()
        for unit in units
    ]
    assert_not_vacuous({str(each): met[each] for each in expected}, above=1)


def test_value_and_unit_on_a_chart_are_the_number_given(monkeypatch: pytest.MonkeyPatch) -> None:
    check_charts()
    right = charts._unit

    def long_hours(values: Sequence[float], kind: str) -> tuple[float, str]:
        divisor, unit = right(values, kind)
        return (7200.0, unit) if unit == "hours" else (divisor, unit)

    monkeypatch.setattr(charts, "_unit", long_hours)
    assert_caught(check_charts)


def test_every_prefix_is_the_number_given() -> None:
    met = Counter[str]()
    for value in np.geomspace(1e-2, 9e23, 400):
        written, _, prefix = with_prefix(value, "B").rstrip("B").partition(" ")
        assert float(written) * 1000.0 ** PREFIXES.index(prefix) == pytest.approx(value, rel=0.006, abs=0.005)
        assert len(written.replace(".", "")) == 3 or value < 0.995 or value >= 999.5e21, written
        met[prefix] += 1
    assert_not_vacuous({prefix: met[prefix] for prefix in FLOPS_PREFIXES}, above=9)


FLOPS_PREFIXES = [unit.removesuffix("FLOP") for unit in FLOPS]


def test_every_duration_is_the_number_given() -> None:
    scale_of, met = {"s": 1.0, "min": 60.0, "h": 3600.0}, Counter[str]()
    for seconds in (*np.geomspace(0.1, 400_000, 300), 59.94, 59.96, 3599.4, 3599.6, 3600.0, 7199.0):
        words = duration(seconds).split()
        found = {unit: float(written) for written, unit in zip(words[::2], words[1::2], strict=True)}
        total = sum(scale_of[unit] * value for unit, value in found.items())
        exact = min(scale_of[unit] for unit in found)
        assert abs(total - seconds) <= (0.05 if len(found) == 1 else exact / 2) + 1e-9, (seconds, words)
        assert all(value <= 60 for unit, value in found.items() if unit != "h"), words
        met.update(found)
    assert_not_vacuous({unit: met[unit] for unit in scale_of}, above=9)


def test_every_number_in_words_is_the_number_given() -> None:
    """Within half of its last decimal; shares in percent, ratios as multiples."""
    plain = str.maketrans(
        {"\N{MINUS SIGN}": "-", ",": None, " ": None, "%": None, "\N{MULTIPLICATION SIGN}": None}
    )
    for value in (*np.geomspace(1e-4, 1e6, 60), *-np.geomspace(1e-4, 1e6, 60)):
        for write, unit in ((number, 1.0), (signed, 1.0), (percent, 0.01), (times, 1.0)):
            written = write(value).translate(plain)
            decimals = len(written.partition(".")[2])
            assert abs(float(written) * unit - value) <= 0.5 * 10.0**-decimals * unit * (1 + 1e-9), written
        assert signed(value)[0] == percent(value)[0] == ("+" if value > 0 else "\N{MINUS SIGN}")
