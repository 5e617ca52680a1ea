"""What is asked about in the request of the last event is asked about as it was trained; and how requests are told."""

import itertools

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
    trunk_of,
)

from plait.data.history import Columns
from plait.engine import plain
from plait.engine.state import encode
from plait.layouts import Layout, resolve
from plait.models.combining import supervises_candidates_only
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import Exposure, training_inputs
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


def tied_log() -> EventBatch:
    """Two users of a log without a request column: a request is the events of one time."""
    request_E = np.array([0, 0, 1, 2, 2, 0, 1, 1])
    time_s_E = 1_000_000 + 7_000 * request_E**3
    return EventBatch(**vars(batch_of((5, 3))) | {"request_E": request_E, "time_s_E": time_s_E})


def models() -> list[GenerativeRecommender]:
    """Each trained on every event where it stands, and by choice on candidates."""
    found = []
    for layout, (positions, exposure), chosen in itertools.product(LAYOUTS, EXPOSED, (False, True)):
        if chosen and supervises_candidates_only(layout, exposure):
            continue  # as without the choice
        trunk = TrunkConfig(dim=12, num_layers=1, num_heads=2, dropout=0.0, positions=positions)
        try:
            settings = ModelSettings(trunk=trunk, exposure=exposure)
            found.append(model_of(layout, settings=settings, asked_as_candidates=chosen))
        except ValueError:  # not for each other; `check_supported` has its own tests
            continue
    return found


@torch.no_grad()
def trained(model: GenerativeRecommender, batch: EventBatch) -> dict[tuple[str, int], np.ndarray]:
    """By field and event, the answer of training's question about it: an action, or the scores of all items."""
    exposure = model.config.settings.exposure
    by_candidates = model.config.asked_as_candidates or supervises_candidates_only(model.layout, exposure)
    requests = 1 if by_candidates else None
    inputs = training_inputs(model.layout, batch, exposure=exposure, candidate_requests=requests)
    found = {}
    for asked, state_MD in zip(inputs.asked, model(inputs), strict=True):
        field = asked.target.fact.field
        answer_M = model.heads.predict(state_MD)["rating"] if field == "a" else model.item_scores(state_MD)
        found |= {
            (field, int(event)): answer.numpy() for event, answer in zip(asked.label_M, answer_M, strict=True)
        }
    return found


def served(model: GenerativeRecommender, batch: EventBatch, field: str, event: int) -> np.ndarray:
    """The same of a state that holds all events before it, asked at its time."""
    user = int(np.searchsorted(batch.start_U1, event, side="right")) - 1
    history = part_of(batch, user, 0, event - int(batch.start_U1[user]))
    state, at_s = encode(history, MAX_EVENTS, model.layout.lag), int(batch.time_s_E[event])
    if field == "a":
        return plain.score(model, state, batch.item_E[None, event : event + 1], at_s=at_s)["rating"][0, 0]
    item_1K, score_1K = plain.retrieve(model, state, NUM_ITEMS, False, at_s=at_s)
    return np.concatenate([[-np.inf], score_1K[0, np.argsort(item_1K[0])]], dtype=np.float32)


def check_own_request() -> None:
    batch = tied_log()
    met: dict[tuple[str, bool, str, bool], int] = {}
    for model in models():
        shown = model.config.settings.exposure
        for (field, event), answer in trained(model, batch).items():
            if event in batch.start_U1:  # served by popularity
                continue
            found = served(model, batch, field, event)
            np.testing.assert_allclose(found, answer, rtol=1e-4, atol=1e-4, err_msg=f"{model.config}")
            tied = bool(batch.time_s_E[event] == batch.time_s_E[event - 1])
            key = field, tied, shown.same_request, model.config.asked_as_candidates
            met[key] = met.get(key, 0) + 1
    assert len(met) == 16, met
    assert_not_vacuous(met, above=5)


def test_what_comes_at_the_time_of_the_last_event_is_answered_as_trained():
    check_own_request()


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("in_last_request", lambda state, time_s_U, exposure_U: np.zeros(len(time_s_U), bool)),
        ("before_last_request", lambda events, which_U: events),
    ],
)
def test_a_request_of_its_own_for_everything_is_caught(name, broken, monkeypatch):
    monkeypatch.setattr(plain, name, broken)
    assert_caught(check_own_request)


def test_a_model_that_forgets_how_it_was_trained_to_be_asked_is_caught(monkeypatch):
    layouts_alone = property(lambda m: supervises_candidates_only(m.layout, m.config.settings.exposure))
    monkeypatch.setattr(GenerativeRecommender, "asks_candidates", layouts_alone)
    assert_caught(check_own_request)


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
    assert (tied[0] != never[0]).all() and np.array_equal(tied[1], never[1]), "of the first user alone"


COLUMNS = {"user": "user", "item": "item", "time": "time", "time_unit": "s"}
NAMED = Columns(**COLUMNS, request="session")
UNNAMED = Columns(**COLUMNS | {"time_unit": "ms"})


def recommender(columns: Columns, exposure: Exposure = BLIND) -> Recommender:
    model = model_of(resolve("lac"), settings=ModelSettings(trunk=trunk_of(), exposure=exposure))
    return Recommender(model, pl.Series([f"i{item}" for item in range(NUM_ITEMS)]), columns)


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
        assert model.score(state, ["i3"]).equals(model.score(whole, ["i3"]))
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
