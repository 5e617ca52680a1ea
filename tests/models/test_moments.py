"""What tokens know of the moment that is asked about, against the source's own formula.

Source: `_get_col_indices` of Meta's published DLRM-v3, and the time encoding beside it: behind `high` tokens of history
stand the targets; slot j is at high - min(j, high), and floor(sqrt(minutes)) before the moment. So the last token of
history is 1 away, and every target 0.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny import (
    ACTIONS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    plan_of,
    trunk_of,
)

from plait.layouts import CATALOGUE, Layout
from plait.models import inputs
from plait.models.combining import check_supported
from plait.models.inputs import Inputs, query_inputs, training_inputs
from plait.models.questions import Exposure
from plait.nn.positions import moment_bucket
from plait.schema import EventBatch

AT_END = Exposure(time_anchor="request")


def supported() -> list[Layout]:
    """The layouts that take positions which count back from a moment."""
    found = []
    for entry in CATALOGUE.values():
        try:
            check_supported(entry.layout, ACTIONS, trunk_of("dlrm_v3"), AT_END)
        except ValueError:
            continue
        found.append(entry.layout)
    return found


def pairs_of_events(length_U: Sequence[int], lead_U: Sequence[int]) -> EventBatch:
    """Two events a request, the last request of one or of two; times between events grow."""
    batch = batch_of(length_U, lead_U)
    nth_E = np.arange(len(batch.item_E)) - np.repeat(batch.start_U1[:-1], batch.num_events_U)
    return replace(batch, request_E=nth_E // 2, time_s_E=1_000_000 + 67 * nth_E**3)


def check_moments(layout: Layout, asked: Inputs, batch: EventBatch, num_history_U: np.ndarray) -> None:
    clock = asked.segments.clock
    assert clock is not None
    cells = clock.left_RL, clock.anchor_s_RL - clock.time_s_RL
    left_N, gap_s_N = (cells_RL.reshape(-1)[asked.cell_N] for cells_RL in cells)
    first_U = batch.start_U1[:-1] + batch.lead_U
    for user, (first, num_history) in enumerate(zip(first_U, num_history_U, strict=True)):
        its = asked.user_N == user
        high = int(num_history) * layout.tokens_per_event
        assert left_N[its].tolist() == [high - min(slot, high) for slot in range(int(its.sum()))], layout
        back_s = batch.time_s_E[first + num_history] - batch.time_s_E[asked.event_N[its].numpy()]
        expected = [math.isqrt(max(0, seconds) // 60) for seconds in back_s.tolist()]
        assert moment_bucket(gap_s_N[its]).tolist() == expected, layout


def check_every_layout() -> None:
    met: Counter[str] = Counter()
    batch, num_candidates_U = pairs_of_events((7, 4, 2, 3), (0, 1, 0, 0)), np.array([1, 2, 2, 1])
    num_history_U = batch.num_events_U - batch.lead_U - num_candidates_U
    for layout in supported():
        training = training_inputs(plan_of(layout, AT_END), batch)
        serving = query_inputs(plan_of(layout, AT_END), batch, (), num_candidates_U=num_candidates_U)
        for asked in (training, serving):
            check_moments(layout, asked, batch, num_history_U)
        met.update({"layouts": 1, "of several tokens": layout.tokens_per_event > 1})
    met.update(
        {"no history": int((num_history_U == 0).sum()), "two candidates": int((num_candidates_U > 1).sum())}
    )
    assert_not_vacuous(met)


def test_tokens_stand_as_far_from_the_moment_as_the_source_says() -> None:
    check_every_layout()


BROKEN: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "candidates where the last event stands": lambda clock: {"left_RL": np.maximum(clock["left_RL"], 1)},
    "the last event where candidates stand": lambda clock: {"left_RL": np.maximum(clock["left_RL"] - 1, 0)},
    "the time of the last event": lambda clock: {
        "anchor_s_RL": np.full_like(clock["time_s_RL"], clock["time_s_RL"].max())
    },
    "half the time": lambda clock: {"anchor_s_RL": (clock["anchor_s_RL"] + clock["time_s_RL"]) // 2},
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_moment_that_goes_wrong_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = inputs._clock

    def wrong(*given: Any) -> dict[str, np.ndarray]:
        clock = right(*given)
        return clock | BROKEN[broken](clock)

    monkeypatch.setattr(inputs, "_clock", wrong)
    assert_caught(check_every_layout)
