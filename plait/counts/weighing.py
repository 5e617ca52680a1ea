"""How much a trained model and each way of counting weigh together in a prediction of actions: by the likelihood of
held-out labels.

The score of a label is a weighted sum of terms, the model's first, on the scale of `plait.counts.effects`; a constant
is added where it changes what is predicted. Weights are at least 0. The model's is free as well.

Shape letters: T terms, M labels, K columns of an action.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import optimize

from plait.counts.combining import ENOUGH, MODEL
from plait.counts.effects import EffectScale

PRECISION = 1e-10  # of the loss and of its slope, at which the search for weights ends


@dataclass(frozen=True)
class TermWeights:
    """The weights of terms, and what is added to their sum."""

    weight_T: Float64[np.ndarray, " T"]
    constant: float

    @classmethod
    def of_model(cls, num_terms: int) -> "TermWeights":
        """Those of the model as it is.

        >>> TermWeights.of_model(3)
        TermWeights(weight_T=array([1., 0., 0.]), constant=0.0)
        """
        return cls(np.eye(num_terms)[MODEL], 0.0)

    @property
    def has_counts(self) -> bool:
        return bool(np.delete(self.weight_T, MODEL).any())

    def score(self, term_TMK: Float64[np.ndarray, "T M K"]) -> Float64[np.ndarray, "M K"]:
        return np.tensordot(self.weight_T, term_TMK, axes=1) + self.constant


@dataclass(frozen=True)
class HeldOutLabels:
    """Held-out labels of a part of an action, and what is said of each."""

    scale: EffectScale
    term_TMK: Float64[np.ndarray, "T M K"]
    y_MK: Float64[np.ndarray, "M K"]
    user_M: Int64[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.user_M)

    @property
    def are_alike(self) -> bool:
        """Whether there is nothing to tell apart."""
        return bool((self.y_MK == self.y_MK[:1]).all())

    def those(self, chosen_M: Bool[np.ndarray, " M"]) -> "HeldOutLabels":
        """Some of them."""
        return HeldOutLabels(
            self.scale, self.term_TMK[:, chosen_M], self.y_MK[chosen_M], self.user_M[chosen_M]
        )

    def log_likelihood(self, weights: TermWeights) -> float:
        """In nats."""
        loss_M, _ = self.scale.losses_of_scores(weights.score(self.term_TMK), self.y_MK)
        return self.scale.log_likelihood(loss_M)


def most_likely_term_weights(labels: HeldOutLabels, is_free_T: Bool[np.ndarray, " T"]) -> TermWeights:
    """The weights, at least 0, under which the labels are most likely; 0 of terms that are not free. The loss is
    convex, so the search finds the best there is.

    Args:
        labels: at least one.
    """
    num_terms = len(is_free_T)
    mean_T = labels.term_TMK.mean(axis=(1, 2)) if labels.scale.has_intercept else np.zeros(num_terms)
    centred = (
        labels.term_TMK - mean_T[:, None, None]
    )  # so that weights and the constant hardly depend on each other

    def lacks(x: Float64[np.ndarray, " X"]) -> tuple[float, Float64[np.ndarray, " X"]]:
        score_MK = np.tensordot(x[:num_terms], centred, axes=1) + x[num_terms]
        loss_M, slope_MK = labels.scale.losses_of_scores(score_MK, labels.y_MK)
        slope = np.append(np.tensordot(centred, slope_MK, axes=2), slope_MK.sum())
        return float(loss_M.mean()), slope / len(labels)

    most_T = np.where(is_free_T, np.inf, 0.0)
    of_constant = (-np.inf, np.inf) if labels.scale.has_intercept else (0.0, 0.0)
    bounds = [*zip(np.zeros(num_terms), most_T, strict=True), of_constant]
    start = np.append(np.eye(num_terms)[MODEL], mean_T[MODEL])
    stop = {"ftol": PRECISION, "gtol": PRECISION}
    found = optimize.minimize(lacks, start, jac=True, method="L-BFGS-B", bounds=bounds, options=stop).x
    weight_T = found[:num_terms]
    return TermWeights(weight_T, float(found[num_terms] - weight_T @ mean_T))


@dataclass(frozen=True)
class FittedTermWeights:
    """What was fitted."""

    weights: TermWeights  # of the model as it is, where counts do not pay
    gain: float  # in nats, of all labels, by counts over the model by its best weight
    gain_of_halves: float  # the same, a label: fitted on one half of the users, judged on the other


def weighed(labels: HeldOutLabels) -> FittedTermWeights:
    """Weighs by maximum likelihood. Counts are kept where they say clearly more than the model by its best weight."""
    weights = TermWeights.of_model(len(labels.term_TMK))
    if not len(labels) or labels.are_alike:
        return FittedTermWeights(weights, 0.0, 0.0)
    fitted, gain = _gain(labels, labels)
    return FittedTermWeights(fitted if 2 * gain > ENOUGH else weights, gain, _gain_of_halves(labels))


def _gain(fit: HeldOutLabels, judge: HeldOutLabels) -> tuple[TermWeights, float]:
    """Weights that are fitted on some labels, and what they gain on others over the model, scaled likewise."""
    is_model_T = np.arange(len(fit.term_TMK)) == MODEL
    alone, both = (
        most_likely_term_weights(fit, is_model_T),
        most_likely_term_weights(fit, np.ones_like(is_model_T)),
    )
    return both, judge.log_likelihood(both) - judge.log_likelihood(alone)


def _gain_of_halves(labels: HeldOutLabels) -> float:
    """Users alternate between the halves. 0 where labels of one half are alike."""
    _, nth_M = np.unique(labels.user_M, return_inverse=True)
    halves = [labels.those(nth_M % 2 == half) for half in (0, 1)]
    if any(not len(half) or half.are_alike for half in halves):
        return 0.0
    return sum(_gain(fit, judge)[1] for fit, judge in (halves, halves[::-1])) / len(labels)
