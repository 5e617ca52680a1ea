import itertools
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from plait.metrics import scoring
from plait.metrics.intervals import bootstrap
from plait.metrics.scoring import (
    accuracy,
    auc,
    calibration_error,
    gauc,
    labelled,
    log_loss,
    mae,
    normalised_entropy,
    normalised_log_loss,
    normalised_square,
    rmse,
)
from plait.metrics.statistic import from_sums, mean_over_users, ratio


def of_two_categories(pairs):
    """Binary pairs, told as two categories."""
    chance_E2 = np.stack([1 - pairs.prediction_E, pairs.prediction_E], axis=1)
    return normalised_log_loss(replace(pairs, prediction_E=chance_E2))


OF_PAIRS = [
    *(rmse, mae, log_loss, normalised_entropy, normalised_square, of_two_categories, auc, gauc),
    partial(calibration_error, num_bins=1),
]


def log(seed, num_users=7, num_events=61, levels=5, missing=0.2):
    """A log with few different predictions (ties) and missing labels; both classes occur."""
    rng = np.random.default_rng(seed)
    user_E = rng.integers(100, 100 + num_users, num_events)
    prediction_E = (rng.integers(1, levels + 1, num_events) / (levels + 1)).astype(np.float32)
    label_E = (rng.random(num_events) < prediction_E).astype(np.float32)
    label_E[:2] = 0, 1
    label_E[2:][rng.random(num_events - 2) < missing] = np.nan
    return user_E, prediction_E, label_E


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(2, 80), st.integers(1, 20))
def test_agrees_with_scikit_learn(seed, num_users, num_events, levels):
    user_E, prediction_E, label_E = log(seed, num_users, num_events, levels)
    pairs = labelled(user_E, prediction_E, label_E)
    kept_E = ~np.isnan(label_E)
    label_E, prediction_E = label_E[kept_E].astype(np.float64), prediction_E[kept_E].astype(np.float64)
    base_rate_E = np.full(len(label_E), label_E.mean())
    theirs = {
        rmse: sk.root_mean_squared_error(label_E, prediction_E),
        mae: sk.mean_absolute_error(label_E, prediction_E),
        log_loss: sk.log_loss(label_E, prediction_E),
        normalised_entropy: sk.log_loss(label_E, prediction_E) / sk.log_loss(label_E, base_rate_E),
        of_two_categories: sk.log_loss(label_E, prediction_E) / sk.log_loss(label_E, base_rate_E),
        normalised_square: 1 - sk.r2_score(label_E, prediction_E),
        auc: sk.roc_auc_score(label_E, prediction_E),
    }
    for metric, value in theirs.items():
        assert metric(pairs).value == pytest.approx(value, rel=1e-9), metric.__name__


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_gauc_is_the_weighted_mean_of_each_users_auc(seed, num_users):
    user_E, prediction_E, label_E = log(seed, num_users, 23, missing=0.0)
    values, weights = [], []
    for user in np.unique(user_E):
        its = user_E == user
        if len(np.unique(label_E[its])) == 2:
            values.append(sk.roc_auc_score(label_E[its], prediction_E[its]))
            weights.append(its.sum())
    ours = gauc(labelled(user_E, prediction_E, label_E))
    assert ours.num_users == len(values)
    assert ours.value == (pytest.approx(np.average(values, weights=weights)) if values else None)


def test_gauc_and_auc_differ_where_users_differ():
    """Two users with opposite tastes in how often they act; within each, the order is backwards."""
    user_E = np.array([0, 0, 0, 1, 1, 1])
    pairs = labelled(
        user_E, np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1]), np.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    )
    assert auc(pairs).value == pytest.approx(6 / 8)
    assert (gauc(pairs).value, gauc(pairs).num_users) == (0.0, 1)


@pytest.mark.parametrize("num_bins", [1, 3, 10])
def test_calibration_error_by_hand(num_bins):
    """Pair by pair, as the docstring says it."""
    user_E, prediction_E, label_E = log(3, num_events=83, levels=40, missing=0.0)
    prediction_E = prediction_E.astype(np.float64) ** 2
    edges = np.quantile(prediction_E, np.linspace(0, 1, num_bins + 1))
    edges[0] = -np.inf
    total = 0.0
    for low, high in itertools.pairwise(edges):
        its = np.flatnonzero((prediction_E > low) & (prediction_E <= high))
        gap_E = prediction_E - label_E
        products = [gap_E[i] * gap_E[j] for i in its for j in its if user_E[i] != user_E[j]]
        total += len(its) * np.mean(products)
    ours = calibration_error(labelled(user_E, prediction_E, label_E), num_bins)
    assert ours.value == pytest.approx(np.sqrt(max(0.0, total) / len(user_E)))
    assert ours.value > 0.1


@pytest.mark.parametrize("users", [(0, 0, 0, 0), (0, 1, 0, 1), (0, 1, 2, 3), (0, 0, 1, 1)])
def test_calibration_error_does_not_let_bins_cancel(users):
    """Gaps of 0.6 below and above, without noise: whoever's they are, also where a bin is one user's alone."""
    pairs = labelled(np.array(users), np.array([0.4, 0.4, 0.6, 0.6]), np.array([1.0, 1.0, 0.0, 0.0]))
    assert calibration_error(pairs, 2).value == pytest.approx(0.6)
    assert calibration_error(pairs, 1).value == 0


def plain_calibration_error(pairs, num_bins=10):
    """The mutant: the mean of absolute gaps, noise and all."""
    edges = np.quantile(pairs.prediction_E, np.arange(1, num_bins) / num_bins)
    cell_E = pairs.place_E * num_bins + np.searchsorted(edges, pairs.prediction_E)
    gap_E, size = pairs.prediction_E - pairs.label_E, len(pairs.user_U) * num_bins
    sum_UK = np.hstack(
        [np.bincount(cell_E, gap_E, size).reshape(-1, num_bins), np.bincount(pairs.place_E)[:, None]]
    )
    return from_sums(
        pairs.user_U,
        sum_UK,
        lambda sum_DK: ratio(np.stack([np.abs(sum_DK[:, :-1]).sum(1), sum_DK[:, -1]], axis=1)),
        "lower",
    )


def calibration_intervals(metric, shift, repeats=100, num_users=307, events_of_each=2):
    """How often the interval holds the true error, and its own estimate, for predictions that are off by `shift`."""
    rng = np.random.default_rng(4)
    holds_truth, holds_estimate = [], []
    user_E = np.repeat(np.arange(num_users), events_of_each)
    for _ in range(repeats):
        true_E = 1 / (1 + np.exp(1 - rng.normal(0, 1, len(user_E))))
        label_E = (rng.random(len(user_E)) < true_E).astype(float)
        statistic = replace(metric(labelled(user_E, true_E + shift, label_E)), parts=lambda: None)
        found = bootstrap(statistic, num_draws=100).estimate
        holds_truth.append(found.low <= shift <= found.high)
        holds_estimate.append(found.low <= found.value <= found.high)
    return np.mean(holds_truth), np.mean(holds_estimate)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.15])
def test_the_interval_of_the_calibration_error_covers_the_truth(shift):
    """95 % promised; more where the error is within the noise, since it cannot be below 0."""
    truth, estimate = calibration_intervals(calibration_error, shift)
    assert truth >= 0.9 and estimate == 1.0


def test_an_interval_that_noise_moves_away_is_noticed():
    truth, estimate = calibration_intervals(plain_calibration_error, 0.0, repeats=30)
    assert truth == 0.0 and estimate < 1.0


def test_the_calibration_error_is_about_the_true_one():
    """And where there is none, less than half as far from it as the plain error, squared."""
    rng = np.random.default_rng(6)
    found, plain = [], []
    for shift in (0.0, 0.04, 0.08):
        values, plains = [], []
        for _ in range(40):
            true_E = 1 / (1 + np.exp(1 - rng.normal(0, 1, 2003)))
            pairs = labelled(np.arange(2003), true_E + shift, (rng.random(2003) < true_E).astype(float))
            values.append(calibration_error(pairs).value ** 2)
            plains.append(plain_calibration_error(pairs).value ** 2)
        found.append(np.mean(values))
        plain.append(np.mean(plains))
    np.testing.assert_allclose(np.sqrt(found[1:]), [0.04, 0.08], rtol=0.05)
    assert found[0] < plain[0] / 2


def duplicated(weight_U, user_U, *columns_E):
    """The log with user u's events standing weight_U[u] times."""
    index_E = np.concatenate(
        [np.flatnonzero(columns_E[0] == u) for u, w in zip(user_U, weight_U, strict=True) for _ in range(w)]
    )
    return [column_E[index_E] for column_E in columns_E]


@given(st.integers(0, 2**32), st.sampled_from(OF_PAIRS))
def test_a_weight_counts_as_that_many_copies_of_the_user(seed, metric):
    """What the bootstrap stands on: the sums of a draw are the sums of the log that the draw describes."""
    user_E, prediction_E, label_E = log(seed)
    statistic = metric(labelled(user_E, prediction_E, label_E))
    weight_U = np.random.default_rng(seed).integers(0, 3, len(statistic.user_U))
    weight_U[0] = 2
    copies = duplicated(weight_U, statistic.user_U, user_E, prediction_E, label_E)
    afresh = metric(labelled(*copies)).value
    resampled = statistic.under(np.stack([weight_U, np.ones_like(weight_U)]).astype(float))
    assert resampled[0] == pytest.approx(np.nan if afresh is None else afresh, nan_ok=True)
    assert resampled[1] == pytest.approx(np.nan if statistic.value is None else statistic.value, nan_ok=True)


def test_weights_move_the_metric():
    """Guard and mutant of the property above: a statistic that ignores its weights would be noticed."""
    for metric in OF_PAIRS:
        statistic = metric(labelled(*log(5)))
        weight_DU = np.random.default_rng(0).integers(0, 3, (20, len(statistic.user_U))).astype(float)
        assert len(set(statistic.under(weight_DU).round(6))) > 5, metric


def test_what_is_undefined_is_none_and_not_a_number():
    one_class = labelled(np.array([0, 1]), np.array([0.2, 0.4]), np.array([1.0, 1.0]))
    assert auc(one_class).value is None
    assert normalised_entropy(one_class).value is None and of_two_categories(one_class).value is None
    assert normalised_square(one_class).value is None
    assert (gauc(one_class).value, gauc(one_class).num_users) == (None, 0)
    assert log_loss(one_class).value == pytest.approx(-np.log([0.2, 0.4]).mean())


def test_a_constant_prediction_earns_nothing():
    user_E, _, label_E = log(2, missing=0.0)
    constant = labelled(user_E, np.full(len(user_E), label_E.mean()), label_E)
    assert auc(constant).value == 0.5
    assert gauc(constant).value == 0.5
    for metric in (normalised_entropy, of_two_categories, normalised_square):
        assert metric(constant).value == pytest.approx(1.0)
    assert calibration_error(constant).value == pytest.approx(0.0, abs=1e-7)


def test_a_saturated_sigmoid_costs_much_but_not_infinity():
    worst = labelled(np.array([0]), np.array([1.0], dtype=np.float32), np.array([0.0]))
    assert log_loss(worst).value == pytest.approx(-np.log(scoring.PROBABILITY_FLOOR))


def test_categories_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    probability_EC = rng.dirichlet(np.ones(3), 97)
    label_E = rng.integers(0, 3, 97).astype(float)
    label_E[::7] = np.nan
    kept_E = ~np.isnan(label_E)
    user_E = rng.integers(0, 5, 97)
    pairs = labelled(user_E, probability_EC, label_E)
    theirs = sk.log_loss(label_E[kept_E], probability_EC[kept_E], labels=[0, 1, 2])
    assert log_loss(pairs).value == pytest.approx(theirs)
    share_C = np.bincount(label_E[kept_E].astype(int)) / kept_E.sum()
    of_constant = sk.log_loss(label_E[kept_E], np.tile(share_C, (kept_E.sum(), 1)), labels=[0, 1, 2])
    assert normalised_log_loss(pairs).value == pytest.approx(theirs / of_constant)
    theirs = sk.accuracy_score(label_E[kept_E], probability_EC[kept_E].argmax(1))
    assert accuracy(pairs).value == pytest.approx(theirs)


def test_errors_say_what_was_found():
    user_E, half_E = np.array([0, 1]), np.array([0.5, 0.5])
    with pytest.raises(ValueError, match="no labelled events: 2 events, every label missing"):
        labelled(user_E, half_E, np.full(2, np.nan))
    with pytest.raises(ValueError, match=r"event 1 has a label but its prediction is \[nan\]"):
        labelled(user_E, np.array([0.5, np.nan]), np.array([0.0, 1.0]))
    rating = labelled(user_E, half_E, np.array([4.0, 1.0]))
    for metric in (auc, gauc, log_loss, normalised_entropy):
        with pytest.raises(ValueError, match=r"label 4.0, expected 0 or 1"):
            metric(rating)
    with pytest.raises(ValueError, match=r"prediction 1.5 is no probability; are these logits\?"):
        log_loss(labelled(user_E, np.array([0.5, 1.5]), np.array([0.0, 1.0])))
    with pytest.raises(ValueError, match="num_bins=0"):
        calibration_error(rating, 0)
    with pytest.raises(ValueError, match=r"label 2.0 at event 1 of those that have one, expected a category"):
        accuracy(labelled(user_E, np.full((2, 2), 0.5), np.array([0.0, 2.0])))
    with pytest.raises(ValueError, match="are these logits"):
        log_loss(labelled(user_E, np.full((2, 2), 1.5), np.array([0.0, 1.0])))
    with pytest.raises(ValueError, match="no events"):
        mean_over_users(np.array([], dtype=int), np.array([]))
    with pytest.raises(ValueError, match="position 1 is inf"):
        mean_over_users(user_E, np.array([0.5, np.inf]))


def test_a_missing_label_needs_no_prediction():
    kept = labelled(np.array([0, 1]), np.array([0.5, np.nan]), np.array([1.0, np.nan]))
    assert kept.user_U.tolist() == [0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rmse(kept).value == 0.5
