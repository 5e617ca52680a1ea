"""Towers: what lies between a hidden state and the output layers of its tasks.

Shape letters: M hidden states, X width of what enters a tower (a state, then its late features), D width of the
model, A tasks (action columns), E shared experts, T a task's own experts, Y = A * T + E all experts of a level, W width
of an expert, F late features, G groups, I and O what goes into a layer and comes out.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from plait.limits import DEPTH, Between, check_numbers
from plait.nn.initialising import Linear, normal
from plait.nn.linear import linear

LATE_LIMIT = 10.0  # standard deviations: a count that explodes once served must not drown the state


EXPERTS = Between(1, 4_096, "every example passes through all of them")


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """The shape of a tower, and whether late features steer it."""

    kind: Literal["linear", "mlp", "mmoe", "ple"] = "mlp"
    """linear: nothing. mlp: one hidden layer for all tasks. mmoe, ple: experts, which a gate of its own mixes for each
    task, then a hidden layer per task (Ma et al., KDD 2018; Tang et al., RecSys 2020)."""
    num_shared_experts: Annotated[int, EXPERTS] = 4
    """All experts of mmoe; in ple those beside the tasks' own, at each level."""
    num_task_experts: Annotated[int, EXPERTS] = 1
    """Experts of ple that one task has to itself, at each level."""
    num_levels: Annotated[int, DEPTH] = 2
    """Layers of experts in ple."""
    expert_multiple: Annotated[int, Between(1, 64, "of the width")] = 1
    """An expert's width over dim."""
    gate: Literal["none", "ppnet"] = "none"
    """ppnet: late features scale what each task's own layers read (Chang et al., KDD 2023)."""

    def __post_init__(self) -> None:
        check_numbers("model.tower.", self)

    @property
    def mixes_experts(self) -> bool:
        match self.kind:
            case "linear" | "mlp":
                return False
            case "mmoe" | "ple":
                return True
            case _:
                assert_never(self.kind)


class ActionTower(nn.Module):
    """What the tasks share, then a hidden layer per task where experts are mixed per task.

    Raises:
        ValueError: the tower is made for tasks or for late features, and there are none.
    """

    def __init__(self, config: TowerConfig, dim: int, num_tasks: int, num_late: int) -> None:
        super().__init__()
        _check(config, num_tasks, num_late)
        num_in, width = dim + 2 * num_late, config.expert_multiple * dim
        mixed, gated = config.mixes_experts, config.gate == "ppnet"
        self.num_out = num_in if config.kind == "linear" else dim
        self.shared = _shared(config, num_in, dim, num_tasks)
        self.hidden = GroupedLinear(num_tasks, width, dim) if mixed else None
        self.hidden_gate = PersonalGate(num_in, dim, num_tasks, width) if mixed and gated else None
        self.out_gate = PersonalGate(num_in, dim, num_tasks, self.num_out) if gated else None

    def forward(self, x_MX: Float[Tensor, "M X"]) -> Float[Tensor, "M *A D"]:
        """What the output layers read: M x D where all tasks read the same, else M x A x D.

        Args:
            x_MX: hidden states, and behind them the output of `LateFeatures`.
        """
        read: Tensor = self.shared(x_MX)
        if self.hidden is not None:
            if self.hidden_gate is not None:
                read = read * self.hidden_gate(x_MX)
            read = F.gelu(self.hidden(read))
        if self.out_gate is None:
            return read
        return (read if read.ndim == 3 else read.unsqueeze(1)) * self.out_gate(x_MX)


class Mmoe(nn.Module):
    """Multi-gate mixture of experts: f_k(x) = sum over i of softmax(G_k x)_i f_i(x), for every task k.

    Source: Ma et al., KDD 2018, whose experts are one layer, too; here with GELU for ReLU, and gates have a bias.
    """

    def __init__(self, num_in: int, width: int, num_tasks: int, num_experts: int) -> None:
        super().__init__()
        self.num_tasks, self.num_experts = num_tasks, num_experts
        self.experts = linear(num_in, num_experts * width, _std(num_in))
        self.gates = linear(num_in, num_tasks * num_experts)

    def forward(self, x_MX: Float[Tensor, "M X"]) -> Float[Tensor, "M A W"]:
        expert_MEW = F.gelu(self.experts(x_MX)).unflatten(1, (self.num_experts, -1))
        gate_MAE = self.gates(x_MX).unflatten(1, (self.num_tasks, self.num_experts)).softmax(-1)
        return torch.einsum("mae,mew->maw", gate_MAE, expert_MEW)


class Ple(nn.Module):
    """Progressive layered extraction (Tang et al., RecSys 2020): levels of experts, shared ones and each task's own."""

    def __init__(self, config: TowerConfig, num_in: int, width: int, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        entering = [num_in] + [width] * (config.num_levels - 1)
        self.levels = nn.ModuleList(
            PleLevel(config, num, width, num_tasks, last=level == config.num_levels - 1)
            for level, num in enumerate(entering)
        )

    def forward(self, x_MX: Float[Tensor, "M X"]) -> Float[Tensor, "M A W"]:
        own, shared = x_MX.unsqueeze(1).expand(-1, self.num_tasks, -1), x_MX
        for level in self.levels:
            own, shared = level(own, shared)
        return own


class PleLevel(nn.Module):
    """One extraction network. A task's gate, steered by what the task got from the level below, mixes the task's own
    experts with the shared ones; the shared gate mixes all experts of all tasks. The last level has no shared gate.

    Source: Tang et al., RecSys 2020: customized gate control, and the shared gate that progressive extraction adds;
    with GELU for ReLU, and gates have a bias.
    """

    def __init__(self, config: TowerConfig, num_in: int, width: int, num_tasks: int, last: bool) -> None:
        super().__init__()
        num_own, num_shared = config.num_task_experts, config.num_shared_experts
        self.sizes = num_own, num_shared
        self.own_experts = GroupedLinear(num_tasks, num_in, num_own * width)
        self.shared_experts = linear(num_in, num_shared * width, _std(num_in))
        self.own_gates = GroupedLinear(num_tasks, num_in, num_own + num_shared, std=0.02)
        self.shared_gate = None if last else linear(num_in, num_tasks * num_own + num_shared)

    def forward(
        self, own_MAX: Float[Tensor, "M A X"], shared_MX: Float[Tensor, "M X"]
    ) -> tuple[Float[Tensor, "M A W"], Float[Tensor, "M W"] | None]:
        """What every task gets, and what the shared experts of the next level do."""
        num_own, num_shared = self.sizes
        own_MATW = F.gelu(self.own_experts(own_MAX)).unflatten(2, (num_own, -1))
        expert_MEW = F.gelu(self.shared_experts(shared_MX)).unflatten(1, (num_shared, -1))
        gate_MAT, gate_MAE = self.own_gates(own_MAX).softmax(-1).split(self.sizes, dim=2)
        mixed_MAW = torch.einsum("mat,matw->maw", gate_MAT, own_MATW)
        mixed_MAW = mixed_MAW + torch.einsum("mae,mew->maw", gate_MAE, expert_MEW)
        if self.shared_gate is None:
            return mixed_MAW, None
        gate_MY = self.shared_gate(shared_MX).softmax(-1)
        all_MYW = torch.cat([own_MATW.flatten(1, 2), expert_MEW], dim=1)
        return mixed_MAW, torch.einsum("my,myw->mw", gate_MY, all_MYW)


class PersonalGate(nn.Module):
    """PPNet's gate: 2 * sigmoid(MLP([late features, stop_gradient(state)])), a factor for every task and unit.

    It starts close to 1. No gradient reaches the state through its gates, so that they cannot bend what tasks share.

    Source: Chang et al., KDD 2023 (PEPNet): the gate neural unit with gamma = 2, and PPNet.
    """

    def __init__(self, num_in: int, dim: int, num_tasks: int, width: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.inner = linear(num_in, dim, _std(num_in))
        self.outer = linear(dim, num_tasks * width)

    def forward(self, x_MX: Float[Tensor, "M X"]) -> Float[Tensor, "M A W"]:
        factor_ML = 2 * self.outer(F.relu(self.inner(x_MX.detach()))).sigmoid()
        return factor_ML.unflatten(1, (self.num_tasks, -1))


class LateFeatures(nn.Module):
    """Numbers that appear at scoring time only, made ready for a tower.

    Each column is standardised as `fit` saw it (until then it is taken as it is) and limited to LATE_LIMIT; a missing
    value becomes 0, the mean, and a second column of every feature says so.
    """

    mean_F: Tensor
    std_F: Tensor

    def __init__(self, num_late: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(num_late, dtype=torch.float32))
        self.register_buffer("std_F", torch.ones(num_late, dtype=torch.float32))

    @torch.no_grad()
    def fit(self, late_MF: Float[Tensor, "M F"]) -> None:
        """Takes mean and standard deviation of each column's known values from training rows.

        Raises:
            ValueError: a value is infinite.
        """
        _check_finite(late_MF)
        wide_MF = late_MF.double()
        mean_F = wide_MF.nanmean(0)
        std_F = (wide_MF - mean_F).square().nanmean(0).sqrt()
        varies_F = std_F > 1e-12 * mean_F.abs()  # what is less comes from rounding a constant's mean
        self.mean_F.copy_(mean_F.nan_to_num(0.0))
        self.std_F.copy_(std_F.where(varies_F, 1.0))

    def forward(self, late_MF: Float[Tensor, "M F"]) -> Float[Tensor, "M 2*F"]:
        missing_MF = late_MF.isnan()
        unit_MF = ((late_MF - self.mean_F) / self.std_F).clamp(-LATE_LIMIT, LATE_LIMIT)
        return torch.cat([unit_MF.masked_fill(missing_MF, 0.0), missing_MF.to(unit_MF.dtype)], dim=1)


class GroupedLinear(Linear):
    """A linear layer for each of several groups, as one batched product. Their matrices lie one below the other in
    one `nn.Linear`, so that an optimiser treats them as it treats any matrix."""

    def __init__(self, num_groups: int, num_in: int, num_out: int, std: float | None = None) -> None:
        super().__init__(num_in, num_groups * num_out, normal(_std(num_in) if std is None else std))
        self.num_groups = num_groups

    def forward(self, x_MGI: Float[Tensor, "M G I"]) -> Float[Tensor, "M G O"]:
        weight_GOI, bias_GO = (p.unflatten(0, (self.num_groups, -1)) for p in (self.weight, self.bias))
        return torch.einsum("mgi,goi->mgo", x_MGI, weight_GOI) + bias_GO


def _std(num_in: int) -> float:
    """He et al., 2015: no norm stands between a tower's layers, so each must keep the size of what it gets."""
    return (2 / num_in) ** 0.5


def _shared(config: TowerConfig, num_in: int, dim: int, num_tasks: int) -> nn.Module:
    width = config.expert_multiple * dim
    match config.kind:
        case "linear":
            return nn.Identity()
        case "mlp":
            return nn.Sequential(linear(num_in, dim), nn.GELU())
        case "mmoe":
            return Mmoe(num_in, width, num_tasks, config.num_shared_experts)
        case "ple":
            return Ple(config, num_in, width, num_tasks)
        case _:
            assert_never(config.kind)


def _check(config: TowerConfig, num_tasks: int, num_late: int) -> None:
    if config.mixes_experts and not num_tasks:
        raise ValueError(
            f"TowerConfig(kind={config.kind!r}) mixes experts for each action, and the data has no actions: "
            "name action columns when preparing, or use kind='mlp'"
        )
    if config.gate == "ppnet" and not (num_tasks and num_late):
        lacking = (
            "late features (feature columns that appear at scoring time only)" if num_tasks else "actions"
        )
        raise ValueError(
            f"TowerConfig(gate='ppnet') scales the layers of each action by late features, and there are no {lacking}: "
            "add them, or use gate='none'"
        )


def _check_finite(late_MF: Tensor) -> None:
    infinite_MF = late_MF.isinf()
    if infinite_MF.any():
        row, column = infinite_MF.nonzero()[0].tolist()
        raise ValueError(
            f"late feature {column}: row {row} holds {late_MF[row, column]:g}, expected a finite number or NaN "
            "for a missing one: correct the value or leave it out"
        )
