"""What the tests of several studies share."""

import pytest

from plait.compare import comparing
from plait.papers import ablation, lum_trial


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a study runs shows in intervals of fewer draws, too; a thousand take longer than its trainings."""
    for module in (comparing, ablation, lum_trial):
        monkeypatch.setattr(module, "DRAWS", 100)
