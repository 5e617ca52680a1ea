"""What Plait switches on beyond its own objects. Importing changes nothing.

Only a process of ours (the command line) is tuned for good. A call from somebody's program leaves the floating-point
mode of its thread as it found it; that freed memory is kept is of the whole process, and changes no result.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from plait.allocation import keep_freed_memory


def tune_process() -> tuple[str, ...]:
    """Keeps freed memory in the process and flushes denormal floats to zero. Safe to call again.

    Call it before the first tensor operation: torch's worker threads copy the floating-point mode of the
    thread that starts them. Softmax gradients are full of denormals, each a hundred times slower than a
    normal number, and none of them changes a model.

    Returns:
        What is now switched on, out of "mallopt" (only where the C library is glibc) and "flush_denormal".
    """
    switched = []
    if keep_freed_memory():
        switched.append("mallopt")
    if torch.set_flush_denormal(True):
        switched.append("flush_denormal")
    return tuple(switched)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flushes denormal floats to zero in this thread, and in worker threads that it starts, for the time inside."""
    flushed_before = not bool(torch.full((), 1e-30, dtype=torch.float32) * 1e-10 > 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed_before)
