"""What a model reads is what the audit says of its notation, and a layout that was built to leak is found out."""

import numpy as np
import pytest
from checks import check_no_leak, facts_read, states_and_facts
from conformance import Case
from tiny import EVERY_LAYOUT, assert_not_vacuous, batch_of, model_of

from plait.layouts import Layout, audit
from plait.models.combining import Combination
from plait.models.questions import Exposure

LENGTHS, LEADS = (6, 3, 3), (1, 1, 0)


def case_of(layout: Layout) -> Case:
    plain = Combination(str(layout), "gpt", "learned", Exposure(), ())
    return Case(plain, model_of(layout), by_candidates=bool(layout.candidate))


def weighs_nothing(layout: Layout, nth: int) -> bool:
    """AttnLFA's state is a weighted mean of earlier actions: without two of them, items change no weight."""
    return layout.rides == {"pool"} and nth < 2


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_a_model_reads_exactly_what_the_audit_says(layout):
    """Every fact up to the newest that the audit names, and of the events before the window the lagged ones only."""
    batch = batch_of(LENGTHS, LEADS)
    start_E = np.repeat(batch.start_U1[:-1], LENGTHS)
    window_E = np.repeat(batch.start_U1[:-1] + batch.lead_U, LENGTHS)
    event_E = np.arange(len(start_E))
    audited = {target.target.fact.field: target for target in audit(layout).targets}
    states, facts = states_and_facts(case_of(layout), batch)
    met = dict.fromkeys(states, 0)
    for field, state_ED in states.items():
        found = audited[field]
        for label in np.flatnonzero(~state_ED.isnan().any(1).numpy()):
            if weighs_nothing(layout, label - window_E[label]):
                continue
            for fact, read_E in facts_read(state_ED[[label]], facts).items():
                newest = max((seen[fact] for seen in (found.trunk, found.head) if fact in seen), default=None)
                oldest = window_E[label] - (layout.lag if fact == "a" else 0)
                upto = -1 if newest is None else label - found.target.offset + newest
                promised_E = (start_E == start_E[label]) & (event_E >= oldest) & (event_E <= upto)
                np.testing.assert_array_equal(read_E, promised_E, f"{found.target} of event {label}, {fact}")
                met[field] += promised_E.any()
    assert_not_vacuous(met, above=1)


LEAKS = (
    "(i[t], a[t]) -> (i[t+1], a[t])",
    "i[t] -> i[t]",
    "i[t] -> i[t+1] | a[t+1]",
    "i[t] -> a[t+1] | a[t+1]",
)


@pytest.mark.parametrize("notation", LEAKS)
def test_a_layout_built_to_leak_is_caught(notation):
    with pytest.raises(AssertionError, match="leak"):
        check_no_leak(case_of(Layout.parse(notation, allow_leaks=True)))
