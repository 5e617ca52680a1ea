"""AdamW and its learning rate."""

import math
from typing import Literal

import torch
from torch import nn

from plait.evaluation.settings import Optim
from plait.models.two_tower import TwoTower
from plait.nn.dice import Dice
from plait.nn.encoders import ItemEncoder
from plait.nn.heads import ActionHeads
from plait.nn.interests import InterestFeatures
from plait.nn.item_bias import ItemBias
from plait.nn.relative import RelativeBias

WARMUP_SHARE = 0.1  # of all steps, at most


Role = Literal["matrix", "embedding", "bias", "norm"]


def make_optimiser(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW; weight decay on the matrices that multiply states, never on embeddings, biases or norms."""
    roles = roles_of(model)
    decayed = [weight for name, weight in model.named_parameters() if roles[name] == "matrix"]
    free = [weight for name, weight in model.named_parameters() if roles[name] != "matrix"]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=optim.learning_rate,
        betas=optim.betas,
        fused=True,
    )


def roles_of(model: nn.Module) -> dict[str, Role]:
    """What every parameter is there for, by name.

    >>> roles_of(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 5, bias=False)))
    {'0.weight': 'norm', '0.bias': 'norm', '1.weight': 'matrix'}
    """
    return {
        f"{prefix}.{name}" if prefix else name: _role(owner, name)
        for prefix, owner in model.named_modules()
        for name, _ in owner.named_parameters(recurse=False)
    }


def _role(owner: nn.Module, name: str) -> Role:
    match owner:
        case nn.LayerNorm():
            return "norm"
        case (
            nn.Linear() | nn.GRU() | ActionHeads()
        ):  # the layers of a stacked tower, and the heads', lie in one matrix
            return "matrix" if name.startswith("weight") else "bias"
        case RelativeBias() | ItemBias() | Dice() | InterestFeatures() | TwoTower():
            return "bias"
        case nn.Embedding() | nn.ParameterDict() | ItemEncoder():  # the last one's: the vector of a new item
            return "embedding"
        case _:
            raise AssertionError(f"{type(owner).__name__} owns {name}, and nobody said whether it decays")


def warmup_steps(optim: Optim, max_steps: int) -> int:
    """Steps that a run of at most `max_steps` warms up: a small log, or a small cap, must not be spent on warming up.

    >>> warmup_steps(Optim(warmup_steps=100), 5000), warmup_steps(Optim(warmup_steps=100), 200)
    (100, 20)
    """
    return min(optim.warmup_steps, int(WARMUP_SHARE * max_steps))


def learning_rate(optim: Optim, step: int, max_steps: int) -> float:
    """Linear warm-up, then constant, or a cosine that ends at a tenth after `max_steps`.

    >>> [round(learning_rate(Optim(learning_rate=1.0, warmup_steps=2), step, 20), 2) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    warmup = warmup_steps(optim, max_steps)
    if step < warmup:
        return optim.learning_rate * (step + 1) / warmup
    if optim.schedule == "constant":
        return optim.learning_rate
    done = min(1.0, (step - warmup) / max(1, max_steps - warmup))
    return optim.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
