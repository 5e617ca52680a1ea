"""How the process holds on to memory."""

import ctypes

# glibc's mallopt parameters (malloc.h) and the value for each. Without them every large temporary goes back
# to the kernel after use and is faulted in again at the next step, page by page.
MALLOPT = (
    (-3, 1 << 30),  # M_MMAP_THRESHOLD, bytes: take temporaries below 1 GiB from the heap
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD, bytes: never give the heap's top back
    (-2, 256 << 20),  # M_TOP_PAD, bytes: grow in large steps; this much memory may stand idle
)


def keep_freed_memory() -> bool:
    """Keeps large temporaries in the process from now on; whether the C library takes it. Safe to call again."""
    libc = _glibc()
    if libc is None:
        return False
    accepted = [libc.mallopt(parameter, value) == 1 for parameter, value in MALLOPT]
    return all(accepted)


def give_back_freed_memory() -> bool:
    """Gives the kernel what is free now, in about 15 ms; whether anything was. What needs memory next faults it in."""
    libc = _glibc()
    return libc is not None and libc.malloc_trim(0) == 1


def _glibc() -> ctypes.CDLL | None:
    """None where the C library is another, which may number its parameters differently."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no handle for "this process"
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
