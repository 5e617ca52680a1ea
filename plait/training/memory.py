"""Whether training fits the memory, and the most that a process took while something ran (Linux tells it; elsewhere
nothing does)."""

import ctypes
import gc
import re
from contextlib import suppress
from pathlib import Path

from plait.limits import check_fits
from plait.models.generative import ModelConfig
from plait.wording import setting

BYTES_PER_WEIGHT = 16  # of fp32 training with Adam: the weight, its gradient and two moments
OF_PROCESS = Path("/proc/self")
FORGET_PEAK = "5"  # proc(5), clear_refs: the peak becomes what is in use now


def check_fits_memory(config: ModelConfig) -> None:
    """Raises ValueError where the weights alone, counted low, do not fit the machine's memory when they are trained."""
    trunk, dim = config.settings.trunk, config.settings.trunk.dim
    of_layers = 4 * trunk.num_layers * dim**2  # queries, keys, values and what is made of them
    of_items = config.num_items * dim if config.settings.items.use_id else 0
    weights = of_layers + of_items + config.max_events * dim
    check_fits(
        f"training a model of over {weights:,} weights",
        BYTES_PER_WEIGHT * weights,
        f"lower {setting('model.trunk.dim')}, {setting('model.trunk.num_layers')} or "
        f"{setting('protocol.max_events')}, or prepare fewer items",
    )


def forget_peak_memory() -> bool:
    """Lets the peak start over, once what earlier work freed is back with the kernel. False where it cannot."""
    gc.collect()
    with suppress(OSError, TypeError, AttributeError):  # another C library: what it keeps counts as in use
        ctypes.CDLL(None).malloc_trim(0)  # of glibc: training keeps freed memory in the process
    try:
        (OF_PROCESS / "clear_refs").write_text(FORGET_PEAK)
    except OSError:
        return False
    return True


def peak_memory_mb() -> float | None:
    """Megabytes (10^6 bytes) of main memory that the process held at most, since `forget_peak_memory`."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (OF_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e6 if found else None
