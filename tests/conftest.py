"""What several rooms' tests share: one tiny prepared dataset, and a finished run on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import prepared, random_log

from plait.cli import main
from plait.data import Dataset


@pytest.fixture(autouse=True)
def every_float() -> Iterator[None]:
    """The command line flushes denormal numbers to zero for its whole process; the next test may want them."""
    torch.set_flush_denormal(False)
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
