"""Tables for a terminal: how wide columns are."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from rich.text import Text
from tiny import assert_caught, assert_not_vacuous

from plait.terminal import GAP, MeasuredColumn, widths_of

Widths = Callable[[Sequence[MeasuredColumn], int], list[int]]


def check_widths(widths: Widths) -> Counter[str]:
    """Every column has what it needs and no more than it could use; what is left is shared, but for the rounding."""
    met: Counter[str] = Counter()
    rng = np.random.default_rng(0)
    for _ in range(60):
        words = [["x" * n for n in rng.integers(1, 9, rng.integers(1, 5))] for _ in range(rng.integers(1, 5))]
        columns = [MeasuredColumn(Text("head"), [Text(" ".join(cell))], False) for cell in words]
        least = sum(column.least for column in columns) + GAP * (len(columns) - 1)
        most = sum(column.most for column in columns) + GAP * (len(columns) - 1)
        width = int(rng.integers(least // 2, 2 * most))
        found = widths(columns, width)
        assert all(column.least <= each <= column.most for column, each in zip(columns, found, strict=True))
        taken = sum(found) + GAP * (len(columns) - 1)
        assert min(max(width, least), most) - len(columns) < taken <= min(max(width, least), most)
        met.update(too_narrow=width < least, wide=width > most, between=least < width < most)
    return met


def test_columns_have_what_they_need_and_no_more_than_they_use() -> None:
    assert_not_vacuous(check_widths(widths_of), above=3)


def test_a_column_that_is_wider_than_its_cells_is_caught() -> None:
    assert_caught(check_widths, lambda columns, width: [each + 1 for each in widths_of(columns, width)])
