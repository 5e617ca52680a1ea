"""What tests of the service share: a tiny prepared log, and a service of its histories."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import prepared_log, service_of

from plait.data import Dataset
from plait.service.service import Service


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared_log(tmp_path_factory.mktemp("served"))


@pytest.fixture
def service(tmp_path: Path, data: Dataset) -> Iterator[Service]:
    service = service_of(tmp_path, data)
    yield service
    service.close()
