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
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no handle for "this process"
        return False
    if not hasattr(libc, "gnu_get_libc_version"):  # another libc may number its parameters differently
        return False
    accepted = [libc.mallopt(parameter, value) == 1 for parameter, value in MALLOPT]
    return all(accepted)
