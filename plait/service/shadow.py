"""A shadow: a model that answers questions again which another has answered, only to be compared with it."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from plait.service.counters import Counters
from plait.service.deployed import BY_MODEL, Deployed, Found, Question
from plait.service.wire import RetrieveRequest, ScoreRequest


@final
class Shadow:
    """Compares what a shadow says with what was answered. Nobody is shown what it says, and nobody waits for it."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def compare(self, shadow: Deployed, question: Question, shown: Found) -> None:
        """Asks the shadow, and counts how far apart the two are; where it fails, that."""
        try:
            (found,) = shadow.answer([question])
            if isinstance(found, Exception):
                raise found
            if found["answered_by"] != BY_MODEL:
                self._done(shadow, "not by its model")
                return
            self._compared(shadow, question, shown, found)
        except Exception:  # whatever it is, nobody asked for this answer
            self._done(shadow, "failed")
            return
        self._done(shadow, "compared")

    def dropped(self, shadow: Deployed) -> None:
        """There was no time for it."""
        self._done(shadow, "dropped")

    def _compared(self, shadow: Deployed, question: Question, shown: Found, found: Found) -> None:
        match question.asked:
            case RetrieveRequest():
                overlap = overlap_of(shown["items"], found["items"])
                if overlap is not None:
                    self._counters.shadow_overlap.labels(shadow.name).observe(overlap)
            case ScoreRequest():
                for action, difference in differences_of(shown["actions"], found["actions"]).items():
                    self._counters.shadow_difference.labels(shadow.name, action).observe(difference)
            case _:
                raise AssertionError("other questions have no shadow")

    def _done(self, shadow: Deployed, outcome: str) -> None:
        self._counters.shadowed.labels(shadow.name, outcome).inc()


def overlap_of(shown: Sequence[Any], found: Sequence[Any]) -> float | None:
    """The share of the items shown that the shadow would have shown, too; None where none was shown.

    >>> overlap_of(["a", "b"], ["b", "c"]), overlap_of([], [])
    (0.5, None)
    """
    return len(set(shown) & set(found)) / len(shown) if len(shown) else None


def differences_of(shown: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    """The mean absolute difference of each action that both predict, over the items that both know.

    >>> differences_of({"like": [0.5, None]}, {"like": [0.25, 0.9], "buy": [0.1, 0.1]})
    {'like': 0.25}
    """
    apart = {}
    for action in shown.keys() & found.keys():
        both = np.abs(np.array(shown[action], dtype=float) - np.array(found[action], dtype=float))
        if not np.isnan(both).all():
            apart[action] = float(np.nanmean(both))
    return apart
