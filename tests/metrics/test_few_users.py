"""Where few users carry the number: intervals hold the truth as often as they say, and equal models stay together.

`benchmarks/coverage.py` simulates more of the same.

Shape letters: E events, U users.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.metrics.intervals import Bootstrap, bootstrap, bounds, least_p, paired_difference, percentiles
from plait.metrics.scoring import (
    Labelled,
    accuracy,
    auc,
    gauc,
    labelled,
    log_loss,
    mae,
    normalised_entropy,
    rmse,
)
from plait.metrics.statistic import Parts, Statistic, mean_over_users

Rng = np.random.Generator
Interval = Callable[[Statistic], tuple[float, float] | None]


def hits_of(num_users: int, share: float, rng: Rng) -> Statistic:
    return mean_over_users(np.arange(num_users), (rng.random(num_users) < share).astype(float), form="share")


def clicks_of(positives: int, apart: float, rng: Rng) -> Statistic:
    label_U = (np.arange(943) < positives).astype(float)
    return auc(labelled(np.arange(943), rng.standard_normal(943) + apart * label_U, label_U))


def amounts_of(sigma: float, rng: Rng) -> Statistic:
    label_U = np.exp(sigma * rng.standard_normal(943))
    return rmse(labelled(np.arange(943), np.full(943, np.exp(sigma**2 / 2)), label_U))


def known(statistic: Statistic) -> Parts:
    parts = statistic.parts()
    assert parts is not None
    return parts


def of_parts(statistic: Statistic) -> tuple[float, float] | None:
    assert statistic.value is not None
    return bounds(statistic.value, known(statistic))


def of_draws(statistic: Statistic) -> tuple[float, float]:
    return percentiles(bootstrap(statistic, 80).value_D)


WORLDS: dict[str, tuple[Callable[[Rng], Statistic], float]] = {
    "2 hits of 100": (lambda rng: hits_of(100, 0.02, rng), 0.02),
    "3 positives": (lambda rng: clicks_of(3, 0.9539, rng), 0.75),
    "10 positives": (lambda rng: clicks_of(10, 1.8124, rng), 0.9),
    "a long tail": (lambda rng: amounts_of(1.0, rng), np.sqrt((np.e - 1) * np.e)),
}


def check_coverage(world: str, interval: Interval, trials: int = 200) -> None:
    """Of 200, less than 90 % are as likely as 1 in 500 where 95 % are due."""
    of, truth = WORLDS[world]
    rng, held = np.random.default_rng(0), []
    for _ in range(trials):
        low, high = interval(of(rng)) or (np.nan, np.nan)
        held.append(low <= truth <= high)
    assert_not_vacuous({"trials": len(held)}, above=trials - 1)
    assert np.mean(held) >= 0.90


@pytest.mark.parametrize("world", WORLDS)
def test_an_interval_holds_the_truth_although_few_carry_the_number(world: str) -> None:
    check_coverage(world, of_parts)
    assert_caught(check_coverage, world, of_draws, 100)


def test_where_all_carry_it_an_interval_is_no_longer_than_needed() -> None:
    rng, truth = np.random.default_rng(1), 0.5
    found = [(of_parts(its), of_draws(its)) for its in (hits_of(943, truth, rng) for _ in range(100))]
    lengths = [
        (high - low) / (above - below) for bound, (below, above) in found if bound for low, high in [bound]
    ]
    assert len(lengths) == 100 and 0.9 < np.median(lengths) < 1.1
    assert 0.89 <= np.mean([bound[0] <= truth <= bound[1] for bound, _ in found if bound]) <= 0.99


def apart(more: int, fewer: int = 0) -> tuple[Bootstrap, Bootstrap]:
    """So many of 100 users are hit by the first alone, and so many by the second alone."""
    user_U = np.arange(100)
    hit_U, other_U = (user_U < more).astype(float), (user_U >= 100 - fewer).astype(float)
    first, second = (bootstrap(mean_over_users(user_U, its, form="share")) for its in (hit_U, other_U))
    return first, second


@pytest.mark.parametrize(
    ("more", "fewer", "exact"),
    [
        (1, 0, 1.0),
        (4, 0, 2 / 16),
        (5, 0, 2 / 32),
        (7, 1, 18 / 256),
        (6, 0, 2 / 64),
        (8, 0, 2 / 256),
        (9, 1, 22 / 1024),
    ],
)
def test_a_few_hits_apart_are_told_as_by_a_sign_test(more: int, fewer: int, exact: float) -> None:
    found = paired_difference(*apart(more, fewer))
    assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 1000) + 0.001)
    assert found.p >= least_p(*apart(more, fewer)) == 2.0 ** (1 - more - fewer)
    assert (found.p < 0.05) == (exact < 0.05) == (not found.low <= 0 <= found.high)


def p_of_draws(first: Bootstrap, second: Bootstrap) -> float:
    """The mutant: the share of draws in which the difference has the other sign, twice."""
    difference_D = first.value_D - second.value_D
    difference_D = difference_D[~np.isnan(difference_D)]
    return 2 * (1 + min((difference_D <= 0).sum(), (difference_D >= 0).sum())) / (1 + len(difference_D))


def check_alike(p_of: Callable[[Bootstrap, Bootstrap], float], trials: int = 150) -> None:
    """Two models that rank three positives equally well; of 150, 10 % are as likely as 1 in 200."""
    rng = np.random.default_rng(2)
    pairs = ([bootstrap(clicks_of(3, 0.9539, rng), 100, trial) for _ in range(2)] for trial in range(trials))
    assert np.mean([p_of(*pair) < 0.05 for pair in pairs]) <= 0.1


def test_three_positives_tell_equal_models_apart_no_more_than_promised() -> None:
    check_alike(lambda first, second: paired_difference(first, second).p)
    assert_caught(check_alike, p_of_draws, 60)


def test_a_better_model_is_found_by_a_hundred_positives() -> None:
    rng = np.random.default_rng(3)
    found = [
        paired_difference(*(bootstrap(clicks_of(100, apart, rng), 100) for apart in (1.0, 1.6))).p
        for _ in range(30)
    ]
    assert np.mean(np.array(found) < 0.05) > 0.8


def pairs_of(rng: Rng) -> tuple[Labelled, Labelled]:
    user_E, label_E = rng.integers(0, 23, 211), (rng.random(211) < 0.3).astype(float)
    prediction_E = rng.random(211).round(1) * 0.8 + 0.1
    categories_EC = np.stack([1 - prediction_E, prediction_E], axis=1)
    return labelled(user_E, prediction_E, label_E), labelled(user_E, categories_EC, label_E)


SMOOTH = {its.__name__: its for its in (rmse, mae, log_loss, normalised_entropy, auc, gauc, accuracy)}


def check_parts(statistic: Statistic) -> None:
    """What a user brings is what the metric changes by where he counts a little more, or less."""
    parts, num_users = known(statistic), len(statistic.user_U)
    change_UU = 1e-4 * np.eye(num_users)
    slope_U = (statistic.under(1 + change_UU) - statistic.under(1 - change_UU)) / 2e-4
    np.testing.assert_allclose(parts.influence_U, slope_U, atol=1e-7)
    assert parts.influence_U.sum() == pytest.approx(0, abs=1e-7) and np.abs(slope_U).max() > 1e-3
    assert parts.share_U.sum() == pytest.approx(1) and parts.share_U.min() >= 0


@pytest.mark.parametrize("metric", SMOOTH)
def test_the_parts_of_a_metric_are_its_derivatives(metric: str) -> None:
    number, categories = pairs_of(np.random.default_rng(4))
    statistic = SMOOTH[metric](categories if metric == "accuracy" else number)
    check_parts(statistic)
    parts = known(statistic)
    assert_caught(
        check_parts, replace(statistic, parts=lambda: replace(parts, influence_U=parts.influence_U / 2))
    )


def test_who_carries_a_number() -> None:
    hits = mean_over_users(np.arange(20), (np.arange(20) < 3).astype(float), form="share")
    assert bootstrap(hits).estimate.carried_by == pytest.approx(3)
    none = bootstrap(hits_of(100, 0.0, np.random.default_rng(5))).estimate
    assert none.carried_by == none.low == 0 and none.high == pytest.approx(0.037, abs=0.0005), (
        "Wilson, by hand"
    )
    error_U = np.array([10.0, *np.ones(19)])
    one = bootstrap(rmse(labelled(np.arange(20), error_U, np.zeros(20)))).estimate
    assert one.carried_by == pytest.approx(119**2 / (100**2 + 19))
    assert one.carried_by < 1.5 and one.high > 2 * one.value
    clicks = bootstrap(clicks_of(3, 0.95, np.random.default_rng(6)), 40).estimate
    assert 1 <= clicks.carried_by <= 3 < clicks.num_users
