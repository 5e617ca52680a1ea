"""Process-wide switches that a training or serving process turns on first. Importing changes nothing."""

import ctypes

import torch

# glibc's mallopt parameters (malloc.h) and the value for each. Without them every large temporary goes back
# to the kernel after use and is faulted in again at the next step, page by page.
MALLOPT = (
    (-3, 1 << 30),  # M_MMAP_THRESHOLD, bytes: take temporaries below 1 GiB from the heap
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD, bytes: never give the heap's top back
    (-2, 256 << 20),  # M_TOP_PAD, bytes: grow in large steps; this much memory may stand idle
)


def tune_process() -> tuple[str, ...]:
    """Keeps freed memory in the process and flushes denormal floats to zero. Safe to call again.

    Call it before the first tensor operation: torch's worker threads copy the floating-point mode of the
    thread that starts them. Softmax gradients are full of denormals, each a hundred times slower than a
    normal number, and none of them changes a model.

    Returns:
        What is now switched on, out of "mallopt" (only where the C library is glibc) and "flush_denormal".
    """
    switched = []
    if _keep_freed_memory():
        switched.append("mallopt")
    if torch.set_flush_denormal(True):
        switched.append("flush_denormal")
    return tuple(switched)


def multiplies_bf16_faster(device: str) -> bool:
    """Whether matrix products in bf16 beat fp32: on GPUs that know the type, on CPUs only with AMX.

    Without AMX, AVX-512's bf16 products were no faster than fp32's, and the casts around them cost time.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_amx_tile_supported()


def _keep_freed_memory() -> bool:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no handle for "this process"
        return False
    if not hasattr(libc, "gnu_get_libc_version"):  # another libc may number its parameters differently
        return False
    accepted = [libc.mallopt(parameter, value) == 1 for parameter, value in MALLOPT]
    return all(accepted)
