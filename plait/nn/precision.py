"""In which precision a device multiplies matrices."""

from typing import Literal

import torch

from plait.nn.runtime import multiplies_bf16_faster

Precision = Literal["auto", "bf16", "fp32"]


def resolve_precision(precision: Precision, device: str) -> Precision:
    """`auto` made definite for this machine."""
    if precision != "auto":
        return precision
    return "bf16" if multiplies_bf16_faster(device) else "fp32"


def autocast(precision: Precision, device: str) -> torch.autocast:
    """bf16 matrix products over fp32 weights, or nothing."""
    assert precision != "auto", "resolve_precision comes first"
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")
