"""Dropout that does not dominate a step on a CPU."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes each element with probability p and scales the rest to keep the mean; identity in eval mode.

    On a CPU one random byte decides an element (forward and backward take a third of `F.dropout`'s time), so
    there p is rounded to a multiple of 1/256, and the scale uses the rounded value. The bytes come from
    torch's default generator: `torch.manual_seed` and a checkpoint of its state reproduce them.

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
        if x.device.type != "cpu":  # not covered by the tests, which run on a CPU
            return F.dropout(x, self.p)
        keep = random_bytes(x.numel()).ge_(self.threshold).view(x.shape)  # stays uint8: bool is slower here
        return x * keep * (256 / (256 - self.threshold))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def random_bytes(num: int) -> UInt8[Tensor, "{num}"]:
    """Independent uniform bytes, eight from every draw of torch's default CPU generator."""
    words = torch.empty((num + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    return words.view(torch.uint8)[:num]
