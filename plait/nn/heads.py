"""From hidden states to actions: prediction heads, their losses, and the coupler of patched conditioning.

Shape letters: M hidden states, D width, A action columns, K outputs of all actions that depend on the state, L those
that do not, C outputs of one action, F late features, E events of the training rows, m labels that are known.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.action_kinds import ModelledKind, modelled
from plait.nn.actions import scaled
from plait.nn.initialising import layer_norm, unset
from plait.nn.linear import linear
from plait.nn.towers import ActionTower, LateFeatures, TowerConfig
from plait.schema import Action


class ActionHeads(nn.Module):
    """One output layer per action over a tower that the actions share.

    Args:
        num_late: late features: numbers (counts, mostly) that appear at scoring time only and enter before the tower.

    Raises:
        ValueError: the tower is made for actions or for late features, and there are none.

    Source: the AttnMVP paper, sections 1 and 2, for late features and for experts in the tower.
    """

    def __init__(
        self,
        actions: Sequence[Action],
        dim: int,
        tower: TowerConfig = TowerConfig(),
        num_late: int = 0,
    ) -> None:
        super().__init__()
        self.actions = tuple(actions)
        self.kinds = tuple(modelled(action.kind) for action in self.actions)
        self.widths = [kind.num_of_state for kind in self.kinds]
        self.constant_widths = [kind.num_constant for kind in self.kinds]
        self.num_late = num_late
        self.late = LateFeatures(num_late) if num_late else None
        self.tower = ActionTower(tower, dim, len(self.actions), num_late)
        self.weight_KD = unset(sum(self.widths), self.tower.num_out)
        self.bias_K = unset(sum(self.widths))
        self.constant_L = unset(sum(self.constant_widths)) if any(self.constant_widths) else None

    def init_weights(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.weight_KD, std=0.02, generator=generator)
        nn.init.zeros_(self.bias_K)
        if self.constant_L is not None:
            nn.init.zeros_(self.constant_L)

    def forward(
        self, hidden_MD: Float[Tensor, "M D"], late_MF: Float[Tensor, "M F"] | None = None
    ) -> tuple[Float[Tensor, "M C"], ...]:
        """Raw outputs of each action, in fp32.

        Raises:
            ValueError: there are more or fewer late features than the heads were built for.
        """
        of_state = self._of_state(hidden_MD, late_MF)
        if self.constant_L is None:
            return of_state
        constants = self.constant_L.float().split(self.constant_widths)
        return tuple(
            torch.cat([out_MC, constant_C.expand(out_MC.shape[0], -1)], dim=1)
            for out_MC, constant_C in zip(of_state, constants, strict=True)
        )

    def _of_state(self, hidden_MD: Tensor, late_MF: Tensor | None) -> tuple[Tensor, ...]:
        read = self.tower(self._with_late(hidden_MD, late_MF))
        if read.ndim == 2:  # all actions read the same
            return F.linear(read, self.weight_KD, self.bias_K).float().split(self.widths, dim=1)
        layers = zip(self.weight_KD.split(self.widths), self.bias_K.split(self.widths), strict=True)
        return tuple(
            F.linear(read_MD, weight_CD, bias_C).float()
            for read_MD, (weight_CD, bias_C) in zip(read.unbind(1), layers, strict=True)
        )

    @torch.no_grad()
    def start_at(self, raw_EA: Float[Tensor, "E A"], late_EF: Float[Tensor, "E F"] | None = None) -> None:
        """Starts where knowing only the training rows leads: every prediction is the mean of its labels at model
        scale, whatever the state. A sample of the rows does. For new weights only: what was learned is lost.

        An outcome that no label shows counts as half a label. An action without any label starts at 0. The scale of
        late features is taken from the rows, too.

        Args:
            raw_EA: labels in the log's units, NaN where missing.

        Raises:
            ValueError: a label is outside its action's range, a late feature is infinite or their number is wrong.
        """
        self._check_number(late_EF)
        unit_EA = scaled(self.actions, raw_EA).double()
        if self.late is not None and late_EF is not None:
            self.late.fit(late_EF)
        self.weight_KD.zero_()
        biases = self.bias_K.split(self.widths)
        free_L = self.bias_K.new_zeros(0) if self.constant_L is None else self.constant_L
        constants = free_L.split(self.constant_widths)
        columns = zip(self.kinds, biases, constants, unit_EA.unbind(1), strict=True)
        for kind, bias_C, constant_C, unit_E in columns:
            known_m = unit_E[~unit_E.isnan()]
            start_C = unit_E.new_zeros(len(bias_C) + len(constant_C))
            if len(known_m):
                start_C = kind.outputs_of_means(known_m)
            bias_C.copy_(start_C[: len(bias_C)])
            constant_C.copy_(start_C[len(bias_C) :])

    def losses(
        self,
        hidden_MD: Float[Tensor, "M D"],
        raw_MA: Float[Tensor, "M A"],
        late_MF: Float[Tensor, "M F"] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """By action name, the mean loss over the labels that are not missing; 0 where all are.

        Args:
            raw_MA: labels in the log's units, NaN where missing.
            late_MF: late features, NaN where missing.

        Raises:
            ValueError: a label is outside its action's range, or the number of late features is wrong.
        """
        return self.losses_of(self(hidden_MD, late_MF), raw_MA)

    def losses_of(
        self, out: Sequence[Float[Tensor, "M _"]], raw_MA: Float[Tensor, "M A"]
    ) -> dict[str, Float[Tensor, ""]]:
        """As `losses`, of raw outputs."""
        assert raw_MA.shape[1] == len(self.actions), (
            f"{raw_MA.shape[1]} columns of labels, expected one for each of the {len(self.actions)} actions"
        )
        unit_MA = scaled(self.actions, raw_MA)
        return {
            action.name: _mean_loss(kind, out_MC, unit_M)
            for action, kind, out_MC, unit_M in zip(
                self.actions, self.kinds, out, unit_MA.unbind(1), strict=True
            )
        }

    def predict(
        self, hidden_MD: Float[Tensor, "M D"], late_MF: Float[Tensor, "M F"] | None = None
    ) -> dict[str, Float[Tensor, " M *C"]]:
        """By action name, what is expected, in the log's units (`actions.scaled` brings it to model scale).

        Of an action that is one of several values, that is the probability of each, the only prediction of shape
        M x C. The classes of `plait.nn.action_kinds` say how.
        """
        return self.expected(self(hidden_MD, late_MF))

    def expected(self, out: Sequence[Float[Tensor, "M _"]]) -> dict[str, Float[Tensor, " M *C"]]:
        """As `predict`, of raw outputs."""
        return {
            action.name: kind.expected(out_MC)
            for action, kind, out_MC in zip(self.actions, self.kinds, out, strict=True)
        }

    def _with_late(self, hidden_MD: Tensor, late_MF: Tensor | None) -> Tensor:
        self._check_number(late_MF)
        if self.late is None or late_MF is None:
            return hidden_MD
        return torch.cat([hidden_MD, self.late(late_MF).to(hidden_MD.dtype)], dim=1)

    def _check_number(self, late_MF: Tensor | None) -> None:
        found = 0 if late_MF is None else late_MF.shape[1]
        if found != self.num_late:
            raise ValueError(
                f"found {found} late features (feature columns that appear at scoring time only), expected "
                f"{self.num_late}, which the heads were built for: "
                + (
                    "give one row of them with every state"
                    if self.num_late
                    else "leave them out, or build anew"
                )
            )


class Coupler(nn.Module):
    """g(h, e): lets a fact that was known late, an item or an action, into a hidden state.

    An MLP over [h, e, h * e] with a residual on h, where e is normalised first: embeddings start about fifty
    times smaller than hidden states, and the MLP would hardly see them.

    Source: the LAC paper, section 4.2, which leaves the form of g open.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = layer_norm(dim)
        self.inner = linear(3 * dim, dim)
        self.outer = linear(dim, dim)

    def forward(self, hidden_MD: Float[Tensor, "M D"], fact_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        fact_MD = self.norm(fact_MD)
        inner_MD = self.inner(torch.cat([hidden_MD, fact_MD, hidden_MD * fact_MD], dim=-1))
        return hidden_MD + self.outer(F.gelu(inner_MD))


def _mean_loss(kind: ModelledKind, out_MC: Tensor, unit_M: Tensor) -> Tensor:
    known_M = ~unit_M.isnan()
    loss_M = kind.losses(out_MC, unit_M.where(known_M, 0.0))  # any label does: its loss is dropped below
    return loss_M.where(known_M, 0.0).sum() / known_M.sum().clamp(min=1)
