"""LUM's scaling laws: what is fitted, how far it may be off, and that only one thing grows."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.metrics.statistic import mean_over_users
from plait.papers import lum, lum_scaling
from plait.papers.lum_scaling import RECALL, Line, ScalingLaw, fitted
from plait.papers.study import Place

SIZE, WINDOW = (part for part in lum.scaling.parts if isinstance(part, ScalingLaw))
LOG_X = np.log([10.0, 20.0, 40.0, 80.0])


def line_of(slope: float, noise: float, covers_seeds: bool = True, seed: int = 0) -> Line:
    """Of points on a line but for noise, and of a thousand draws of them."""
    rng = np.random.default_rng(seed)
    points_N = slope * LOG_X + 0.1 + rng.normal(0, noise, len(LOG_X))
    draws_ND = points_N[:, None] + rng.normal(0, noise, (len(LOG_X), 1000))
    return fitted(LOG_X, points_N, draws_ND, covers_seeds)


def check_covers(trials: int = 200) -> None:
    """The interval of the slope holds the true one in about 95 of 100 trials; far off is as rare as 1 in 10,000."""
    held = 0
    for seed in range(trials):
        low, high = line_of(0.02, 0.01, seed=seed).slope_range
        held += low <= 0.02 <= high
    assert_not_vacuous({"left out": trials - held})
    assert 0.89 * trials < held < 0.995 * trials, held


def test_the_interval_of_a_slope_covers_the_true_one(monkeypatch: pytest.MonkeyPatch) -> None:
    check_covers()
    right = lum_scaling.interval
    monkeypatch.setattr(
        lum_scaling, "interval", lambda value, value_D: right(value, value + (value_D - value) / 3)
    )
    assert_caught(check_covers)


@pytest.mark.parametrize(
    ("slope", "covers_seeds", "expected"),
    [
        (0.05, True, "reproduced"),
        (-0.05, True, "not reproduced"),
        (0.0, True, "too close to tell"),
        (0.05, False, "too close to tell"),  # what --quick runs
    ],
)
def test_a_line_that_rises_is_told_from_one_that_does_not(
    slope: float, covers_seeds: bool, expected: str
) -> None:
    line = line_of(slope, 0.005, covers_seeds)
    assert line.outcome == SIZE.verdict_of(line).outcome == expected
    assert ("one seed" in SIZE.verdict_of(line).why) != covers_seeds


def check_one_thing_grows(part: ScalingLaw) -> None:
    """Of sizes the trunk alone differs; of windows, beside their length, only what keeps events and steps alike."""
    runs = [its.settings for its in part.trial.variants]
    if part.grown == "P":
        alike = [replace(its, model=replace(its.model, trunk=runs[0].model.trunk)) for its in runs]
        assert alike == [runs[0]] * len(runs) and len({its.model.trunk.dim for its in runs}) == len(runs)
        return
    assert len({str(its.model) for its in runs}) == 1
    read = {(its.protocol.max_epochs * its.protocol.max_events) for its in runs}
    a_step = {its.optim.users_per_step * its.protocol.max_events for its in runs}
    looked = {its.protocol.max_epochs // its.protocol.validate_every for its in runs}
    assert len(read) == len(a_step) == len(looked) == 1, (read, a_step, looked)
    assert len({its.protocol.max_events for its in runs}) == len(runs)


def test_only_one_thing_grows() -> None:
    for part in (SIZE, WINDOW):
        check_one_thing_grows(part)
        first, *others = part.trial.variants
        its = replace(first.settings, protocol=replace(first.settings.protocol, max_epochs=3))
        trial = replace(part.trial, variants=(replace(first, settings=its), *others))
        assert_caught(check_one_thing_grows, replace(part, trial=trial))


def test_the_papers_coefficients_stand_beside_ours() -> None:
    assert SIZE.paper == (0.0068, 0.1741) and WINDOW.paper == (0.0147, 0.2326)


def test_a_quick_part_fits_a_line(tmp_path: Path, few_draws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lum_scaling, "DRAWS", 100)
    short = replace(WINDOW, trial=replace(WINDOW.trial, variants=WINDOW.trial.variants[:3])).quick()
    found = short.run("tiny", Place(out=tmp_path, quick=True, report=lambda line: None))
    assert not found.failed
    figures = {figure.variant: figure for figure in found.figures if figure.metric == RECALL}
    points = [figures[its.name].value for its in short.trial.variants]
    slope = figures["a of a log L + b"]
    expected = np.polyfit(np.log([2, 4, 6]), points, 1)
    assert slope.value == pytest.approx(expected[0]) and slope.paper == 0.0147 and slope.low < slope.high
    assert figures["b of a log L + b"].value == pytest.approx(expected[1])
    [verdict] = found.verdicts
    assert verdict.claim == "R@10 rises with log L" and verdict.outcome == "too close to tell"


def test_two_points_are_no_line() -> None:
    one = {RECALL: mean_over_users(np.arange(9), np.linspace(0, 1, 9))}
    compared = SimpleNamespace(statistics={(its.name, 0): one for its in WINDOW.trial.variants[:2]})
    assert WINDOW.line_of(compared) is None  # type: ignore[arg-type]
