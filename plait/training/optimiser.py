"""AdamW and its learning rate."""

import math

import torch
from torch import nn

from plait.training.settings import Optim


def make_optimiser(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW; weight decay on the matrices of linear layers only, never on embeddings, biases or norms."""
    decayed = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    matrices = {id(parameter) for parameter in decayed}
    free = [parameter for parameter in model.parameters() if id(parameter) not in matrices]
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
