"""`plait check` finds ways of asking alike that are, and apart that are not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from tiny import MAX_EVENTS, NUM_ITEMS, assert_caught, assert_not_vacuous, batch_of, model_of, trunk_of

from plait.counts.beside import Counts, ItemCounts, Tables
from plait.engine import agreement_cases, agreement_ways, asking, multiplying, one_pass, state_file
from plait.engine.agreement import NUM_ENDS, NUM_USERS, Check, check, users_to_check
from plait.engine.agreement_ways import WAYS
from plait.engine.state import State
from plait.engine.state_file import load_state
from plait.layouts import resolve
from plait.layouts.arrange import MASK, START
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.questions import Exposure
from plait.models.saving import load_model
from plait.nn import cached, packed
from plait.nn.arithmetic import Measured, choice
from plait.nn.config import DLRM_V3, HstuSwitches
from plait.nn.precision import Multiplied
from plait.schema import EventBatch

WINDOW = 4
REQUESTS = ((0, 1, 1, 2, 2, 2, 3, 4, 4), (0, 1), (0, 0, 1, 2), (0, 1, 2, 2, 3, 4, 5, 5), (0, 0, 0, 1, 1))
SEED = 0


def histories() -> EventBatch:
    """Requests of one to three events, each at one time; two users' last ones have one event behind another."""
    batch, request_E = batch_of([len(each) for each in REQUESTS]), np.concatenate(REQUESTS)
    return replace(batch, request_E=request_E, time_s_E=1_000_000 + 60 * request_E)


def model_for(
    name: str,
    positions: str = "learned",
    kind: str = "gpt",
    hstu: HstuSwitches = HstuSwitches(),
    arithmetic: Multiplied | None = None,
    **exposure: str,
) -> GenerativeRecommender:
    trunk = replace(trunk_of(positions), kind=kind, hstu=hstu)
    settings = ModelSettings(trunk=trunk, exposure=Exposure(**exposure))
    model = model_of(resolve(name), max_events=WINDOW, window_step=2, settings=settings)
    if model.heads is not None:
        torch.nn.init.normal_(model.heads.weight_KD, std=0.4)
    model.config = replace(model.config, arithmetic=arithmetic)
    return model


@pytest.fixture(autouse=True)
def machine_that_gains_by_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this one gains by."""
    measured = {"fp32": Measured(3.0, 3e-7), "bf16": Measured(1.0, 3e-3)}
    monkeypatch.setattr(
        multiplying,
        "_chosen",
        lambda allowed, *_: choice({way: measured[way] for way in allowed & {*measured}}),
    )


def checked(model: GenerativeRecommender) -> Check:
    found = check(model, histories(), SEED)
    assert found.agrees, [each for each in found.compared if not each.agrees]
    return found


@pytest.mark.parametrize(
    ("model", "ways", "things"),
    [
        (model_for("lac"), 6, 3),
        (model_for("item", "rope"), 6, 1),
        (model_for("attn_lfa", "alibi"), 6, 2),
        (model_for("attn_mvp", "rab", "hstu"), 6, 2),
        (model_for("pc", kind="hstu", hstu=DLRM_V3, arithmetic="bf16"), 7, 3),
        (model_for("interleaved", "alibi", same_request="blind", arithmetic="fp32"), 6, 3),
        (model_for("genrank", "genrank"), 6, 2),
        (model_for("genrank", history="full"), 6, 2),
        (model_for("lac", "dlrm_v3", time_anchor="request"), 4, 3),
        (model_for("interleaved", "rab", time_anchor="next"), 4, 3),
        (model_for("lum"), 7, 1),
        (model_for("lum", "genrank"), 7, 1),
    ],
    ids=lambda case: str(case.layout) if isinstance(case, torch.nn.Module) else str(case),
)
@pytest.mark.usefixtures("shapes_are_not_checked")
def test_a_model_says_the_same_in_every_way(model, ways, things):
    """Next items and two actions, as far as the layout has them; what is left out is said."""
    found = checked(model)
    assert len({each.way for each in found.compared}) == ways and len(found.compared) == ways * things
    assert len(found.left_out) == len(WAYS) - ways + (things < 3)
    assert_not_vacuous({each.way: each.num_logits for each in found.compared}, above=4)


def test_a_model_that_cannot_be_asked_is_refused():
    with pytest.raises(
        ValueError, match=r"nothing to check: next item: .* predicts no item; actions: .*\(P2\)"
    ):
        check(model_for("next_action"), histories(), SEED)
    with pytest.raises(ValueError, match="no user has two events"):
        users_to_check(np.array([1, 0]), model_for("lac"), SEED)


@pytest.mark.parametrize(("of_model", "counted_alone"), [(0.0, 1), (0.5, 0)])
def test_counts_stand_beside_the_model_in_every_way(of_model, counted_alone, monkeypatch):
    """Where they alone decide, the network could be wrong and nobody would see it: that is said."""
    model, rng = model_for("item"), np.random.default_rng(3)
    shape = (NUM_ITEMS + 1, NUM_ITEMS + 1)
    rules = sparse.csr_array(rng.integers(0, 3, shape).astype(np.float64))
    tables = Tables(
        rng.integers(0, 9, NUM_ITEMS + 1).astype(np.float64), rules, 3, 0.5, None, reads_own=False
    )
    model.counts = Counts(ItemCounts(tables, np.array([of_model, 1.0]), ""), None, "causal")
    model.config = replace(model.config, settings=replace(model.config.settings, counts="auto"))
    found = checked(model)
    assert sum(line.startswith("next item: counts") for line in found.left_out) == counted_alone
    monkeypatch.setattr(agreement_cases, "beside_of", lambda *_: None)
    assert_caught(checked, model)


def test_users_are_the_longest_the_shortest_some_past_the_window_and_others():
    model, rng = model_of("i[t] -> i[t+1]"), np.random.default_rng(5)
    length_U = np.concatenate([rng.integers(2, 9, 2_000), rng.integers(12, 90, 300), [1, 0, 500]])
    user_W = users_to_check(length_U, model, SEED)
    assert len(user_W) == NUM_USERS and (np.diff(user_W) > 0).all()
    assert np.array_equal(user_W, users_to_check(length_U, model, SEED))
    assert not np.array_equal(user_W, users_to_check(length_U, model, SEED + 1))
    length_W = length_U[user_W]
    assert length_W.max() == 500 and length_W.min() == 2 and (length_W == 2).sum() >= NUM_ENDS
    assert (length_W > MAX_EVENTS).sum() >= NUM_USERS // 2 and (length_W < MAX_EVENTS).sum() > NUM_USERS // 4
    assert users_to_check(length_U[:3], model, SEED).tolist() == [0, 1, 2]


# What is wrong in a way of its own.


def mask_off_by_one(monkeypatch):
    right = cached.runs_of
    fewer = lambda run: run._replace(num_seen=max(0, run.num_seen - 1))  # noqa: E731
    monkeypatch.setattr(cached, "runs_of", lambda *arguments: tuple(map(fewer, right(*arguments))))


def mask_that_training_has_not(monkeypatch):
    """Strict attention is not, so a candidate reads what is missing as its own action."""
    right = cached.OverKeys.softmax
    loose = lambda self, qkv, bias, *, strict: right(self, qkv, bias, strict=False)  # noqa: E731
    monkeypatch.setattr(cached.OverKeys, "softmax", loose)


def changed_candidates(monkeypatch, change):
    right = one_pass.candidate_inputs
    monkeypatch.setattr(one_pass, "candidate_inputs", lambda *arguments: change(right(*arguments)))


def candidates_that_see_each_other(monkeypatch):
    def as_one(later):
        lists = later.lists
        count = int(lists.count_B[0])
        return replace(
            later,
            lists=replace(lists, count_B=np.ones_like(lists.count_B), num_own=lists.num_own * count),
        )

    changed_candidates(monkeypatch, as_one)


def candidate_at_another_position(monkeypatch):
    def moved(later):
        later.inputs.segments.position_RL.sub_(1)
        return later

    changed_candidates(monkeypatch, moved)


def candidate_action_tokens_kept(monkeypatch):
    """In place of the mask stands an action."""

    def kept(later):
        shown = tuple(
            (field, torch.where(source_N == MASK, START, source_N) if field == "a" else source_N)
            for field, source_N in later.inputs.shown
        )
        return replace(later, inputs=replace(later.inputs, shown=shown))

    changed_candidates(monkeypatch, kept)


def candidate_that_shares_its_time(monkeypatch):
    """It sees the events of its own request that are in the history."""
    nobody = lambda state, time_s_U, names=None: np.zeros(len(time_s_U), dtype=bool)  # noqa: E731
    monkeypatch.setattr(asking, "in_last_request", nobody)


def stale_state(monkeypatch):
    """Of an event that is appended the state has the keys of the one before."""

    def stale(model, before: State, after: State) -> State:
        kept = one_pass.encode(model, after).kept
        keys = kept.encoded
        stay = [torch.cat([x[:-1], x[-2:-1]]) for x in keys._tensors]
        return replace(after, kept=replace(kept, encoded=keys._from(stay, keys.start_U1, keys.length_U)))

    monkeypatch.setattr(one_pass, "append", stale)


def window_cut_without_encoding_again(monkeypatch):
    """Where the window begins anew the keys of later events stay, though they have read those that left."""

    def cut(model, before: State, after: State) -> State:
        events = one_pass.window(after.events, model.plan.window, model.plan.lead)
        later = one_pass.next_inputs(model.plan, events)
        old, new = before.kept.encoded, one_pass.encode(model, after).kept
        length = int(old.length_U[0])
        left = length + 1 - int(new.encoded.length_U[0])
        rest = [x[left:length] for x in old._tensors]
        rest[0] = rest[0] - left
        kept_keys = old._from(rest, np.array([0, len(rest[0])]), np.array([len(rest[0])]))
        return replace(after, kept=replace(new, encoded=model.followed(later, kept_keys)))

    monkeypatch.setattr(one_pass, "append", cut)


def normaliser_by_the_longest_of_the_batch(monkeypatch):
    """In training and in serving alike, each of its own batch."""
    in_rows, over_keys = packed.Packed.silu, cached.OverKeys.silu

    def of_rows(self, qkv, bias, *, scale, norm_len, strict):
        longest = int(self.segments.position_RL.max()) + 1
        return in_rows(self, qkv, bias, scale=scale, norm_len=longest, strict=strict)

    def of_keys(self, qkv, bias, *, scale, norm_len, strict):
        longest = max(run.num_seen for run in self.runs) + 1
        return over_keys(self, qkv, bias, scale=scale, norm_len=longest, strict=strict)

    monkeypatch.setattr(packed.Packed, "silu", of_rows)
    monkeypatch.setattr(cached.OverKeys, "silu", of_keys)


def weights_that_were_not_stored(monkeypatch):
    def other(folder):
        model = load_model(folder)
        with torch.no_grad():
            for parameter in model.heads.parameters():
                parameter += 0.01
        return model

    monkeypatch.setattr(agreement_ways, "load_model", other)
    monkeypatch.setattr(state_file, "hash_of", lambda model: "of any")  # which would refuse the state


def keys_stored_in_half(monkeypatch):
    def rounded(model, path):
        state = load_state(model, path)
        keys = tuple(cached.Keys(*(x.half().float() for x in each)) for each in state.kept.encoded.keys)
        return replace(state, kept=replace(state.kept, encoded=replace(state.kept.encoded, keys=keys)))

    monkeypatch.setattr(agreement_ways, "load_state", rounded)


def conditions_that_change_places(monkeypatch):
    """Of one query: the interest under one condition is answered as that under another."""
    right = one_pass.query
    turned = lambda model, state, condition_UNG, **more: right(model, state, condition_UNG[:, ::-1], **more)  # noqa: E731
    monkeypatch.setattr(one_pass, "query", turned)


def conditions_that_see_each_other(monkeypatch):
    """Of one query; lists of one condition stay as they are."""
    candidates_that_see_each_other(monkeypatch)


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize(
    ("mutant", "model"),
    [
        (mask_off_by_one, model_for("lac")),
        (mask_that_training_has_not, model_for("attn_mvp")),
        (candidates_that_see_each_other, model_for("lac", "rope")),
        (candidate_at_another_position, model_for("interleaved", "alibi")),
        (candidate_action_tokens_kept, model_for("genrank")),
        (candidate_that_shares_its_time, model_for("lac", same_request="blind")),
        (candidate_that_shares_its_time, model_for("genrank", "genrank")),
        (stale_state, model_for("lac")),
        (weights_that_were_not_stored, model_for("lac")),
        (keys_stored_in_half, model_for("lac")),
        (window_cut_without_encoding_again, model_for("lac", "alibi")),
        (normaliser_by_the_longest_of_the_batch, model_for("lac", kind="hstu")),
        (conditions_that_change_places, model_for("lum")),
        (conditions_that_see_each_other, model_for("lum")),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_a_wrong_way_is_caught(mutant, model, monkeypatch):
    checked(model)
    mutant(monkeypatch)
    assert_caught(checked, model)


def test_appending_goes_over_a_beginning_of_a_window_and_on(monkeypatch):
    """Within windows, too; and of users whose window has never begun anew."""
    lengths: list[tuple[int, int]] = []
    right = agreement_ways._grown
    seen = lambda case, history, first: lengths.append((first, int(history.num_events_U[0])))  # noqa: E731
    monkeypatch.setattr(agreement_ways, "_grown", lambda *arguments: seen(*arguments) or right(*arguments))
    model = model_for("lac")
    checked(model)
    begins = [model.plan.window.begin(np.array(pair)) for pair in lengths]
    assert_not_vacuous(
        {
            "over a beginning": sum(a < b for a, b in begins),
            "within a window": sum(a == b for a, b in begins),
            "several events": sum(n - first > 2 for first, n in lengths),
        }
    )
