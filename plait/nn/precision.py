"""In which precision, and by which library, matrices are multiplied."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Multiplied = Literal["fp32", "fp32_onednn", "bf16"]
Precision = Literal["auto", "bf16", "fp32", "fp32_onednn"]


def autocast(precision: Precision, device: str) -> torch.autocast:
    """bf16 matrix products over fp32 weights, or nothing."""
    assert precision != "auto", "it is made definite first: plait.nn.arithmetic"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def products_by(precision: Precision) -> Iterator[None]:
    """Products of fp32 matrices by oneDNN where that was chosen, else by what the process uses; for the time inside.

    torch hands fp32 products to MKL. The one public way to oneDNN is to allow it to round to bf16. Where the processor
    has no AMX it cannot, and its products are exact; where it has, they are not: so `fp32_onednn` is taken only where
    its error was measured (`plait.nn.arithmetic`). The switch is of the whole process, in all of its threads.
    """
    if precision != "fp32_onednn":
        yield
        return
    switch = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch puts it there as it is imported
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        yield
    finally:
        switch.fp32_precision = before
