"""A finished run that several tests read."""

from pathlib import Path

import pytest
from words import plait, train

from plait.data import Dataset


@pytest.fixture(scope="session")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `lac`; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "lac"
    assert plait(*train(dataset, out)) == 0
    return out
