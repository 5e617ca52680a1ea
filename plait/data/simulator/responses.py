"""What a user does with an item: how responses are drawn, how likely they are, what to expect of them.

Every kind of action is made of the same two parts: hits among a number of trials (a binary action is one trial,
a bounded number four, an ordinal one less than its levels), and a size, the log1p of an amount, which follows a gamma
distribution. So all log-likelihoods are linear in a few features of the value, and one product scores every latent
state.

Shape letters: E events, F features of a value, V levels, X the axes of whatever states the chances are known for.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from jaxtyping import Float, Float64

from plait.data.columns.actions import ActionDraws, read_as
from plait.limits import Between, check_numbers
from plait.schema import Action

SHAPE = 64.0  # of the gamma distribution of log1p(amount): its standard deviation is an eighth of its mean
SWING = 0.5  # by which share of itself the mean of log1p(amount) can move
BIAS_WITHIN, BISECTIONS = 500.0, 60
LARGEST_LOGIT = 36.0  # a little above, fp64 rounds the chance to 1
LARGEST_SIZE = 10.0  # mean of log1p(amount); far below SHAPE, where the mean of the amount would be infinite


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """An action that the world's users take.

    `rate` is the share of hits (a binary action happens, a zero-inflated amount is above 0, a bounded number or an
    ordinal rises by a level) among items shown while nothing follows from the last action. `size` is the mean of
    log1p(amount) where nothing moves it.
    """

    action: Action
    rate: Annotated[float, Between(0, 1, "a chance", above=True, below=True)] = 0.5
    size: Annotated[float, Between(0, LARGEST_SIZE, "the mean of log1p(amount)", above=True)] = 3.0

    def __post_init__(self) -> None:
        _draws_of(self.action)
        check_numbers(f"response {self.action.name!r}: ", self)

    @property
    def trials(self) -> int:
        return _draws_of(self.action).trials

    @property
    def has_size(self) -> bool:
        return _draws_of(self.action).has_size


def _draws_of(action: Action) -> ActionDraws:
    """Raises ValueError where a world cannot draw such an action."""
    draws = read_as(action.kind).draws
    if draws is None:
        raise ValueError(
            f"response {action.name!r} is {action.kind.__struct_config__.tag}; expected values with an order: a "
            "number, 0 or 1, or levels (an ordinal action)"
        )
    return draws


@dataclass(frozen=True)
class ResponseChances:
    """A response's distribution in each of several states."""

    hit: Float64[np.ndarray, "*X"]  # chance of each trial
    size: Float64[np.ndarray, "*X"]  # mean of log1p(amount), where there is an amount


def chances_of(response: Response, bias: float, effect: Float[np.ndarray, "*X"]) -> ResponseChances:
    """The distribution where taste, mood, item and scenario add up to `effect`, 0 being average.

    >>> from plait.schema import Amount
    >>> purchase = Response(action=Action("purchase", Amount(zero_inflated=True)))
    >>> chances_of(purchase, -1.0, np.array([0.0, 1.0])).hit.round(3)
    array([0.269, 0.5  ])
    """
    return ResponseChances(_chance(bias + effect), response.size * (1 + SWING * np.tanh(effect / 3)))


def _chance(logit: Float[np.ndarray, "*X"]) -> Float64[np.ndarray, "*X"]:
    """Never 0 or 1: the logarithm of a chance and that of its complement stay finite."""
    return 1 / (1 + np.exp(-np.clip(logit, -LARGEST_LOGIT, LARGEST_LOGIT)))


def bias_for(rate: float, effect_E: Float64[np.ndarray, " E"]) -> float:
    """The bias with which hits come at `rate` over events of these effects.

    >>> round(bias_for(0.2, np.zeros(3)), 3)
    -1.386
    """
    low, high = -BIAS_WITHIN, BIAS_WITHIN
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_high = _chance(middle + effect_E).mean() > rate
        low, high = (low, middle) if is_high else (middle, high)
    return (low + high) / 2


def draw(
    response: Response,
    chances: ResponseChances,
    uniform_E: Float64[np.ndarray, " E"],
    rng: np.random.Generator,
) -> Float64[np.ndarray, " E"]:
    """Values in the log's units.

    Args:
        uniform_E: decides the first trial, so that worlds of one seed and other strengths stay comparable.
    """
    hit_E = (uniform_E < chances.hit).astype(np.float64)
    draws = _draws_of(response.action)
    if draws.has_size:
        amount_E = np.expm1(rng.standard_gamma(SHAPE, len(hit_E)) * chances.size / SHAPE)
        return amount_E * hit_E if draws.trials else amount_E
    more_E = rng.random((draws.trials - 1, len(hit_E))) < chances.hit
    return draws.low + (draws.high - draws.low) * (hit_E + more_E.sum(0)) / draws.trials


def features(response: Response, value_E: Float[np.ndarray, " E"]) -> Float64[np.ndarray, "F E"]:
    """What a value's log-likelihood is linear in: hits and misses, whether there is a size, and the size."""
    value_E = value_E.astype(np.float64)
    happened_E = (value_E > 0).astype(np.float64)
    draws, rows = _draws_of(response.action), []
    if draws.trials:
        hits_E = (value_E - draws.low) / (draws.high - draws.low) * draws.trials
        if draws.has_size:
            hits_E = happened_E
        rows += [hits_E, draws.trials - hits_E]
    if draws.has_size:
        rows += [happened_E, np.log1p(value_E)]
    return np.stack(rows)


def weights(response: Response, chances: ResponseChances) -> Float64[np.ndarray, " F *X"]:
    """What `features` are multiplied with: their sum is the log-likelihood, up to a term of the value alone."""
    rows = []
    if response.trials:
        rows += [np.log(chances.hit), np.log1p(-chances.hit)]
    if response.has_size:
        rows += [-SHAPE * np.log(chances.size), -SHAPE / chances.size]
    return np.stack(rows)


@dataclass(frozen=True)
class Expected:
    """Predictions of one action, as a model's head gives them. They differ for amounts only; of an ordinal, all are the
    chances of its levels, in a last axis more.
    """

    predicted: Float64[np.ndarray, "*X"]  # as a model's head defines its prediction
    mean: Float64[np.ndarray, "*X"]  # lowest mean squared error in the log's units
    log_mean: Float64[np.ndarray, "*X"]  # expm1 of the mean of log1p(value): lowest error at model scale


def expected(response: Response, chances: ResponseChances, weight: Float64[np.ndarray, "*X Z"]) -> Expected:
    """What to expect when the last axis of `chances` is uncertain, each state having its `weight`.

    A head predicts P(value > 0) times expm1 of the mean of log1p(value) over the values above 0. That is no mean:
    it lies below it, since log1p is concave.
    """
    draws = _draws_of(response.action)
    if draws.has_size:
        return _expected_amount(chances, weight, is_certain=not draws.trials)
    if draws.tells_levels:
        level = _chances_of_hits(chances.hit, weight, draws.trials)
        return Expected(level, level, level)
    value = draws.low + (draws.high - draws.low) * (weight * chances.hit).sum(-1)
    return Expected(value, value, value)


def _expected_amount(
    chances: ResponseChances, weight: Float64[np.ndarray, "*X Z"], is_certain: bool
) -> Expected:
    positive = weight if is_certain else weight * chances.hit
    occurs = positive.sum(-1)
    log_mean = (positive * chances.size).sum(-1)
    mean = (positive * ((1 - chances.size / SHAPE) ** -SHAPE - 1)).sum(-1)
    return Expected(occurs * np.expm1(log_mean / occurs), mean, np.expm1(log_mean))


def _chances_of_hits(
    hit: Float64[np.ndarray, "*X Z"], weight: Float64[np.ndarray, "*X Z"], trials: int
) -> Float64[np.ndarray, "*X V"]:
    """The chances of none to all hits: a binomial distribution, by its logarithm, in which many trials are finite."""
    log_hit, log_miss = np.log(hit), np.log1p(-hit)
    ways = [
        math.lgamma(trials + 1) - math.lgamma(n + 1) - math.lgamma(trials - n + 1) for n in range(trials + 1)
    ]
    log_chances = (ways[n] + n * log_hit + (trials - n) * log_miss for n in range(trials + 1))
    return np.stack([(weight * np.exp(log_chance)).sum(-1) for log_chance in log_chances], axis=-1)
