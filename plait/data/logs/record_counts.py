"""The records of a delimited text, counted on its bytes and apart from the reader that makes columns of them.

A quote counts as RFC 4180 has it: one at the begin of a field opens it, two within it stand for one, and the next
single one must end the field. Where that holds throughout, a byte is quoted exactly if an odd number of quotes
stands before it.

Shape letters: N bytes of the text, B of a block, Q quotes in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int8, UInt8

BLOCK_BYTES = 1 << 18  # fits a core's cache
NEWLINE, RETURN, QUOTE = ord("\n"), ord("\r"), ord('"')


def count_even(blocks: Iterable[bytes], separator: str, fields: int, quoting: bool) -> int | None:
    r"""The records of a text that is as plain as can be: equally many fields in every line, no blank line, no quote
    that means anything. None for any other text.

    >>> count_even([b"a,b\n1", b",2\n"], ",", 2, quoting=True)
    2
    >>> count_even([b"a,b\n1\n2,3,4\n"], ",", 2, quoting=True) is None
    True
    """
    removed = bytes(set(range(256)) - set((separator + "\n" + '"' * quoting).encode()))
    line = separator.encode() * (fields - 1) + b"\n"
    lines, marks, last = line, 0, b""
    for block in blocks:
        found, place = block.translate(None, removed), marks % fields
        if len(found) + fields > len(lines):
            lines = line * (2 * len(found) // fields + 2)
        if found != lines[place : place + len(found)]:
            return None
        marks, last = marks + len(found), block[-1:]
    records, rest = divmod(marks + (last not in (b"", b"\n")), fields)
    return records if rest == 0 else None


@dataclass(frozen=True)
class Survey:
    """What a text holds whose quotes mean something."""

    records: int
    is_strict: bool  # every quote stands where RFC 4180 allows one
    is_even: bool  # every record has as many fields as it should; a blank line has not


def survey_quoted(data: UInt8[np.ndarray, " N"], separator: str, fields: int) -> Survey:
    r"""Counts a text whose separator is one byte; lines end with LF or CR LF.

    >>> survey_quoted(np.frombuffer(b'a,b\n"x,\n",2\n3,4', np.uint8), ",", 2)
    Survey(records=3, is_strict=True, is_even=True)
    """
    ends, separators, excess = 0, 0, np.int8(0)
    is_strict = is_even = True
    inside = False
    for begin in range(0, len(data), BLOCK_BYTES):
        end = min(begin + BLOCK_BYTES, len(data))
        block_B = data[begin:end]
        is_quote_B = block_B == QUOTE
        inside_B = np.logical_xor.accumulate(is_quote_B) ^ inside
        is_strict &= _is_strict(data, begin, is_quote_B, inside_B, ord(separator))
        is_end_B, is_separator_B = (block_B == NEWLINE) & ~inside_B, (block_B == ord(separator)) & ~inside_B
        excess_B = _excess(is_separator_B, is_end_B, fields, excess)
        is_even &= not excess_B[is_end_B].any()
        ends, separators = ends + int(is_end_B.sum()), separators + int(is_separator_B.sum())
        inside, excess = bool(inside_B[-1]), excess_B[-1]
    if len(data) and data[-1] != NEWLINE:
        ends += 1
    is_even &= separators == ends * (fields - 1)
    return Survey(ends, is_strict and not inside, is_even)


def _excess(
    is_separator_B: Bool[np.ndarray, " B"], is_end_B: Bool[np.ndarray, " B"], fields: int, before: np.int8
) -> Int8[np.ndarray, " B"]:
    """By how many (modulo 256) the separators up to a byte exceed those that the ended records should have."""
    per_record = np.array((fields - 1) & 0xFF, dtype=np.uint8).view(np.int8)
    step_B = is_separator_B.view(np.int8) - per_record * is_end_B.view(np.int8)
    return np.add.accumulate(step_B, dtype=np.int8) + before


def _is_strict(
    data: UInt8[np.ndarray, " N"],
    begin: int,
    is_quote_B: Bool[np.ndarray, " B"],
    inside_B: Bool[np.ndarray, " B"],
    separator: int,
) -> bool:
    """Whether quotes that open stand at the begin of a field, quotes that close at its end, or two together."""
    place_Q = np.flatnonzero(is_quote_B)
    is_opening_Q = inside_B[place_Q]
    before, after = begin + place_Q[is_opening_Q] - 1, begin + place_Q[~is_opening_Q] + 1
    opening, closing = data[before[before >= 0]], data[after[after < len(data)]]
    return bool(
        np.isin(opening, (separator, NEWLINE, QUOTE)).all()
        and np.isin(closing, (separator, NEWLINE, RETURN, QUOTE)).all()
    )
