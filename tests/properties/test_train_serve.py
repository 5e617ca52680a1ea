"""What is served is what was trained: a state asked for in serving is the state that training supervises."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    EVERY_LAYOUT,
    EVERY_POSITION,
    NO_SCORERS,
    NUM_ITEMS,
    SCORERS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    part_of,
)

from plait.layouts import Layout, audit, resolve
from plait.layouts.audit import reader
from plait.models import inputs as inputs_module
from plait.models.inputs import query_inputs, training_inputs
from plait.schema import EventBatch

LENGTH = 8


@torch.no_grad()
def check_serving(layout: Layout, positions: str = "learned") -> None:
    """Every event of a long training window, asked about again with only the history before it at hand: as the
    evaluation does (the event itself stands last) and, for items, as retrieval does (it is not there)."""
    batch = batch_of([LENGTH])
    model = model_of(layout, positions)
    expected = {"i": reader(layout, "i"), "a": reader(layout, "a")}
    met = dict.fromkeys((field for field, found in expected.items() if found), 0)
    for lead in (0, 1, 2):
        window = part_of(batch, 0, lead=lead)
        inputs = training_inputs(layout, window)
        for asked, state_MD in zip(inputs.asked, model(inputs), strict=True):
            field = asked.target.fact.field
            assert expected[field] is not None and asked.target == expected[field].target
            for event, state_D in zip(asked.label_M.tolist(), state_MD, strict=True):
                served = [
                    query_inputs(layout, part_of(batch, 0, 0, event + 1, lead), (field,), hypothetical=True)
                ]
                if field == "i":
                    history = part_of(batch, 0, 0, event, lead)
                    served.append(query_inputs(layout, history, (field,), hypothetical=False))
                for query in served:
                    (found_MD,) = model(query)
                    torch.testing.assert_close(found_MD[0], state_D, rtol=1e-5, atol=1e-5)
                    met[field] += 1
    assert_not_vacuous(met, above=3 * (LENGTH - 3))


@pytest.mark.parametrize("positions", EVERY_POSITION)
@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_the_states_of_serving_are_those_of_training(layout, positions):
    check_serving(layout, positions)


def shifted_last_position(right):
    def broken(*arguments, hypothetical=False):
        tokens = right(*arguments, hypothetical=hypothetical)
        last_U = np.cumsum(tokens.length_U) - 1
        tokens.position_N[last_U] += hypothetical
        return tokens

    return broken


def another_lag(right):
    """A candidate that shows what its own event holds, where the layout says the event before."""

    def broken(layout, start_U1, lead_U, *, hypothetical=False):
        tokens = right(layout, start_U1, lead_U, hypothetical=hypothetical)
        last_U = np.cumsum(tokens.length_U) - 1
        for shown in tokens.shown:
            if shown.field == "a":
                shown.source_N[last_U] += hypothetical
        return tokens

    return broken


@pytest.mark.parametrize("positions", EVERY_POSITION)
def test_a_candidate_at_another_position_is_caught(positions, monkeypatch):
    monkeypatch.setattr(inputs_module, "arrange", shifted_last_position(inputs_module.arrange))
    assert_caught(check_serving, resolve("lac"), positions)


def test_a_candidate_with_another_action_is_caught(monkeypatch):
    monkeypatch.setattr(inputs_module, "arrange", another_lag(inputs_module.arrange))
    assert_caught(check_serving, resolve("lac"))


@torch.no_grad()
def depends_on_candidate(layout: Layout) -> bool:
    """Whether predicted actions differ between two candidates after one history."""
    model = model_of(layout)

    def predicted(batch: EventBatch) -> list[float]:
        (state_MD,) = model(query_inputs(layout, batch, ("a",), hypothetical=True))
        return [float(value) for value in model.heads.predict(state_MD).values()]

    batch = batch_of([5])
    other_item_E = batch.item_E.copy()
    other_item_E[-1] = other_item_E[-1] % NUM_ITEMS + 1
    return predicted(batch) != predicted(replace(batch, item_E=other_item_E))


@pytest.mark.parametrize("layout", SCORERS)
def test_a_score_depends_on_the_candidate_where_p2_holds(layout):
    assert depends_on_candidate(layout)


@pytest.mark.parametrize(
    "layout", [p for p in NO_SCORERS if audit(p.values[0]).conditioning != "no action is predicted"]
)
def test_a_score_cannot_depend_on_the_candidate_where_p2_is_violated(layout):
    assert not depends_on_candidate(layout)


def test_both_sides_of_p2_are_met():
    assert {p.id for p in SCORERS} == {"action_out", "both_out", "lac", "pc", "interleaved", "lac_patched"}
    violated = {p.id for p in NO_SCORERS} - {"item", "action_in", "lagged_in"}
    assert violated == {"next_action_out", "next_both_out", "next_action", "next_both"}
