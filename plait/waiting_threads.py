"""How threads of one matrix product wait for each other."""

import os
import sys

TURNS = "1000"  # see benchmarks/README.md, "Threads that wait"
READ_BY_OPENMP = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


def let_waiting_threads_sleep() -> bool:
    """Bounds how long threads spin, in processes that load torch from now on; whether they will wait so.

    All threads of a product wait for the last of them, and by default the runtime of OpenMP lets them spin for long.
    Beside other work they then hold the core which the last one wants (`benchmarks/waiting_threads.py`). It reads its
    environment once, as torch is loaded, and what people set in it themselves stays.
    """
    if "torch" in sys.modules or any(name in os.environ for name in READ_BY_OPENMP):
        return False
    os.environ[READ_BY_OPENMP[0]] = TURNS
    return True
