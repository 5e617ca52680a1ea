"""Races: what is claimed of times, and what rounds of them settle."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import assert_caught

from plait.data import Dataset
from plait.evaluation.provenance import Provenance
from plait.evaluation.run_files import Result, RunSettings
from plait.papers import attnmvp, genrank, lac, speed
from plait.papers.claims import ClaimVerdict
from plait.papers.speed import Race
from plait.papers.study import Place
from plait.training.run import run_training

[LAC] = (part for part in lac.table_5.parts if isinstance(part, Race))
[GENRANK] = (part for part in genrank.table_1.parts if isinstance(part, Race))


def outcomes(*savings: float) -> list[str]:
    """Of the three sizes of LAC's table, each with the same rounds."""
    return [verdict.outcome for verdict in LAC.verdicts([savings] * 3)]


@pytest.mark.parametrize(
    ("savings", "expected"),
    [
        ([38.0, 40.0, 39.0, 41.0, 37.0], "reproduced"),
        ([10.0, 12.0, 11.0, 9.0, 13.0], "not reproduced"),
        ([25.0, 35.0, 40.0, 31.0, 33.0], "too close to tell"),
        ([35.0, 40.0], "too close to tell"),  # two agree half of the time
        ([99.0], "too close to tell"),  # what --quick runs
    ],
)
def test_rounds_settle_what_a_t_test_of_them_does(savings: list[float], expected: str) -> None:
    assert outcomes(*savings) == [expected] * 3


def check_equal_layouts(race: Race, trials: int = 100) -> None:
    """5 % are to be expected of all racers together; of 100 trials, 12 % are as likely as 1 in 200."""
    rng = np.random.default_rng(0)
    settled = [
        any(
            verdict.outcome != "too close to tell"
            for verdict in race.verdicts(rng.normal(0, 3, (3, 5)).tolist())
        )
        for _ in range(trials)
    ]
    assert sum(settled) < 0.12 * trials, sum(settled)


class EveryRoundAgrees(Race):
    def verdicts(self, savings: Sequence[Sequence[float]]) -> tuple[ClaimVerdict, ...]:
        agree = [min(its) > 0 or max(its) < 0 for its in savings]
        return tuple(
            ClaimVerdict(claim="", outcome="reproduced" if alike else "too close to tell", why="")
            for alike in agree
        )


def test_noise_of_equal_layouts_is_no_saving() -> None:
    check_equal_layouts(GENRANK)
    broken = EveryRoundAgrees(name="", log=GENRANK.log, racers=GENRANK.racers)
    assert_caught(check_equal_layouts, broken)


def test_claims_are_the_papers() -> None:
    """LAC's section 6.6 says "at least 31.3 %" of all sizes; the others print a figure for each architecture."""
    rounds = [[1.0, 2.0]] * 3
    assert [verdict.claim for verdict in LAC.verdicts(rounds)] == [
        f"lac d{dim} saves at least 31.3 % of the time against interleaved d{dim}" for dim in (64, 128, 256)
    ]
    races = (part for study in attnmvp.STUDIES for part in study.parts if isinstance(part, Race))
    for race in (GENRANK, *races):
        for racer, verdict in zip(race.racers, race.verdicts([[1.0, 2.0]] * len(race.racers)), strict=True):
            assert verdict.claim == f"{racer.cheap.name} saves time against {racer.dear.name}"
            assert verdict.claim.count(racer.name) == 1


def test_the_rounds_say_where_they_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round 1 on another machine, and every run on another day. One training is enough to read them all."""
    days, trained = iter(range(1, 28)), list[Result]()

    def run_elsewhere(dataset: Dataset, settings: RunSettings, *arguments: Any) -> Result:
        origin = Provenance(machine="ab"[settings.protocol.seed == 1], date=f"2030-01-{next(days)}")
        trained.extend([] if trained else [run_training(dataset, settings, *arguments)])
        return replace(trained[0], provenance=origin)

    monkeypatch.setattr(speed, "run_training", run_elsewhere)
    race = replace(replace(LAC, racers=LAC.racers[:1]).quick(), num_rounds=2)
    finding = race.run("race", Place(out=tmp_path, quick=True, report=lambda line: None))
    assert finding.origins == {
        "a": "interleaved d64 (round 0, 2), lac d64 (round 0, 2)",
        "b": "lac d64 (round 1), interleaved d64 (round 1)",
    }
