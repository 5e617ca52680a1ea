"""A state that grew event by event is the state of the longer history."""

from dataclasses import fields, replace

import numpy as np
import pytest
from tiny import (
    EVERY_LAYOUT,
    RETRIEVERS,
    SCORERS,
    assert_caught,
    batch_of,
    model_of,
    part_of,
    together,
    trunk_of,
)

from plait.engine import plain, state
from plait.engine.state import State, append, before_last_request, encode, joined, repeated
from plait.layouts import Layout, resolve
from plait.models.generative import ModelSettings
from plait.models.inputs import Exposure
from plait.schema import EventBatch

WINDOW = 3
LENGTHS = (9, 9, 9)  # in batch_of; users start with 1, 4 and 5 events of them
FIRST = (1, 4, 5)


def some_of(batch: EventBatch, begin_U: tuple[int, ...], end_U: tuple[int, ...]) -> EventBatch:
    return together(*(part_of(batch, u, a, b) for u, (a, b) in enumerate(zip(begin_U, end_U, strict=True))))


REQUESTS = ((0, 1, 1, 2, 2, 2, 3, 4, 4), (0, 0, 0, 0, 0, 1, 1, 2, 2), (0, 1, 2, 3, 4, 5, 6, 6, 6))


def in_requests(tied: bool) -> EventBatch:
    """Requests of one to five events, at one time each or, where they are not tied, at times that tell nothing."""
    request_E = np.concatenate(REQUESTS)
    time_s_E = 1_000_000 + (60 * request_E if tied else np.tile(np.arange(9) // 2, 3))
    return replace(batch_of(LENGTHS), request_E=request_E, time_s_E=time_s_E)


def names_of(batch: EventBatch, named: bool) -> list[str] | None:
    """What the log calls the last request of every user; an id comes back where another lay between."""
    return [f"r{batch.request_E[end - 1] % 3}" for end in batch.start_U1[1:]] if named else None


def grown(layout: Layout, batch: EventBatch, steps: int, named: bool) -> State:
    """The first events encoded, then `steps` events appended one by one to every user."""
    first = some_of(batch, (0, 0, 0), FIRST)
    found = encode(first, WINDOW, layout.lag, exposure_U=names_of(first, named))
    for step in range(steps):
        begin_U = tuple(first + step for first in FIRST)
        event = some_of(batch, begin_U, tuple(b + 1 for b in begin_U))
        names = names_of(event, named)
        event = replace(event, request_E=np.zeros_like(event.request_E))  # which must not matter
        found = append(found, event, WINDOW, layout.lag, exposure_U=names)
    return found


def check_append(layout: Layout, named: bool = False) -> None:
    """Requests are told apart by names, or by the time that their events share."""
    batch = in_requests(tied=not named)
    settings = ModelSettings(trunk=trunk_of(), exposure=Exposure(same_request="blind"))
    model = model_of(layout, max_events=WINDOW, settings=settings)
    for steps in range(5):
        found = grown(layout, batch, steps, named)
        whole = encode(some_of(batch, (0, 0, 0), tuple(f + steps for f in FIRST)), WINDOW, layout.lag)
        for one in fields(EventBatch):
            np.testing.assert_array_equal(
                getattr(found.events, one.name), getattr(whole.events, one.name), one.name
            )
        assert [seen.tolist() for seen in found.seen_U] == [seen.tolist() for seen in whole.seen_U]
        if layout in [p.values[0] for p in RETRIEVERS]:
            answers = (plain.retrieve(model, one, 5, filter_seen=True) for one in (found, whole))
            for from_grown, from_whole in zip(*answers, strict=True):
                np.testing.assert_array_equal(from_grown, from_whole)
        if layout in [p.values[0] for p in SCORERS]:
            items = np.array([[1, 2]] * 3)
            assert str(plain.score(model, found, items)) == str(plain.score(model, whole, items))
    assert whole.events.num_events_U.max() == WINDOW + layout.lag, "the histories must outgrow the window"


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_appending_equals_encoding_the_longer_history(layout, named):
    check_append(layout, named)


def test_a_state_that_loses_the_event_before_its_window_is_caught(monkeypatch):
    right = state.append
    monkeypatch.setitem(
        globals(),
        "append",
        lambda found, event, window, lag, **names: right(found, event, window, 0, **names),
    )
    assert_caught(check_append, resolve("lac"))


@pytest.mark.parametrize("of_last", [False, True])
def test_an_event_in_the_wrong_request_is_caught(of_last, monkeypatch):
    monkeypatch.setattr(state, "in_last_request", lambda *_: np.full(len(LENGTHS), of_last))
    for named in (False, True):
        assert_caught(check_append, resolve("lac"), named)


def test_times_do_not_tell_requests_that_have_names():
    """Nor does a request without a name: it is no other's."""
    history, event = batch_of([4]), part_of(batch_of([5]), 0, 4)
    for time_s_E, last, coming, is_last in (
        (event.time_s_E, "r1", "r1", True),
        (history.time_s_E[-1:], "r1", "r2", False),
        (history.time_s_E[-1:], None, "r2", False),
        (history.time_s_E[-1:], None, None, False),
    ):
        first = encode(history, 9, 0, exposure_U=[last])
        found = append(first, replace(event, time_s_E=time_s_E), 9, 0, exposure_U=[coming])
        assert (np.diff(found.events.request_E)[-1] == 0) == is_last
        assert found.exposure_U == (coming,)


def test_without_the_last_request_what_lay_before_it_is_left():
    batch = replace(in_requests(tied=True), lead_U=np.array([1, 4, 7]))
    left = before_last_request(batch, np.array([True, False, True]))
    assert left.num_events_U.tolist() == [7, 9, 6] and left.lead_U.tolist() == [1, 4, 6]
    assert left.item_E.tolist() == [*batch.item_E[:7], *batch.item_E[9:24]]
    nothing = before_last_request(part_of(in_requests(tied=True), 1, 0, 3), np.array([True]))
    assert nothing.num_events_U.tolist() == nothing.lead_U.tolist() == [0]


@pytest.mark.parametrize("length", [2, 3, 4, 7])
def test_a_state_keeps_the_window_and_what_lags_need(length):
    batch = batch_of([length])
    found = encode(batch, WINDOW, lag=1).events
    kept = min(length, WINDOW + 1)
    np.testing.assert_array_equal(found.item_E, batch.item_E[length - kept :])
    assert found.lead_U.tolist() == [max(0, kept - WINDOW)]


def test_requests_stay_apart_when_events_are_appended():
    """An event that comes later is another exposure, whatever number its own batch gave it."""
    history, event = batch_of([4]), part_of(batch_of([5]), 0, 4)
    found = append(encode(history, WINDOW, 0), replace(event, request_E=np.array([0])), WINDOW, 0)
    assert len(np.unique(found.events.request_E)) == WINDOW
    assert (np.diff(found.events.request_E) > 0).all()
    at_once = replace(event, request_E=np.array([0]), time_s_E=history.time_s_E[-1:])
    tied = append(encode(history, WINDOW, 0), at_once, WINDOW, 0)
    assert tied.events.request_E[-1] == tied.events.request_E[-2], "events of one time are one exposure"


def test_joined_and_repeated_keep_each_users_events_together():
    batch = batch_of((2, 1))
    both = joined(batch, batch)
    assert both.item_E.tolist() == [*batch.item_E[[0, 1, 0, 1]], *batch.item_E[[2, 2]]]
    twice = repeated(batch, 2)
    assert twice.item_E.tolist() == [*batch.item_E[[0, 1, 0, 1]], *batch.item_E[[2, 2]]]
    assert twice.user_U.tolist() == np.repeat(batch.user_U, 2).tolist()
    assert twice.start_U1.tolist() == [0, 2, 4, 5, 6]


def test_a_user_without_events_is_refused():
    with pytest.raises(ValueError, match="user 'u7' has no events; recommend popular items"):
        encode(batch_of((2, 0)), WINDOW, 0, ["u3", "u7"])


@pytest.mark.parametrize(
    ("lengths", "found"),
    [
        ((1,), "events of 1 users"),
        ((1, 2), "2 of user 'u7'"),
        ((1, 0), "0 of user 'u7'"),
        ((1, 1, 1), "events of 3 users"),
    ],
)
def test_append_takes_one_event_for_every_user(lengths, found):
    state = encode(batch_of((3, 3)), WINDOW, 0, ["u3", "u7"])
    with pytest.raises(
        ValueError, match=f"append takes one event for each of the state's 2 users, got {found}"
    ):
        append(state, batch_of(lengths), WINDOW, 0)


def test_append_refuses_an_event_from_before_the_last():
    with pytest.raises(ValueError, match=r"event of user 'u3' lies before the last .*\(1000000 < 1000120\)"):
        append(encode(batch_of([3]), WINDOW, 0, ["u3"]), batch_of([1]), WINDOW, 0)


def test_unknown_items_are_kept_by_name_each_once():
    state = encode(batch_of([3]), WINDOW, 0, unknown_items=["new"])
    later = part_of(batch_of([5]), 0, 4)
    assert append(state, later, WINDOW, 0).unknown_items == ("new",)
    assert append(state, later, WINDOW, 0, unknown_items=["newer", "new"]).unknown_items == ("new", "newer")


def test_what_is_known_of_events_and_users_stays_with_them():
    batch = batch_of((2, 1))
    codes = {"context_EF": np.array([[3], [4], [5]]), "user_code_UK": np.array([[7], [8]])}
    batch = replace(batch, **codes)
    both = joined(batch, batch)
    assert both.context_EF[:, 0].tolist() == [3, 4, 3, 4, 5, 5] and both.user_code_UK[:, 0].tolist() == [7, 8]
    twice = repeated(batch, 2)
    assert twice.context_EF[:, 0].tolist() == [3, 4, 3, 4, 5, 5]
    assert twice.user_code_UK[:, 0].tolist() == [7, 7, 8, 8]
