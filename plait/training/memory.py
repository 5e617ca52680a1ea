"""The most memory that a process took while something ran. Linux tells it; elsewhere nothing does."""

import ctypes
import gc
import re
from contextlib import suppress
from pathlib import Path

OF_PROCESS = Path("/proc/self")
FORGET_PEAK = "5"  # proc(5), clear_refs: the peak becomes what is in use now


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
