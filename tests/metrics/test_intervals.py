from dataclasses import replace

import msgspec
import numpy as np
import pytest

from plait.metrics import intervals
from plait.metrics.intervals import Estimate, average, bootstrap, paired_difference
from plait.metrics.scoring import auc, gauc, labelled
from plait.metrics.statistic import mean_over_users

U = 83
USER_U = np.arange(U)


def mean_of(value_U, **settings):
    return bootstrap(mean_over_users(USER_U, value_U), **settings)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        estimate = mean_of(rng.exponential(1.0, U), num_draws=200).estimate
        covered.append(estimate.low <= 1.0 <= estimate.high)
    assert 0.90 < np.mean(covered) < 0.98


def test_the_interval_of_a_mean_is_the_normal_one():
    value_U = np.random.default_rng(1).normal(3, 2, U)
    half = 1.96 * value_U.std() / U**0.5
    estimate = mean_of(value_U, num_draws=4000).estimate
    assert estimate.value == pytest.approx(value_U.mean())
    assert estimate.half_width == pytest.approx(half, rel=0.06)


def null_p_values(pair):
    """p-values of comparing two systems that do not differ, on users that do."""
    rng = np.random.default_rng(2)
    ps = []
    for _ in range(300):
        hardness_U = rng.normal(0, 3, U)
        ps.append(pair(*(hardness_U + rng.normal(0, 1, U) for _ in range(2))))
    return np.array(ps)


def test_false_alarms_are_as_rare_as_promised():
    def paired(a_U, b_U):
        return paired_difference(mean_of(a_U, num_draws=200), mean_of(b_U, num_draws=200)).p

    assert 0.02 < (null_p_values(paired) < 0.05).mean() < 0.09


def test_draws_that_are_not_shared_would_be_noticed():
    """The mutant: each side resampled on its own. Users' differences then drown the systems' difference."""

    def unpaired(a_U, b_U):
        a, b = mean_of(a_U, num_draws=200), mean_of(b_U, num_draws=200, seed=1)
        return 2 * min((a.value_D - b.value_D <= 0).mean(), (a.value_D - b.value_D >= 0).mean())

    assert (null_p_values(unpaired) < 0.05).mean() == 0.0


def test_a_small_difference_on_the_same_users_is_found():
    rng = np.random.default_rng(3)
    hardness_U = rng.normal(0, 3, U)
    a, b = mean_of(hardness_U + 0.2 + rng.normal(0, 0.3, U)), mean_of(hardness_U)
    difference = paired_difference(a, b)
    assert difference.p < 0.01 and difference.low > 0
    assert difference.value == pytest.approx(a.value - b.value)
    assert a.estimate.low < b.estimate.high, "their own intervals overlap widely"
    assert paired_difference(b, a).value == -difference.value
    assert paired_difference(b, a).p == difference.p


def test_a_model_does_not_differ_from_itself():
    value_U = np.random.default_rng(4).random(U)
    difference = paired_difference(mean_of(value_U), mean_of(value_U))
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_pooled_metrics_are_compared_on_the_same_draws():
    rng = np.random.default_rng(5)
    user_E = rng.integers(0, U, 900)
    label_E = (rng.random(900) < 0.4).astype(float)
    good_E, bad_E = label_E + rng.normal(0, 1, 900), label_E + rng.normal(0, 1.6, 900)
    a, b = (bootstrap(auc(labelled(user_E, p_E, label_E)), num_draws=300) for p_E in (good_E, bad_E))
    assert paired_difference(a, b).p < 0.05 < paired_difference(a, a).p
    assert paired_difference(a, b).low < a.value - b.value < paired_difference(a, b).high


@pytest.mark.parametrize(("num_users", "least"), [(1, 1.0), (3, 0.25), (40, 1 / 1001)])
def test_few_users_cannot_prove_much(num_users, least):
    """However many populations are drawn from them."""
    a, b = (
        bootstrap(mean_over_users(np.arange(num_users), np.linspace(v, v + 1, num_users))) for v in (9, 1)
    )
    assert paired_difference(a, b).p == pytest.approx(least, rel=0.2)  # of a thousand flips


def test_one_user_has_no_interval():
    lonely = bootstrap(mean_over_users(np.array([3, 3]), np.array([0.0, 1.0]))).estimate
    assert (lonely.value, lonely.low, lonely.high, lonely.half_width) == (0.5, None, None, None)


def test_an_undefined_metric_stays_undefined():
    undefined = bootstrap(gauc(labelled(np.array([0, 1]), np.array([0.1, 0.2]), np.array([0.0, 1.0]))))
    assert undefined.estimate == Estimate(None, None, None, "higher", 0)
    with pytest.raises(ValueError, match="not defined for one of the two"):
        paired_difference(undefined, undefined)
    assert average([undefined, undefined]).value is None
    with pytest.raises(ValueError, match="average: no runs"):
        average([])


def test_draws_without_the_metric_are_left_out():
    """With few positives among few users, some populations hold no positive at all; one alone has no interval."""
    user_E, label_E = np.arange(5), np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    statistic = auc(labelled(user_E, np.array([0.1, 0.9, 0.2, 0.5, 0.3]), label_E))
    boot = bootstrap(statistic)
    assert 0.05 < np.isnan(boot.value_D).mean() < 0.3
    drawn_again = bootstrap(replace(statistic, parts=lambda: None)).estimate
    for estimate in (boot.estimate, drawn_again):
        assert 0 <= estimate.low < estimate.value < estimate.high <= 1
    assert drawn_again.carried_by is None
    lonely = bootstrap(auc(labelled(user_E[:4], np.array([0.1, 0.9, 0.2, 0.5]), label_E[:4]))).estimate
    assert (lonely.value, lonely.low, lonely.high) == (pytest.approx(2 / 3), None, None)


def test_a_seed_gives_the_same_draws_however_they_are_cut(monkeypatch):
    value_U = np.random.default_rng(6).random(U)
    whole = mean_of(value_U)
    monkeypatch.setattr(intervals, "BLOCK_ELEMENTS", 7 * U)
    np.testing.assert_allclose(mean_of(value_U).value_D, whole.value_D, rtol=1e-12)  # fp64, summed in parts
    assert not np.array_equal(mean_of(value_U, seed=1).value_D, whole.value_D)


def test_signs_are_flipped_alike_however_they_are_cut(monkeypatch):
    """Blocks whose flips fill whole bytes: seven draws of 64 users, and fewer in the last block."""
    value_U = np.random.default_rng(6).random((2, 64))
    pair = tuple(bootstrap(mean_over_users(np.arange(64), of_U), num_draws=100) for of_U in value_U)
    whole, difference = intervals.departures([pair]), paired_difference(*pair)
    monkeypatch.setattr(intervals, "BLOCK_ELEMENTS", 7 * 64)
    assert whole.shape == (1, 100)
    np.testing.assert_allclose(intervals.departures([pair]), whole, rtol=1e-9)
    assert paired_difference(*pair) == difference


def test_the_average_over_runs_is_the_average_draw_by_draw():
    rng = np.random.default_rng(7)
    value_UR = rng.random((U, 3))
    runs = [mean_of(value_UR[:, r].copy()) for r in range(3)]
    at_once = mean_of(value_UR.mean(axis=1))
    assert average(runs).value == pytest.approx(at_once.value)
    np.testing.assert_allclose(average(runs).value_D, at_once.value_D)
    with pytest.raises(ValueError, match="no runs"):
        average([])


def test_what_cannot_be_compared_is_refused():
    a = mean_of(np.zeros(U))
    others = bootstrap(mean_over_users(np.arange(5, U + 2), np.zeros(U - 3)))
    with pytest.raises(
        ValueError, match="of which 5 and 2 stand on one side only; evaluate both on the same"
    ):
        paired_difference(a, others)
    with pytest.raises(ValueError, match="not the same draws: 1000 with seed 0 and 1000 with seed 1"):
        paired_difference(a, mean_of(np.zeros(U), seed=1))
    with pytest.raises(ValueError, match="num_draws=10, expected at least 40"):
        mean_of(np.zeros(U), num_draws=10)


def test_estimates_survive_json():
    estimate = mean_of(np.random.default_rng(9).random(U)).estimate
    assert msgspec.json.decode(msgspec.json.encode(estimate), type=Estimate) == estimate
