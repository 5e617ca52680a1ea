"""What several rooms' tests share: one tiny prepared dataset, and a finished run on it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from tiny import prepared, random_log

from plait.cli import main
from plait.data import Dataset


def pytest_configure() -> None:
    """A shell's background jobs ignore Ctrl-C, and a training that ignores it cannot be interrupted by a test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def every_float() -> Iterator[None]:
    """The command line flushes denormal numbers to zero for its whole process; the next test may want them."""
    torch.set_flush_denormal(False)
    yield


@pytest.fixture
def shapes_are_not_checked() -> Iterator[None]:
    """The same calls come a thousand times here, with shapes that all other tests check."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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
