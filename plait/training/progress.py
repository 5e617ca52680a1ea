"""What a training has cost so far, and where it stands."""

import math
from dataclasses import dataclass, field

from plait.evaluation.checkpoints import Checkpoint


@dataclass
class Spent:
    """What training has cost so far. FLOPs are those of `plait.training.flops`, forward and backward."""

    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    train_wall_s: float = 0.0
    train_cpu_s: float = 0.0  # of all threads of the process

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.train_wall_s


@dataclass(frozen=True)
class Best:
    """The best validation so far, in what chooses one of the checkpoints."""

    value: float = -math.inf
    epoch: float = 0.0  # epochs trained until it


@dataclass
class Progress:
    """Where a run stands: everything of a checkpoint that is not a tensor of the model or the optimiser."""

    epoch: int = 0  # epochs finished; with a cap, the last one may be a part of one
    step: int = 0  # steps of the current epoch finished
    epoch_loss: float = 0.0  # sum over those steps
    epoch_losses: dict[str, float] = field(default_factory=dict)  # its weighted parts, by task
    untrained_loss: float = 0.0  # of the first batch; 0 before it
    spent: Spent = field(default_factory=Spent)
    curve: list[dict[str, float]] = field(default_factory=list)  # one row per validation
    best: dict[Checkpoint, Best] = field(default_factory=dict)
    stale: int = 0  # validations since one was the best for a checkpoint, those during warm-up left out
    why_stopped: str = ""
