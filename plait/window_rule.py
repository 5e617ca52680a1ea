"""Where the window of a question begins: the one rule that training, evaluation, `encode` and `append` follow.

Shape letters: B sequences, E events, S places of a request's beginning.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True)
class WindowRule:
    """A user of n events is asked from those behind the first `begin(n)`: from all of them up to T + S - 1, then from T
    to T + S - 1. The window begins anew every S events. So a question about an earlier moment has the window that it
    had then, and a history that grows has that of the longer history, whatever way it came there.

    Args:
        max_events: T.
        step: S. With 1, the window is the last T events.
        opens_with_request: whether it begins with the first event of a request instead, where one opens within the
            S events behind the first `begin(n)`.

    Raises:
        ValueError: T or S is below 1, or S above T.
    """

    max_events: int
    step: int = 1
    opens_with_request: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.step <= self.max_events:
            raise ValueError(
                f"max_events={self.max_events}, window_step={self.step}: expected max_events >= 1, and a window_step "
                "from 1 to max_events"
            )

    @classmethod
    def of(cls, window: "WindowRule | int") -> "WindowRule":
        """The rule itself; of a number, that of the last so many events."""
        return window if isinstance(window, WindowRule) else cls(window)

    @property
    def longest(self) -> int:
        """How many events a window holds at most: T + S - 1."""
        return self.max_events + self.step - 1

    @property
    def opens_within(self) -> int:
        """Among how many events behind `begin(n)` the window's first one is."""
        return self.step if self.opens_with_request else 1

    def begin(self, num_events_B: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """b(n): how many of a user's first events lie before the window, of n events up to the question.

        >>> WindowRule(4, step=2).begin(np.arange(9)).tolist()
        [0, 0, 0, 0, 0, 0, 2, 2, 4]
        """
        over_B = np.maximum(0, num_events_B - self.longest)
        return -(-over_B // self.step) * self.step

    def length(self, num_events_B: Int64[np.ndarray, " B"]) -> Int64[np.ndarray, " B"]:
        """How many of n events the window holds, those before its first request included.

        >>> WindowRule(4, step=2).length(np.arange(9)).tolist()
        [0, 1, 2, 3, 4, 5, 4, 5, 4]
        """
        return num_events_B - self.begin(num_events_B)


def events_before_request(
    first_B: Int64[np.ndarray, " B"],
    start_B: Int64[np.ndarray, " B"],
    end_B: Int64[np.ndarray, " B"],
    request_E: np.ndarray,
    within: int,
) -> Int64[np.ndarray, " B"]:
    """How many events from `first_B` on lie before the first that opens a request; 0 where none of `within` does.

    Args:
        start_B, end_B: where the events of each sequence begin and end. Its very first one opens a request.

    >>> one = np.array([1]), np.array([0]), np.array([5]), np.array([7, 7, 7, 8, 8])
    >>> events_before_request(*one, within=3).tolist(), events_before_request(*one, within=2).tolist()
    ([2], [0])
    """
    event_BS = first_B[:, None] + np.arange(within)
    event_BS = np.minimum(event_BS, end_B[:, None] - 1)
    opens_BS = request_E[event_BS] != request_E[event_BS - 1]
    opens_BS |= event_BS == start_B[:, None]
    return np.where(end_B > first_B, opens_BS.argmax(axis=1), 0)
