"""What one layout's training costs against another's, timed in rounds that take turns."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from plait.data import Dataset
from plait.studies.claims import Outcome, Verdict
from plait.studies.compare import Variant, shared_line
from plait.studies.logs import Log
from plait.studies.study import Figure, Finding, Place, shrunk
from plait.training.provenance import protocol_line
from plait.training.run import Result, resolve_device, run

SAVING, THEORY = "saving", "saving in FLOPs"


@dataclass(frozen=True, kw_only=True)
class Racer:
    """A size at which both layouts are timed: what costs less, and what it is measured against."""

    name: str
    cheap: Variant
    dear: Variant
    paper: float  # % of the dear one's time that the cheap one saves


@dataclass(frozen=True, kw_only=True)
class Race:
    """Trains one epoch of both layouts at each size, round after round; the first round warms up and does not count.

    The time is that of optimiser steps alone, and both see the same events.
    """

    name: str
    log: Log
    racers: tuple[Racer, ...]
    at_least: float | None = None  # %, where the paper claims one saving for all; else each racer's own
    num_rounds: int = 5

    def quick(self) -> "Race":
        racers = tuple(
            replace(
                racer,
                cheap=Variant(racer.cheap.name, shrunk(racer.cheap.settings)),
                dear=Variant(racer.dear.name, shrunk(racer.dear.settings)),
            )
            for racer in self.racers
        )
        return replace(self, log=self.log.quick(), racers=racers, num_rounds=1)

    def run(self, study: str, place: Place) -> Finding:
        dataset = self.log.open(place.logs, place.data)
        rounds = [
            self._round(number, dataset, study, place) for number in range(self.num_rounds + 1)
        ]  # seeds of the runs
        device = resolve_device(place.device)
        seeds = range(self.num_rounds + 1)
        figures, verdicts = [], []
        for racer in self.racers:
            pairs = [(found[racer.cheap.name], found[racer.dear.name]) for found in rounds[1:]]
            savings = [saving(cheap.train_wall_s, dear.train_wall_s) for cheap, dear in pairs]
            figures += self._figures(racer, savings, *pairs[0])
            verdicts.append(self.verdict(racer, savings))
        return Finding(
            part=self.name,
            data=f"{self.log.name}: {dataset.num_users:,} users, {dataset.num_items:,} items",
            protocol=shared_line(
                {
                    variant.name: protocol_line(
                        dataset, its.model, its.optim, its.protocol, seeds, device, variant.layout
                    )
                    for racer in self.racers
                    for variant in (racer.cheap, racer.dear)
                    for its in (variant.settings,)
                }
            ),
            metrics={SAVING: "training cost saving, %", THEORY: ""},
            figures=tuple(figures),
            verdicts=tuple(verdicts),
            notes=(
                f"Median of {self.num_rounds} rounds that take turns, after one that warms up; low and high are the "
                "range. Seconds of a shared machine are no figures; their ratios within a round are.",
            ),
            wall_s=sum(result.wall_s for found in rounds for result in found.values()),
            origins=_origins(rounds),
        )

    def _round(self, number: int, dataset: Dataset, study: str, place: Place) -> Mapping[str, Result]:
        found = {}
        for racer in self.racers:
            pair = (racer.cheap, racer.dear)
            for variant in pair if number % 2 else reversed(pair):
                folder = place.folder_of(study, self.name) / "runs" / f"{variant.name}-round{number}"
                place.report(f"{variant.name}, round {number}")
                found[variant.name] = run(
                    dataset, variant.seeded(number), folder, lambda line: None, place.device, place.watch
                )
        return found

    def _figures(self, racer: Racer, savings: list[float], cheap: Result, dear: Result) -> list[Figure]:
        return [
            Figure(
                variant=racer.name,
                metric=SAVING,
                paper=racer.paper,
                value=statistics.median(savings),
                low=min(savings),
                high=max(savings),
            ),
            Figure(variant=racer.name, metric=THEORY, value=saving(cheap.train_flops, dear.train_flops)),
        ]

    def verdict(self, racer: Racer, savings: list[float]) -> Verdict:
        """Every round must say the same."""
        bar = racer.paper if self.at_least is None else self.at_least
        outcome: Outcome = "too close to tell"
        if min(savings) >= bar:
            outcome = "reproduced"
        elif max(savings) < bar:
            outcome = "not reproduced"
        return Verdict(
            claim=f"at {racer.name}, {racer.cheap.name} saves at least {bar:.4g} % against {racer.dear.name}",
            outcome=outcome,
            why=f"{min(savings):.1f} to {max(savings):.1f} % in {len(savings)} rounds",
        )


def _origins(rounds: Sequence[Mapping[str, Result]]) -> dict[str, str]:
    """Which rounds ran on which code and machine: those of a race that was stopped may differ."""
    by_origin: dict[str, list[str]] = {}
    for number, found in enumerate(rounds):
        for origin in dict.fromkeys(str(result.provenance) for result in found.values()):
            by_origin.setdefault(origin, []).append(str(number))
    return {origin: f"round {', '.join(numbers)}" for origin, numbers in by_origin.items()}


def saving(cheap: float, dear: float) -> float:
    """In %.

    >>> saving(3.0, 4.0)
    25.0
    """
    return 100 * (1 - cheap / dear)
