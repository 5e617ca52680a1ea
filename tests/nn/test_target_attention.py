"""What rankers compute in blocks, against the papers' formulas for one candidate at a time."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from tiny import assert_caught, assert_not_vacuous, started
from torch import Tensor

from plait.nn import candidate_blocks, target_attention
from plait.nn.activation_unit import ActivationUnit
from plait.nn.candidate_blocks import CandidateBlocks
from plait.nn.dice import Dice
from plait.nn.evolving import AttentionalGru, Gru, auxiliary_loss, other_items
from plait.nn.rankers import Asked
from plait.nn.target_attention import Moments, SearchedAttention, SoftSearch, TwinAttention, latest_alike

DIM, TOP_K = 6, 3
LENGTHS = (9, 1, 4, 25, 0, 2)  # events of each user, of whom each is asked about after every prefix
close = partial(
    torch.testing.assert_close, rtol=1e-5, atol=1e-4
)  # sums of forty terms of about 10 that cancel


def asked() -> Asked:
    """Every user after each of its prefixes, the empty one included; events of a user lie one after another."""
    first_U = np.cumsum([0, *LENGTHS[:-1]])
    user_M = np.repeat(np.arange(len(LENGTHS)), np.array(LENGTHS) + 1)
    end_M = np.concatenate(
        [first + np.arange(length + 1) for first, length in zip(first_U, LENGTHS, strict=True)]
    )
    return Asked(user_M, first_U[user_M], end_M)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def large(module: torch.nn.Module) -> torch.nn.Module:
    """Weights so large that no part of a formula is near to zero."""
    started(module).eval()
    for place, parameter in enumerate(module.parameters()):
        parameter.data = 0.7 * drawn(*parameter.shape, seed=place)
    return module


NUM_QUESTIONS, NUM_EVENTS = len(asked().user_M), sum(LENGTHS)
QUERY_MD, KEY_ND, ACTION_ND = (
    drawn(NUM_QUESTIONS, DIM),
    drawn(NUM_EVENTS, DIM, seed=1),
    drawn(NUM_EVENTS, DIM, seed=2),
)
MOMENTS = Moments(10_000 + 50 * torch.arange(NUM_QUESTIONS) ** 2, 97 * torch.arange(NUM_EVENTS))
LAST = (None, 5)


def check_alike(
    fast_MX: Tensor,
    plain: Callable[[int, slice], Tensor],
    last: int | None,
    num_compared: int = NUM_QUESTIONS,
) -> None:
    """Question by question, of what it sees."""
    places = asked()
    for m in range(num_compared):
        first = places.first_M[m] if last is None else max(places.first_M[m], places.end_M[m] - last)
        close(fast_MX[m], plain(m, slice(int(first), int(places.end_M[m]))))


@pytest.fixture(params=[1, 1 << 16], ids=["one list a block", "large blocks"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate_blocks, "PAIRS_PER_BLOCK", request.param)
    monkeypatch.setattr(candidate_blocks, "QUESTIONS_PER_LIST", 7)


def check_blocks(last: int | None, blocks: CandidateBlocks) -> None:
    """Every question stands in one block, beside the events that it sees and no other."""
    places, met = asked(), 0
    begin_M = places.first_M if last is None else np.maximum(places.first_M, places.end_M - last)
    for block in blocks.blocks:
        for b, c in block.is_asked_BC.nonzero().tolist():
            m = int(block.question_BC[b, c])
            found = block.event_BH[b][block.sees_BCH[b, c]].tolist()
            assert found == list(range(begin_M[m], places.end_M[m]))
            met += 1
        assert not block.sees_BCH[~block.is_asked_BC].any()
    assert met == NUM_QUESTIONS
    number_M = torch.arange(NUM_QUESTIONS)
    assert torch.equal(blocks.joined([block.of_questions(number_M) for block in blocks.blocks]), number_M)


@pytest.mark.parametrize("last", LAST)
def test_blocks_hold_every_pair_once(last, sizes):
    blocks = asked().blocks(torch.device("cpu"), last)
    check_blocks(last, blocks)
    assert_not_vacuous({"blocks": len(blocks.blocks), "pairs": blocks.num_pairs}, above=1)


def test_a_block_that_shows_one_event_more_is_caught():
    places = asked()
    check_more = CandidateBlocks.of(places.user_M, places.first_M, np.minimum(places.end_M + 1, NUM_EVENTS))
    assert_caught(check_blocks, None, check_more)


def test_no_question_is_no_block():
    none = np.zeros(0, dtype=np.int64)
    assert CandidateBlocks.of(none, none, none).blocks == ()


@pytest.mark.parametrize("last", LAST)
def test_an_activation_unit_weighs_each_event_by_itself(last, sizes):
    unit = large(ActivationUnit(DIM, 5))
    fast_MD = unit(QUERY_MD, KEY_ND, asked().blocks(torch.device("cpu"), last))
    check_alike(fast_MD, lambda m, seen: unit.plain(QUERY_MD[m], KEY_ND[seen]), last)


def test_an_activation_unit_with_softmax_is_caught(monkeypatch):
    unit = large(ActivationUnit(DIM, 5))
    fast_MD = unit(QUERY_MD, KEY_ND, asked().blocks(torch.device("cpu")))
    fast_MD = fast_MD / (1 + torch.from_numpy(asked().end_M - asked().first_M))[:, None]
    assert_caught(check_alike, fast_MD, lambda m, seen: unit.plain(QUERY_MD[m], KEY_ND[seen]), None)


def test_dice_is_the_papers_formula():
    dice, x_MW = started(Dice(4)).train(), 3 * drawn(50, 4) + 1
    dice.alpha_W.data = torch.tensor([0.0, 0.25, -1.0, 2.0])
    mean_W, variance_W = x_MW.mean(0), x_MW.var(0, correction=0)
    share_MW = 1 / (1 + torch.exp(-(x_MW - mean_W) / torch.sqrt(variance_W + 1e-8)))
    close(dice(x_MW), share_MW * x_MW + (1 - share_MW) * dice.alpha_W * x_MW)
    close(dice.mean_W, 0.1 * mean_W)
    dice.eval()
    close(dice(x_MW)[:1], dice(x_MW[:1]))  # no answer depends on its batch-mates
    assert dice.train()(x_MW[:1]).isfinite().all()


@pytest.mark.parametrize("last", LAST)
def test_interests_evolve_event_by_event(last, sizes):
    gru = large(AttentionalGru(DIM))
    fast_MD = gru(QUERY_MD, KEY_ND, asked().blocks(torch.device("cpu"), last))
    check_alike(fast_MD, lambda m, seen: gru.plain(QUERY_MD[m], KEY_ND[seen]), last)


def test_an_update_gate_without_attention_is_caught(monkeypatch):
    gru, step = large(AttentionalGru(DIM)), AttentionalGru.step
    plain = partial(lambda m, seen: gru.plain(QUERY_MD[m], KEY_ND[seen]))
    monkeypatch.setattr(
        AttentionalGru, "step", lambda self, weight, *rest: step(self, (weight > 0) * 1.0, *rest)
    )
    assert_caught(check_alike, gru(QUERY_MD, KEY_ND, asked().blocks(torch.device("cpu"))), plain, None)


def test_a_gru_starts_from_the_generator_and_is_torchs():
    gru = started(Gru(DIM))
    assert all(parameter.isfinite().all() for parameter in gru.parameters())
    again = started(Gru(DIM))
    assert torch.equal(gru.weight_ih_l0, again.weight_ih_l0)


def test_the_auxiliary_loss_is_the_papers_formula():
    state_ND, next_ND, other_ND = (drawn(7, DIM, seed=seed) for seed in (3, 4, 5))
    total = torch.zeros(())
    for state_D, next_D, other_D in zip(state_ND, next_ND, other_ND, strict=True):
        total = (
            total
            - torch.log(torch.sigmoid(state_D @ next_D))
            - torch.log(1 - torch.sigmoid(state_D @ other_D))
        )
    close(auxiliary_loss(state_ND, next_ND, other_ND), total / 7)
    assert auxiliary_loss(state_ND[:0], next_ND[:0], other_ND[:0]) == 0


def test_other_items_are_others_and_uniform():
    item_N = torch.arange(1, 5).repeat(3_000)
    other_N = other_items(item_N, 4, torch.Generator().manual_seed(0))
    assert (other_N != item_N).all() and other_N.min() == 1 and other_N.max() == 4
    share = torch.bincount(other_N[item_N == 2], minlength=5)[[1, 3, 4]] / 3_000
    close(share, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    assert other_items(torch.tensor([1]), 1, torch.Generator()).tolist() == [1]


@torch.no_grad()
def found_by(search: SoftSearch, m: int, seen: slice) -> list[int]:
    """The events with the highest inner products, one by one."""
    relevance = {
        n: float(search.of_query(QUERY_MD[m]) @ search.of_key(KEY_ND[n]))
        for n in range(seen.start, seen.stop)
    }
    return sorted(sorted(relevance, key=lambda n: -relevance[n])[:TOP_K])


def test_soft_search_finds_the_highest_inner_products(sizes):
    search, blocks = large(SoftSearch(DIM)), asked().blocks(torch.device("cpu"))
    found, sum_MD = search(QUERY_MD, KEY_ND, TOP_K, blocks)

    def plain(m: int, seen: slice) -> Tensor:
        total = torch.zeros(DIM)
        for key_D in KEY_ND[seen]:
            total = total + (search.of_query(QUERY_MD[m]) @ search.of_key(key_D)) * key_D
        return total

    check_alike(sum_MD, plain, None)
    places, chosen = asked(), 0
    for block, found_BCH in zip(blocks.blocks, found, strict=True):
        for b, c in block.is_asked_BC.nonzero().tolist():
            m = int(block.question_BC[b, c])
            of_m = found_by(search, m, slice(int(places.first_M[m]), int(places.end_M[m])))
            assert block.event_BH[b][found_BCH[b, c]].tolist() == of_m
            chosen += int(places.end_M[m] - places.first_M[m]) > TOP_K
    assert_not_vacuous({"searches that leave some out": chosen})


def test_hard_search_finds_the_last_of_a_kind(sizes):
    code_NK = torch.from_numpy(np.random.default_rng(0).integers(-1, 3, (NUM_EVENTS, 2)))
    code_MK = torch.from_numpy(np.random.default_rng(1).integers(-1, 3, (NUM_QUESTIONS, 2)))
    blocks, places, met = asked().blocks(torch.device("cpu")), asked(), {"some": 0, "left out": 0}
    for block, found_BCH in zip(blocks.blocks, latest_alike(code_MK, code_NK, TOP_K, blocks), strict=True):
        for b, c in block.is_asked_BC.nonzero().tolist():
            m = int(block.question_BC[b, c])
            wanted = {code for code in code_MK[m].tolist() if code >= 0}
            seen = range(places.first_M[m], places.end_M[m])
            alike = [n for n in seen if wanted & set(code_NK[n].tolist())]
            assert block.event_BH[b][found_BCH[b, c]].tolist() == alike[-TOP_K:]
            met["some"] += bool(alike)
            met["left out"] += len(alike) > TOP_K
    assert_not_vacuous(met)


def gaps_of(m: int, seen: slice) -> Tensor:
    return MOMENTS.time_s_M[m] - MOMENTS.time_s_N[seen]


def exact_of(attention: SearchedAttention, search: SoftSearch) -> Tensor:
    blocks = asked().blocks(torch.device("cpu"))
    found, _ = search(QUERY_MD, KEY_ND, TOP_K, blocks)
    return attention(QUERY_MD, KEY_ND, MOMENTS, found, blocks)


def exact_plain(attention: SearchedAttention, search: SoftSearch, m: int, seen: slice) -> Tensor:
    chosen = found_by(search, m, seen)
    gap_s_H = MOMENTS.time_s_M[m] - MOMENTS.time_s_N[chosen]
    return attention.plain(QUERY_MD[m], KEY_ND[chosen], gap_s_H)


def test_exact_search_attends_to_what_was_found(sizes):
    attention, search = large(SearchedAttention(DIM, 2)), large(SoftSearch(DIM))
    check_alike(exact_of(attention, search), partial(exact_plain, attention, search), None)


def test_exact_search_without_time_gaps_is_caught(monkeypatch):
    attention, search = large(SearchedAttention(DIM, 2)), large(SoftSearch(DIM))
    plain = partial(exact_plain, attention, search)
    with monkeypatch.context() as patch:
        patch.setattr(
            Moments, "gaps", lambda self, block: torch.zeros_like(block.sees_BCH, dtype=torch.int64)
        )
        fast_MX = exact_of(attention, search)
    assert_caught(check_alike, fast_MX, plain, None)


@pytest.mark.parametrize("reads_actions", [True, False])
def test_twin_searches_by_what_it_attends_with(reads_actions, sizes):
    attention = large(TwinAttention(DIM, 2, reads_actions))
    action_ND = ACTION_ND if reads_actions else None
    blocks = asked().blocks(torch.device("cpu"))
    fast_MD = attention(QUERY_MD, KEY_ND, action_ND, MOMENTS, TOP_K, blocks)

    def plain(m: int, seen: slice) -> Tensor:
        actions = ACTION_ND[seen] if reads_actions else None
        return attention.plain(QUERY_MD[m], KEY_ND[seen], actions, gaps_of(m, seen), TOP_K)

    check_alike(fast_MD, plain, None)


def test_twin_that_does_not_search_is_caught(monkeypatch):
    attention = large(TwinAttention(DIM, 2, reads_actions=False))
    blocks = asked().blocks(torch.device("cpu"))
    monkeypatch.setattr(target_attention, "highest", lambda score, sees, k: sees)
    fast_MD = attention(QUERY_MD, KEY_ND, None, MOMENTS, TOP_K, blocks)
    assert_caught(
        check_alike,
        fast_MD,
        lambda m, seen: attention.plain(QUERY_MD[m], KEY_ND[seen], None, gaps_of(m, seen), TOP_K),
        None,
    )
