"""Scoring: how well predicted actions meet the actions that happened.

`labelled` pairs them once; every metric below reads the pairs and returns a `Statistic`, which is pooled:
computed over the events of all users laid together, and resampled by user.

Shape letters: E events (after `labelled`: those with a label), U users, C categories, D draws, K sums; P and
N the events labelled 1 and 0; T groups of equal predictions within a user; B bins of predictions.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from plait.metrics.statistic import (
    Better,
    Form,
    Parts,
    Statistic,
    effective_number,
    from_sums,
    ratio,
    sums_per_user,
)

PROBABILITY_FLOOR = 1e-7  # float32 resolves no finer next to 1; a saturated sigmoid must not cost infinity


@dataclass(frozen=True)
class Labelled:
    """Predictions beside their labels, of the events that have one."""

    user_U: Int64[np.ndarray, " U"]  # ascending
    place_E: Int64[np.ndarray, " E"]  # which of user_U
    prediction_E: Float[np.ndarray, "E ..."]  # a number, or of categories the probability of each
    label_E: Float64[np.ndarray, " E"]  # of categories the index of the one that happened


def labelled(
    user_E: Int[np.ndarray, " E"], prediction_E: Float[np.ndarray, "E ..."], label_E: Float[np.ndarray, " E"]
) -> Labelled:
    """Pairs predictions with labels and leaves out the events whose label is missing (NaN).

    Numbers become float64. Probabilities of categories, of which there can be thousands, stay as they are.

    Raises:
        ValueError: no event has a label, or a prediction for one is not finite.

    >>> labelled(np.array([3, 3, 5]), np.array([0.1, 0.2, 0.3]), np.array([1.0, np.nan, 0.0])).prediction_E
    array([0.1, 0.3])
    """
    kept_E = _kept(prediction_E, label_E)
    user_U, place_E = np.unique(user_E[kept_E].astype(np.int64), return_inverse=True)
    prediction_E = prediction_E[kept_E]
    if prediction_E.ndim == 1:
        prediction_E = prediction_E.astype(np.float64)
    return Labelled(user_U, place_E, prediction_E, label_E[kept_E].astype(np.float64))


def rmse(pairs: Labelled) -> Statistic:
    """Root of the mean squared error, in the labels' unit, from 0.

    >>> rmse(labelled(np.array([0, 1]), np.array([1.0, 2.0]), np.array([2.0, 1.0]))).value
    1.0
    """
    error_E = pairs.prediction_E - pairs.label_E
    sum_UK = sums_per_user(pairs.place_E, error_E**2, np.ones_like(error_E))
    return from_sums(pairs.user_U, sum_UK, lambda sum_D2: np.sqrt(ratio(sum_D2)), "lower", "root")


def mae(pairs: Labelled) -> Statistic:
    """Mean absolute error, in the labels' unit, from 0.

    >>> mae(labelled(np.array([0, 1]), np.array([1.0, 2.0]), np.array([4.0, 6.0]))).value
    3.5
    """
    return _mean(pairs, np.abs(pairs.prediction_E - pairs.label_E), "lower")


def log_loss(pairs: Labelled) -> Statistic:
    """Mean of -log p(label), in nats, from 0; probabilities clipped by PROBABILITY_FLOOR.

    A label is 0 or 1 and its prediction the probability of 1; or it is a category's index.

    Raises:
        ValueError: a label is neither 0 nor 1, or no category; or a probability lies outside [0, 1].

    >>> round(log_loss(labelled(np.array([0, 1]), np.array([0.5, 0.5]), np.array([0.0, 1.0]))).value, 4)
    0.6931
    >>> round(log_loss(labelled(np.array([0]), np.array([[0.5, 0.25, 0.25]]), np.array([0.0]))).value, 4)
    0.6931
    """
    return _mean(pairs, _nats("log_loss", pairs), "lower")


def normalised_entropy(pairs: Labelled) -> Statistic:
    """Log-loss over the entropy of the base rate: below 1 beats the constant that predicts the base rate.

    The base rate is the share of 1 among the evaluated labels (of each draw, when resampled), so the constant
    it is compared with knows more than any model. Not defined where only one class occurs.

    Raises:
        ValueError: as for `log_loss`.

    Source: He et al., ADKDD 2014, equation 3.

    >>> normalised_entropy(labelled(np.array([0, 1]), np.array([0.5, 0.5]), np.array([0.0, 1.0]))).value
    1.0
    """
    nats_E = _nats("normalised_entropy", pairs)

    def finish(sum_DK: Float64[np.ndarray, "D 3"]) -> Float64[np.ndarray, " D"]:
        loss_D, positives_D, events_D = sum_DK.T
        negatives_D = events_D - positives_D
        both_D = np.stack([positives_D, negatives_D])
        share_2D = np.divide(both_D, events_D)
        entropy_D = -(both_D * np.log(share_2D, out=np.zeros_like(share_2D), where=share_2D > 0)).sum(axis=0)
        return ratio(np.stack([loss_D, entropy_D], axis=1))

    sum_UK = sums_per_user(pairs.place_E, nats_E, pairs.label_E, np.ones_like(nats_E))
    found = from_sums(pairs.user_U, sum_UK, finish, "lower")

    def parts() -> Parts | None:
        known, rarer_U = found.parts(), _share_of_rarer_class(pairs)
        return None if known is None or rarer_U is None else replace(known, share_U=rarer_U)

    return replace(found, parts=parts)


def normalised_log_loss(pairs: Labelled) -> Statistic:
    """`normalised_entropy` of any number of categories: log-loss over the entropy of the categories' shares.

    Not defined where only one category occurs.

    Raises:
        ValueError: as for `log_loss`.

    >>> chances = np.full((3, 3), 1 / 3)
    >>> round(normalised_log_loss(labelled(np.array([0, 1, 2]), chances, np.array([0.0, 1.0, 2.0]))).value, 12)
    1.0
    """
    nats_E = _nats("normalised_log_loss", pairs)
    label_E = pairs.label_E.astype(np.int64)

    def of_draw(weight_U: Float64[np.ndarray, " U"]) -> float:
        weight_E = weight_U[pairs.place_E]
        events_C = np.bincount(label_E, weight_E)
        events_C = events_C[events_C > 0]
        if len(events_C) < 2:
            return np.nan
        return float(weight_E @ nats_E / -(events_C @ np.log(events_C / events_C.sum())))

    def under(weight_DU: Float64[np.ndarray, "D U"]) -> Float64[np.ndarray, " D"]:
        return np.array([of_draw(weight_U) for weight_U in weight_DU])

    return Statistic(pairs.user_U, under, "lower", len(pairs.user_U))


def normalised_square(pairs: Labelled) -> Statistic:
    """Mean squared error over the variance of the labels: below 1 beats the constant that predicts their mean.

    Variance and mean are those of the evaluated labels (of each draw, when resampled). Not defined where all are equal.

    >>> normalised_square(labelled(np.array([0, 1]), np.array([2.0, 2.0]), np.array([1.0, 3.0]))).value
    1.0
    """
    above_first_E = pairs.label_E - pairs.label_E[0]  # labels that are equal leave a variance of 0 exactly

    def finish(sum_DK: Float64[np.ndarray, "D 4"]) -> Float64[np.ndarray, " D"]:
        error_D, square_D, above_D, events_D = sum_DK.T
        spread_D = square_D - ratio(np.stack([above_D**2, events_D], axis=1))
        return ratio(np.stack([error_D, spread_D], axis=1))

    squares_E = (pairs.prediction_E - pairs.label_E) ** 2
    sum_UK = sums_per_user(pairs.place_E, squares_E, above_first_E**2, above_first_E, np.ones_like(squares_E))
    return from_sums(pairs.user_U, sum_UK, finish, "lower")


def auc(pairs: Labelled) -> Statistic:
    """The chance that an event labelled 1 is predicted above one labelled 0, a tie counting one half; 0 to 1.

    Over the events of all users laid together. Not defined where only one class occurs.

    Raises:
        ValueError: a label is neither 0 nor 1.

    >>> auc(labelled(np.zeros(4, int), np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]))).value
    0.875
    """
    positive_E = _is_positive("auc", pairs)
    by_prediction_E = np.argsort(pairs.prediction_E, kind="stable")
    positive_P = by_prediction_E[positive_E[by_prediction_E]]
    negative_N = by_prediction_E[~positive_E[by_prediction_E]]
    place_P, place_N = pairs.place_E[positive_P], pairs.place_E[negative_N]
    # Of the negatives, ascending, the first below_P lie below each positive, the first upto_P not above it.
    prediction_N, prediction_P = pairs.prediction_E[negative_N], pairs.prediction_E[positive_P]
    below_P = np.searchsorted(prediction_N, prediction_P, side="left")
    upto_P = np.searchsorted(prediction_N, prediction_P, side="right")

    def of_draw(weight_U: Float64[np.ndarray, " U"]) -> float:
        sofar_N1 = np.zeros(len(place_N) + 1)
        np.cumsum(weight_U[place_N], out=sofar_N1[1:])
        weight_P = weight_U[place_P]
        wins = weight_P @ (sofar_N1[below_P] + sofar_N1[upto_P]) / 2
        ways = weight_P.sum() * sofar_N1[-1]
        return float(wins / ways) if ways else np.nan

    def under(weight_DU: Float64[np.ndarray, "D U"]) -> Float64[np.ndarray, " D"]:
        return np.array([of_draw(weight_U) for weight_U in weight_DU])

    def parts() -> Parts | None:
        rarer_U = _share_of_rarer_class(pairs)
        if rarer_U is None:
            return None
        above_P = (below_P + upto_P) / 2 / len(negative_N)
        not_below_N, not_above_N = (
            np.searchsorted(prediction_P, prediction_N, side=side) for side in ("left", "right")
        )
        above_N = 1 - (not_below_N + not_above_N) / 2 / len(positive_P)
        num_users = len(pairs.user_U)
        of_positives_U, of_negatives_U = (
            np.bincount(place, above - above.mean(), num_users) / len(above)
            for place, above in ((place_P, above_P), (place_N, above_N))
        )
        return Parts(of_positives_U + of_negatives_U, rarer_U, "share")

    return Statistic(pairs.user_U, under, "higher", len(pairs.user_U), parts)


def gauc(pairs: Labelled) -> Statistic:
    """Each user's own AUC, weighted by the user's number of events; 0 to 1.

    Only users with both classes have one: `num_users` of the result counts them. Not defined where there is
    none. It is blind to what `auc` also sees, that some users act more than others.

    Raises:
        ValueError: a label is neither 0 nor 1.

    Source: Zhou et al., KDD 2018, equation 5 (weights: impressions).

    >>> pairs = labelled(np.array([0, 0, 1]), np.array([0.2, 0.1, 0.9]), np.array([1.0, 0.0, 1.0]))
    >>> gauc(pairs).value, gauc(pairs).num_users
    (1.0, 1)
    """
    positive_E = _is_positive("gauc", pairs)
    rank_E = _midranks(pairs.place_E, pairs.prediction_E)
    ranks_U, positives_U, events_U = sums_per_user(
        pairs.place_E, rank_E * positive_E, positive_E.astype(float), np.ones_like(rank_E)
    ).T
    ways_U = positives_U * (events_U - positives_U)
    auc_U = ratio(np.stack([ranks_U - positives_U * (positives_U + 1) / 2, ways_U], axis=1))
    has_both_U = ways_U > 0
    sum_UK = np.where(has_both_U[:, None], np.stack([auc_U * events_U, events_U], axis=1), 0.0)
    pooled = from_sums(pairs.user_U, sum_UK, ratio, "higher", "share")
    return replace(pooled, num_users=int(has_both_U.sum()))


def calibration_error(pairs: Labelled, num_bins: int = 10) -> Statistic:
    """Expected calibration error of order 2: the root of a bin's squared gap between mean prediction and mean
    label, weighted by its share of events, without what noise adds to it. In the labels' unit, from 0.

    The bins hold equally many events (deciles of the prediction by default), not equal widths: rare actions
    have all their predictions near 0, where one wide bin would let errors cancel. Equal predictions share a
    bin. The edges stay those of the whole sample when users are resampled.

    The plain error, the mean of absolute gaps, is above 0 for a perfect model, and resampling adds the same
    noise again, so that its interval misses it. Here a squared gap is the mean product of two events' gaps over
    all pairs of events of *different users*, whose noise is independent: unbiased, in the sample as in every
    draw, a user drawn twice being one user with twice the weight. What comes out below 0 counts as 0. A bin
    that holds one user alone has no such pair, and counts with its plain gap.

    Raises:
        ValueError: num_bins is below 1.

    Source: Kumar et al., NeurIPS 2019, section 4 (the debiased estimator); here for users with several events.

    >>> calibration_error(labelled(np.array([0, 0]), np.array([0.5, 0.5]), np.array([0.0, 1.0]))).value
    0.0
    """
    if num_bins < 1:
        raise ValueError(f"calibration_error: num_bins={num_bins}, expected at least 1")
    num_users = len(pairs.user_U)
    edges = np.quantile(pairs.prediction_E, np.arange(1, num_bins) / num_bins)
    cell_E = pairs.place_E * num_bins + np.searchsorted(edges, pairs.prediction_E)
    gap_E = pairs.prediction_E - pairs.label_E
    gap_UB = np.bincount(cell_E, gap_E, num_users * num_bins).reshape(-1, num_bins)
    events_UB = np.bincount(cell_E, minlength=num_users * num_bins).reshape(-1, num_bins).astype(np.float64)

    def under(weight_DU: Float64[np.ndarray, "D U"]) -> Float64[np.ndarray, " D"]:
        gap_DB, events_DB = weight_DU @ gap_UB, weight_DU @ events_UB
        own_gap_DB, own_pairs_DB = weight_DU**2 @ gap_UB**2, weight_DU**2 @ events_UB**2
        pairs_DB = events_DB**2 - own_pairs_DB
        alone_DB = pairs_DB < 0.5  # whole numbers, but for rounding
        product_DB = np.where(alone_DB, gap_DB**2, gap_DB**2 - own_gap_DB)
        pairs_DB = np.where(alone_DB, np.maximum(events_DB**2, 1.0), pairs_DB)
        square_D = (events_DB * product_DB / pairs_DB).sum(axis=1)
        return np.sqrt(np.maximum(0.0, ratio(np.stack([square_D, events_DB.sum(axis=1)], axis=1))))

    return Statistic(pairs.user_U, under, "lower", num_users)


def accuracy(pairs: Labelled) -> Statistic:
    """Share of events whose category was given the highest probability, alone at the top; 0 to 1.

    Raises:
        ValueError: a label is no category.

    >>> pairs = labelled(np.array([0, 1]), np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([1.0, 0.0]))
    >>> accuracy(pairs).value
    0.5
    """
    given_E = _given_to_category("accuracy", pairs)
    is_top_E = (pairs.prediction_E >= given_E[:, None]).sum(axis=1) == 1
    return _mean(pairs, is_top_E.astype(np.float64), "higher", "share")


def _share_of_rarer_class(pairs: Labelled) -> Float64[np.ndarray, " U"] | None:
    """Each user's share of the events of the class that the fewer users carry; None where a class does not occur."""
    count_U2 = sums_per_user(pairs.place_E, pairs.label_E, 1 - pairs.label_E)
    if not count_U2.sum(axis=0).all():
        return None
    return min((count_U2 / count_U2.sum(axis=0)).T, key=effective_number)


def _mean(
    pairs: Labelled, value_E: Float64[np.ndarray, " E"], better: Better, form: Form = "mean"
) -> Statistic:
    """The mean over the events of all users laid together, so that every event counts the same."""
    sum_UK = sums_per_user(pairs.place_E, value_E, np.ones_like(value_E))
    return from_sums(pairs.user_U, sum_UK, ratio, better, form)


def _kept(
    prediction_E: Float[np.ndarray, "E ..."], label_E: Float[np.ndarray, " E"]
) -> Bool[np.ndarray, " E"]:
    """The events that have a label, once it is sure that each has a prediction too."""
    kept_E = ~np.isnan(label_E)
    if not kept_E.any():
        raise ValueError(f"no labelled events: {len(label_E)} events, every label missing")
    broken_E = kept_E & ~np.isfinite(prediction_E).all(axis=tuple(range(1, prediction_E.ndim)))
    if broken_E.any():
        event = broken_E.argmax()
        raise ValueError(
            f"event {event} has a label but its prediction is {np.atleast_1d(prediction_E[event])}, "
            f"expected finite numbers ({broken_E.sum()} such events of {len(label_E)})"
        )
    return kept_E


def _given_to_category(name: str, pairs: Labelled) -> Float64[np.ndarray, " E"]:
    """The probability that each event gave to the category that happened."""
    num_categories = pairs.prediction_E.shape[1]
    wrong_E = ~np.isin(pairs.label_E, np.arange(num_categories))
    if wrong_E.any():
        raise ValueError(
            f"{name}: label {pairs.label_E[wrong_E][0]} at event {wrong_E.argmax()} of those that have one, "
            f"expected a category's index below {num_categories}"
        )
    category_E1 = pairs.label_E.astype(np.int64)[:, None]
    return np.take_along_axis(pairs.prediction_E, category_E1, axis=1)[:, 0].astype(np.float64)


def _is_positive(name: str, pairs: Labelled) -> Bool[np.ndarray, " E"]:
    wrong_E = (pairs.label_E != 0) & (pairs.label_E != 1)
    if wrong_E.any():
        raise ValueError(
            f"{name}: label {pairs.label_E[wrong_E][0]}, expected 0 or 1; "
            "for a number use rmse or mae, or say from which value on it counts as 1"
        )
    return pairs.label_E == 1


def _check_probabilities(name: str, probability_E: Float64[np.ndarray, " E"]) -> None:
    outside_E = (probability_E < 0) | (probability_E > 1)
    if outside_E.any():
        raise ValueError(
            f"{name}: prediction {probability_E[outside_E][0]} is no probability; are these logits?"
        )


def _nats(name: str, pairs: Labelled) -> Float64[np.ndarray, " E"]:
    if pairs.prediction_E.ndim > 1:
        given_E = _given_to_category(name, pairs)
        _check_probabilities(name, given_E)
    else:
        positive_E = _is_positive(name, pairs)
        _check_probabilities(name, pairs.prediction_E)
        given_E = np.where(positive_E, pairs.prediction_E, 1 - pairs.prediction_E)
    return -np.log(np.maximum(given_E, PROBABILITY_FLOOR))


def _midranks(
    place_E: Int64[np.ndarray, " E"], value_E: Float64[np.ndarray, " E"]
) -> Float64[np.ndarray, " E"]:
    """Each value's rank within its user, from 1 upwards, equal values sharing the mean of their ranks."""
    order_E = np.lexsort((value_E, place_E))
    place_sorted_E, value_sorted_E = place_E[order_E], value_E[order_E]
    starts_E = np.ones(len(order_E), dtype=bool)
    starts_E[1:] = (np.diff(place_sorted_E) != 0) | (np.diff(value_sorted_E) != 0)
    tie_E = np.cumsum(starts_E) - 1
    count_T = np.bincount(tie_E)
    last_T = np.cumsum(count_T)
    midrank_T = last_T - (count_T - 1) / 2
    first_U = np.concatenate([[0], np.cumsum(np.bincount(place_E))[:-1]])
    rank_E = np.empty(len(order_E))
    rank_E[order_E] = midrank_T[tie_E] - first_U[place_sorted_E]
    return rank_E
