"""One pass over a history answers as one forward pass for every candidate does."""

import itertools
from collections import Counter
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from test_steps import Allocations
from tiny import (
    NUM_ITEMS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    part_of,
    together,
    trunk_of,
)

from plait.engine import one_pass, plain, steps
from plait.engine.asking import needs_time
from plait.engine.state import State, append, encode
from plait.layouts import CATALOGUE, Layout, audit, resolve
from plait.models.combining import Combination, combinations, named_trunk
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.late import LateSettings
from plait.models.questions import Exposure
from plait.nn import cached
from plait.nn.cached import softmax_and_sum, softmax_and_sum_reference
from plait.nn.encoded import Written
from plait.schema import EventBatch

WINDOW = 4  # shorter than some histories
LENGTHS = (7, 1, 4, 3)
ITEMS = np.array([[3, 5, 16, 1], [2, 9, 4, 11], [6, 6, 1, 13], [8, 17, 2, 5]])
LATER_S = 2_000_000
close = partial(np.testing.assert_allclose, rtol=2e-6, atol=2e-6)


def histories() -> EventBatch:
    """Requests of one to three events, each at one time: that of its last event in `batch_of`."""
    request_E = np.array([0, 0, 1, 2, 2, 3, 3, 0, 0, 1, 1, 1, 0, 1, 1])
    last_E = np.array([1, 1, 2, 4, 4, 6, 6, 7, 8, 11, 11, 11, 12, 14, 14])
    batch = batch_of(LENGTHS)
    return replace(batch, request_E=request_E, time_s_E=batch.time_s_E[last_E])


def rotated() -> list[Combination]:
    """Every layout x trunk x positions that is allowed, each exposed in one of the ways that are: all in turn."""
    ways: dict[tuple[str, str, str], list[Combination]] = {}
    for each in combinations():
        if not each.problems:
            ways.setdefault((each.name, each.trunk, each.positions), []).append(each)
    turn, found = Counter[str](), []
    for (_, _, positions), allowed in ways.items():
        found.append(allowed[turn[positions] % len(allowed)])
        turn[positions] += 1
    return found


CASES = rotated()


@cache
def model_for(combination: Combination, max_events: int = WINDOW) -> GenerativeRecommender:
    config = named_trunk(
        combination.trunk, combination.positions, dim=8, num_layers=2, num_heads=2, dropout=0.0
    )
    settings = ModelSettings(trunk=config, exposure=combination.exposure)
    return model_of(CATALOGUE[combination.name].layout, max_events=max_events, settings=settings)


def simple_model(
    layout: Layout | str, positions: str = "learned", **settings: object
) -> GenerativeRecommender:
    layout = layout if isinstance(layout, Layout) else resolve(layout)
    return model_of(layout, max_events=WINDOW, settings=ModelSettings(trunk=trunk_of(positions), **settings))


def state_of(model: GenerativeRecommender, batch: EventBatch | None = None) -> State:
    plan = model.plan
    return encode(histories() if batch is None else batch, plan.window, plan.lead)


def check_agree(model: GenerativeRecommender, state: State, expected: State | None = None) -> Counter[str]:
    """Scores and lists of a state by one pass, against those of the same histories by one pass for each candidate: at
    a later moment, and of the last request."""
    verdict, met = audit(model.layout), Counter[str]()
    expected, items = expected or state, ITEMS[: len(state.id_U)]
    of_last_request = [int(state.events.time_s_E.max())] if model.plan.reads_requests else []
    for at_s in (LATER_S, *of_last_request):
        if verdict.can_score != "no":
            slow = plain.score(model, expected, items, at_s=at_s)
            for name, score_UC in one_pass.score(model, state, items, at_s=at_s).items():
                close(score_UC, slow[name])
                met["scored"] += score_UC.size
        if verdict.can_retrieve and not (at_s < LATER_S and _too_short(model, state, at_s)):
            found = one_pass.retrieve(model, state, 5, True, at_s=at_s)
            for fast_UK, slow_UK in zip(
                found, plain.retrieve(model, expected, 5, True, at_s=at_s), strict=True
            ):
                close(fast_UK, slow_UK, atol=1e-5, rtol=1e-5)
                met["retrieved"] += fast_UK.size
    return met


def _too_short(model: GenerativeRecommender, state: State, at_s: int) -> bool:
    """Whether nothing lies before the request that is asked about, so that both ways refuse."""
    try:
        plain.retrieve(model, state, 1, False, at_s=at_s)
    except ValueError:
        with pytest.raises(ValueError, match="events before what is asked about"):
            one_pass.retrieve(model, state, 1, False, at_s=at_s)
        return True
    return False


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize("way", ["kept", "when asked"])
@pytest.mark.parametrize("trunk", sorted({case.trunk for case in CASES}))
def test_one_pass_is_one_forward_for_each_candidate(trunk, way):
    met = Counter[str]()
    for case in (case for case in CASES if case.trunk == trunk):
        model = model_for(case)
        state = state_of(model)
        if way == "kept":
            state = one_pass.encode(model, state)
            met["kept"] += state.kept is not None
        elif model.plan.candidates_share_history and case.exposure.history == "causal":
            continue  # encoded when asked it is encoded as above
        met += check_agree(model, state)
    assert_not_vacuous(met, above=40)


def test_every_choice_is_met():
    for choice in ("name", "trunk", "positions"):
        met = Counter(getattr(case, choice) for case in CASES)
        assert len(met) == {"name": 19, "trunk": 3, "positions": 6}[choice] and min(met.values()) >= 15
    assert {case.exposure for case in CASES} == {each.exposure for each in combinations()}


LAYOUTS_OF_USERS = (
    "a[t-1] -> i[t]; i[t] -> a[t]",
    "(i[t], a[t-2]) -> (i[t+2], a[t])",
    "i[t] -> (); a[t-1] -> a[t]; a[t] -> i[t+1]",
    "(i[t], a[t]) -> i[t+1] / i[t] -> (); a[?] -> a[t]",
)


@pytest.mark.parametrize("kind", ["gpt", "hstu"])
@pytest.mark.parametrize("positions", ["rope", "alibi", "rab"])
@pytest.mark.parametrize("layout", LAYOUTS_OF_USERS)
def test_layouts_that_users_write_down_are_answered_alike(layout, positions, kind):
    """Of several tokens a candidate, too, which see one another."""
    trunk = replace(trunk_of(positions), kind=kind)
    model = model_of(Layout.parse(layout), max_events=WINDOW, settings=ModelSettings(trunk=trunk))
    batch = together(*(part_of(histories(), user) for user in (0, 2, 3)))
    assert check_agree(model, one_pass.encode(model, state_of(model, batch)))


@pytest.mark.parametrize("name", ["lac", "attn_dhn"])
def test_features_and_late_statistics_are_read_alike(name):
    model = simple_model(name, late=LateSettings(windows=(2,)), exposure=Exposure(same_request="blind"))
    assert check_agree(model, one_pass.encode(model, state_of(model)))


# What is wrong in a way of its own, and which layout tells.


def see_each_other(monkeypatch):
    right = one_pass.candidate_inputs

    def broken(*arguments):
        later = right(*arguments)
        lists = later.lists
        as_one = replace(
            lists, count_B=np.ones_like(lists.count_B), num_own=lists.num_own * int(lists.count_B[0])
        )
        return replace(later, lists=as_one)

    monkeypatch.setattr(one_pass, "candidate_inputs", broken)


def stand_elsewhere(monkeypatch):
    right = one_pass.candidate_inputs

    def broken(*arguments):
        later = right(*arguments)
        later.inputs.segments.position_RL.sub_(1)
        return later

    monkeypatch.setattr(one_pass, "candidate_inputs", broken)


def see_one_token_less(monkeypatch):
    right = cached.runs_of
    fewer = lambda run: run._replace(num_seen=max(0, run.num_seen - 1))  # noqa: E731
    monkeypatch.setattr(cached, "runs_of", lambda *arguments: tuple(map(fewer, right(*arguments))))


def see_another_history(monkeypatch):
    right = cached.runs_of
    turned = lambda lists, start_U1: right(replace(lists, user_B=lists.user_B[::-1].copy()), start_U1)  # noqa: E731
    monkeypatch.setattr(cached, "runs_of", turned)


def see_their_own_action(monkeypatch):
    """Strict attention is not."""
    right = cached.OverKeys.softmax
    loose = lambda self, qkv, bias, *, strict: right(self, qkv, bias, strict=False)  # noqa: E731
    monkeypatch.setattr(cached.OverKeys, "softmax", loose)


def keep_what_began_elsewhere(monkeypatch):
    monkeypatch.setattr(one_pass, "_begin_alike", lambda *_: True)


@pytest.mark.parametrize(
    ("mutant", "name", "positions"),
    [
        (see_each_other, "lac", "rope"),
        (stand_elsewhere, "lac", "rope"),
        (stand_elsewhere, "interleaved", "alibi"),
        (see_one_token_less, "lac", "learned"),
        (see_another_history, "attn_mvp", "learned"),
        (see_their_own_action, "attn_mvp", "learned"),
        (keep_what_began_elsewhere, "lac", "learned"),
    ],
)
def test_a_wrong_pass_is_caught(mutant, name, positions, monkeypatch):
    same_request = "blind" if mutant is keep_what_began_elsewhere else "causal"
    model = simple_model(name, positions, exposure=Exposure(same_request=same_request))
    batch = histories()
    if mutant is see_another_history:  # of one length
        batch = together(*(part_of(batch, user, 0, 3) for user in (0, 2, 3)))
    state = one_pass.encode(model, state_of(model, batch))
    check_agree(model, state)
    mutant(monkeypatch)
    assert_caught(check_agree, model, state)


def test_lists_of_users_own_lengths_are_scored_as_each_alone():
    """None, one, more than a step holds; the same user's answers whoever stands beside it, in whatever order."""
    model = simple_model("lac")
    state = one_pass.encode(model, state_of(model))
    count_U, item_M = np.array([3, 0, 1, 2]), np.array([3, 9, 5, 6, 1, 1])
    found = one_pass.score_lists(model, state, item_M, count_U)["rating"]
    turned = one_pass.score_lists(model, state, item_M[[2, 0, 1, 3, 4, 5]], count_U)["rating"]
    close(turned, found[[2, 0, 1, 3, 4, 5]])
    for user, place in ((0, slice(0, 3)), (2, slice(3, 4)), (3, slice(4, 6))):
        alone = one_pass.encode(model, state_of(model, part_of(histories(), user)))
        close(one_pass.score(model, alone, item_M[place][None])["rating"][0], found[place])


def check_steps(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = simple_model("interleaved", "alibi", late=LateSettings(windows=(2,)))
    state = state_of(model)
    met: list[int] = []

    def inputs(*arguments, right=one_pass.candidate_inputs):
        met.append(int(arguments[5].sum()))
        return right(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "STEP_BYTES", size * steps.bytes_per_token(model))
        patch.setattr(one_pass, "candidate_inputs", inputs)
        for each in (state, one_pass.encode(model, state)):
            check_agree(model, each)
    assert max(met) <= max(1, size // 2), "tokens of a step"
    assert_not_vacuous({"steps": len(met)}, above=4)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_steps_of_users_and_of_candidates_change_no_answer(size, monkeypatch):
    check_steps(size, monkeypatch)


def test_candidates_lost_between_steps_are_caught(monkeypatch):
    right = one_pass._Lists.of
    monkeypatch.setattr(one_pass._Lists, "of", lambda self, at: right(self, slice(0, len(self.user_B[at]))))
    assert_caught(check_steps, 2, monkeypatch)


# Appending.


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize("name", CATALOGUE)
def test_appending_is_encoding_again(name):
    """Within the window the old keys stay, where no later event changes them; beyond it all is encoded again."""
    met = Counter[str]()
    for case in (case for case in CASES if case.name == name):
        model = model_for(case, max_events=5)
        batch = histories()
        first = together(*(part_of(batch, user, 0, 3) for user in (0, 2)))
        state = one_pass.encode(model, state_of(model, first))
        for at in (3, 3, 4):  # the second is of the first one's moment: an event of the same request
            event = together(*(part_of(batch, user, 3, 4) for user in (0, 2)))
            event = replace(event, time_s_E=event.time_s_E + 60 * (at - 3), item_E=event.item_E + at)
            grown = append(state, event, model.plan.window, model.plan.lead)
            state, before = one_pass.append(model, state, grown), state
            met["kept"] += state.kept is not None
            met["old keys"] += _has_keys_of(state, before)
        met += check_agree(model, state, replace(state, kept=None))
    assert_not_vacuous(met)


def _has_keys_of(state: State, before: State) -> bool:
    """To the bit, which no second encoding of other lengths is sure to give; where a window has not moved."""
    if state.kept is None or before.kept is None:
        return False
    length = int(before.kept.encoded.length_U[0])
    return all(
        torch.equal(new[:length], old[:length])
        for keys, kept in zip(state.kept.encoded.keys, before.kept.encoded.keys, strict=True)
        for new, old in zip(keys, kept, strict=True)
    )


def test_only_what_may_stay_is_kept(monkeypatch):
    """Followed where a window has room, else encoded again."""
    followed: list[int] = []
    right = GenerativeRecommender.followed
    monkeypatch.setattr(
        GenerativeRecommender, "followed", lambda *arguments: followed.append(1) or right(*arguments)
    )
    for exposure, length, stays in (
        (Exposure(), 3, True),
        (Exposure(), 4, False),
        (Exposure(history="full"), 3, False),
    ):
        model = simple_model("genrank", exposure=exposure)
        batch = part_of(histories(), 0)
        state = one_pass.encode(model, state_of(model, part_of(batch, 0, 0, length)))
        event = part_of(batch, 0, length, length + 1)
        after = append(state, event, WINDOW, model.plan.lead)
        followed.clear()
        check_agree(model, one_pass.append(model, state, after))
        assert bool(followed) == stays


@pytest.mark.parametrize("name", ["lac", "interleaved", "attn_mvp"])
def test_a_history_that_grows_is_encoded_again_where_its_window_begins_anew(name, monkeypatch):
    settings = ModelSettings(trunk=trunk_of("rope"))
    model = model_of(resolve(name), max_events=4, window_step=3, settings=settings)
    followed, log = Counter[int](), together(batch_of([12]), batch_of([12], seed=9))
    right = GenerativeRecommender.followed

    def counted(*arguments):
        followed[len(log.item_E)] += 1
        return right(*arguments)

    monkeypatch.setattr(GenerativeRecommender, "followed", counted)
    parts = lambda begin, end: together(*(part_of(log, user, begin, end) for user in (0, 1)))  # noqa: E731
    state = one_pass.encode(model, state_of(model, parts(0, 1)))
    for end in range(2, 13):
        grown = append(state, parts(end - 1, end), model.plan.window, model.plan.lead)
        state = one_pass.append(model, state, grown)
        check_agree(model, state, state_of(model, parts(0, end)))
    assert followed.total() == 5 + 2 * 2, "up to 6 events, then two of three"


def check_branches() -> None:
    """Two events are appended to one state, and a third behind the first: each state is of its own history."""
    model = model_of(resolve("lac"), max_events=9, settings=ModelSettings(trunk=trunk_of("rope")))
    batch = together(batch_of([3]), batch_of([4], seed=9))

    def grown(state: State, seed: int) -> State:
        event = replace(batch_of((1, 1), seed=seed), time_s_E=np.full(2, LATER_S - 100 + seed))
        after = append(state, event, model.plan.window, model.plan.lead)
        return one_pass.append(model, state, after)

    root = grown(one_pass.encode(model, state_of(model, batch)), 1)
    first, second = grown(root, 2), grown(root, 3)
    third = grown(first, 4)
    assert root.nbytes == first.nbytes == third.nbytes, "there is room for both behind the first"
    for state in (root, first, second, third):
        check_agree(model, state, replace(state, kept=None))


def test_states_stay_what_they_were_when_events_are_appended(monkeypatch):
    check_branches()
    monkeypatch.setattr(Written, "claim", lambda self, from_U, until_U: True)
    assert_caught(check_branches)


def check_weights(model: GenerativeRecommender) -> None:
    state = one_pass.encode(model, state_of(model))
    with torch.no_grad():
        next(model.trunk.blocks.parameters()).mul_(1.5)
    check_agree(model, state)


def test_keys_of_other_weights_are_not_read(monkeypatch):
    check_weights(simple_model("lac"))
    monkeypatch.setattr(one_pass.Kept, "is_of", lambda self, model: True)
    assert_caught(check_weights, simple_model("lac"))


def test_states_keep_no_more_than_they_may(monkeypatch):
    model = simple_model("lac")
    state = state_of(model)
    kept = one_pass.encode(model, state).kept
    assert kept is not None
    per_token = steps.kept_bytes_per_token(model)
    assert state.nbytes == 0 and one_pass.encode(model, state).nbytes == kept.encoded.nbytes
    assert kept.encoded.nbytes == per_token * int(kept.encoded.length_U.sum())
    monkeypatch.setattr(steps, "STATE_BYTES", kept.encoded.nbytes - 1)
    assert one_pass.encode(model, state).kept is None


def test_weights_that_do_not_tell_when_they_change_keep_no_keys():
    with torch.inference_mode():
        model = simple_model("lac")
    state = one_pass.encode(model, state_of(model))
    assert state.kept is None
    check_agree(model, state)


# What it holds, and its kernels.


def most_bytes(num_events: int, num_candidates: int, kind: str, positions: str) -> int:
    trunk = replace(trunk_of(positions), kind=kind, dim=32)
    model = model_of(resolve("lac"), max_events=num_events, settings=ModelSettings(trunk=trunk))
    state = one_pass.encode(model, encode(batch_of([num_events]), num_events, 1))
    item_UC = np.arange(num_candidates)[None] % NUM_ITEMS + 1
    with Allocations(model) as found:
        one_pass.score(model, state, item_UC, at_s=LATER_S)
    return found.most_bytes


@pytest.mark.parametrize(
    ("kind", "positions"), [*itertools.product(("gpt", "hstu"), ("learned", "alibi", "rab"))]
)
def test_memory_grows_with_candidates_and_with_history_never_with_both(kind, positions, monkeypatch):
    monkeypatch.setattr(cached, "SCORES_PER_BLOCK", 1 << 12)
    least, more_events, more_candidates, both = (
        most_bytes(*sizes, kind, positions) for sizes in ((64, 64), (512, 64), (64, 512), (512, 512))
    )
    assert both - least <= 1.1 * ((more_events - least) + (more_candidates - least)) + (1 << 16)
    assert more_candidates > 3 * least, "proves too little"


def test_the_fused_kernel_gives_the_softmax_and_its_sum():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 6, generator=generator) for n in (5, 9, 9))
    for term in (None, torch.randn(3, 1, 1, 9, generator=generator), torch.randn(3, 2, 1, 9)):
        found, expected = softmax_and_sum(q, k, v, term), softmax_and_sum_reference(q, k, v, term)
        for fast, slow in zip(found, expected, strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lists_per_step", [1, 2, 9])
def test_a_single_query_of_bf16_is_the_softmax_of_what_it_rounds(lists_per_step, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 6, generator=generator).bfloat16() for n in (1, 9, 9))
    monkeypatch.setattr(cached, "WIDENED_PER_STEP", lists_per_step * k[0].numel())
    for term in (None, torch.randn(3, 1, 1, 9, generator=generator), torch.randn(3, 2, 1, 9)):
        out, lse = softmax_and_sum(q, k, v, term)
        exact, exact_lse = softmax_and_sum_reference(q.double(), k.double(), v.double(), term)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-6)  # rounded once, at the end
        torch.testing.assert_close(lse.double(), exact_lse.double(), rtol=1e-6, atol=1e-6)
        assert (out[0] - out[1]).abs().max() > 0.1, "lists are alike: proves too little"


def test_models_that_need_the_time_say_so():
    model = model_for(next(case for case in CASES if case.positions == "dlrm_v3" and case.name == "lac"))
    assert needs_time(model.layout, model.config.settings, "a")
    assert one_pass.encode(model, state_of(model)).kept is None
    with pytest.raises(ValueError, match="say when, with at"):
        one_pass.score(model, state_of(model), ITEMS)
