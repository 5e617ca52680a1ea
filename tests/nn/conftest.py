"""What the tests of blockwise attention share."""

import pytest
from biased import N

from plait.nn import blockwise


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of queries in eleven slots, and, where a block has few keys, several rows in one."""
    monkeypatch.setattr(blockwise, "QUERY_BLOCK", 4)
    monkeypatch.setattr(blockwise, "SCORES_PER_BLOCK", 2 * N * 4 * 4)
