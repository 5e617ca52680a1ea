"""Every combination that is allowed keeps every promise; every other one is refused with the reason."""

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import checks
import conformance
import numpy as np
import pytest
import torch
from checks import CHECKS, OF_TRAINING, check_losses, failures
from conformance import Case, cases
from tiny import assert_caught, model_of

from plait.engine import state
from plait.layouts import CATALOGUE, event_roles
from plait.layouts.event_roles import EventRoles
from plait.models import generative
from plait.models import inputs as inputs_module
from plait.models.combining import Combination, combinations, named_trunk
from plait.models.generative import ModelSettings
from plait.models.questions import Exposure
from plait.nn import packed
from plait.nn.attention import attend_reference
from plait.nn.encoders import FeatureEncoder
from plait.nn.visibility import Segments

EVERY = list(combinations())
ALLOWED = [combination for combination in EVERY if not combination.problems]
REFUSED = [combination for combination in EVERY if combination.problems]


def met_by(combination: Combination) -> set[tuple[object, ...]]:
    """Every two of its choices; a layout's with each trunk and position scheme, and what decides masks and biases."""
    name, trunk = ("name", combination.name), ("trunk", combination.trunk)
    positions, exposure = ("positions", combination.positions), ("exposure", combination.exposure)
    return {(name, trunk, positions), (trunk, positions, exposure), (name, exposure)}


def covering(given: Sequence[Combination]) -> list[Combination]:
    """Few combinations that meet all that the given ones meet: always the one that meets the most that is new."""
    chosen, left = [], set().union(*map(met_by, given))
    while left:
        chosen.append(max(given, key=lambda its: len(met_by(its) & left)))
        left -= met_by(chosen[-1])
    return chosen


CHOSEN = ALLOWED if os.environ.get("PLAIT_EVERY_COMBINATION") else covering(ALLOWED)


def check_covers(chosen: Sequence[Combination]) -> None:
    """Choices that go together are met together."""
    choices = ("name", "trunk", "positions", "exposure")
    for some in [*itertools.combinations(choices, 2), choices[:3], choices[1:]]:
        met, allowed = (
            {tuple(getattr(c, name) for name in some) for c in these} for these in (chosen, ALLOWED)
        )
        assert met == allowed, f"{some}: {len(allowed - met)} of {len(allowed)} are not met"


def test_choices_that_go_together_are_met_together():
    check_covers(CHOSEN)
    assert_caught(check_covers, covering(ALLOWED)[:-1])
    assert len(CHOSEN) > 300


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize("combination", CHOSEN, ids=str)
def test_a_combination_keeps_every_promise(combination):
    first, *others = cases(combination)
    found = failures(first) + [failure for case in others for failure in failures(case, OF_TRAINING)]
    assert not found, "\n".join(found)


BLIND = Exposure(same_request="blind")
# Of every family, by models that read features of every kind.
DESCRIBED = [
    ("lac-gpt-learned", Exposure()),
    ("lac-gpt-learned", BLIND),
    ("pc-gpt-rope", Exposure()),
    ("lac_patched-gpt-alibi", Exposure()),
    ("interleaved-hstu-rab", BLIND),
    ("lac-hstu-alibi", Exposure()),
    ("attn_lfa-gpt-rope", Exposure()),
    ("attn_mvp-gpt-rope", Exposure()),
    ("attn_mvp_early-gpt-alibi", BLIND),
    ("attn_dhn-gpt-learned", Exposure()),
    ("genrank-hstu-genrank", Exposure()),
]


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize(("choices", "exposure"), DESCRIBED)
def test_a_combination_keeps_every_promise_with_features(choices, exposure):
    first, *others = cases(the(choices, exposure), knows_features=True)
    found = failures(first) + [failure for case in others for failure in failures(case, OF_TRAINING)]
    assert not found, "\n".join(found)


def test_every_choice_is_met_and_none_is_refused_altogether():
    for choice in ("name", "trunk", "positions", "exposure"):
        every = Counter(getattr(combination, choice) for combination in EVERY)
        assert set(every) == {getattr(combination, choice) for combination in ALLOWED}
        assert len(set(every.values())) == 1, every
    assert len(EVERY) == 19 * 3 * 6 * 12 == len(ALLOWED) + len(REFUSED)


def test_the_others_are_refused_by_the_model_with_the_reason():
    for combination in REFUSED:
        settings = ModelSettings(
            trunk=named_trunk(combination.trunk, combination.positions), exposure=combination.exposure
        )
        layout = CATALOGUE[combination.name].layout
        with pytest.raises(ValueError) as refused:
            model_of(layout, settings=settings)
        assert str(refused.value) == f"layout '{layout}': {combination.problems[0]}"


def test_what_no_combination_can_keep_is_refused_when_it_is_asked_for():
    """A history that sees all of itself, or knows when it is asked, would tell earlier candidates."""
    for exposure in (Exposure(history="full"), Exposure(time_anchor="request")):
        (case,) = cases(the("item-gpt-rab", exposure))
        assert case.by_candidates
        for requests in (2, 3):
            with pytest.raises(ValueError, match="ask about candidates that come after all of it"):
                replace(case.model.plan, supervise="candidates", candidate_requests=requests)


def the(choices: str, exposure: Exposure = Exposure()) -> Combination:
    name, trunk, positions = choices.split("-")
    (found,) = (
        c for c in ALLOWED if (c.name, c.trunk, c.positions, c.exposure) == (name, trunk, positions, exposure)
    )
    return found


def attend_to_all(monkeypatch):
    """A slot sees the later slots of its user as well."""

    def broken(q, k, v, segments, **rest):
        both_ways = replace(segments, seen_RL=torch.full_like(segments.segment_RL, 10**6))
        return attend_reference(q, k, v, both_ways, **rest)

    monkeypatch.setattr(packed, "attend", broken)


def attend_across_users(monkeypatch):
    """A slot sees the row before it, whoever owns it."""

    def broken(q, k, v, segments, *, keys=None, **rest):
        if keys is not None:  # what is read alone: the layer before is broken
            return attend_reference(q, k, v, segments, keys=keys, **rest)
        row = Segments(torch.zeros_like(segments.segment_RL), segments.position_RL)
        return attend_reference(q, k, v, row, **rest)

    monkeypatch.setattr(packed, "attend", broken)


def divide_by_company(monkeypatch):
    """HSTU's sums over the length of the row, which batch-mates decide."""
    right = packed.attend_silu

    def broken(q, k, v, segments, *, norm_len, **rest):
        return right(q, k, v, segments, norm_len=q.shape[2], **rest)

    monkeypatch.setattr(packed, "attend_silu", broken)


def see_own_request(monkeypatch):
    right = event_roles._roles
    monkeypatch.setattr(event_roles, "_roles", lambda *arguments: right(*arguments[:-1], None))


def lag_into_own_request(monkeypatch):
    """Of a request that began before the window, the last event before the window."""
    right = event_roles._roles

    def broken(start_U1, lead_U, *rest):
        found = right(start_U1, lead_U, *rest)
        first_E = np.repeat(found.first_U, np.diff(start_U1))
        end_E = np.maximum(found.context_end_E, np.minimum(np.arange(len(first_E)), first_E))
        return replace(found, context_end_E=end_E, visible_end_E=end_E)

    monkeypatch.setattr(event_roles, "_roles", broken)


def know_the_next_time(monkeypatch):
    right = inputs_module._anchor
    monkeypatch.setattr(inputs_module, "_anchor", lambda *arguments: right(*arguments[:-1], "next"))


def know_the_last_time(monkeypatch):
    """When the last event of the last request happens, not when the request opens."""

    def broken(layout, batch, roles, tokens, user_N, anchor):
        return batch.time_s_E[batch.start_U1[1:][user_N] - 1]

    monkeypatch.setattr(inputs_module, "_anchor", broken)


def shift_candidates(monkeypatch):
    """A candidate of serving stands one position further."""
    right = inputs_module.query_inputs

    def broken(*arguments, **rest):
        inputs = right(*arguments, **rest)
        is_last_RL = inputs.segments.index_RL == inputs.segments.index_RL.amax(1, keepdim=True)
        inputs.segments.position_RL.add_(is_last_RL)
        return inputs

    monkeypatch.setattr(conformance, "query_inputs", broken)


def show_candidates_each_other(monkeypatch):
    monkeypatch.setattr(EventRoles, "is_plain", True)


def forget_what_lay_before_the_window(monkeypatch):
    monkeypatch.setattr(checks, "window", lambda events, max_events, lag: state.window(events, max_events, 0))


def change_inputs(monkeypatch, change):
    right = inputs_module._inputs
    monkeypatch.setattr(inputs_module, "_inputs", lambda *arguments: change(right(*arguments)))


def take_all_for_the_first_user(monkeypatch):
    change_inputs(monkeypatch, lambda inputs: replace(inputs, user_N=torch.zeros_like(inputs.user_N)))


def show_the_next_context(monkeypatch):
    change_inputs(monkeypatch, lambda inputs: replace(inputs, context_EF=inputs.context_EF.roll(-1, 0)))


def show_the_next_condition(monkeypatch):
    change_inputs(monkeypatch, lambda inputs: replace(inputs, condition_EG=inputs.condition_EG.roll(-1, 0)))


def append_without_condition(monkeypatch):
    right = state.joined_histories

    def broken(history, more):
        return right(history, replace(more, condition_EG=np.zeros_like(more.condition_EG)))

    monkeypatch.setattr(state, "joined_histories", broken)


def count(monkeypatch, now_M_of):
    """Late features of the events up to another one."""
    right = inputs_module._late

    def broken(late, batch, roles, predictions):
        end_M = now_M_of(predictions)
        return right(late, batch, roles, replace(predictions, context_end_M=end_M))

    monkeypatch.setattr(inputs_module, "_late", broken)


def count_the_event_itself(monkeypatch):
    count(monkeypatch, lambda asked: asked.label_M + 1)


def count_the_own_request(monkeypatch):
    count(monkeypatch, lambda asked: asked.label_M)


def append_without_context(monkeypatch):
    right = state.joined_histories

    def broken(history, more):
        return right(history, replace(more, context_EF=np.zeros_like(more.context_EF)))

    monkeypatch.setattr(state, "joined_histories", broken)


MUTANTS = [
    (attend_to_all, "item-gpt-learned", Exposure(), {"check_no_leak", "check_causality"}),
    (attend_to_all, "attn_mvp-gpt-rope", Exposure(), {"check_no_leak", "check_causality"}),
    (attend_across_users, "lac-gpt-alibi", Exposure(), {"check_no_leak", "check_company"}),
    (attend_across_users, "attn_dhn-gpt-genrank", Exposure(), {"check_no_leak", "check_company"}),
    (divide_by_company, "lac-hstu-rab", Exposure(), {"check_company"}),
    (see_own_request, "lac-gpt-learned", BLIND, {"check_no_leak", "check_causality", "check_serving"}),
    (see_own_request, "interleaved-hstu-rab", BLIND, {"check_no_leak", "check_causality", "check_serving"}),
    (lag_into_own_request, "lac-gpt-learned", BLIND, {"check_no_leak", "check_causality"}),
    (know_the_next_time, "item-gpt-rab", Exposure(), {"check_causality", "check_serving"}),
    (know_the_next_time, "interleaved-hstu-rab", Exposure(), {"check_causality", "check_serving"}),
    (know_the_last_time, "item-gpt-rab", Exposure(time_anchor="request"), {"check_causality"}),
    (shift_candidates, "lac-gpt-rope", Exposure(), {"check_serving"}),
    (shift_candidates, "genrank-hstu-genrank", Exposure(), {"check_serving"}),
    (show_candidates_each_other, "lac-gpt-learned", Exposure(), {"check_candidates"}),
    (show_candidates_each_other, "genrank-hstu-rab", Exposure(), {"check_candidates", "check_no_leak"}),
    (show_the_next_condition, "lum-gpt-learned", Exposure(), {"check_causality", "check_serving"}),
    (append_without_condition, "lum-hstu-rab", Exposure(), {"check_append"}),
    (show_candidates_each_other, "lum-gpt-alibi", BLIND, {"check_candidates"}),
    (forget_what_lay_before_the_window, "lac-gpt-learned", Exposure(), {"check_append"}),
]
OF_FEATURES = [
    (take_all_for_the_first_user, "lac-gpt-learned", Exposure(), {"check_no_leak", "check_company"}),
    (take_all_for_the_first_user, "genrank-hstu-genrank", Exposure(), {"check_no_leak", "check_company"}),
    (show_the_next_context, "lac-gpt-learned", Exposure(), {"check_causality", "check_serving"}),
    (show_the_next_context, "attn_lfa-gpt-rope", Exposure(), {"check_candidates", "check_company"}),
    (count_the_event_itself, "attn_mvp-gpt-rope", Exposure(), {"check_causality", "check_serving"}),
    (count_the_own_request, "attn_mvp_early-gpt-alibi", BLIND, {"check_causality", "check_serving"}),
    (count_the_own_request, "genrank-hstu-genrank", Exposure(), {"check_causality", "check_candidates"}),
    (append_without_context, "attn_dhn-gpt-learned", Exposure(), {"check_append"}),
]
EVERY_MUTANT = [(*mutant, False) for mutant in MUTANTS] + [(*mutant, True) for mutant in OF_FEATURES]


@pytest.mark.parametrize(("break_it", "choices", "exposure", "caught_by", "knows_features"), EVERY_MUTANT)
def test_what_is_broken_is_caught(break_it, choices, exposure, caught_by, knows_features, monkeypatch):
    every = cases(the(choices, exposure), knows_features)
    break_it(monkeypatch)
    found = {failure.split(",")[0] for case in every for failure in failures(case)}
    assert found >= caught_by, f"caught by {found}"


def test_every_check_catches_something():
    caught = set().union(*(caught_by for *_, caught_by in MUTANTS)) | {"check_losses"}  # by the next test
    assert caught == {check.__name__ for check in CHECKS}


def test_interests_of_another_width_keep_every_promise():
    settings = ModelSettings(
        trunk=named_trunk("gpt", "rope", dim=8, num_heads=2, dropout=0.0), interest_dim=5
    )
    case = Case(
        the("lum-gpt-rope"), model_of(CATALOGUE["lum"].layout, settings=settings), by_candidates=False
    )
    assert {name.split(".")[0] for name, _ in case.model.named_parameters()} >= {
        "state_interest",
        "item_interest",
    }
    assert not failures(case)


def test_weights_that_nothing_trains_are_caught(monkeypatch):
    """AttnDHN without its pooling, which the model refuses: nothing reads the last action stream."""
    with pytest.raises(ValueError, match=r"pool it at the end: \{helix, pool\}"):
        model_of("i[t] -> a[t] {helix}")
    monkeypatch.setattr(generative, "check_supported", lambda *_: None)
    case = Case(the("attn_dhn-gpt-learned"), model_of("i[t] -> a[t] {helix}"), by_candidates=False)
    (failure,) = failures(case, [check_losses])
    assert "no training changes ['trunk.blocks.1.actions" in failure


def test_features_that_nothing_trains_are_caught(monkeypatch):
    case, *_ = cases(the("lac-gpt-learned"), knows_features=True)
    right = FeatureEncoder.forward
    monkeypatch.setattr(FeatureEncoder, "forward", lambda *arguments: right(*arguments).detach())
    (failure,) = failures(case, [check_losses])
    assert "no training changes ['users.codes.table.weight', 'context.codes.table.weight']" in failure
