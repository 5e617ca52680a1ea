"""Dropout that does not dominate a step on a CPU, and whose draws belong to one training."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn


class DrawingModule(nn.Module):
    """A module that draws in training, from a generator on the device of what it is given. `draw_from` sets it."""

    generator: torch.Generator | None = None

    @property
    def own_generator(self) -> torch.Generator:
        assert self.generator is not None, (
            f"{type(self).__name__} draws in training: draw_from(model, generator) comes first"
        )
        return self.generator


def draw_from(model: nn.Module, generator: torch.Generator) -> None:
    """All draws of the model's training come from this generator: two models in two threads do not meet."""
    for part in model.modules():
        if isinstance(part, DrawingModule):
            part.generator = generator


class Dropout(DrawingModule):
    """Zeroes each element with probability p and scales the rest to keep the mean; identity in eval mode.

    One random byte decides an element (on a CPU, forward and backward take a third of `F.dropout`'s time), so p is
    rounded to a multiple of 1/256, and the scale uses the rounded value.

    Raises:
        ValueError: p is not in [0, 1), or would be rounded to 1 or, though above 0, to 0.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.threshold = round(256 * p)  # bytes below it drop their element
        if not (0 <= p < 1 and self.threshold < 256 and (self.threshold or not p)):
            raise ValueError(
                f"Dropout(p={p}): p is the share of elements to drop, 0 or what rounds to one of 1/256 to 255/256"
            )

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.threshold == 0:
            return x
        byte = random_bytes(x.numel(), self.own_generator)
        keep = byte.ge_(self.threshold).view(x.shape)  # stays uint8: bool is slower here
        return x * keep * (256 / (256 - self.threshold))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def random_bytes(num: int, generator: torch.Generator) -> UInt8[Tensor, " {num}"]:
    """Independent uniform bytes on the generator's device, eight from every draw."""
    words = torch.empty((num + 7) // 8, dtype=torch.int64, device=generator.device)
    return words.random_(-(2**63), None, generator=generator).view(torch.uint8)[:num]
