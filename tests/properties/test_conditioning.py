"""A score depends on the candidate exactly where the audit says that the action is conditioned on its item (P2)."""

from dataclasses import replace

import pytest
import torch
from tiny import NO_SCORERS, NUM_ITEMS, SCORERS, batch_of, model_of

from plait.layouts import Layout, audit
from plait.models.inputs import query_inputs
from plait.schema import EventBatch


@torch.no_grad()
def depends_on_candidate(layout: Layout) -> bool:
    """Whether predicted actions differ between two candidates after one history."""
    model = model_of(layout)

    def predicted(batch: EventBatch) -> list[float]:
        (state_MD,) = model(query_inputs(model.plan, batch, ("a",)))
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
    ride = {"attn_lfa", "attn_mvp", "attn_mvp_early", "attn_dhn"}
    early = {"action_out", "both_out", "lac", "interleaved", "genrank", "lac_patched"}
    assert {p.id for p in SCORERS} == ride | early | {"pc"}
    violated = {p.id for p in NO_SCORERS} - {"item", "action_in", "lagged_in", "lum"}
    assert violated == {"next_action_out", "next_both_out", "next_action", "next_both"}
