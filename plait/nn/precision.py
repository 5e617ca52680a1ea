"""In which precision, and by which library, matrices are multiplied."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, final

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
    _SWITCH.turn_on()
    try:
        yield
    finally:
        _SWITCH.turn_off()


@final
class _Switch:
    """On as long as any thread wants it. (If each put back what it found, the last could put back another's.)"""

    def __init__(self) -> None:
        self._lock, self._wanted, self._before = threading.Lock(), 0, ""

    def turn_on(self) -> None:
        with self._lock:
            if not self._wanted:
                self._before, self._its.fp32_precision = self._its.fp32_precision, "bf16"
            self._wanted += 1

    def turn_off(self) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted:
                self._its.fp32_precision = self._before

    @property
    def _its(self) -> Any:
        return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch puts it there as it is imported


_SWITCH = _Switch()
