"""The weights of a model and of counts of actions: on pure noise, with a planted truth, on every scale.

Shape letters: T terms, M labels, K columns of an action.
"""

from dataclasses import replace

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.counts import weighing
from plait.counts.effects import EffectScale, LogitEffects, NumberEffects, Shares
from plait.counts.weighing import HeldOutLabels, TermWeights, most_likely_term_weights, weighed

LABELS, LOGS = 400, 25
THRESHOLDS = np.array([1.5, 0.0, -1.0])  # of four levels: the logits that each but the highest is exceeded
COLUMNS = {"number": 1, "happened or not": 1, "levels": len(THRESHOLDS), "values": 3}
SCALES: dict[str, EffectScale] = {
    "number": NumberEffects(),
    "happened or not": LogitEffects(),
    "levels": LogitEffects(),
    "values": Shares(),
}
every_scale = pytest.mark.parametrize("name", SCALES)


def terms_of(name: str, rng: np.random.Generator, num_labels: int) -> np.ndarray:
    """A model's, an item's and a user's: of levels, the first two descend from column to column."""
    shape = num_labels, COLUMNS[name]
    if name == "levels":
        model_MK, item_MK = (rng.normal(size=(num_labels, 1)) + THRESHOLDS for _ in range(2))
        return np.stack([model_MK, item_MK, np.broadcast_to(rng.normal(size=(num_labels, 1)), shape)])
    return rng.normal(size=(3, *shape))


def drawn(name: str, rng: np.random.Generator, score_MK: np.ndarray) -> np.ndarray:
    """HeldOutLabels, from what their scores say."""
    match name:
        case "number":
            return score_MK + rng.normal(size=score_MK.shape)
        case "happened or not" | "levels":
            return (rng.logistic(size=(len(score_MK), 1)) < score_MK).astype(float)
        case _:
            chosen_M = (score_MK + rng.gumbel(size=score_MK.shape)).argmax(axis=1)
            return np.eye(score_MK.shape[1])[chosen_M]


def labels_of(name: str, seed: int, weights: TermWeights, num_labels: int = LABELS) -> HeldOutLabels:
    rng = np.random.default_rng(seed)
    term_TMK = terms_of(name, rng, num_labels)
    y_MK = drawn(name, rng, weights.score(term_TMK))
    return HeldOutLabels(SCALES[name], term_TMK, y_MK, np.arange(num_labels) // 2)


@every_scale
def test_the_slope_of_the_losses_is_that_of_small_steps(name):
    labels = labels_of(name, 0, TermWeights(np.array([0.5, 0.5, 0.5]), 0.1), 20)
    score_MK = TermWeights(np.array([0.4, 0.7, 0.2]), -0.2).score(labels.term_TMK)
    loss_M, slope_MK = labels.scale.losses_of_scores(score_MK, labels.y_MK)
    for column in range(COLUMNS[name]):
        step = 1e-6 * np.eye(COLUMNS[name])[column]
        moved_M, _ = labels.scale.losses_of_scores(score_MK + step, labels.y_MK)
        np.testing.assert_allclose((moved_M - loss_M) / 1e-6, slope_MK[:, column], rtol=1e-3, atol=1e-4)


def test_the_loss_of_levels_is_the_logarithm_of_their_chance():
    score_MK, y_MK = np.tile(THRESHOLDS, (4, 1)), np.tril(np.ones((4, 3)), -1)
    above = np.concatenate([[1.0], 1 / (1 + np.exp(-THRESHOLDS)), [0.0]])
    loss_M, _ = LogitEffects().losses_of_scores(score_MK, y_MK)
    np.testing.assert_allclose(loss_M, -np.log(-np.diff(above)))


NOISE = {
    "number": TermWeights(np.array([1.0, 0.0, 0.0]), 0.0),
    "happened or not": TermWeights(np.array([0.5, 0.0, 0.0]), 0.3),
    "levels": TermWeights(np.array([0.8, 0.0, 0.0]), 0.2),
    "values": TermWeights(np.array([0.5, 0.0, 0.0]), 0.0),
}


def check_noise(logs: int) -> None:
    """What has nothing to say weighs nothing, and the model stays as it is."""
    kept = 0
    for nth, name in enumerate(SCALES):
        for log in range(logs):
            found = weighed(labels_of(name, 1_000 * nth + log, NOISE[name], LABELS // 2)).weights
            is_as_it_is = found.weight_T.tolist() == [1.0, 0.0, 0.0] and found.constant == 0.0
            assert found.has_counts != is_as_it_is
            kept += found.has_counts
    assert kept <= 0.03 * logs * len(SCALES)


def test_on_pure_noise_counts_weigh_nothing():
    check_noise(LOGS)


def test_counts_that_are_always_kept_are_caught(monkeypatch):
    monkeypatch.setattr(weighing, "ENOUGH", 0.0)
    assert_caught(check_noise, 3)


PLANTED = TermWeights(np.array([0.4, 0.8, 0.5]), 0.3)  # the model is too sure of itself


def check_planted(name: str, seeds: int) -> None:
    """Weights are within two standard errors of those that the labels were drawn by, but for one in twenty."""
    constant, away = PLANTED.constant if SCALES[name].has_intercept else 0.0, []
    for seed in range(seeds):
        labels = labels_of(name, seed, replace(PLANTED, constant=constant), 1_000)
        found = weighed(labels)
        assert found.gain_of_halves > 0.01
        assert abs(found.weights.constant - constant) < 0.25
        error_T = standard_errors(labels, found.weights)
        away.append(np.abs(found.weights.weight_T - PLANTED.weight_T) / error_T)
    assert (np.array(away) <= 2).mean() >= 0.85 and np.max(away) < 4


def standard_errors(labels: HeldOutLabels, weights: TermWeights) -> np.ndarray:
    """By the spread of the slopes of single labels, which is the information where the weights are right."""
    _, slope_MK = labels.scale.losses_of_scores(weights.score(labels.term_TMK), labels.y_MK)
    if isinstance(labels.scale, NumberEffects):
        slope_MK = slope_MK / 2  # of errors of spread 1
    slope_MT = np.einsum("tmk,mk->mt", labels.term_TMK, slope_MK)
    if labels.scale.has_intercept:
        slope_MT = np.column_stack([slope_MT, slope_MK.sum(axis=1)])
    return np.sqrt(np.diag(np.linalg.inv(slope_MT.T @ slope_MT)))[: len(weights.weight_T)]


@every_scale
def test_planted_weights_are_found(name):
    check_planted(name, 5)


@every_scale
def test_a_model_s_weight_held_at_1_is_caught(name, monkeypatch):
    def held(labels: HeldOutLabels, is_free_T: np.ndarray) -> TermWeights:
        found = most_likely_term_weights(labels, is_free_T)
        return replace(found, weight_T=np.concatenate([[1.0], found.weight_T[1:]]))

    monkeypatch.setattr(weighing, "most_likely_term_weights", held)
    assert_caught(check_planted, name, 1)


@every_scale
def test_labels_that_are_alike_or_none_leave_the_model_as_it_is(name):
    labels = labels_of(name, 0, PLANTED)
    alike = replace(labels, y_MK=np.tile(labels.y_MK[:1], (len(labels), 1)))
    none = labels.those(np.zeros(len(labels), dtype=bool))
    for few in (alike, none):
        found = weighed(few)
        assert found.weights.weight_T.tolist() == [1.0, 0.0, 0.0] and found.gain == 0.0
    of_one_user = replace(labels, user_M=np.zeros(len(labels), dtype=np.int64))
    assert weighed(of_one_user).gain_of_halves == 0.0
    assert_not_vacuous({"gain": int(weighed(labels).gain)})
