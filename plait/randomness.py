"""Where a run's random draws come from: a stream for each purpose, all derived from the run's seed.

Nothing here reads or moves the process's own generators (of torch, numpy or Python), so runs in threads do not meet,
and neither do a run and its caller.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """What is drawn. The number is part of the stream: never give one anew."""

    WEIGHTS = 0
    DROPOUT = 1  # of activations, and of items that a step takes for new ones
    NEGATIVES = 2  # of a sampled softmax
    ORDER = 3  # of samples within an epoch
    WINDOWS = 4  # of random windows
    RANKED = 5  # sampled items that evaluation ranks an answer against


def numpy_generator(seed: int, stream: Stream, *place: int) -> np.random.Generator:
    """A function of seed, stream and place (an epoch, say) alone, so that nothing of it needs to be kept.

    >>> first, again, other = (numpy_generator(0, Stream.ORDER, epoch).random() for epoch in (1, 1, 2))
    >>> first == again, first == other
    (True, False)
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *place)))


def torch_generator(seed: int, stream: Stream, device: str = "cpu") -> torch.Generator:
    """A stream of a torch device, at its beginning."""
    (word,) = np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(word))


@dataclass(frozen=True, eq=False)
class Randomness:
    """The streams that move on from step to step: what a checkpoint keeps of a run's randomness."""

    dropout: torch.Generator
    negatives: torch.Generator

    @classmethod
    def of(cls, seed: int, device: str) -> "Randomness":
        return cls(
            torch_generator(seed, Stream.DROPOUT, device), torch_generator(seed, Stream.NEGATIVES, device)
        )

    def state(self) -> dict[str, Tensor]:
        return {"dropout": self.dropout.get_state(), "negatives": self.negatives.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Raises RuntimeError where the state is of another kind of device."""
        self.dropout.set_state(state["dropout"])
        self.negatives.set_state(state["negatives"])
