"""How often an interval holds the truth, and a paired test is right, where few users carry the number.

    python benchmarks/coverage.py --out benchmarks/results/coverage.json

Data sets are simulated whose truth is known, each user with one event. Before: users drawn with replacement, the middle
95 % of the draws, and p from the same draws. After: what `plait.metrics.intervals` says. The standard error of a share
of 2,000 is 0.005.

Shape letters: U users, D draws of users.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import erf
from pathlib import Path
from typing import final

import cyclopts
import numpy as np
from provenance import write_result

from plait.metrics.intervals import TAIL, Bootstrap, paired_difference, percentiles
from plait.metrics.scoring import auc, labelled, rmse
from plait.metrics.statistic import Statistic, mean_over_users

U, D = 943, 200  # users of ML-100K, and draws of them
BLOCK = 20  # data sets that see the same draws
CATALOGUE = 1.0 / np.log2(1.0 + np.arange(1, 11))  # NDCG@10 of a hit, by its rank


class World(ABC):
    """What data sets of one kind share. A model's answers scatter around the truth."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def truth(self) -> float: ...

    @abstractmethod
    def models(self, rng: np.random.Generator, gain: float = 0.0) -> list[Statistic]:
        """A metric of two models on one data set, the second better by `gain`."""


@final
@dataclass(frozen=True)
class Hits(World):
    """Users who are hit or not; of the rank within the list nothing is known."""

    share: float
    num_users: int
    ranked: bool = False

    @property
    def name(self) -> str:
        return f"{'NDCG' if self.ranked else 'HR'}@10 of {self.share:.1%} hits, {self.num_users} users"

    @property
    def truth(self) -> float:
        return self.share * float(CATALOGUE.mean() if self.ranked else 1.0)

    def models(self, rng: np.random.Generator, gain: float = 0.0) -> list[Statistic]:
        found = []
        for share in (self.share, self.share + gain):
            value_U = (rng.random(self.num_users) < share).astype(float)
            value_U *= rng.choice(CATALOGUE, self.num_users) if self.ranked else 1.0
            found.append(mean_over_users(np.arange(self.num_users), value_U, form="share"))
        return found


@final
@dataclass(frozen=True)
class Clicks(World):
    """A few users click; scores of those who do lie higher by `apart` of their standard deviations."""

    positives: int
    apart: float

    @property
    def name(self) -> str:
        return f"AUC of {self.truth:.2f}, {self.positives} positives of {U} users"

    @property
    def truth(self) -> float:
        return (1 + erf(self.apart / 2)) / 2

    def models(self, rng: np.random.Generator, gain: float = 0.0) -> list[Statistic]:
        label_U = (np.arange(U) < self.positives).astype(float)
        return [
            auc(labelled(np.arange(U), rng.standard_normal(U) + apart * label_U, label_U))
            for apart in (self.apart, self.apart + gain)
        ]


@final
@dataclass(frozen=True)
class Amounts(World):
    """Amounts whose logarithm is normal, predicted by their mean, give or take a tenth."""

    sigma: float

    @property
    def name(self) -> str:
        return f"RMSE of amounts, standard deviation {self.sigma:g} of the logarithm, {U} users"

    @property
    def truth(self) -> float:
        mean_square = np.exp(self.sigma**2)
        return float(np.sqrt(mean_square * (mean_square - 1) + 0.01 * mean_square))

    def models(self, rng: np.random.Generator, gain: float = 0.0) -> list[Statistic]:
        label_U, mean = np.exp(self.sigma * rng.standard_normal(U)), np.exp(self.sigma**2 / 2)
        return [
            rmse(
                labelled(
                    np.arange(U),
                    mean + (label_U - mean) * known + 0.1 * mean * rng.standard_normal(U),
                    label_U,
                )
            )
            for known in (0.0, gain)
        ]


@final
@dataclass(frozen=True)
class Errors(World):
    """Normal errors: the case without a tail."""

    @property
    def name(self) -> str:
        return f"RMSE of normal errors, {U} users"

    @property
    def truth(self) -> float:
        return 1.0

    def models(self, rng: np.random.Generator, gain: float = 0.0) -> list[Statistic]:
        return [
            rmse(labelled(np.arange(U), (1 - part) * rng.standard_normal(U), np.zeros(U)))
            for part in (0.0, gain)
        ]


SINGLE: tuple[World, ...] = (
    Hits(0.02, 100),
    Hits(0.02, 300),
    Hits(0.1, U),
    Hits(0.02, 100, ranked=True),
    Hits(0.1, U, ranked=True),
    Clicks(3, 0.9539),
    Clicks(10, 0.9539),
    Clicks(100, 0.9539),
    Clicks(3, 1.8124),
    Clicks(10, 1.8124),
    Clicks(100, 1.8124),
    Errors(),
    Amounts(0.7),
    Amounts(1.0),
    Amounts(1.25),
    Amounts(1.5),
)
PAIRS: tuple[tuple[World, float], ...] = (  # with the gain whose power is asked
    (Hits(0.003, U), 0.012),
    (Hits(0.01, U), 0.015),
    (Hits(0.1, U), 0.05),
    (Clicks(3, 0.9539), 2.0),
    (Clicks(10, 0.9539), 1.5),
    (Clicks(100, 0.9539), 0.3),
    (Errors(), 0.08),
    (Amounts(1.25), 0.5),
)


def data_sets(
    world: World, num_trials: int, rng: np.random.Generator, gain: float | None = None
) -> Iterator[list[Bootstrap]]:
    """One model on each data set, or two of them, on draws of users that are made anew every so often."""
    for trial in range(num_trials):
        models = world.models(rng, gain or 0.0)
        if trial % BLOCK == 0:
            num_users = len(models[0].user_U)
            chance_U = np.full(num_users, 1 / num_users)
            weight_DU = rng.multinomial(num_users, chance_U, size=D).astype(np.float64)
        yield [
            Bootstrap(
                its.value, its.under(weight_DU), its.user_U, trial, its.better, its.num_users, its.parts()
            )
            for its in (models if gain is not None else models[:1])
        ]


def coverage(world: World, num_trials: int, rng: np.random.Generator) -> dict[str, float | str]:
    """The share of intervals that hold the truth, of those that there are, and what a reader is told beside them."""
    found = []
    for [first] in data_sets(world, num_trials, rng):
        now, truth = first.estimate, world.truth
        assert now.value is not None and now.carried_by is not None
        after = None if now.low is None or now.high is None else (now.low, now.high)
        before = percentiles(first.value_D)
        found.append(
            (_holds(before, truth), _holds(after, truth), _length(before), _length(after), now.carried_by)
        )
    before_N, after_N, length_before_N, length_after_N, carried_N = np.array(found).T
    return {
        "of": world.name,
        "before": round(float(before_N.mean()), 4),
        "after": round(float(np.nanmean(after_N)), 4),
        "defined": round(float(np.isfinite(after_N).mean()), 4),
        "length_before": round(float(np.median(length_before_N)), 4),
        "length_after": round(float(np.nanmedian(length_after_N)), 4),
        "carried_by": round(float(np.median(carried_N)), 1),
    }


def _holds(interval: tuple[float, float] | None, truth: float) -> float:
    return np.nan if interval is None else float(interval[0] <= truth <= interval[1])


def _length(interval: tuple[float, float] | None) -> float:
    return np.nan if interval is None else interval[1] - interval[0]


def marks(world: World, gain: float, num_trials: int, rng: np.random.Generator) -> dict[str, float]:
    """How often two models are told apart at 5 %."""
    found = [
        (p_of_draws(first, second) < 2 * TAIL, paired_difference(first, second).p < 2 * TAIL)
        for first, second in data_sets(world, num_trials, rng, gain)
    ]
    before, after = np.mean(found, axis=0).round(4).tolist()
    return {"before": before, "after": after}


def p_of_draws(first: Bootstrap, second: Bootstrap) -> float:
    """The rule until this one: twice the share of draws in which the difference is zero or has the other sign."""
    difference_D = first.value_D - second.value_D
    difference_D = difference_D[~np.isnan(difference_D)]
    smaller_side = min((difference_D <= 0).sum(), (difference_D >= 0).sum())
    return float(min(1.0, 2 * (1 + smaller_side) / (1 + len(difference_D))))


app = cyclopts.App()


@app.command
def tables(result: Path) -> None:
    """Prints what the README shows of a result."""
    found = json.loads(result.read_text())
    print("| interval of | carried by | before | after | times as long |\n|---|---|---|---|---|")
    for cell in found["single"]:
        shares = " | ".join(f"{cell[when]:.1%}".replace("%", " %") for when in ("before", "after"))
        longer = cell["length_after"] / cell["length_before"]
        print(f"| {cell['of']} | {cell['carried_by']:.3g} | {shares} | {longer:.2f} |")
    columns = ("alike_before", "alike_after", "better_before", "better_after")
    print(
        "\n| two models told apart by | alike, before | after | one better, before | after |\n|---|---|---|---|---|"
    )
    for cell in found["pairs"]:
        print(f"| {cell['of']} | {' | '.join(f'{cell[name]:.1%}'.replace('%', ' %') for name in columns)} |")


@app.default
def main(*, out: Path, num_trials: int = 2000, seed: int = 0) -> None:
    """Simulates all cells; about two minutes of one core."""
    start, rng = time.process_time(), np.random.default_rng(seed)
    single, pairs = [], []
    for world in SINGLE:
        single.append(coverage(world, num_trials, rng))
        print(single[-1], flush=True)
    for world, gain in PAIRS:
        alike, better = (marks(world, its, num_trials // 2, rng) for its in (0.0, gain))
        named = {"alike": alike, "better": better}
        shares = {f"{kind}_{when}": share for kind, its in named.items() for when, share in its.items()}
        pairs.append({"of": world.name, "gain": gain} | shares)
        print(pairs[-1], flush=True)
    settings = {"num_trials": num_trials, "seed": seed, "draws": D}
    processor_s = round(time.process_time() - start)
    write_result(out, settings | {"processor_s": processor_s, "single": single, "pairs": pairs})


if __name__ == "__main__":
    app()
