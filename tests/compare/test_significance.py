"""The noise of seeds, where users tell nothing: what is said is what a t test of the seeds would say."""

import numpy as np
import pytest
from tiny import assert_caught

from plait.compare import significance
from plait.compare.significance import SeedNoise
from plait.metrics.intervals import Bootstrap, Difference, paired_difference

AT_FIVE_PERCENT = {2: 4.303, 3: 3.182, 4: 2.776, 8: 2.306, 30: 2.042}  # two-sided points of Student's t


def mean_of(value: float) -> Bootstrap:
    """So many users, all alike, that only seeds differ."""
    return Bootstrap(value, np.full(1000, value), np.arange(10**4), 0, "higher", 10**4)


def contrast(freedom: int, value: float, num_seeds: int) -> Difference:
    noise = SeedNoise(1.0, freedom)
    a, b = (noise.added(mean_of(mean), num_seeds, side) for side, mean in enumerate((value, 0.0)))
    return paired_difference(a, b)


def check_as_student(freedom: int) -> None:
    expected = AT_FIVE_PERCENT[freedom] * np.sqrt(2 / 3)  # of the difference of two means of three seeds
    found = contrast(freedom, expected, num_seeds=3)
    assert 0.04 < found.p < 0.06
    assert found.high - found.low == pytest.approx(2 * expected, rel=0.08)


@pytest.mark.parametrize("freedom", AT_FIVE_PERCENT)
def test_seeds_alone_are_told_apart_as_by_student(freedom: int) -> None:
    check_as_student(freedom)


def test_too_few_draws_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "NOISE_DRAWS", 1)
    assert_caught(lambda: [check_as_student(freedom) for freedom in AT_FIVE_PERCENT])
