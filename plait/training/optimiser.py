"""AdamW and its learning rate."""

import math

import torch
from torch import nn

from plait.training.settings import Optim

WARMUP_SHARE = 0.1  # of all steps, at most


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


def warmup_steps(optim: Optim, max_steps: int) -> int:
    """Of a run of at most `max_steps`: a small log, or a small cap, must not be spent on warming up.

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
