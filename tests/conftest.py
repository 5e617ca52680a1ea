"""What several rooms' tests share: one tiny prepared dataset, and a finished run on it."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from shape_checker import check_shapes  # before the package, whose import it changes
from tiny import prepared, random_log

from plait.cli import main
from plait.compare import serving
from plait.data import Dataset
from plait.nn import arithmetic
from plait.nn.arithmetic import Measured
from plait.training import refit
from plait.training import run as run_of_training

# The same cases in every run, whoever starts it: a test that fails here fails everywhere.
settings.register_profile("plait", derandomize=True, deadline=None, database=None)
settings.load_profile("plait")


def pytest_configure() -> None:
    """A shell's background jobs ignore Ctrl-C, and a training that ignores it cannot be interrupted by a test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What was imported stays to the end: every training collects what is left over, and need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def every_float() -> Iterator[None]:
    """The command line flushes denormal numbers to zero for its whole process; the next test may want them."""
    torch.set_flush_denormal(False)
    yield


WHOLE_RUNS = ("cli", "compare", "exporting", "papers", "service", "store", "test_docs.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Rooms' own tests check shapes. In those of whole commands, and in what they share, that would take half the
    time."""
    check_shapes(item.path.name not in WHOLE_RUNS and item.path.parent.name not in WHOLE_RUNS)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    check_shapes(True)


@pytest.fixture
def shapes_are_not_checked() -> None:
    """The same calls come a thousand times here, with shapes that all other tests check."""
    check_shapes(False)


@pytest.fixture(scope="session", autouse=True)
def measured_alike() -> Iterator[None]:
    """A busy machine measures otherwise each time; tests find fp32 the fastest."""
    found = {"fp32": Measured(1e-3, 3e-7), "fp32_onednn": Measured(1e-3, 6e-7), "bf16": Measured(1e-3, 3e-3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "measure_multiplying", lambda dim, device: found)
        patch.setattr(arithmetic, "measure_pairs", lambda dim, device: found)
        yield


@pytest.fixture(scope="session", autouse=True)
def requests_are_measured_once() -> Iterator[None]:
    """A comparison ends with a fifth of a second of each request, which would be a third of its time here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "MOST_TIMES", 1)
        yield


@pytest.fixture(scope="session", autouse=True)
def peaks_of_memory_are_the_processes() -> Iterator[None]:
    """To start one over collects garbage before every training, which takes longer than most trainings here do."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (run_of_training, refit):
            patch.setattr(module, "forget_peak_memory", lambda: True)
        yield


@pytest.fixture(scope="session", autouse=True)
def power_does_not_fail() -> Iterator[None]:
    """Files are renamed and named as ever. That they reach the disk first, no test can tell, and many wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(random_log(), tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `lac`; not to be changed."""
    from words import train

    out = tmp_path_factory.mktemp("runs") / "lac"
    assert main([str(word) for word in train(dataset, out)]) == 0
    return out
