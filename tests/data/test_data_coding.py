"""Ids asked for, found among those that are known."""

import polars as pl
import pytest

from plait.data.coding import item_index

NUMBERS, TEXTS = pl.Series([3, 100, 7]), pl.Series(["3", "b"])


@pytest.mark.parametrize(
    ("asked", "known", "found"),
    [
        (pl.Series([7, 8, 3]), NUMBERS, [3, 0, 1]),
        (pl.Series(["100", "x"]), NUMBERS, [2, 0]),
        (pl.Series([100.0, 100.5, float("nan"), None]), NUMBERS, [2, 0, 0, 0]),
        (pl.Series([True, False]), pl.Series([0, 1]), [0, 0]),
        (pl.Series([3, 4]), TEXTS, [1, 0]),
        (pl.Series([], dtype=pl.Int64), NUMBERS, []),
    ],
)
def test_only_the_very_item_is_found(asked, known, found):
    assert item_index(asked, known).tolist() == found
