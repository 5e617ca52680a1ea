"""Of encoded histories, those states alone are there that may answer: now, and after more events."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import MAX_EVENTS, assert_not_vacuous, batch_of, model_of, part_of

from plait.engine import one_pass, plain
from plait.engine.state import State, append, encode
from plait.layouts import audit, resolve
from plait.models import inputs as inputs_module
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import history_inputs
from plait.nn import read as read_module

LAYOUTS = ("item", "lac", "pc", "interleaved", "lac_patched", "next_both", "i[t] -> i[t+2]")
REQUEST_E = np.array(
    [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
)  # whose time tells whether an event is of the last request


@pytest.fixture(autouse=True)
def every_share(monkeypatch):
    """Whatever the share of the tokens that are read: these histories are short."""
    monkeypatch.setattr(read_module, "LARGEST_SHARE", 1.0)


def model_with(layout: str, asks_candidates: bool) -> GenerativeRecommender:
    return model_of(resolve(layout), asked_as_candidates=asks_candidates)


def answers(model: GenerativeRecommender, state: State, at_s: int, way: object) -> list[np.ndarray]:
    found = [np.sort(way.retrieve(model, state, 3, False, at_s=at_s)[1])]
    if audit(model.layout).can_score != "no":
        found += way.score(model, state, np.array([[2, 5, 9]]), at_s=at_s).values()
    return found


def check_answers(layout: str, asks_candidates: bool) -> dict[str, int]:
    """From every state on the way, of the last request and of a later one, as from one that keeps nothing."""
    model, met = model_with(layout, asks_candidates), {"asked": 0, "states left out": 0}
    log = replace(batch_of([len(REQUEST_E)]), time_s_E=1_000_000 + 600 * REQUEST_E, request_E=REQUEST_E)
    rule, lag = model.plan.window, model.plan.lead
    state = one_pass.encode(model, encode(part_of(log, 0, 0, 7), rule, lag))
    for end in range(7, len(REQUEST_E) + 1):
        if end > 7:
            after = append(state, part_of(log, 0, end - 1, end), rule, lag)
            state = one_pass.append(model, state, after)
        assert state.kept is not None
        met["states left out"] += int(state.kept.encoded.hidden_SD.isnan().any(1).sum())
        for at_s in (int(log.time_s_E[end - 1]), 2_000_000):
            kept, plainly = (
                answers(model, state, at_s, one_pass),
                answers(model, replace(state, kept=None), at_s, plain),
            )
            for found, expected in zip(kept, plainly, strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
                met["asked"] += 1
    return met


@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_that_are_left_out_are_asked_for_never(layout):
    for asks_candidates in (False, True):
        assert_not_vacuous(check_answers(layout, asks_candidates), above=5)


@pytest.mark.parametrize("layout", ["lac", "interleaved", "i[t] -> i[t+2]"])
def test_what_the_last_request_is_asked_from_is_missed(layout, monkeypatch):
    """Where each event is taken for a request: NaN is refused, not ranked."""
    monkeypatch.setattr(
        inputs_module,
        "_begin_of_last",
        lambda batch, roles: np.arange(len(batch.item_E))[roles.history_end_U - 1],
    )
    with pytest.raises(ValueError, match="has NaN for"):
        check_answers(layout, True)


@pytest.mark.parametrize("layout", ["genrank", "attn_mvp", "attn_dhn", "action_out", "lum"])
def test_where_candidates_answer_themselves_no_state_is_made(layout):
    model = model_with(layout, asks_candidates=False)
    state = one_pass.encode(model, encode(batch_of([7, 4]), MAX_EVENTS, model.plan.lead))
    assert state.kept is not None and state.kept.encoded.hidden_SD.isnan().all()
    assert len(state.kept.encoded.keys) == model.trunk.num_attentions
    read = history_inputs(model.plan, batch_of([7, 4])).read
    assert read is not None and read.is_nothing
