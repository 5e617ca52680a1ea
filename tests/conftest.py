"""What several rooms' tests share: one tiny prepared dataset."""

import pytest
from tiny import prepared, random_log

from plait.data import Dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(random_log(), tmp_path_factory.mktemp("data") / "tiny")
