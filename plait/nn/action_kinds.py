"""What a kind of action is to a model: its scale, how it is read as an input, and how it is predicted.

One final class for each kind of `plait.schema`, over one abstract class, and one function from the kind to its class.

Shape letters: E events, M hidden states, C outputs of one action, m labels that are known, V levels, K scores of a part
of an action.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from plait.schema import ActionKind, Amount, Binary, Categorical, Ordinal, Regression

NUM_KNOTS = 17  # of a number over [0, 1]: the values of scales with 3, 5, 9 or 17 steps fall on knots

HUBER_DELTA = 0.1  # of the range: beyond a tenth of it an error counts linearly

# The variance of a uniform value on [0, 1]. Squared errors at model scale are counted in it, so that knowing
# nothing costs about 1, as it costs log 2 of a binary action: else such a task is drowned by the others.
UNIFORM_VARIANCE = 1 / 12

# Labels that an outcome counts for which no label shows: a share of 0 would take infinite certainty.
UNSEEN = 0.5


@dataclass(frozen=True)
class Knots:
    """Where a model's vectors of values stand at model scale, from 0 on."""

    number: int
    per_unit: float


class ModelledKind(ABC):
    """How a model treats the actions of one kind. Raw outputs are those that a head computes from a state, then those
    that it learns once for all states.
    """

    @property
    @abstractmethod
    def knots(self) -> Knots:
        """Vectors of its values: of one between two knots, a mixture of theirs."""

    @property
    @abstractmethod
    def num_of_state(self) -> int:
        """Outputs that depend on the state."""

    @property
    @abstractmethod
    def num_constant(self) -> int:
        """Outputs that are the same for all states."""

    @abstractmethod
    def to_unit(self, raw_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        """From what events hold to model scale. NaN, a missing value, stays NaN."""

    @abstractmethod
    def from_unit(self, unit_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        """The inverse of `to_unit`, never out of the kind's bounds."""

    @abstractmethod
    def outputs_of_means(self, unit_m: Float[Tensor, " m"]) -> Float[Tensor, " C"]:
        """The outputs that predict the means of these labels, of which there is at least one.

        Args:
            unit_m: in fp64, at model scale.
        """

    @abstractmethod
    def losses(self, out_MC: Float[Tensor, "M C"], unit_M: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        """The loss on each label, at model scale."""

    @abstractmethod
    def expected(self, out_MC: Float[Tensor, "M C"]) -> Float[Tensor, " M *C"]:
        """What is expected, in the log's units; of outcomes the probability of each."""

    @abstractmethod
    def scores_of(self, out_MC: Float[Tensor, "M C"]) -> tuple[Float[Tensor, "M _"], ...]:
        """The outputs as counts add to them: of each part that is counted by itself, on the scale of
        `plait.counts.kinds`."""

    @abstractmethod
    def outputs_of(self, score_MK: Sequence[Float[Tensor, "M _"]]) -> Float[Tensor, "M C"]:
        """The inverse of `scores_of`."""


def modelled(kind: ActionKind) -> ModelledKind:
    """How a model treats a kind.

    >>> modelled(Regression(1, 5)).to_unit(torch.tensor([1.0, 4.0, torch.nan])).tolist()
    [0.0, 0.75, nan]
    """
    match kind:
        case Binary():
            return BinaryOutcome()
        case Regression():
            return BoundedNumber(kind)
        case Amount(zero_inflated=False):
            return LogarithmicAmount(kind)
        case Amount():
            return ZeroInflatedAmount(kind)
        case Categorical():
            return CategoricalOutcome(len(kind.values))
        case Ordinal():
            return OrdinalOutcome(len(kind.values))
        case _:
            assert_never(kind)


@final
@dataclass(frozen=True)
class BinaryOutcome(ModelledKind):
    """Its output is the logit of 1; what is expected, the probability of 1."""

    knots = Knots(2, 1.0)
    num_of_state = 1
    num_constant = 0

    def to_unit(self, raw_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return raw_E

    def from_unit(self, unit_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return unit_E

    def outputs_of_means(self, unit_m: Float[Tensor, " m"]) -> Float[Tensor, " C"]:
        return _log_odds(unit_m.sum(), len(unit_m))[None]

    def losses(self, out_MC: Float[Tensor, "M C"], unit_M: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        return F.binary_cross_entropy_with_logits(out_MC[:, 0], unit_M, reduction="none")

    def expected(self, out_MC: Float[Tensor, "M C"]) -> Float[Tensor, " M *C"]:
        return out_MC[:, 0].sigmoid()

    def scores_of(self, out_MC: Float[Tensor, "M C"]) -> tuple[Float[Tensor, "M _"], ...]:
        return (out_MC,)

    def outputs_of(self, score_MK: Sequence[Float[Tensor, "M _"]]) -> Float[Tensor, "M C"]:
        return score_MK[0]


@final
@dataclass(frozen=True)
class BoundedNumber(ModelledKind):
    """Its output is the mean at model scale; what is expected, the mean, clamped to [low, high]."""

    kind: Regression
    knots = Knots(NUM_KNOTS, NUM_KNOTS - 1.0)
    num_of_state = 1
    num_constant = 0

    def to_unit(self, raw_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return (raw_E - self.kind.low) / (self.kind.high - self.kind.low)

    def from_unit(self, unit_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        low, high = self.kind.low, self.kind.high
        return (low + unit_E * (high - low)).clamp(low, high)  # fp32 may round past a bound

    def outputs_of_means(self, unit_m: Float[Tensor, " m"]) -> Float[Tensor, " C"]:
        return unit_m.mean()[None]

    def losses(self, out_MC: Float[Tensor, "M C"], unit_M: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        match self.kind.loss:
            case "mse":
                return _squared(out_MC[:, 0], unit_M)
            case "huber":
                loss_M = F.huber_loss(out_MC[:, 0], unit_M, reduction="none", delta=HUBER_DELTA)
                return loss_M / UNIFORM_VARIANCE
            case _:
                assert_never(self.kind.loss)

    def expected(self, out_MC: Float[Tensor, "M C"]) -> Float[Tensor, " M *C"]:
        return self.from_unit(out_MC[:, 0].clamp(0, 1))

    def scores_of(self, out_MC: Float[Tensor, "M C"]) -> tuple[Float[Tensor, "M _"], ...]:
        return (self.kind.low + out_MC * (self.kind.high - self.kind.low),)

    def outputs_of(self, score_MK: Sequence[Float[Tensor, "M _"]]) -> Float[Tensor, "M C"]:
        return (score_MK[0] - self.kind.low) / (self.kind.high - self.kind.low)


@final
@dataclass(frozen=True)
class LogarithmicAmount(ModelledKind):
    """Its output is the mean of log1p(value) / log1p_scale; what is expected, expm1 of the mean of log1p(value), below
    the mean where values are skewed, and at most the largest of training.
    """

    kind: Amount
    knots = Knots(NUM_KNOTS, NUM_KNOTS - 1.0)
    num_of_state = 1
    num_constant = 0

    def to_unit(self, raw_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return _logarithmic(self.kind, raw_E)

    def from_unit(self, unit_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return _amount(self.kind, unit_E)

    def outputs_of_means(self, unit_m: Float[Tensor, " m"]) -> Float[Tensor, " C"]:
        return unit_m.mean()[None]

    def losses(self, out_MC: Float[Tensor, "M C"], unit_M: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        return _squared(out_MC[:, 0], unit_M)

    def expected(self, out_MC: Float[Tensor, "M C"]) -> Float[Tensor, " M *C"]:
        return self.from_unit(out_MC[:, 0].clamp(0, 1))

    def scores_of(self, out_MC: Float[Tensor, "M C"]) -> tuple[Float[Tensor, "M _"], ...]:
        return (out_MC * self.kind.log1p_scale,)

    def outputs_of(self, score_MK: Sequence[Float[Tensor, "M _"]]) -> Float[Tensor, "M C"]:
        return score_MK[0] / self.kind.log1p_scale


@final
@dataclass(frozen=True)
class ZeroInflatedAmount(ModelledKind):
    """Its outputs are the logit of more than 0, then as of any amount, over the values above 0; what is expected, the
    probability of the one times the other.
    """

    kind: Amount
    knots = Knots(NUM_KNOTS, NUM_KNOTS - 1.0)
    num_of_state = 2
    num_constant = 0

    def to_unit(self, raw_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return _logarithmic(self.kind, raw_E)

    def from_unit(self, unit_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return _amount(self.kind, unit_E)

    def outputs_of_means(self, unit_m: Float[Tensor, " m"]) -> Float[Tensor, " C"]:
        positive_m = unit_m[unit_m > 0]
        mean = positive_m.mean() if len(positive_m) else unit_m.new_zeros(())
        return torch.stack([_log_odds(unit_m.new_tensor(len(positive_m)), len(unit_m)), mean])

    def losses(self, out_MC: Float[Tensor, "M C"], unit_M: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        positive_M = (unit_M > 0).float()
        occurs_M = F.binary_cross_entropy_with_logits(out_MC[:, 0], positive_M, reduction="none")
        return occurs_M + positive_M * _squared(out_MC[:, 1], unit_M)

    def expected(self, out_MC: Float[Tensor, "M C"]) -> Float[Tensor, " M *C"]:
        return out_MC[:, 0].sigmoid() * self.from_unit(out_MC[:, 1].clamp(0, 1))

    def scores_of(self, out_MC: Float[Tensor, "M C"]) -> tuple[Float[Tensor, "M _"], ...]:
        return out_MC[:, :1], out_MC[:, 1:] * self.kind.log1p_scale

    def outputs_of(self, score_MK: Sequence[Float[Tensor, "M _"]]) -> Float[Tensor, "M C"]:
        occurs_M1, log1p_M1 = score_MK
        return torch.cat([occurs_M1, log1p_M1 / self.kind.log1p_scale], dim=1)


@final
@dataclass(frozen=True)
class CategoricalOutcome(ModelledKind):
    """Its outputs are logits of the values."""

    num_values: int
    num_constant = 0

    @property
    def knots(self) -> Knots:
        return Knots(self.num_values, 1.0)

    @property
    def num_of_state(self) -> int:
        return self.num_values

    def to_unit(self, raw_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return raw_E

    def from_unit(self, unit_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return unit_E

    def outputs_of_means(self, unit_m: Float[Tensor, " m"]) -> Float[Tensor, " C"]:
        return _shares(unit_m, self.num_values).log()

    def losses(self, out_MC: Float[Tensor, "M C"], unit_M: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        return F.cross_entropy(out_MC, unit_M.long(), reduction="none")

    def expected(self, out_MC: Float[Tensor, "M C"]) -> Float[Tensor, " M *C"]:
        return out_MC.softmax(dim=-1)

    def scores_of(self, out_MC: Float[Tensor, "M C"]) -> tuple[Float[Tensor, "M _"], ...]:
        return (out_MC,)

    def outputs_of(self, score_MK: Sequence[Float[Tensor, "M _"]]) -> Float[Tensor, "M C"]:
        return score_MK[0]


@final
@dataclass(frozen=True)
class OrdinalOutcome(ModelledKind):
    """Cumulative logits: one score s of the state, and thresholds t that ascend from 0, the same for all states, with
    P(level > v) = sigmoid(s - t[v]). The outputs are s, then what softplus makes the steps between the thresholds.

    Source: McCullagh, Regression Models for Ordinal Data, JRSS B 1980 (proportional odds); its free first threshold
    is the bias of s here.
    """

    num_values: int
    num_of_state = 1

    @property
    def knots(self) -> Knots:
        return Knots(self.num_values, 1.0)

    @property
    def num_constant(self) -> int:
        return self.num_values - 2

    def to_unit(self, raw_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return raw_E

    def from_unit(self, unit_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        return unit_E

    def outputs_of_means(self, unit_m: Float[Tensor, " m"]) -> Float[Tensor, " C"]:
        share_V = _shares(unit_m, self.num_values)
        above_V = share_V.flip(0).cumsum(0).flip(0)[1:]  # P(level > v), without the highest level
        logit_V = above_V.log() - share_V.cumsum(0)[:-1].log()
        step_V = logit_V[:-1] - logit_V[1:]
        return torch.cat([logit_V[:1], step_V.expm1().log()])

    def losses(self, out_MC: Float[Tensor, "M C"], unit_M: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
        return -self._log_chances(out_MC).gather(1, unit_M.long()[:, None])[:, 0]

    def expected(self, out_MC: Float[Tensor, "M C"]) -> Float[Tensor, " M *C"]:
        return self._log_chances(out_MC).softmax(dim=-1)  # they sum to 1 but for rounding

    def scores_of(self, out_MC: Float[Tensor, "M C"]) -> tuple[Float[Tensor, "M _"], ...]:
        return (self._above(out_MC),)

    def outputs_of(self, score_MK: Sequence[Float[Tensor, "M _"]]) -> Float[Tensor, "M C"]:
        (above_MV,) = score_MK
        between_MC = above_MV[:, :-1] - above_MV[:, 1:]
        return torch.cat([above_MV[:, :1], between_MC + (-torch.expm1(-between_MC)).log()], dim=1)

    def _log_chances(self, out_MC: Tensor) -> Tensor:
        """With two neighbouring thresholds a below b, sigmoid(s - a) - sigmoid(s - b) is the product of sigmoid(s - a),
        sigmoid(b - s) and 1 - exp(a - b); the last one is sigmoid(c) for b - a = softplus(c). So nothing cancels.
        """
        above_MV, between = self._above(out_MC), F.pad(F.logsigmoid(out_MC[:, 1:]), (1, 1))
        return F.pad(F.logsigmoid(above_MV), (1, 0)) + F.pad(F.logsigmoid(-above_MV), (0, 1)) + between

    @staticmethod
    def _above(out_MC: Tensor) -> Tensor:
        """The logit that each level but the highest is exceeded."""
        score_M1, step_MC = out_MC[:, :1], out_MC[:, 1:]
        threshold_MV = F.pad(F.softplus(step_MC).cumsum(1), (1, 0))
        return score_M1 - threshold_MV.clamp(max=torch.finfo(out_MC.dtype).max)


def _logarithmic(kind: Amount, raw_E: Tensor) -> Tensor:
    return torch.log1p(raw_E) / kind.log1p_scale


def _amount(kind: Amount, unit_E: Tensor) -> Tensor:
    value_E = torch.expm1(unit_E * kind.log1p_scale)
    return value_E.clamp(max=torch.finfo(value_E.dtype).max)  # rounding may end at infinity


def _squared(out_M: Tensor, unit_M: Tensor) -> Tensor:
    return (out_M - unit_M) ** 2 / UNIFORM_VARIANCE


def _log_odds(ones: Tensor, num_labels: int) -> Tensor:
    return ones.clamp(min=UNSEEN).log() - (num_labels - ones).clamp(min=UNSEEN).log()


def _shares(unit_m: Tensor, num_values: int) -> Tensor:
    times_V = unit_m.long().bincount(minlength=num_values).double().clamp(min=UNSEEN)
    return times_V / times_V.sum()
