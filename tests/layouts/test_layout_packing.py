"""Rows of tokens: every token in one cell, every user in one piece."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_layouts import QUICK, assert_caught, assert_not_vacuous

from plait.layouts import packing
from plait.layouts.packing import PADDING, PackedRows, pack, pad

LENGTHS = st.lists(st.integers(0, 17), min_size=1, max_size=13).map(np.array)


def check_cells(length_U: np.ndarray, rows: PackedRows) -> None:
    cells, segments = rows.cell_N, rows.segment_RL.reshape(-1)
    row_length = rows.segment_RL.shape[1]
    assert len(cells) == len(set(cells.tolist())) == length_U.sum(), "every token in a cell of its own"
    assert (segments != PADDING).sum() == length_U.sum(), "nobody else in the row"
    for user, (end, length) in enumerate(zip(np.cumsum(length_U), length_U, strict=True)):
        own = cells[end - length : end]
        assert (segments[own] == user).all()
        assert (np.diff(own) == 1).all(), "in order, without gaps"
        assert len(set(own // row_length)) <= 1, "in one row"


def check_packing() -> None:
    met = {"several users in a row": 0, "several rows": 0, "longer rows asked for": 0, "empty user": 0}

    @QUICK
    @given(LENGTHS, st.none() | st.integers(17, 29))
    def packs(length_U: np.ndarray, row_length: int | None) -> None:
        rows = pack(length_U, row_length)
        check_cells(length_U, rows)
        assert rows.segment_RL.shape[1] <= (row_length or max(1, length_U.max()))
        assert len(rows.segment_RL) <= max(1, (length_U > 0).sum())
        if row_length is None:
            assert rows.fill >= pad(length_U).fill
        met["several users in a row"] += len(rows.segment_RL) < (length_U > 0).sum()
        met["several rows"] += len(rows.segment_RL) > 1
        met["longer rows asked for"] += row_length is not None and row_length > length_U.max()
        met["empty user"] += bool((length_U == 0).any())

    packs()
    assert_not_vacuous(met, above=10)


def test_packing_keeps_every_user_whole_and_apart():
    check_packing()


def test_users_packed_one_slot_too_early_are_noticed(monkeypatch):
    right = packing._rows

    def overlapping(length_U, row_U, column_U, row_length):
        return right(length_U, row_U, np.maximum(column_U - 1, 0), row_length)

    monkeypatch.setattr(packing, "_rows", overlapping)
    assert_caught(check_packing)


def first_fit(length_U: np.ndarray, row_length: int) -> np.ndarray:
    """The row of every user, by looking at all rows: the longest first, each into the first row with room."""
    row_U, used = np.zeros(len(length_U), dtype=np.int64), [0] * len(length_U)
    for user in np.argsort(-length_U, kind="stable"):
        row_U[user] = next(row for row, slots in enumerate(used) if slots + length_U[user] <= row_length)
        used[row_U[user]] += length_U[user]
    return row_U


def check_first_fit() -> None:
    met = {"back to an earlier row": 0, "many rows": 0, "equal lengths": 0}
    lengths = st.lists(st.integers(0, 17), min_size=1, max_size=60).map(np.array)

    @QUICK
    @given(lengths, st.integers(17, 40))
    def fits(length_U: np.ndarray, row_length: int) -> None:
        rows = pack(length_U, row_length)
        expected_U = first_fit(length_U, row_length)
        has_slots_U = length_U > 0
        first_U = (np.cumsum(length_U) - length_U)[has_slots_U]
        row_U = rows.cell_N[first_U] // rows.segment_RL.shape[1]
        assert (row_U == expected_U[has_slots_U]).all()
        in_turn = expected_U[np.argsort(-length_U, kind="stable")]
        met["back to an earlier row"] += bool((np.diff(in_turn) < 0).any())
        met["many rows"] += len(rows.segment_RL) > 4
        met["equal lengths"] += len(set(length_U.tolist())) < len(length_U)

    fits()
    assert_not_vacuous(met, above=10)


def test_rows_are_those_of_a_plain_first_fit():
    check_first_fit()


@pytest.mark.parametrize("mutant", ("last", "next"))
def test_another_fit_is_noticed(mutant, monkeypatch):
    """The last row with room, or no way back to a row that was passed."""
    right = packing._OpenRows.take

    def take(rows: packing._OpenRows, length: int) -> tuple[int, int]:
        row, column = right(rows, length)
        opened = [n for n in range(rows.num_leaves) if rows.free[rows.num_leaves + n] < rows.row_length]
        if mutant == "next" and opened and row < max(opened):
            rows.free[rows.num_leaves + row] += length
            row = max(opened) + 1
            column = rows.row_length - rows.free[rows.num_leaves + row]
            rows.free[rows.num_leaves + row] -= length
        return (row, column) if mutant == "next" else (max(opened, default=0) - row, column)

    monkeypatch.setattr(packing._OpenRows, "take", take)
    assert_caught(check_first_fit)


def test_many_short_users_take_seconds_at_most():
    """50,000 users of two events, for which looking at all rows took half a minute; processor time of this process."""
    for row_length in (None, 200):
        start_s = time.process_time()
        rows = pack(np.full(50_000, 2), row_length)
        assert time.process_time() - start_s < 3
        assert rows.fill == 1.0


def test_padding_is_one_user_per_row():
    @QUICK
    @given(LENGTHS)
    def pads(length_U: np.ndarray) -> None:
        rows = pad(length_U)
        check_cells(length_U, rows)
        assert rows.segment_RL.shape == (len(length_U), max(1, length_U.max()))
        assert ((rows.segment_RL != PADDING).sum(1) == length_U).all()
        assert (rows.segment_RL[length_U > 0, 0] == np.flatnonzero(length_U)).all(), "padded on the right"

    pads()


def test_the_longest_go_first_and_the_short_fill_up():
    rows = pack(np.array([3, 5, 2, 4]), row_length=7)
    assert rows.segment_RL.tolist() == [[1, 1, 1, 1, 1, 2, 2], [3, 3, 3, 3, 0, 0, 0]]
    assert rows.cell_N.tolist() == [11, 12, 13, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert rows.fill == 1.0


def test_rows_are_no_longer_than_what_they_hold():
    assert pack(np.array([3, 2]), row_length=100).segment_RL.shape == (1, 5)


def test_a_user_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="a user of 5 tokens does not fit into rows of 4"):
        pack(np.array([3, 5]), row_length=4)


def test_no_tokens_at_all_still_make_a_row():
    for length_U in (np.array([], dtype=np.int64), np.array([0, 0])):
        for rows in (pack(length_U), pad(length_U)):
            assert rows.fill == 0.0 and (rows.segment_RL == PADDING).all()
