"""Ctrl-C and a polite kill, kept until the work can stop without losing anything."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

KEPT = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_kept() -> Iterator[Sequence[signal.Signals]]:
    """Yields what gets every SIGINT and SIGTERM of the time inside, instead of their usual effect.

    A second one raises KeyboardInterrupt at once: whoever asks twice does not want to wait. Only a main thread can
    keep signals; in others they act as ever, and so do those that the process ignores (nohup) or handles outside
    Python.
    """
    arrived: list[signal.Signals] = []

    def keep(number: int, frame: FrameType | None) -> None:
        arrived.append(signal.Signals(number))
        if len(arrived) > 1:
            raise KeyboardInterrupt(f"{arrived[-1].name} a second time: stopped at once")

    own = threading.current_thread() is threading.main_thread()
    usual = {which: signal.getsignal(which) for which in KEPT if own}
    usual = {which: handler for which, handler in usual.items() if handler not in (None, signal.SIG_IGN)}
    try:
        for which in usual:
            signal.signal(which, keep)
        yield arrived
    finally:
        for which, handler in usual.items():
            signal.signal(which, handler)
