"""From hidden states to actions: prediction heads, their losses, and the coupler of patched conditioning.

Shape letters: M hidden states, D width, A action columns, K output columns of all actions, C of one action.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.actions import scaled, unscaled
from plait.nn.linear import linear
from plait.schema import Action, ActionKind, Amount, Binary, Categorical, Regression

Tower = Literal["linear", "mlp"]

HUBER_DELTA = 0.1  # of the range: beyond a tenth of it an error counts linearly

# The variance of a uniform value on [0, 1]. Squared errors at model scale are counted in it, so that knowing
# nothing costs about 1, as it costs log 2 of a binary action: else such a task is drowned by the others.
UNIFORM_VARIANCE = 1 / 12


class ActionHeads(nn.Module):
    """One head per action over a shared tower: nothing ("linear"), or one hidden layer ("mlp")."""

    def __init__(self, actions: Sequence[Action], dim: int, tower: Tower = "mlp") -> None:
        super().__init__()
        self.actions = tuple(actions)
        self.widths = [_num_outputs(action.kind) for action in self.actions]
        self.tower = nn.Sequential(linear(dim, dim), nn.GELU()) if tower == "mlp" else nn.Identity()
        self.weight_KD = nn.Parameter(torch.randn(sum(self.widths), dim) * 0.02)
        self.bias_K = nn.Parameter(torch.zeros(sum(self.widths)))

    def forward(self, hidden_MD: Float[Tensor, "M D"]) -> tuple[Float[Tensor, "M C"], ...]:
        """Raw outputs of each action, in fp32."""
        out_MK = F.linear(self.tower(hidden_MD), self.weight_KD, self.bias_K)
        return out_MK.float().split(self.widths, dim=1)

    def losses(
        self, hidden_MD: Float[Tensor, "M D"], raw_MA: Float[Tensor, "M A"]
    ) -> dict[str, Float[Tensor, ""]]:
        """By action name, the mean loss over the labels that are not missing; 0 where all are.

        Args:
            raw_MA: labels in the log's units, NaN where missing.

        Raises:
            ValueError: a label is outside its action's range.
        """
        unit_MA = scaled(self.actions, raw_MA)
        return {
            action.name: _mean_loss(action.kind, out_MC, unit_M)
            for action, out_MC, unit_M in zip(self.actions, self(hidden_MD), unit_MA.unbind(1), strict=True)
        }

    def predict(self, hidden_MD: Float[Tensor, "M D"]) -> dict[str, Float[Tensor, "M *C"]]:
        """By action name, what is expected, in the log's units (`actions.scaled` brings it to model scale).

        | kind | prediction |
        |---|---|
        | binary | the probability of 1 |
        | regression | the mean, clamped to [low, high] |
        | amount | expm1 of the mean of log1p(value), which lies below the mean of a skewed value |
        | amount, zero-inflated | the probability of more than 0, times the above over the values above 0 |
        | categorical | the probability of each value, the only prediction of shape M x C |
        """
        return {
            action.name: _expected(action.kind, out_MC)
            for action, out_MC in zip(self.actions, self(hidden_MD), strict=True)
        }


class Coupler(nn.Module):
    """g(h, e): lets a fact that was known late, an item or an action, into a hidden state.

    An MLP over [h, e, h * e] with a residual on h, where e is normalised first: embeddings start about fifty
    times smaller than hidden states, and the MLP would hardly see them.

    Source: the LAC paper, section 4.2, which leaves the form of g open.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.inner = linear(3 * dim, dim)
        self.outer = linear(dim, dim)

    def forward(self, hidden_MD: Float[Tensor, "M D"], fact_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        fact_MD = self.norm(fact_MD)
        inner_MD = self.inner(torch.cat([hidden_MD, fact_MD, hidden_MD * fact_MD], dim=-1))
        return hidden_MD + self.outer(F.gelu(inner_MD))


def _num_outputs(kind: ActionKind) -> int:
    match kind:
        case Categorical(values=values):
            return len(values)
        case Amount(zero_inflated=True):
            return 2  # logit of "more than 0", then the scaled value if so
        case Binary() | Regression() | Amount():
            return 1


def _mean_loss(kind: ActionKind, out_MC: Tensor, unit_M: Tensor) -> Tensor:
    known_M = ~unit_M.isnan()
    loss_M = _losses(kind, out_MC, unit_M.where(known_M, 0.0))  # any label does: its loss is dropped below
    return loss_M.where(known_M, 0.0).sum() / known_M.sum().clamp(min=1)


def _losses(kind: ActionKind, out_MC: Tensor, label_M: Tensor) -> Tensor:
    match kind:
        case Binary():
            return F.binary_cross_entropy_with_logits(out_MC[:, 0], label_M, reduction="none")
        case Regression(loss="huber"):
            loss_M = F.huber_loss(out_MC[:, 0], label_M, reduction="none", delta=HUBER_DELTA)
            return loss_M / UNIFORM_VARIANCE
        case Regression() | Amount(zero_inflated=False):
            return (out_MC[:, 0] - label_M) ** 2 / UNIFORM_VARIANCE
        case Amount():
            positive_M = (label_M > 0).float()
            occurs_M = F.binary_cross_entropy_with_logits(out_MC[:, 0], positive_M, reduction="none")
            return occurs_M + positive_M * (out_MC[:, 1] - label_M) ** 2 / UNIFORM_VARIANCE
        case Categorical():
            return F.cross_entropy(out_MC, label_M.long(), reduction="none")


def _expected(kind: ActionKind, out_MC: Tensor) -> Tensor:
    match kind:
        case Binary():
            return out_MC[:, 0].sigmoid()
        case Regression():
            return unscaled(kind, out_MC[:, 0].clamp(0, 1))
        case Amount(zero_inflated=True):
            return out_MC[:, 0].sigmoid() * unscaled(kind, out_MC[:, 1].clamp(min=0))
        case Amount():
            return unscaled(kind, out_MC[:, 0].clamp(min=0))
        case Categorical():
            return out_MC.softmax(dim=-1)
