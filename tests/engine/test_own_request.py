"""What is asked about in the request of the last event is asked about as it was trained; and how requests are told."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from tiny import (
    ACTIONS,
    MAX_EVENTS,
    NUM_ITEMS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    part_of,
    together,
    trunk_of,
)
from tolerance import SAME_SUM, assert_alike

from plait.data.history import Columns
from plait.data.vocabulary import Vocabulary
from plait.engine import asking, plain, state
from plait.engine.state import encode
from plait.layouts import Layout, resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import training_inputs
from plait.models.questions import Exposure
from plait.nn.config import TrunkConfig
from plait.recommender import Recommender
from plait.schema import EventBatch

LAYOUTS = [resolve(name) for name in ("lac", "pc", "interleaved", "genrank")]
LAYOUTS.append(Layout.parse("a[t-1] -> i[t]; i[t] -> a[t]"))
EXPOSED = [
    (positions, Exposure(same_request=same_request, history=history, time_anchor=anchor))
    for same_request in ("causal", "blind")
    for positions, history, anchor in (
        ("learned", "causal", "current"),
        ("genrank", "causal", "current"),
        ("rab", "causal", "next"),
        ("rab", "causal", "request"),
        ("rab", "full", "current"),
    )
]
BLIND = Exposure(same_request="blind")


SHORT = 2  # a window that the requests of `long_log` outgrow


def log_in(*requests: tuple[int, ...]) -> EventBatch:
    """A user for each tuple of a log without a request column: a request is the events of one time."""
    request_E = np.concatenate(requests)
    time_s_E = 1_000_000 + 7_000 * request_E**3
    batch = batch_of([len(one) for one in requests])
    return replace(batch, request_E=request_E, time_s_E=time_s_E)


def tied_log() -> EventBatch:
    return log_in((0, 0, 1, 2, 2), (0, 1, 1))


def long_log() -> EventBatch:
    return log_in((0, 1, 1, 1, 2, 2, 2))


def models(max_events: int, exposed: Sequence[tuple[str, Exposure]] = EXPOSED) -> list[GenerativeRecommender]:
    """Each trained on every event where it stands, and by choice on candidates."""
    found = []
    for layout, (positions, exposure), chosen in itertools.product(LAYOUTS, exposed, (False, True)):
        trunk = TrunkConfig(dim=12, num_layers=1, num_heads=2, dropout=0.0, positions=positions)
        try:
            settings = ModelSettings(trunk=trunk, exposure=exposure)
            asked = {"max_events": max_events, "asked_as_candidates": chosen}
            model = model_of(layout, settings=settings, **asked)
        except ValueError:  # not for each other; `check_supported` has its own tests
            continue
        if not (chosen and replace(model.plan, supervise="all").asks_candidates):  # as without the choice
            found.append(model)
    return found


def window_of(model: GenerativeRecommender, batch: EventBatch, event: int) -> tuple[EventBatch, int]:
    """The window that training asks about an event in, and the event's place there: the last events of its history,
    and what comes, which is its request or, where events are asked about where they stand, the event."""
    user = int(np.searchsorted(batch.start_U1, event, side="right")) - 1
    start, stop = batch.start_U1[user : user + 2].tolist()
    begin, end = event, event + 1
    if model.config.settings.exposure.same_request == "blind" or model.plan.asks_candidates:
        mates = start + np.flatnonzero(batch.request_E[start:stop] == batch.request_E[event])
        begin, end = int(mates[0]), int(mates[-1]) + 1
    first = max(start, begin - model.config.max_events)
    lead = min(first - start, model.layout.lag)
    return part_of(batch, user, first - lead - start, end - start, lead), event - first + lead


@torch.no_grad()
def trained(model: GenerativeRecommender, batch: EventBatch) -> dict[tuple[str, int], np.ndarray]:
    """By field and event, the answer of training's question about it: an action, or the scores of all items."""
    windows, places = zip(
        *(window_of(model, batch, event) for event in range(len(batch.item_E))), strict=True
    )
    rows = together(*windows)
    inputs = training_inputs(model.plan, rows)
    event_of = {
        int(start) + place: n for n, (start, place) in enumerate(zip(rows.start_U1, places, strict=False))
    }
    found = {}
    for asked, state_MD in zip(inputs.questions, model(inputs), strict=True):
        field = asked.target.fact.field
        answer_M = model.heads.predict(state_MD)["rating"] if field == "a" else model.item_scores(state_MD)
        labelled = zip(asked.label_M.tolist(), answer_M.numpy(), strict=True)
        found |= {(field, event_of[label]): answer for label, answer in labelled if label in event_of}
    return found


def served(model: GenerativeRecommender, batch: EventBatch, field: str, event: int) -> np.ndarray:
    """The same of a state that holds all events before it, asked at its time."""
    user = int(np.searchsorted(batch.start_U1, event, side="right")) - 1
    history = part_of(batch, user, 0, event - int(batch.start_U1[user]))
    state = encode(history, model.config.max_events, model.layout.lag)
    at_s = int(batch.time_s_E[event])
    if field == "a":
        return plain.score(model, state, batch.item_E[None, event : event + 1], at_s=at_s)["rating"][0, 0]
    item_1K, score_1K = plain.retrieve(model, state, NUM_ITEMS, False, at_s=at_s)
    return np.concatenate([[-np.inf], score_1K[0, np.argsort(item_1K[0])]], dtype=np.float32)


def check_own_request(asked: Sequence[GenerativeRecommender], batch: EventBatch, first: int = 1) -> None:
    """Of the events from `first` on."""
    met: dict[tuple[str, bool, str, bool], int] = {}
    for model in asked:
        shown = model.config.settings.exposure
        for (field, event), answer in trained(model, batch).items():
            if event < first or event in batch.start_U1:  # served by popularity
                continue
            found = served(model, batch, field, event)
            np.testing.assert_allclose(found, answer, rtol=1e-4, atol=1e-4, err_msg=f"{model.config}")
            tied = bool(batch.time_s_E[event] == batch.time_s_E[event - 1])
            key = field, tied, shown.same_request, model.config.asked_as_candidates
            met[key] = met.get(key, 0) + 1
    assert len(met) == 16, met
    assert_not_vacuous(met, above=1)


def check_beyond_the_window() -> None:
    learned = [pair for pair in EXPOSED if pair[0] == "learned"]
    check_own_request(models(SHORT, learned), long_log(), first=4)


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_what_comes_at_the_time_of_the_last_event_is_answered_as_trained():
    check_own_request(models(MAX_EVENTS), tied_log())


def test_so_it_is_where_history_and_request_outgrow_the_window():
    check_beyond_the_window()


def test_a_state_without_what_lay_before_a_long_request_is_caught(monkeypatch):
    monkeypatch.setattr(state, "_kept", state.window)
    assert_caught(check_beyond_the_window)


def test_a_window_that_is_cut_before_the_request_is_left_out_is_caught(monkeypatch):
    def cut_first(events, max_events, lag, end_U):
        cut = right(events, max_events, lag)
        gone_U = events.start_U1[1:] - end_U
        return right(cut, max_events, lag, np.maximum(cut.start_U1[1:] - gone_U, cut.start_U1[:-1]))

    right = state.window
    monkeypatch.setattr(asking, "window", cut_first)
    with pytest.raises((AssertionError, ValueError)):
        check_beyond_the_window()


def test_a_window_of_more_than_training_has_is_caught(monkeypatch):
    def more(events, max_events, lag, end_U):
        return right(events, max_events, lag + 1, end_U)

    right = state.window
    monkeypatch.setattr(asking, "window", more)
    assert_caught(check_beyond_the_window)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("in_last_request", lambda state, time_s_U, request_name_U: np.zeros(len(time_s_U), bool)),
        ("window", lambda events, max_events, lag, end_U: state.window(events, max_events, lag)),
    ],
)
def test_a_request_of_its_own_for_everything_is_caught(name, broken, monkeypatch):
    monkeypatch.setattr(asking, name, broken)
    assert_caught(check_own_request, models(MAX_EVENTS), tied_log())


def test_a_model_that_forgets_how_it_was_trained_to_be_asked_is_caught(monkeypatch):
    right = asking.coming_of

    def forgetful(model, *asked):
        model = copy.copy(model)
        model.plan = replace(model.plan, supervise="all")
        return right(model, *asked)

    monkeypatch.setattr(asking, "coming_of", forgetful)
    assert_caught(check_own_request, models(MAX_EVENTS), tied_log())


def test_without_a_time_what_comes_is_of_a_later_request():
    batch, lac = tied_log(), resolve("lac")
    model = model_of(lac, settings=ModelSettings(trunk=trunk_of(), exposure=BLIND))
    state, items = encode(batch, MAX_EVENTS, lac.lag), np.array([[3, 5], [2, 9]])
    last_s = int(batch.time_s_E[4])
    early, tied, later, never = (
        plain.score(model, state, items, at_s=at_s)["rating"]
        for at_s in (last_s - 1, last_s, last_s + 1, None)
    )
    assert np.array_equal(later, never) and np.array_equal(early, never)
    assert (abs(tied[0] - never[0]) > 100 * SAME_SUM * abs(never[0])).all(), "of the first user"
    np.testing.assert_allclose(tied[1], never[1], rtol=SAME_SUM)  # of it alone; rows before it are shorter


COLUMNS = {"user": "user", "item": "item", "time": "time", "time_unit": "s"}
NAMED = Columns(**COLUMNS, request="session")
UNNAMED = Columns(**COLUMNS | {"time_unit": "ms"})


def recommender(columns: Columns, exposure: Exposure = BLIND) -> Recommender:
    model = model_of(resolve("lac"), settings=ModelSettings(trunk=trunk_of(), exposure=exposure))
    return Recommender(
        model, Vocabulary.of_items(pl.Series([f"i{item}" for item in range(NUM_ITEMS)])), columns
    )


def log_of(sessions: str, times: list[int]) -> pl.DataFrame:
    items = [f"i{item}" for item in batch_of([len(times)]).item_E - 1]
    return pl.DataFrame({"item": items, "time": times, "session": list(sessions), "rating": [3, 5] * 3})


@pytest.mark.parametrize(
    ("columns", "log"),
    [
        (NAMED, log_of("ABBBAC", [10, 20, 20, 30, 40, 40])),
        (UNNAMED, log_of("------", [1_200, 1_700, 1_700, 1_900, 2_100, 2_100]).drop("session")),
    ],
    ids=["named", "by the time to the millisecond"],
)
def test_events_appended_are_of_the_requests_of_the_whole_history(columns, log):
    model = recommender(columns)
    for first in range(1, len(log)):
        state = model.encode(log[:first])
        for row in log[first:].iter_rows(named=True):
            state = model.append(state, row)
        whole = model.encode(log)
        assert state.events.request_E.tolist() == whole.events.request_E.tolist()
        assert_alike(model.score(state, ["i3"]), model.score(whole, ["i3"]))
    assert np.diff(whole.events.request_E).tolist() == (
        [1, 0, 0, 1, 1] if columns is NAMED else [1, 0, 1, 1, 0]
    )
    assert ACTIONS[0].name in log.columns


def test_an_event_may_name_its_request_and_no_action():
    model = recommender(NAMED)
    state = model.encode(log_of("AAABBB", [10, 20, 30, 40, 50, 60]).select("item", "time", "session"))
    found = model.append(state, {"item": "i5", "time": 70, "session": "B"}).events
    assert np.diff(found.request_E).tolist() == [0, 0, 1, 0, 0, 0] and np.isnan(found.action_EA).all()


def test_an_event_that_does_not_name_its_request_is_refused_by_models_that_read_it():
    log, event = log_of("AAABBB", [10, 20, 30, 40, 50, 60]), {"item": "i5", "time": 70}
    model = recommender(NAMED)
    with pytest.raises(ValueError, match="no column 'session', and the model was trained to tell by it"):
        model.append(model.encode(log), event)
    with pytest.raises(ValueError, match=r"session is missing in the event .*'time': 70.*give it for every"):
        model.append(model.encode(log), event | {"session": None})
    with pytest.raises(
        ValueError, match=r"by the log's 'session' what .* from an EventBatch, which does not"
    ):
        model.append(model.encode(batch_of([4])), event | {"time": 2_000_000, "session": "B"})
    reads_none = recommender(NAMED, Exposure())
    for history in (log, log.drop("session"), batch_of([4])):
        state = reads_none.append(reads_none.encode(history), event | {"time": 2_000_000})
        assert state.events.item_E[-1] == 6


@pytest.mark.parametrize(
    ("columns", "at", "is_last"),
    [
        (UNNAMED, 60_500, True),
        (UNNAMED, 60_501, False),
        (NAMED, 60_500, False),
    ],
)
def test_items_are_of_the_last_request_by_the_exact_time_where_requests_have_no_names(columns, at, is_last):
    """Where they have, items to come are of none that was named."""
    times = [10_000, 20_000, 30_000, 40_000, 60_500, 60_500]
    log = log_of("AAABBB", times if columns is UNNAMED else [60_500] * 6)
    model = recommender(columns)
    state = model.encode(log if columns is NAMED else log.drop("session"))
    same_as_later = model.score(state, ["i3"], at=at).equals(model.score(state, ["i3"]))
    assert same_as_later != is_last
    item = model.retrieve(state, 3, filter_seen=False, at=at)["score"]
    assert item.equals(model.retrieve(state, 3, filter_seen=False)["score"]) != is_last


def test_the_number_of_what_comes_is_each_users_own():
    """A user without events in a context does not get the number of the user before."""
    for lengths, expected in (((3, 0, 2), [3, 0, 2]), ((0,), [0])):
        assert asking._next_numbers(batch_of(lengths)).tolist() == expected
