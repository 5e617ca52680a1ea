"""How often a comparison says what is not so, and how often it finds what is: simulated runs, judged by its own rule.

    nice -n 10 python benchmarks/verdicts.py --out benchmarks/results/verdicts.json

A run's metric is a mean over users: a part that every user has with a layout, one that he has with each of its seeds (a
flip), and one that all users share in a seed (its main effect). The first two are what users' variance is of, and a run
scatters by 1 through them. Layouts are equal but for the one whose power is asked. Every cell's comparisons are judged
by `plait.compare.significance`, as `plait compare` does; the standard error of a share of 2,000 is 0.005.

Shape letters: N comparisons simulated at once, L layouts, S seeds, U users, D draws of users.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import cyclopts
import numpy as np
from provenance import write_result

from plait.compare.significance import LEVEL, NOISE_DRAWS, Side, drawn, tell_apart
from plait.metrics.intervals import Bootstrap, average, paired_difference
from plait.metrics.statistic import Parts

U, D = 307, 300  # so few users, and draws of them, keep a comparison to milliseconds
BLOCK = 50  # comparisons simulated at once
LAYOUTS, SEEDS = (2, 5, 11), (2, 3, 5)
FLIPS = (0.5, 1.0)  # their share of users' variance
MAIN_EFFECTS = (0.0, 0.3, 1.0, 3.0, 10.0)  # their variance, times that of the flips
OF_POWER = 5  # layouts, one of them better than the reference by
DISTANCE = 3.2  # standard errors of a difference where there is no main effect
OF_NOISE = (5, 11)  # layouts without a main effect but for one, whose variance (or standard deviation) is
NOISIER = 15.0  # times the flips'

Sides = dict[str, Side]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A world: what all comparisons of it share."""

    num_layouts: int
    num_seeds: int
    flips: float
    main_effect: float
    better: float = 0.0  # by how much the second layout is
    last: float | None = None  # the last layout's main effect, where it is not that of the others

    @property
    def standard_error(self) -> float:
        """Of a difference of two layouts, where there is no main effect."""
        return float(np.sqrt(2 * (1 - self.flips + self.flips / self.num_seeds)))


def comparisons(cell: Cell, num_trials: int, rng: np.random.Generator) -> Iterator[Sides]:
    """Every layout's runs, on users that all of them share."""
    weight_DU = rng.multinomial(U, np.full(U, 1 / U), size=D).astype(np.float64) / U
    effect_L = np.full(cell.num_layouts, cell.main_effect)
    effect_L[-1] = cell.main_effect if cell.last is None else cell.last
    scale_L1 = np.sqrt(cell.flips * effect_L)[:, None]
    shape = (BLOCK, cell.num_layouts, cell.num_seeds)
    for _ in range(0, num_trials, BLOCK):
        own_NL1U = np.sqrt(U * (1 - cell.flips)) * rng.standard_normal((*shape[:2], 1, U))
        flip_NLSU = np.sqrt(U * cell.flips) * rng.standard_normal((*shape, U))
        seed_NLS = scale_L1 * rng.standard_normal(shape)
        seed_NLS[:, 1] += cell.better
        value_NLSU = own_NL1U + flip_NLSU + seed_NLS[..., None]
        for value_LSU, value_LSD in zip(value_NLSU, value_NLSU @ weight_DU.T, strict=True):
            runs = [
                {seed: _run(*of) for seed, of in enumerate(zip(value_SU, value_SD, strict=True))}
                for value_SU, value_SD in zip(value_LSU, value_LSD, strict=True)
            ]
            yield {f"layout {n}": Side(its) for n, its in enumerate(runs)}


def _run(value_U: np.ndarray, value_D: np.ndarray) -> Bootstrap:
    mean, share_U = float(value_U.mean()), np.full(U, 1 / U)
    parts = Parts((value_U - mean) / U, share_U, "mean")
    return Bootstrap(mean, value_D, np.arange(U), 0, "higher", U, parts)


def told(sides: Sides, stream: int) -> tuple[bool, bool, bool, bool]:
    """Of equal layouts: a mark against the reference; one against the best; whether a single interval holds the truth,
    and whether all that stand beside the best do at once."""
    found = list(drawn(sides, stream).values())
    reference = tell_apart([(side, found[0]) for side in found[1:]])
    best = found.pop(max(range(len(found)), key=lambda n: found[n].value or 0.0))
    against_best = tell_apart([(side, best) for side in found], list(combinations(found, 2)))
    single = reference[0].alone
    return (
        any(its.together.p < LEVEL for its in reference),
        any(its.together.p < LEVEL for its in against_best),
        single.low <= 0 <= single.high,
        all(its.together.low <= 0 <= its.together.high for its in against_best),
    )


def of_equal_layouts(cell: Cell, num_trials: int, rng: np.random.Generator) -> dict[str, float]:
    names = ("mark_against_reference", "mark_against_best", "single_coverage", "simultaneous_coverage")
    found = [told(sides, stream) for stream, sides in enumerate(comparisons(cell, num_trials, rng))]
    return dict(zip(names, np.mean(found, axis=0).round(4).tolist(), strict=True))


def finds(sides: Sides, stream: int) -> bool:
    """Whether the second layout is told from the reference, among all that are held against it."""
    found = list(drawn(sides, stream).values())
    return tell_apart([(side, found[0]) for side in found[1:]])[0].together.p < LEVEL


def finds_counting_twice(sides: Sides, stream: int) -> bool:
    """The rule until this one: the variance between seeds, flips and all, is added to draws that hold the flips."""
    runs = [list(side.runs.values()) for side in sides.values()]
    rng, freedom = np.random.default_rng(stream), sum(len(its) - 1 for its in runs)
    variance = sum(np.var([run.value for run in its]) * len(its) for its in runs) / freedom
    scale_D = np.sqrt(variance * freedom / rng.chisquare(freedom, D * NOISE_DRAWS))
    noisy = []
    for its in runs:
        mean, noise_D = average(its), scale_D * rng.standard_normal(D * NOISE_DRAWS)
        value_D = np.tile(mean.value_D, NOISE_DRAWS) + noise_D / np.sqrt(len(its))
        noisy.append(Bootstrap(mean.value, value_D, mean.user_U, 0, "higher", U))
    p_values = [paired_difference(side, noisy[0]).p for side in noisy[1:]]
    return first_by_holm(p_values) < LEVEL


def first_by_holm(p_values: list[float]) -> float:
    """The first of N p-values, made larger as Holm does (Scandinavian Journal of Statistics 6(2), 1979)."""
    no_larger = sorted(p for p in p_values if p <= p_values[0])
    return min(1.0, max((len(p_values) - rank) * p for rank, p in enumerate(no_larger)))


def finds_informed(cell: Cell, rng: np.random.Generator) -> Callable[[Sides, int], bool]:
    """A test that is told users' variance, and that there is no main effect: no test can find more."""
    normal_NL = rng.standard_normal((200_000, cell.num_layouts))
    largest_N = np.abs(normal_NL[:, 1:] - normal_NL[:, :1]).max(axis=1) / np.sqrt(2)
    least = float(np.quantile(largest_N, 1 - LEVEL)) * cell.standard_error

    def decide(sides: Sides, stream: int) -> bool:
        first, second = (average(list(side.runs.values())).value or 0.0 for side in list(sides.values())[:2])
        return abs(first - second) > least

    return decide


def power(cell: Cell, num_trials: int, rng: np.random.Generator) -> dict[str, float]:
    """The same comparisons, by three tests."""
    tests = {"power": finds, "counting_twice": finds_counting_twice, "informed": finds_informed(cell, rng)}
    trials = enumerate(comparisons(cell, num_trials, rng))
    found = [[test(sides, stream) for test in tests.values()] for stream, sides in trials]
    shares = dict(zip(tests, np.mean(found, axis=0).tolist(), strict=True))
    shares |= {
        "of_informed": shares["power"] / shares["informed"],
        "of_counting_twice": shares["power"] / max(shares["counting_twice"], 1 / num_trials),
    }
    return {name: round(share, 4) for name, share in shares.items()}


app = cyclopts.App()


@app.command
def tables(result: Path) -> None:
    """Prints what the README shows of a result."""
    found = json.loads(result.read_text())
    print(
        "| layouts | seeds | flips | mark against the reference | against the best | single | all at once |"
    )
    print("|---|---|---|---|---|---|---|")
    for num_layouts, num_seeds, flips in product(LAYOUTS, SEEDS, FLIPS):
        shape = {"num_layouts": num_layouts, "num_seeds": num_seeds, "flips": flips}
        cells = [cell for cell in found["equal"] if shape.items() <= cell.items()]
        marks = (_range(cells, f"mark_against_{other}") for other in ("reference", "best"))
        covers = (_range(cells, f"{which}_coverage") for which in ("single", "simultaneous"))
        print(f"| {num_layouts} | {num_seeds} | {flips:g} | {' | '.join((*marks, *covers))} |")
    for kind, columns in (
        ("power", ("num_seeds", "flips", "power", "informed", "of_informed", "of_counting_twice")),
        ("one_noisier", ("num_layouts", "num_seeds", "last", "mark_against_reference", "mark_against_best")),
    ):
        print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for cell in found[kind]:
            print(f"| {' | '.join(f'{cell[column]:.4g}' for column in columns)} |")


def _range(cells: list[dict[str, float]], name: str) -> str:
    values = [cell[name] for cell in cells]
    return f"{min(values):.1%} to {max(values):.1%}".replace("%", " %")


@app.default
def main(*, out: Path, num_trials: int = 2000, seed: int = 0) -> None:
    """Simulates and judges all cells; about a quarter of an hour of one core."""
    start, rng = time.process_time(), np.random.default_rng(seed)
    found: dict[str, list[dict[str, float]]] = {"power": [], "one_noisier": [], "equal": []}

    def record(kind: str, words: dict[str, float], result: dict[str, float]) -> None:
        found[kind].append(words | result)
        print(kind, words | result, flush=True)

    for num_seeds, flips in product(SEEDS, FLIPS):
        cell = Cell(num_layouts=OF_POWER, num_seeds=num_seeds, flips=flips, main_effect=0.0)
        cell = Cell(**vars(cell) | {"better": DISTANCE * cell.standard_error})
        record("power", {"num_seeds": num_seeds, "flips": flips}, power(cell, num_trials, rng))
    for num_seeds, num_layouts, last in product(SEEDS, OF_NOISE, (NOISIER, NOISIER**2)):
        shape = {"num_layouts": num_layouts, "num_seeds": num_seeds, "last": last}
        cell = Cell(flips=1.0, main_effect=0.0, **shape)
        record("one_noisier", shape, of_equal_layouts(cell, num_trials, rng))
    for num_layouts, num_seeds, flips, main_effect in product(LAYOUTS, SEEDS, FLIPS, MAIN_EFFECTS):
        shape = {
            "num_layouts": num_layouts,
            "num_seeds": num_seeds,
            "flips": flips,
            "main_effect": main_effect,
        }
        record("equal", shape, of_equal_layouts(Cell(**shape), num_trials, rng))
    settings = {
        "num_trials": num_trials,
        "seed": seed,
        "users": U,
        "draws": D,
        "processor_s": round(time.process_time() - start),
    }
    write_result(out, settings | found)


if __name__ == "__main__":
    app()
