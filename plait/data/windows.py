"""Which rows of a prepared dataset make up a batch. Pure functions over offsets, no loop over users.

Shape letters: B sequences of the batch, E rows gathered, R some of the sequences.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, Integer

from plait.window_rule import events_before_request


@dataclass(frozen=True, eq=False)
class Stretches:
    """Training events of users, each up to a row: what a sample of training looks back from."""

    user_B: Int64[np.ndarray, " B"]
    end_B: Int64[np.ndarray, " B"]  # row after the last event

    def __len__(self) -> int:
        return len(self.user_B)

    def __getitem__(self, rows: Int64[np.ndarray, " R"] | Bool[np.ndarray, " B"]) -> "Stretches":
        return Stretches(self.user_B[rows], self.end_B[rows])


@dataclass(frozen=True)
class Windows:
    """Rows `begin_B : end_B` of each sequence, of which the first `lead_B` lie before the window."""

    begin_B: Int64[np.ndarray, " B"]
    end_B: Int64[np.ndarray, " B"]
    lead_B: Int64[np.ndarray, " B"]


def windows(
    start_B: Int64[np.ndarray, " B"],
    end_B: Int64[np.ndarray, " B"],
    max_events: int | Int64[np.ndarray, " B"],
    lead: int,
    rng: np.random.Generator | None = None,
) -> Windows:
    """The last `max_events` rows of `start : end`, or a random run of as many, and up to `lead` rows before.

    Raises:
        ValueError: `max_events` is below 1 or `lead` below 0.
    """
    if np.min(max_events, initial=1) < 1 or lead < 0:
        raise ValueError(f"max_events={max_events}, lead={lead}: expected max_events >= 1 and lead >= 0")
    spare_B = np.maximum(end_B - start_B - max_events, 0)
    skip_B = spare_B if rng is None else rng.integers(0, spare_B, endpoint=True)
    first_B = start_B + skip_B
    last_B = np.minimum(first_B + max_events, end_B)
    lead_B = np.minimum(skip_B, lead)
    return Windows(first_B - lead_B, last_B, lead_B)


def opened_with_request(
    window: Windows,
    start_B: Int64[np.ndarray, " B"],
    request_E: np.ndarray,
    lead: int,
    within: int,
) -> Windows:
    """The windows, each from the first of its `within` first rows that opens a request, where one does."""
    if within == 1:
        return window
    first_B = window.begin_B + window.lead_B
    first_B = first_B + events_before_request(first_B, start_B, window.end_B, request_E, within)
    lead_B = np.minimum(first_B - start_B, lead)
    return Windows(first_B - lead_B, window.end_B, lead_B)


def concatenated_ranges(
    begin_B: Int64[np.ndarray, " B"], end_B: Int64[np.ndarray, " B"]
) -> tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " B1"]]:
    """`begin : end` of each sequence, end to end, and where each begins in the result.

    >>> row_E, start_B1 = concatenated_ranges(np.array([5, 2]), np.array([8, 3]))
    >>> row_E.tolist(), start_B1.tolist()
    ([5, 6, 7, 2], [0, 3, 4])
    """
    length_B = end_B - begin_B
    start_B1 = np.concatenate([[0], np.cumsum(length_B)]).astype(np.int64)
    return np.repeat(begin_B - start_B1[:-1], length_B) + np.arange(start_B1[-1]), start_B1


def opens_request(
    request_E: Integer[np.ndarray, " E"], start_B1: Int64[np.ndarray, " B1"]
) -> Bool[np.ndarray, " E"]:
    """Which rows are the first of their request, or of their sequence.

    >>> opens_request(np.array([0, 1, 1, 1]), np.array([0, 3, 4])).tolist()
    [True, True, False, True]
    """
    opens_E = np.diff(request_E, prepend=-1) != 0
    opens_E[start_B1[:-1][np.diff(start_B1) > 0]] = True
    return opens_E
