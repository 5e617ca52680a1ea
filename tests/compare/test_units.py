"""What a chart or a table writes, number and unit together, is the number that it was given, in every unit."""

import html.parser
import itertools
import re
import statistics
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from test_page import LAYOUTS, SEEDS, compared, measured, row
from tiny import assert_caught, assert_not_vacuous

from plait.compare import charts
from plait.compare.charts import (
    Chart,
    CostPoint,
    Learning,
    Look,
    Run,
    Tick,
    learning_curves,
    quality_against_cost,
)
from plait.compare.page import html_page
from plait.compare.presentation import COST_COLUMNS
from plait.compare.results import Comparison, Cost, Point
from plait.compare.words import PREFIXES, duration, number, percent, signed, times, with_prefix

FLOPS = {f"{prefix}FLOP": 1000.0**n for n, prefix in enumerate(("", "k", "M", "G", "T", "P", "E", "Z"))}
EPOCHS = {"epochs": 1.0}
LINEAR, BY_FACTORS = (1.0, 0.6, 0.2), (1.0, 0.3, 0.001)  # the last as a share of the dearest


def scatter(costs: Sequence[float]) -> Chart:
    points = [CostPoint(f"at {n}", Look(n), cost, 0.1 * n, True) for n, cost in enumerate(costs)]
    return quality_against_cost("title", points, "value", "higher", "FLOP")


def curves(across: Sequence[float]) -> Chart:
    layouts = [
        Learning(f"at {n}", Look(n), (Run(((0.0, 0.1), (x, 0.1 * n + 0.2)), 1, 1),))
        for n, x in enumerate(across)
    ]
    return learning_curves("title", layouts, "value", "higher")


DRAWN = ((scatter, FLOPS, LINEAR), (scatter, FLOPS, BY_FACTORS), (curves, EPOCHS, LINEAR))


def values_at(ticks: Sequence[Tick], places: Sequence[float], by_factors: bool) -> np.ndarray:
    """What the axis says of these places."""
    written = np.array([float(tick.text.replace(",", "")) for tick in ticks])
    slope, start = np.polyfit([tick.at for tick in ticks], np.log(written) if by_factors else written, 1)
    said = start + slope * np.array(places)
    return np.exp(said) if by_factors else said


def check_charts() -> None:
    met = Counter[tuple[str, str]]()
    for draw, scale_of, shares in DRAWN:
        for size in np.geomspace(3000, 400 * max(scale_of.values()), 60).tolist():
            costs = [size * share for share in shares]
            chart = draw(costs)
            unit = chart.x_label.rpartition(", ")[2]
            assert len(chart.x_ticks) >= 2, chart.x_label
            places = [mark.x for mark in chart.marks]
            said = values_at(chart.x_ticks, places, shares == BY_FACTORS) * scale_of[unit]
            np.testing.assert_allclose(said, costs, rtol=1e-6, err_msg=chart.x_label)
            assert size / scale_of[unit] < 1000 or unit == "epochs", "a readable size"
            for mark, cost in zip(chart.marks, costs, strict=True):
                title = re.search(rf", ([\d.e+-]+) {unit}$", mark.title)
                if draw is scatter:
                    assert title and abs(float(title[1]) * scale_of[unit] / cost - 1) < 0.01, mark.title
            met[draw.__name__, unit] += 1
    expected = [("scatter", unit) for unit in FLOPS if unit != "FLOP"] + [("curves", "epochs")]
    assert_not_vacuous({str(each): met[each] for each in expected}, above=1)


def test_value_and_unit_on_a_chart_are_the_number_given(monkeypatch: pytest.MonkeyPatch) -> None:
    check_charts()
    right = charts._prefix

    def light_teras(largest: float) -> tuple[float, str]:
        divisor, prefix = right(largest)
        return (0.5e12, prefix) if prefix == "T" else (divisor, prefix)

    monkeypatch.setattr(charts, "_prefix", light_teras)
    assert_caught(check_charts)


def read_prefix(text: str, unit: str = "") -> float:
    written, _, prefix = text.removesuffix(unit).partition(" ")
    return float(written) * 1000.0 ** PREFIXES.index(prefix)


def test_every_prefix_is_the_number_given() -> None:
    met = Counter[str]()
    for value in np.geomspace(1e-2, 9e23, 400):
        text = with_prefix(value, "B")
        assert read_prefix(text, "B") == pytest.approx(value, rel=0.006, abs=0.005)
        written, _, prefix = text.removesuffix("B").partition(" ")
        assert len(written.replace(".", "")) == 3 or value < 0.995 or value >= 999.5e21, written
        met[prefix] += 1
    assert_not_vacuous({prefix: met[prefix] for prefix in PREFIXES}, above=9)


def read_duration(text: str) -> dict[str, float]:
    """Its parts, by unit."""
    words = text.split()
    return {unit: float(written) for written, unit in zip(words[::2], words[1::2], strict=True)}


def in_seconds(text: str) -> float:
    return sum({"s": 1, "min": 60, "h": 3600}[unit] * value for unit, value in read_duration(text).items())


def test_every_duration_is_the_number_given() -> None:
    met = Counter[str]()
    for seconds in (*np.geomspace(0.1, 400_000, 300), 59.94, 59.96, 3599.4, 3599.6, 3600.0, 7199.0):
        found = read_duration(duration(seconds))
        least = 0.1 if len(found) == 1 else 60.0 if "h" in found else 1.0
        assert abs(in_seconds(duration(seconds)) - seconds) <= least / 2 + 1e-9, (seconds, found)
        assert all(value <= 60 for unit, value in found.items() if unit != "h"), found
        met.update(found.keys())
    assert_not_vacuous({unit: met[unit] for unit in ("s", "min", "h")}, above=9)


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


def costly() -> Comparison:
    """Every layout and seed with costs of its own, of many sizes."""
    rng = np.random.default_rng(2)

    def cost(size: float) -> Cost:
        drawn = dict(
            zip(Cost.__struct_fields__, rng.uniform(1.0, 2.0, len(Cost.__struct_fields__)), strict=True)
        )
        train_wall_s = 70 * size * drawn["train_wall_s"]
        changed = {
            "train_flops": 1e13 * size * drawn["train_flops"],
            "train_tokens": 1e6 * size * drawn["train_tokens"],
            "train_wall_s": train_wall_s,
            "train_cpu_s": train_wall_s * drawn["train_cpu_s"],
            "wall_s": train_wall_s * drawn["wall_s"],
            "epochs": 9 + 2 * drawn["epochs"],
            "best_epoch": 3 + drawn["best_epoch"],
            "peak_memory_mb": 300 * size * drawn["peak_memory_mb"],
            "num_parameters": 1e5 * size * drawn["num_parameters"],
        }
        return Cost(**{name: float(value) for name, value in (drawn | changed).items()})

    found = [(layout, seed, measured(layout, seed)) for layout in LAYOUTS for seed in SEEDS]
    rows = [
        row(layout, seed, statistics, cost=cost(4.0 ** (n // len(SEEDS))))
        for n, (layout, seed, statistics) in enumerate(found)
    ]
    return compared(rows=rows)


class Tables(html.parser.HTMLParser):
    """The page's tables: rows of the texts of their cells; what stands small in a cell is apart."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[list[str]]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        match tag:
            case "table":
                self.tables.append([])
            case "tr":
                self.tables[-1].append([])
            case "td" | "th":
                self.tables[-1][-1].append([])

    def handle_data(self, data: str) -> None:
        if data.strip() and self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1].append(data.strip())


def means(comparison: Comparison, layout: str) -> dict[str, float]:
    """Of all seeds, summed here."""
    costs = [its.cost for its in comparison.rows if its.layout == layout and its.cost]
    names = Cost.__struct_fields__
    return {name: sum(float(getattr(cost, name)) for cost in costs) / len(costs) for name in names}


def epoch_times(comparison: Comparison, layout: str) -> tuple[float, float, float]:
    """Median, shortest and longest over the epochs of all seeds, found one by one."""
    found = []
    for its in (its for its in comparison.rows if its.layout == layout):
        for before, after in itertools.pairwise((Point(0.0, 0.0, 0.0, {}), *its.curve)):
            found.append((after.train_wall_s - before.train_wall_s) / (after.epoch - before.epoch))
    return statistics.median(found), min(found), max(found)


def check_costs(comparison: Comparison) -> None:
    """In the order of COST_COLUMNS, and beside them what is small."""
    tables = Tables(html_page(comparison)).tables
    [table] = [rows for rows in tables if ["training FLOPs"] in [cell for line in rows for cell in line]]
    reference = means(comparison, comparison.reference)["train_flops"]
    met = 0
    for line in table:
        layout = next(
            (its.name for its in LAYOUTS if line and its.name in (line[0] or [""])[0].split()), None
        )
        if layout is None or len(line) < len(COST_COLUMNS):
            continue
        flops, time, cpu, epochs, tokens_s, tokens_event, _, parameters, memory = line[-len(COST_COLUMNS) :]
        its = means(comparison, layout)
        ratio, of_epoch = flops[1].split("; ")
        trained, best = map(float, epochs[0].rstrip(")").split(" ("))
        for found, expected in (
            (read_prefix(flops[0]), its["train_flops"]),
            (float(ratio.rstrip("\N{MULTIPLICATION SIGN}")), its["train_flops"] / reference),
            (read_prefix(of_epoch.removesuffix(" an epoch")), its["train_flops"] / its["epochs"]),
            *zip(
                map(float, re.findall(r"[\d.]+", time[1].replace(",", ""))),
                epoch_times(comparison, layout),
                strict=True,
            ),
            (trained, its["epochs"]),
            (best, its["best_epoch"]),
            (read_prefix(tokens_s[0]), its["train_tokens"] / its["train_wall_s"]),
            (float(tokens_event[0]), its["tokens_per_event"]),
            (read_prefix(parameters[0]), its["num_parameters"]),
            (read_prefix(memory[0], "B"), 1e6 * its["peak_memory_mb"]),
        ):
            assert found == pytest.approx(expected, rel=0.02), (layout, line)
        assert in_seconds(cpu[0]) == pytest.approx(its["train_cpu_s"], rel=0.02, abs=0.05)
        assert in_seconds(time[0]) == pytest.approx(its["train_wall_s"], rel=0.02, abs=0.05)
        met += 1
    assert_not_vacuous({"layouts": met}, above=len(LAYOUTS) - 1)


def check_runs(comparison: Comparison) -> None:
    tables = Tables(html_page(comparison)).tables
    [table] = [rows for rows in tables if ["wall time"] in [cell for line in rows for cell in line]]
    heads = [cell[0] for cell in table[0]]
    lines = [dict(zip(heads, (cell[0] if cell else "" for cell in line), strict=True)) for line in table[1:]]
    assert_not_vacuous({"runs": len(lines)}, above=len(comparison.rows) - 1)
    for its, line in zip(comparison.rows, lines, strict=True):
        assert its.cost is not None
        trained, best = map(float, line["epochs (best)"].rstrip(")").split(" ("))
        assert (trained, best) == (
            pytest.approx(its.cost.epochs, 1e-3),
            pytest.approx(its.cost.best_epoch, 1e-3),
        )
        for head, seconds in (("training time", its.cost.train_wall_s), ("wall time", its.cost.wall_s)):
            assert in_seconds(line[head]) == pytest.approx(seconds, rel=0.02, abs=0.05), head


def test_every_cost_on_the_page_is_the_recorded_number() -> None:
    comparison = costly()
    check_costs(comparison)
    check_runs(comparison)


@pytest.mark.parametrize("name", sorted(set(Cost.__struct_fields__) - {"wall_s"}))
def test_a_cost_that_is_not_the_recorded_one_is_caught(name: str) -> None:
    """Twice what was recorded, of one layout; of the reference all ratios change."""
    comparison = costly()
    first, *others = comparison.summaries
    wrong = msgspec.structs.replace(first.cost, **{name: 2 * float(getattr(first.cost, name))})
    summaries = (msgspec.structs.replace(first, cost=wrong), *others)
    assert_caught(check_costs, msgspec.structs.replace(comparison, summaries=summaries))
