"""AdamW and its learning rate."""

import math

import torch
from torch import nn

from plait.training.settings import Optim


def make_optimiser(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, never on embedding tables, biases or norms."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in model.parameters():
        is_matrix = parameter.ndim >= 2 and id(parameter) not in tables
        (decayed if is_matrix else free).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=optim.learning_rate,
        betas=optim.betas,
        fused=True,
    )


def learning_rate(optim: Optim, step: int, total_steps: int) -> float:
    """Linear warm-up, then constant, or a cosine that ends at a tenth after `total_steps`.

    >>> [round(learning_rate(Optim(learning_rate=1.0, warmup_steps=2), step, 4), 2) for step in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.learning_rate
    done = min(1.0, (step - optim.warmup_steps) / max(1, total_steps - optim.warmup_steps))
    return optim.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
