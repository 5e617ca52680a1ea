import subprocess
import sys

import torch

from plait.nn.runtime import denormals_flushed, tune_process


def test_tuning_can_be_repeated_and_flushes_denormals():
    tiny = torch.full((64,), 1e-30)
    try:
        torch.set_flush_denormal(False)
        assert (tiny * 1e-10 > 0).all(), "a denormal to begin with"
        first = tune_process()
        assert tune_process() == first
        assert (tiny * 1e-10 > 0).any() != ("flush_denormal" in first)
    finally:
        torch.set_flush_denormal(False)


def test_a_call_leaves_the_floating_point_mode_as_it_was():
    def flushed() -> bool:
        return not bool(torch.full((), 1e-30) * 1e-10 > 0)

    for before in (False, True):
        torch.set_flush_denormal(before)
        with denormals_flushed():
            assert flushed()
        assert flushed() == before


def test_freed_memory_is_given_back():
    """As fresh processes: what this one holds, other tests decide."""
    code = """
import numpy as np
from plait.allocation import give_back_freed_memory, keep_freed_memory
from plait.load.machine import held_memory_mb
import os
if keep_freed_memory():
    blocks = [np.ones(1 << 20, np.uint8) for _ in range(200)]
    fence = np.ones(1 << 20, np.uint8)
    del blocks
    held = held_memory_mb(os.getpid())
    assert give_back_freed_memory()
    print(held - held_memory_mb(os.getpid()))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not told or float(told) > 150
