"""What tokens know of requests, against a table written by hand (GenRank paper, section 4.2)."""

import numpy as np
import pytest
from tiny import (
    assert_caught,
    batch_of,
    plan_of,
)

from plait.layouts.arrange import SPECIALS, START
from plait.models import inputs
from plait.models.inputs import Inputs, query_inputs, training_inputs
from plait.models.questions import Exposure
from plait.nn.visibility import NO_REQUEST_BEFORE
from plait.schema import EventBatch

# Two users. The second one's first event lies before the window, which so begins inside of a request.
TIME_S = [50, 50, 90, 100, 100, 100, 160, 400, 400]
REQUEST = [0, 0, 1, 0, 0, 0, 1, 2, 2]

# By event: the number of its request in the window, counting itself, and the seconds since the request before.
OF_EVENT = {
    0: (1, None),
    1: (1, None),  # at the time of the first: no earlier request either
    2: (2, 40),
    4: (1, None),  # what lies before the window does not count
    5: (1, None),
    6: (2, 60),
    7: (3, 240),
    8: (3, 240),  # not 0: since the request before, not since the event before
}


def tied_batch() -> EventBatch:
    given = vars(batch_of((3, 6), lead_U=(0, 1)))
    return EventBatch(**given | {"time_s_E": np.array(TIME_S), "request_E": np.array(REQUEST)})


def requests_of(found: Inputs) -> list[tuple[int, int, int | None]]:
    """Event, number of the request, and seconds since the one before, of every token in order."""
    clock = found.segments.clock
    assert clock is not None
    request_N, gap_s_N = (
        cells_RL.reshape(-1)[found.cell_N].tolist() for cells_RL in (clock.request_RL, clock.gap_s_RL)
    )
    gaps = [None if gap_s == NO_REQUEST_BEFORE else gap_s for gap_s in gap_s_N]
    return list(zip(found.event_N.tolist(), request_N, gaps, strict=True))


def check_table() -> None:
    batch, table = tied_batch(), [(event, *row) for event, row in OF_EVENT.items()]
    assert requests_of(training_inputs(plan_of("lac"), batch)) == table
    both = [row for row in table for _ in range(2)]
    assert requests_of(training_inputs(plan_of("interleaved"), batch)) == both, "both tokens of an event"
    # The candidates of the last request count from the history that they share.
    asked = training_inputs(plan_of("genrank"), batch)
    assert requests_of(asked)[-5:] == table[-5:] and set(requests_of(asked)) == set(table)
    # Two candidates at the time of the history's last event, which is of their request, are of no later one.
    asked = query_inputs(plan_of("lac"), batch, ("a",), num_candidates_U=np.array([1, 1]))
    assert requests_of(asked) == table


def test_request_index_and_time_since_the_request_before_are_those_of_the_paper():
    check_table()


MUTANTS = {
    "a constant index": lambda clock: clock | {"request_RL": np.ones_like(clock["request_RL"])},
    "an index that does not count itself": lambda clock: clock | {"request_RL": clock["request_RL"] - 1},
    "no null bucket": lambda clock: clock | {"gap_s_RL": np.maximum(clock["gap_s_RL"], 0)},
    "half the gap": lambda clock: clock | {"gap_s_RL": clock["gap_s_RL"] // 2},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_clock_that_goes_wrong_is_caught(mutant, monkeypatch):
    right = inputs._clock
    monkeypatch.setattr(inputs, "_clock", lambda *given: MUTANTS[mutant](right(*given)))
    assert_caught(check_table)


@pytest.mark.parametrize(("lead", "lagged"), [(1, None), (2, 0)])
def test_a_request_begun_before_the_window_lags_to_start_where_nothing_older_is_at_hand(lead, lagged):
    """Blind windows: the lag counts from where the request begins, here at the event before the window."""
    request_E = np.array([0, 1, 1, 2])[2 - lead :]
    given = vars(batch_of([len(request_E)], lead_U=(lead,))) | {"request_E": request_E}
    blind = Exposure(same_request="blind")
    for batch_inputs in (training_inputs, lambda *asked: query_inputs(*asked, ("a",))):
        shown = dict(batch_inputs(plan_of("lac", blind), EventBatch(**given)).shown)
        first, second = shown["a"].tolist()
        assert first == (START if lagged is None else SPECIALS + lagged)
        assert second == SPECIALS + lead, "the next request has its true lag"
