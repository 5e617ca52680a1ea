"""What one layout's training costs against another's, timed in rounds that take turns."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plait.compare.comparing import shared_line
from plait.compare.notes import origins_of
from plait.compare.variants import Variant
from plait.data import Dataset
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.run_files import Result
from plait.nn.arithmetic import Arithmetic
from plait.papers.claims import ClaimVerdict, Repeated, judge_repeated
from plait.papers.logs import StudyLog
from plait.papers.study import Figure, Finding, Place, shrunk
from plait.training.arithmetic import made_definite, shared_arithmetic
from plait.training.run import run_training

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
    log: StudyLog
    racers: tuple[Racer, ...]
    at_least: float | None = None  # % of the time, that the paper claims of all; None: that each saves some
    num_rounds: int = 5

    @property
    def logs(self) -> tuple[StudyLog, ...]:
        return (self.log,)

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
        variants = [variant for racer in self.racers for variant in (racer.cheap, racer.dear)]
        arithmetic = shared_arithmetic(
            place.folder_of(study, self.name), [variant.settings for variant in variants], place.device
        )
        rounds = [
            self._round(number, dataset, study, place, arithmetic) for number in range(self.num_rounds + 1)
        ]  # seeds of the runs
        seeds = range(self.num_rounds + 1)
        figures, savings = [], []
        for racer in self.racers:
            pairs = [(found[racer.cheap.name], found[racer.dear.name]) for found in rounds[1:]]
            savings.append([saving(cheap.train_wall_s, dear.train_wall_s) for cheap, dear in pairs])
            figures += self._figures(racer, savings[-1], *pairs[0])
        return Finding(
            part=self.name,
            data=f"{self.log.name}: {dataset.num_users:,} users, {dataset.num_items:,} items",
            protocol=shared_line(
                {
                    variant.name: protocol_line(
                        dataset,
                        its.model,
                        made_definite(its.optim, arithmetic),
                        its.protocol,
                        seeds,
                        variant.layout,
                    )
                    for variant in variants
                    for its in (variant.settings,)
                }
            ),
            metrics={SAVING: "training cost saving, %", THEORY: ""},
            figures=tuple(figures),
            verdicts=self.verdicts(savings),
            notes=(
                f"Median of {self.num_rounds} rounds that take turns, after one that warms up; low and high are the "
                "range. Seconds of a shared machine are no figures; their ratios within a round are.",
            ),
            wall_s=sum(result.wall_s for found in rounds for result in found.values()),
            origins=origins_of(
                (
                    (name, number, result.provenance)
                    for number, found in enumerate(rounds)
                    for name, result in found.items()
                ),
                "round",
            ),
        )

    def _round(
        self, number: int, dataset: Dataset, study: str, place: Place, arithmetic: Arithmetic
    ) -> Mapping[str, Result]:
        found = {}
        for racer in self.racers:
            pair = (racer.cheap, racer.dear)
            for variant in pair if number % 2 else reversed(pair):
                folder = place.folder_of(study, self.name) / "runs" / f"{variant.name}-round{number}"
                place.report(f"{variant.name}, round {number}")
                found[variant.name] = run_training(
                    dataset,
                    variant.seeded(number),
                    folder,
                    lambda line: None,
                    place.device,
                    place.watch,
                    arithmetic,
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

    def verdicts(self, savings: Sequence[Sequence[float]]) -> tuple[ClaimVerdict, ...]:
        """What each racer saves, round by round in %, against what the paper claims."""
        return judge_repeated(
            [
                Repeated(
                    claim=self._claim(racer),
                    value_N=np.array(its),
                    bar=self.at_least or 0.0,
                    unit="round",
                    words=f"{min(its):.1f} to {max(its):.1f} % in {len(its)} rounds",
                )
                for racer, its in zip(self.racers, savings, strict=True)
            ]
        )

    def _claim(self, racer: Racer) -> str:
        share = "time" if self.at_least is None else f"at least {self.at_least:.4g} % of the time"
        return f"{racer.cheap.name} saves {share} against {racer.dear.name}"


def saving(cheap: float, dear: float) -> float:
    """In %.

    >>> saving(3.0, 4.0)
    25.0
    """
    return 100 * (1 - cheap / dear)
