"""When a training ends at the latest: with the first of a protocol's caps, or after the steps of another training."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from plait.evaluation.settings import Protocol
from plait.training.progress import Progress


class Budget(ABC):
    """What a training may spend."""

    @abstractmethod
    def shares_spent(self, progress: Progress, steps_per_epoch: int) -> dict[str, float]:
        """By limit, in words, how much of it is spent: at 1 the training ends."""

    @abstractmethod
    def max_steps(self, progress: Progress, steps_per_epoch: int) -> int:
        """Steps of the whole training, which warm-up and a cosine are measured by. Known from what a checkpoint holds,
        so a resumed run finds the same."""


@final
@dataclass(frozen=True)
class Caps(Budget):
    """A protocol's: epochs, and maybe tokens and FLOPs."""

    protocol: Protocol

    def shares_spent(self, progress: Progress, steps_per_epoch: int) -> dict[str, float]:
        epochs = progress.epoch + progress.step / steps_per_epoch
        amounts = {"epochs": epochs, "tokens": float(progress.spent.tokens), "FLOPs": progress.spent.flops}
        return {f"{cap:g} {unit}": amounts[unit] / cap for unit, cap in self.protocol.caps.items()}

    def max_steps(self, progress: Progress, steps_per_epoch: int) -> int:
        """Those of all epochs, or fewer where, at what steps cost so far, another cap will end it before."""
        spent, protocol = progress.spent, self.protocol
        amounts = ((spent.tokens, protocol.max_tokens), (spent.flops, protocol.max_flops))
        of_caps = [spent.steps * cap / amount for amount, cap in amounts if cap is not None and amount]
        return min([steps_per_epoch * protocol.max_epochs, *map(math.ceil, of_caps)])


@final
@dataclass(frozen=True)
class Steps(Budget):
    """As many steps as another training took to a checkpoint, at the learning rates that it took them at."""

    steps: int
    of_all: int  # steps that the other might have taken

    def shares_spent(self, progress: Progress, steps_per_epoch: int) -> dict[str, float]:
        return {f"{self.steps} steps": progress.spent.steps / self.steps}

    def max_steps(self, progress: Progress, steps_per_epoch: int) -> int:
        return self.of_all
