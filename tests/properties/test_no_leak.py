"""No answer is within reach of its question (P3), proved on built models: by gradient and by value.

The audit says this of a notation; here it is said of tokens, masks, packing, attention and couplers.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import EVERY_LAYOUT, EVERY_POSITION, NUM_ITEMS, assert_not_vacuous, batch_of, model_of

from plait.layouts import Layout, audit
from plait.layouts.facts import Field
from plait.layouts.packing import pack, pad
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Asked, Inputs, Packer, training_inputs
from plait.nn import gpt
from plait.nn.attention import Segments, attend_reference

# Two users share a row when packed; two have an event before their window.
LENGTHS, LEADS = (6, 3, 3), (1, 1, 0)

EVERY_PACKER = [pytest.param(pack, id="packed"), pytest.param(pad, id="padded")]
every_model = pytest.mark.parametrize(
    ("layout", "positions"),
    [
        pytest.param(*p.values, positions, id=f"{p.id}-{positions}")
        for p in EVERY_LAYOUT
        for positions in EVERY_POSITION
    ],
)


def influences(
    model: GenerativeRecommender, inputs: Inputs
) -> Iterator[tuple[Asked, int, dict[Field, np.ndarray]]]:
    """For every question: the event asked about, and how much its state depends on each event's facts.

    A fact's influence is the sum of |d state / d embedding of the fact|, the state projected on a random line.
    """
    facts: dict[Field, torch.Tensor] = {}
    hooks = [
        encoder.register_forward_hook(
            lambda _module, _inputs, out_ED, field=field: facts.update({field: out_ED})
        )
        for field, encoder in (("i", model.items), ("a", model.actions))
    ]
    states = model(inputs)
    for hook in hooks:
        hook.remove()
    line_D = torch.randn(states[0].shape[1], generator=torch.Generator().manual_seed(0))
    for asked, state_MD in zip(inputs.asked, states, strict=True):
        for label, state_D in zip(asked.label_M.tolist(), state_MD, strict=True):
            slopes = torch.autograd.grad(
                state_D @ line_D, [*facts.values()], retain_graph=True, allow_unused=True
            )
            yield (
                asked,
                label,
                {
                    field: np.zeros(len(fact_ED)) if slope_ED is None else slope_ED.abs().sum(1).numpy()
                    for (field, fact_ED), slope_ED in zip(facts.items(), slopes, strict=True)
                },
            )


def check_no_leak(layout: Layout, positions: str = "learned", packer: Packer = pack) -> None:
    """P3, from its definition: of the facts of a question's own user only older ones, for an action its item too;
    of other users none. Zero means zero: no tolerance."""
    batch = batch_of(LENGTHS, LEADS)
    model = model_of(layout, positions)
    user_E = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    event_E = np.arange(len(user_E))
    met = {"questions": 0, "forbidden facts": 0, "facts that are read": 0, "facts of others": 0}
    for asked, label, influence in influences(model, training_inputs(layout, batch, packer)):
        for field, read_E in influence.items():
            known_before = field == "i" and asked.target.fact.field == "a"
            too_late_E = (event_E > label) | ((event_E == label) & (not known_before))
            other_E = user_E != user_E[label]
            assert not read_E[too_late_E & ~other_E].any(), (
                f"leak: {asked.target} of event {label} reads {field} {read_E}"
            )
            assert not read_E[other_E].any(), f"leak: event {label} reads {field} of another user: {read_E}"
            met["forbidden facts"] += too_late_E.sum()
            met["facts of others"] += other_E.sum()
        met["facts that are read"] += sum(np.count_nonzero(read_E) for read_E in influence.values())
        met["questions"] += 1
        if sum(read_E.sum() for read_E in influence.values()) == 0:
            pytest.fail("a state that reads nothing proves nothing")
    assert_not_vacuous(met, above=5)


@every_model
@pytest.mark.parametrize("packer", EVERY_PACKER)
def test_no_question_can_read_its_answer_or_anything_later(layout, positions, packer):
    check_no_leak(layout, positions, packer)


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_a_model_reads_exactly_what_the_audit_says(layout):
    """Every fact up to the newest that the audit names, and of the events before the window the lagged ones only."""
    batch = batch_of(LENGTHS, LEADS)
    start_E = np.repeat(batch.start_U1[:-1], LENGTHS)
    window_E = np.repeat(batch.start_U1[:-1] + batch.lead_U, LENGTHS)
    audited = {target.target: target for target in audit(layout).targets}
    event_E = np.arange(len(start_E))
    for asked, label, influence in influences(model_of(layout), training_inputs(layout, batch)):
        found = audited[asked.target]
        token_event = label - asked.target.offset
        for field, read_E in influence.items():
            newest = max(seen[field] for seen in (found.trunk, found.head) if field in seen)
            oldest = window_E[label] - (layout.lag if field == "a" else 0)
            promised_E = (start_E == start_E[label]) & (event_E >= oldest) & (event_E <= token_event + newest)
            np.testing.assert_array_equal(read_E > 0, promised_E, f"{asked.target} of event {label}, {field}")


LEAKS = (
    "(i[t], a[t]) -> (i[t+1], a[t])",
    "i[t] -> i[t]",
    "i[t] -> i[t+1] | a[t+1]",
    "i[t] -> a[t+1] | a[t+1]",
)


@pytest.mark.parametrize("notation", LEAKS)
def test_a_layout_built_to_leak_is_caught(notation):
    with pytest.raises(AssertionError, match="leak"):
        check_no_leak(Layout.parse(notation, allow_leaks=True))


def without_segments(segments: Segments) -> Segments:
    return Segments(torch.zeros_like(segments.segment_RL), segments.position_RL)


def attend_in_row(q, k, v, segments, *, slopes_N=None):
    """Broken: causal over the row, whoever owns its slots."""
    return attend_reference(q, k, v, without_segments(segments), slopes_N=slopes_N)


def attend_to_all(q, k, v, segments, *, slopes_N=None):
    """Broken: a slot sees the later slots of its user as well."""
    both_ways = replace(segments)
    same_RQK = segments.segment_RL[:, :, None] == segments.segment_RL[:, None, :]
    both_ways.__dict__["visible_RQK"] = same_RQK
    return attend_reference(q, k, v, both_ways, slopes_N=slopes_N)


@pytest.mark.parametrize("layout", EVERY_LAYOUT[:1] + EVERY_LAYOUT[-2:])
@pytest.mark.parametrize("positions", EVERY_POSITION)
@pytest.mark.parametrize(("broken", "found"), [(attend_in_row, "another user"), (attend_to_all, "reads")])
def test_attention_without_segments_or_causality_is_caught(layout, positions, broken, found, monkeypatch):
    monkeypatch.setattr(gpt, "attend", broken)
    with pytest.raises(AssertionError, match=f"leak.* {found}"):
        check_no_leak(layout, positions)


def check_causality(layout: Layout, positions: str = "learned") -> None:
    """Other items and actions from an event on: what is asked about earlier ones, and about its own item, stays."""
    first_changed = 3
    batch = batch_of([6])
    changed_E = np.arange(6) >= first_changed
    other_EA = np.where(np.isnan(batch.action_EA), np.float32(1), np.float32(np.nan))
    later = replace(
        batch,
        item_E=np.where(changed_E, batch.item_E % NUM_ITEMS + 1, batch.item_E),
        action_EA=np.where(changed_E[:, None], other_EA, batch.action_EA),
    )
    model = model_of(layout, positions)
    met = {"kept": 0, "changed": 0}
    with torch.no_grad():
        before, after = model(training_inputs(layout, batch)), model(training_inputs(layout, later))
    for asked, old_MD, new_MD in zip(training_inputs(layout, batch).asked, before, after, strict=True):
        limit = first_changed + (asked.target.fact.field == "i")
        differs_M = (old_MD - new_MD).abs().amax(1)
        assert (differs_M[asked.label_M < limit] <= 1e-6).all(), (
            f"{asked.target} reads the future: {differs_M}"
        )
        assert (differs_M[asked.label_M > first_changed] > 1e-4).all(), (
            f"{asked.target} reads no past: {differs_M}"
        )
        met["kept"] += int((asked.label_M < limit).sum())
        met["changed"] += int((asked.label_M > first_changed).sum())
    assert_not_vacuous(met)


@every_model
def test_the_future_does_not_change_the_past(layout, positions):
    """By value: this also finds ways that a gradient does not take (lengths, indices, rounding)."""
    check_causality(layout, positions)


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_a_look_ahead_is_caught(layout, monkeypatch):
    monkeypatch.setattr(gpt, "attend", attend_to_all)
    with pytest.raises(AssertionError, match="reads the future"):
        check_causality(layout)
