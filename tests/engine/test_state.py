"""A state that grew event by event is the state of the longer history."""

import itertools
from dataclasses import fields, replace

import numpy as np
import pytest
from tiny import (
    EVERY_LAYOUT,
    RETRIEVERS,
    SCORERS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    part_of,
    together,
    trunk_of,
)

from plait.engine import plain, state
from plait.engine.state import State, append, encode, joined_histories, repeated, some_users, window
from plait.layouts import Layout, resolve
from plait.layouts.event_roles import begin_of_last_request
from plait.models.generative import ModelSettings
from plait.models.questions import Exposure
from plait.schema import EventBatch
from plait.window_rule import WindowRule

WINDOW = 3
LENGTHS = (9, 9, 9)  # in batch_of; users start with 1, 4 and 4 events of them
FIRST = (1, 4, 4)


def some_of(batch: EventBatch, begin_U: tuple[int, ...], end_U: tuple[int, ...]) -> EventBatch:
    return together(*(part_of(batch, u, a, b) for u, (a, b) in enumerate(zip(begin_U, end_U, strict=True))))


REQUESTS = ((0, 1, 1, 2, 2, 2, 3, 4, 4), (0, 1, 1, 1, 1, 1, 1, 1, 2), (0, 1, 2, 3, 4, 5, 6, 6, 6))


def in_requests(tied: bool) -> EventBatch:
    """Requests of one to seven events, at one time each or, where they are not tied, at times that tell nothing."""
    request_E = np.concatenate(REQUESTS)
    time_s_E = 1_000_000 + (60 * request_E if tied else np.tile(np.arange(9) // 2, 3))
    return replace(batch_of(LENGTHS), request_E=request_E, time_s_E=time_s_E)


def names_of(batch: EventBatch, named: bool) -> list[str] | None:
    """What the log calls the last request of every user; an id comes back where another lay between."""
    return [f"r{batch.request_E[end - 1] % 3}" for end in batch.start_U1[1:]] if named else None


def grown(layout: Layout, batch: EventBatch, steps: int, named: bool) -> State:
    """The first events encoded, then `steps` events appended one by one to every user."""
    first = some_of(batch, (0, 0, 0), FIRST)
    found = encode(first, WINDOW, layout.lag, request_name_U=names_of(first, named))
    for step in range(steps):
        begin_U = tuple(first + step for first in FIRST)
        event = some_of(batch, begin_U, tuple(b + 1 for b in begin_U))
        names = names_of(event, named)
        event = replace(event, request_E=np.zeros_like(event.request_E))  # which must not matter
        found = append(found, event, WINDOW, layout.lag, request_name_U=names)
    return found


def check_append(layout: Layout, named: bool = False) -> None:
    """Requests are told apart by names, or by the time that their events share."""
    batch = in_requests(tied=not named)
    settings = ModelSettings(trunk=trunk_of(), exposure=Exposure(same_request="blind"))
    model = model_of(layout, max_events=WINDOW, settings=settings)
    for steps in range(6):
        found = grown(layout, batch, steps, named)
        whole = encode(some_of(batch, (0, 0, 0), tuple(f + steps for f in FIRST)), WINDOW, layout.lag)
        assert_same_events(found.events, whole.events)
        assert [seen.tolist() for seen in found.seen_U] == [seen.tolist() for seen in whole.seen_U]
        if layout in [p.values[0] for p in RETRIEVERS]:
            answers = (plain.retrieve(model, one, 5, filter_seen=True) for one in (found, whole))
            for from_grown, from_whole in zip(*answers, strict=True):
                np.testing.assert_array_equal(from_grown, from_whole)
        if layout in [p.values[0] for p in SCORERS]:
            items = np.array([[1, 2]] * 3)
            assert str(plain.score(model, found, items)) == str(plain.score(model, whole, items))
        num_events = int(
            found.events.num_events_U[1]
        )  # of 4, 5, ... events, all of one request but the first
        assert num_events == min(4 + steps, WINDOW + layout.lag + 1), "the histories must outgrow the window"


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
        first = encode(history, 9, 0, request_name_U=[last])
        found = append(first, replace(event, time_s_E=time_s_E), 9, 0, request_name_U=[coming])
        assert (np.diff(found.events.request_E)[-1] == 0) == is_last
        assert found.request_name_U == (coming,)


def seen(
    events: EventBatch, rule: WindowRule | int, lag: int, without_last_request_U: np.ndarray | None = None
) -> EventBatch:
    """The window of all events or, for the users that are named, of those before the last request."""
    if without_last_request_U is None:
        return window(events, rule, lag)
    begin_U = begin_of_last_request(events.start_U1, events.request_E)
    return window(events, rule, lag, np.where(without_last_request_U, begin_U, events.start_U1[1:]))


def assert_same_events(found: EventBatch, expected: EventBatch) -> None:
    for one in fields(EventBatch):
        np.testing.assert_array_equal(getattr(found, one.name), getattr(expected, one.name), one.name)


def test_a_window_is_the_last_events_with_and_without_the_last_request():
    """Of requests of 1, 2, 3, 1, 2 events, of 1, 7, 1, and of six of 1 and one of 3."""
    batch = replace(in_requests(tied=True), lead_U=np.array([1, 4, 7]))  # which must not matter
    found = window(batch, WINDOW, 1)
    assert_same_events(found, replace(some_of(batch, (5, 5, 5), (9, 9, 9)), lead_U=np.array([1, 1, 1])))
    found = seen(batch, WINDOW, 1, np.array([True, False, True]))
    assert_same_events(found, replace(some_of(batch, (3, 5, 2), (7, 9, 6)), lead_U=np.array([1, 1, 1])))
    nothing = seen(part_of(batch, 1, 1, 5), WINDOW, 1, np.array([True]))
    assert nothing.num_events_U.tolist() == nothing.lead_U.tolist() == [0]


def check_kept() -> None:
    """Any window of a state is that of the whole history, and a state of long requests is no longer for them."""
    rng, met = np.random.default_rng(0), {"long requests": 0, "short requests": 0, "less than the history": 0}
    for _ in range(80):
        length_U = rng.integers(1, 40, 3)
        batch = batch_of(length_U)
        ends_E = rng.random(len(batch.item_E)) < rng.choice([0.05, 0.3, 0.9])
        batch = replace(batch, request_E=np.cumsum(ends_E))
        max_events, lag = int(rng.integers(1, 6)), int(rng.integers(0, 3))
        step, opens_with_request = int(rng.integers(1, max_events + 1)), bool(rng.integers(2))
        rule = WindowRule(max_events, step, opens_with_request)
        events = encode(batch, rule, lag).events
        for own_U in (None, *np.array(list(itertools.product([False, True], repeat=3)))):
            assert_same_events(seen(events, rule, lag, own_U), seen(batch, rule, lag, own_U))
        assert (events.num_events_U <= 2 * (rule.longest + max(lag, rule.opens_within > 1))).all()
        assert_same_events(window(events, rule, 0), events_after_lead(events))
        own = batch.num_events_U - seen(batch, 99, 0, np.array([True] * 3)).num_events_U
        met["long requests"] += int((own > rule.longest + lag).sum())
        met["short requests"] += int((own <= rule.longest + lag).sum())
        met["less than the history"] += int((events.num_events_U < length_U).sum())
    assert_not_vacuous(met, above=20)


def events_after_lead(events: EventBatch) -> EventBatch:
    begin_U = tuple(events.lead_U.tolist())
    return some_of(events, begin_U, tuple(events.num_events_U.tolist()))


def test_a_state_keeps_what_windows_need():
    check_kept()


def test_a_state_that_keeps_one_window_is_caught(monkeypatch):
    monkeypatch.setattr(state, "_kept", window)
    assert_caught(check_kept)


def test_requests_stay_apart_when_events_are_appended():
    """An event that comes later is another exposure, whatever number its own batch gave it."""
    history, event = batch_of([4]), part_of(batch_of([5]), 0, 4)
    found = append(encode(history, WINDOW, 0), replace(event, request_E=np.array([0])), WINDOW, 0)
    assert len(np.unique(found.events.request_E)) == WINDOW + 1, (
        "the window, and one for questions of the last"
    )
    assert (np.diff(found.events.request_E) > 0).all()
    at_once = replace(event, request_E=np.array([0]), time_s_E=history.time_s_E[-1:])
    tied = append(encode(history, WINDOW, 0), at_once, WINDOW, 0)
    assert tied.events.request_E[-1] == tied.events.request_E[-2], "events of one time are one exposure"


def test_joined_and_repeated_keep_each_users_events_together():
    batch = batch_of((2, 1))
    both = joined_histories(batch, batch)
    assert both.item_E.tolist() == [*batch.item_E[[0, 1, 0, 1]], *batch.item_E[[2, 2]]]
    twice = repeated(batch, 2)
    assert twice.item_E.tolist() == [*batch.item_E[[0, 1, 0, 1]], *batch.item_E[[2, 2]]]
    assert twice.user_U.tolist() == np.repeat(batch.user_U, 2).tolist()
    assert twice.start_U1.tolist() == [0, 2, 4, 5, 6]
    both = batch_of((2, 1, 3), (1, 0, 2))
    assert_same_events(some_users(both, slice(1, 9)), together(part_of(both, 1), part_of(both, 2, lead=2)))


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
    with pytest.raises(
        ValueError,
        match=r"event of user 'u3' lies before the last .*\(1000000 < 1000120, by unix seconds\); encode the",
    ):
        append(encode(batch_of([3]), WINDOW, 0, ["u3"]), batch_of([1]), WINDOW, 0)


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ([(7, "b"), (7, "b"), (8, "a")], None),
        (
            [(7, "b"), (7, "a")],
            r"event of user 'u3' lies before the last .*\(7, a < 7, b, by place in the log\)",
        ),
        ([(7, "b"), (9, "a"), (8, "c")], r"\(8, c < 9, a, by place"),
        (
            [(7, "b"), (7, 5)],
            r"event of user 'u3' cannot be put in order with .*: \(7, 5\) and \(7, 'b'\).*in one way",
        ),
    ],
)
def test_places_in_the_log_decide_where_both_sides_give_them(places, found):
    """Here all seconds are one."""
    batch = batch_of([1])
    known = encode(batch, WINDOW, 0, ["u3"], place_U=places[:1])
    for place in places[1:-1]:
        known = append(known, batch, WINDOW, 0, place_U=[place])
        assert known.place_U == (place,)
    if found is None:
        assert append(known, batch, WINDOW, 0, place_U=places[-1:]).place_U == (places[-1],)
        return
    with pytest.raises(ValueError, match=found):
        append(known, batch, WINDOW, 0, place_U=places[-1:])
    assert append(known, batch, WINDOW, 0).place_U is None, "of one second"


def test_unknown_items_are_kept_by_name_each_once():
    state = encode(batch_of([3]), WINDOW, 0, unknown_items=["new"])
    later = part_of(batch_of([5]), 0, 4)
    assert append(state, later, WINDOW, 0).unknown_items == ("new",)
    assert append(state, later, WINDOW, 0, unknown_items=["newer", "new"]).unknown_items == ("new", "newer")


def test_what_is_known_of_events_and_users_stays_with_them():
    batch = batch_of((2, 1))
    codes = {"context_EF": np.array([[3], [4], [5]]), "user_code_UK": np.array([[7], [8]])}
    batch = replace(batch, **codes)
    both = joined_histories(batch, batch)
    assert both.context_EF[:, 0].tolist() == [3, 4, 3, 4, 5, 5] and both.user_code_UK[:, 0].tolist() == [7, 8]
    twice = repeated(batch, 2)
    assert twice.context_EF[:, 0].tolist() == [3, 4, 3, 4, 5, 5]
    assert twice.user_code_UK[:, 0].tolist() == [7, 7, 8, 8]
