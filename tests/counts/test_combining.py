"""The weights of a model and of counts: on pure noise, with a planted truth, and with answers that a filter removed.

Shape letters: T terms, Q answers, C candidates.
"""

from dataclasses import replace

import numpy as np
from tiny import assert_caught, assert_not_vacuous

from plait.counts import combining, histories, items
from plait.counts.beside import Tables
from plait.counts.combining import Choices, combination, most_likely_weights

USERS, ITEMS, EVENTS, LOGS = 400, 40, 8, 200


def choices(term_TQC, answer_Q, question_Q=None, user_Q=None, is_left_QC=None) -> Choices:
    nth_Q = np.arange(len(answer_Q))
    return Choices.of(
        term_TQC,
        np.ones(term_TQC.shape[1:], dtype=bool) if is_left_QC is None else is_left_QC,
        answer_Q,
        nth_Q if question_Q is None else question_Q,
        nth_Q if user_Q is None else user_Q,
    )


def drawn(rng: np.random.Generator, score_QC: np.ndarray) -> np.ndarray:
    """An answer to each question, from the softmax of its scores."""
    return (score_QC + rng.gumbel(size=score_QC.shape)).argmax(axis=1)


def test_likelihood_and_its_gradient_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    term_TQC, is_left_QC = rng.normal(size=(3, 6, 5)), rng.random((6, 5)) < 0.7
    answer_Q, question_Q = rng.integers(5, size=6), np.array([0, 0, 1, 1, 1, 2])
    weight_T = np.array([0.5, 0.25, 1.5])
    kept = [q for q in range(6) if is_left_QC[q, answer_Q[q]]]
    expected = 0.0
    for q in kept:
        score_C = weight_T @ term_TQC[:, q]
        left = np.exp(score_C[is_left_QC[q]]).sum()
        share = 1 / sum(question_Q[other] == question_Q[q] for other in kept)
        expected += share * (score_C[answer_Q[q]] - np.log(left))
    found = choices(term_TQC, answer_Q, question_Q, is_left_QC=is_left_QC)
    assert_not_vacuous({"removed": 6 - len(kept), "answers that share a question": len(kept) - 2})
    assert len(found) == len(kept)
    value, gradient_T = found._with_gradient(weight_T)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    step = 1e-6
    for term, slope in enumerate(gradient_T):
        moved = found.log_likelihood(weight_T + step * np.eye(3)[term])
        np.testing.assert_allclose((moved - value) / step, slope, rtol=1e-4)


def of_noise(seed: int) -> tuple[Choices, Choices]:
    """Validation and test of a log of pure noise, tables from its training rows, and a model that learnt noise."""
    rng = np.random.default_rng(seed)
    item_UE = rng.integers(1, ITEMS + 1, size=(USERS, EVENTS))
    end_U, start_U1 = np.arange(EVENTS * USERS), np.arange(USERS + 1) * EVENTS
    item_E = item_UE.reshape(-1)
    met = histories.items_met(item_E, start_U1, ITEMS)
    tables = Tables(
        items.popularity(item_E, ITEMS),
        items.shares(items.followers(item_E, start_U1, end_U, ITEMS, window=4)),
        last=8,
        decay=0.8,
        ease=None,
        reads_own=True,
    )
    tables = replace(tables, ease=type(tables.rules)(items.ease(items.together(met), l2=20.0) * 10))
    counted = [term_UI[:, 1:] for term_UI in tables.terms(item_E, start_U1, ITEMS)]
    term_TUC = np.stack([rng.normal(scale=0.1, size=(USERS, ITEMS)), *counted])
    validation, test = (choices(term_TUC, rng.integers(ITEMS, size=USERS)) for _ in range(2))
    return validation, test


def test_on_pure_noise_counts_weigh_nothing_and_do_no_harm():
    check_noise(LOGS)


def test_counts_that_are_always_kept_are_caught(monkeypatch):
    monkeypatch.setattr(combining, "ENOUGH", 0.0)
    assert_caught(check_noise, 20)


def check_noise(logs: int) -> None:
    kept, harm = 0, 0.0
    for seed in range(logs):
        validation, test = of_noise(seed)
        found = combination(validation)
        alone_T = np.eye(len(found.weight_T))[0]
        assert found.has_counts or found.weight_T.tolist() == alone_T.tolist()
        kept += found.has_counts
        harm = max(harm, (test.log_likelihood(alone_T) - test.log_likelihood(found.weight_T)) / len(test))
    assert kept <= 0.03 * logs
    assert harm <= 0.01


PLANTED = np.array(
    [0.4, 0.8, 0.0]
)  # of a model that is too sure of itself, of the rules, of what says nothing


def check_planted(seed: int) -> None:
    """Weights are within two standard errors of those that the answers were drawn by."""
    rng = np.random.default_rng(seed)
    term_TQC = rng.normal(size=(3, 3_000, 30)) * np.array([1.5, 1.0, 1.0])[:, None, None]
    found = choices(term_TQC, drawn(rng, np.tensordot(PLANTED, term_TQC, axes=1)))
    weight_T = combination(found).weight_T
    is_near_T = np.abs(weight_T - PLANTED) <= 2 * standard_errors(found, weight_T)
    assert combination(found).gain_of_halves > 0.01
    assert is_near_T[:2].all(), f"{weight_T} is not {PLANTED}"


def standard_errors(found: Choices, weight_T: np.ndarray) -> np.ndarray:
    """By the information of the softmax: the spread of the terms over what could have come."""
    score_QC = np.tensordot(weight_T, found.less_TQC, axes=1)
    chance_QC = np.exp(score_QC) / np.exp(score_QC).sum(axis=1, keepdims=True)
    mean_TQ = (found.less_TQC * chance_QC).sum(axis=2)
    spread_TQC = found.less_TQC - mean_TQ[:, :, None]
    information_TT = np.einsum("sqc,tqc,qc->st", spread_TQC, spread_TQC, chance_QC)
    return np.sqrt(np.diag(np.linalg.inv(information_TT)))


def test_planted_weights_are_found():
    for seed in (1, 2):
        check_planted(seed)


def test_a_model_s_weight_held_at_1_is_caught(monkeypatch):
    def held(found: Choices, is_free_T: np.ndarray) -> np.ndarray:
        shifted = replace(found, less_TQC=found.less_TQC.copy())
        weight_T = most_likely_weights(shifted, is_free_T)
        weight_T[combining.MODEL] = 1.0
        return weight_T

    monkeypatch.setattr(combining, "most_likely_weights", held)
    assert_caught(check_planted, 1)


def test_answers_of_one_user_or_none_are_weighed():
    term_TQC = np.random.default_rng(0).normal(size=(2, 3, 4))
    of_one = choices(term_TQC, np.array([0, 1, 2]), user_Q=np.zeros(3, dtype=np.int64))
    assert combination(of_one).gain_of_halves == 0.0
    of_none = choices(term_TQC, np.array([0, 1, 2]), is_left_QC=np.zeros((3, 4), dtype=bool))
    assert combination(of_none).weight_T.tolist() == [1.0, 0.0]
