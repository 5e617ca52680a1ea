"""How much a trained model and each way of counting weigh together: by the likelihood of held-out answers.

The score of a candidate is a weighted sum of terms, the model's logit first. Weights are at least 0. The model's is
free as well: where it is held at 1, a model that is too sure of itself leaves counts no room.

Shape letters: T terms, Q answers, C candidates of an answer.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy import optimize
from scipy.special import logsumexp

ENOUGH = 6.6  # twice the gain in log-likelihood: one useless term of free sign exceeds it in 1 of 100 logs
MODEL = 0  # the model's place among the terms


@dataclass(frozen=True)
class Choices:
    """Held-out answers, each chosen from candidates."""

    less_TQC: Float[np.ndarray, "T Q C"]  # the terms of each candidate less those of the answer
    is_left_QC: Bool[np.ndarray, "Q C"]  # by the filter
    weight_Q: Float64[np.ndarray, " Q"]
    user_Q: Int64[np.ndarray, " Q"]

    @classmethod
    def of(
        cls,
        term_TQC: Float[np.ndarray, "T Q C"],
        is_left_QC: Bool[np.ndarray, "Q C"],
        answer_Q: Int64[np.ndarray, " Q"],
        question_Q: Int64[np.ndarray, " Q"],
        user_Q: Int64[np.ndarray, " Q"],
    ) -> "Choices":
        """Each of n answers to one question weighs 1 / n. Answers that the filter removed are left out.

        Args:
            answer_Q: which candidate came.
            question_Q: a number for each question; answers to one have the same.
        """
        stays_Q = np.take_along_axis(is_left_QC, answer_Q[:, None], axis=1)[:, 0]
        term_TQC, answer_Q, question_Q = term_TQC[:, stays_Q], answer_Q[stays_Q], question_Q[stays_Q]
        _, nth_Q, count_N = np.unique(question_Q, return_inverse=True, return_counts=True)
        of_answer_TQ1 = np.take_along_axis(term_TQC, answer_Q[None, :, None], axis=2)
        return cls(term_TQC - of_answer_TQ1, is_left_QC[stays_Q], 1 / count_N[nth_Q], user_Q[stays_Q])

    def __len__(self) -> int:
        return len(self.user_Q)

    def those(self, chosen_Q: Bool[np.ndarray, " Q"]) -> "Choices":
        """Some of them."""
        return Choices(
            self.less_TQC[:, chosen_Q],
            self.is_left_QC[chosen_Q],
            self.weight_Q[chosen_Q],
            self.user_Q[chosen_Q],
        )

    def log_likelihood(self, weight_T: Float64[np.ndarray, " T"]) -> float:
        """Of the answers, under a softmax over the candidates; in nats."""
        return self._with_gradient(weight_T)[0]

    def _with_gradient(self, weight_T: Float64[np.ndarray, " T"]) -> tuple[float, Float64[np.ndarray, " T"]]:
        score_QC = np.tensordot(weight_T.astype(self.less_TQC.dtype), self.less_TQC, axes=1)
        score_QC[~self.is_left_QC] = -np.inf
        log_sum_Q = logsumexp(score_QC, axis=1)
        chance_QC = np.exp(score_QC - log_sum_Q[:, None]) * self.weight_Q.astype(score_QC.dtype)[:, None]
        gradient_T = -np.tensordot(self.less_TQC, chance_QC, axes=2).astype(np.float64)
        return -float(self.weight_Q @ log_sum_Q), gradient_T


def most_likely_weights(choices: Choices, is_free_T: Bool[np.ndarray, " T"]) -> Float64[np.ndarray, " T"]:
    """The weights, at least 0, under which the answers are most likely; 0 of terms that are not free. The likelihood is
    concave, so the search finds the best there is.

    Args:
        choices: at least one.
    """
    start_T, total = np.eye(len(is_free_T))[MODEL], float(choices.weight_Q.sum())

    def lacks(weight_T: Float64[np.ndarray, " T"]) -> tuple[float, Float64[np.ndarray, " T"]]:
        value, gradient_T = choices._with_gradient(weight_T)
        return -value / total, -gradient_T / total

    most_T = np.where(is_free_T, np.inf, 0.0)
    bounds = list(zip(np.zeros_like(most_T), most_T, strict=True))
    return optimize.minimize(lacks, start_T, jac=True, method="L-BFGS-B", bounds=bounds).x


@dataclass(frozen=True)
class FittedWeights:
    """The weights of a model and of counts."""

    weight_T: Float64[np.ndarray, " T"]  # 1, 0, 0, ... where counts do not pay
    gain: float  # in nats, of all answers, by counts over the model by its best weight
    gain_of_halves: float  # the same, an answer: fitted on one half of the users, judged on the other

    @property
    def has_counts(self) -> bool:
        return bool(np.delete(self.weight_T, MODEL).any())


def combination(choices: Choices) -> FittedWeights:
    """Weighs by maximum likelihood. Counts are kept where they say clearly more than the model by its best weight."""
    weight_T = np.eye(len(choices.less_TQC))[MODEL]
    if not len(choices):
        return FittedWeights(weight_T, 0.0, 0.0)
    fitted_T, gain = _gain(choices, choices)
    if 2 * gain > ENOUGH:
        weight_T = fitted_T
    return FittedWeights(weight_T, gain, _gain_of_halves(choices))


def _gain(fit: Choices, judge: Choices) -> tuple[Float64[np.ndarray, " T"], float]:
    """Weights that are fitted on some answers, and what they gain on others over the model, scaled likewise."""
    is_model_T = np.arange(len(fit.less_TQC)) == MODEL
    alone_T, both_T = most_likely_weights(fit, is_model_T), most_likely_weights(fit, np.ones_like(is_model_T))
    return both_T, judge.log_likelihood(both_T) - judge.log_likelihood(alone_T)


def _gain_of_halves(choices: Choices) -> float:
    """Users alternate between the halves. 0 where all answers are of one user."""
    _, nth_Q = np.unique(choices.user_Q, return_inverse=True)
    halves = [choices.those(nth_Q % 2 == half) for half in (0, 1)]
    if not all(map(len, halves)):
        return 0.0
    gains = [_gain(fit, judge)[1] for fit, judge in (halves, halves[::-1])]
    return sum(gains) / float(choices.weight_Q.sum())
