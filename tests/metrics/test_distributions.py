"""Fisher's F beside scipy's."""

import pytest
from scipy import stats

from plait.metrics.distributions import f_critical, f_tail


@pytest.mark.parametrize(("above", "below"), [(1, 1), (1, 4), (2, 20), (4, 40), (10, 3), (1, 1000)])
def test_f_is_that_of_scipy(above: int, below: int) -> None:
    for level in (0.05, 0.05 / 11):
        ratio = stats.f.isf(level, above, below)
        assert f_critical(level, above, below) == pytest.approx(ratio, rel=0.01)
        assert f_tail(ratio, above, below) == pytest.approx(level, rel=0.01)
    assert f_tail(0.0, above, below) == pytest.approx(1.0)
