"""What slots see, against the rule written as a loop; drawn masks for the cases that readers should know."""

import pytest
import torch
from tiny import assert_caught, assert_not_vacuous

from plait.nn.visibility import Segments

L = 11


def random_segments(seed: int, events: bool, seen: bool, ahead: bool = False) -> Segments:
    """Three rows of users and padding in any order; events of one to three slots; any seen prefix."""
    draw = torch.Generator().manual_seed(seed)

    def number(high: int) -> int:
        return int(torch.randint(high, (1,), generator=draw))

    segment, event, prefix = (torch.full((3, L), value) for value in (-1, 0, 0))
    user = 0
    for row in range(3):
        at = number(3)
        while at < L:
            length = min(1 + number(6), L - at)
            user_slots = slice(at, at + length)
            segment[row, user_slots] = user
            event[row, user_slots] = torch.randint(2, (length,), generator=draw).cumsum(0)
            reach = [length if ahead else index for index in range(length)]
            prefix[row, user_slots] = torch.tensor([number(r + 1) for r in reach])
            user, at = user + 1, at + length + number(3)
    return Segments(segment, torch.zeros_like(segment), event if events else None, prefix if seen else None)


def sees(segments: Segments, row: int, query: int, key: int, strict: bool) -> bool:
    """The rule, from the words of `Segments`."""
    user_L = segments.segment_RL[row].tolist()
    if user_L[query] != user_L[key]:
        return False
    event_L = list(range(L)) if segments.event_RL is None else segments.event_RL[row].tolist()
    if event_L[query] == event_L[key]:
        return key <= query and not strict
    if segments.seen_RL is None:
        return key < query
    return key - user_L.index(user_L[query]) < segments.seen_RL[row, query]


def check_against_the_rule(events: bool, seen: bool, ahead: bool = False) -> None:
    met = {"seen": 0, "own event": 0, "hidden though earlier": 0, "sees nothing": 0}
    for seed in range(7):
        segments = random_segments(seed, events, seen, ahead)
        for row, query in (segments.segment_RL >= 0).nonzero().tolist():
            for key in range(L):
                loose, strict = (sees(segments, row, query, key, strict) for strict in (False, True))
                assert segments.visible_RQK[row, query, key] == loose, (seed, row, query, key)
                assert segments.strictly_visible_RQK[row, query, key] == strict, (seed, row, query, key)
                met["seen"] += strict
                met["own event"] += loose and not strict
                met["hidden though earlier"] += key < query and not loose
            met["sees nothing"] += bool(segments.sees_nothing_RL[row, query])
    assert_not_vacuous(met, above=20)


@pytest.mark.parametrize("events", (False, True), ids=("slots", "events"))
@pytest.mark.parametrize(
    ("seen", "ahead"), ((False, False), (True, False), (True, True)), ids=("causal", "prefix", "ahead")
)
def test_slots_see_what_the_rule_says(events, seen, ahead):
    check_against_the_rule(events, seen, ahead)


@pytest.mark.parametrize("name", ("_same_user_RQK", "_same_event_RQK", "index_RL", "strictly_visible_RQK"))
def test_the_check_notices_a_part_that_is_wrong(name, monkeypatch):
    right = vars(Segments)[name].func
    wrong = {
        "_same_user_RQK": lambda segments: torch.ones_like(right(segments)),
        "_same_event_RQK": lambda segments: torch.eye(L, dtype=torch.bool).expand(3, L, L),
        "index_RL": lambda segments: torch.arange(L).expand(3, L),  # within the row, not within the user
        "strictly_visible_RQK": lambda segments: right(segments).tril(-2),
    }
    monkeypatch.setattr(Segments, name, property(wrong[name]))
    assert_caught(check_against_the_rule, True, True)


def drawn(visible_QK: torch.Tensor) -> list[str]:
    return ["".join(".x"[int(cell)] for cell in row) for row in visible_QK]


def one_user(event: list[int] | None = None, seen: list[int] | None = None, length: int = 5) -> Segments:
    zeros = torch.zeros(1, length, dtype=torch.int64)
    return Segments(zeros, zeros, *(None if x is None else torch.tensor([x]) for x in (event, seen)))


def test_candidates_see_the_history_and_themselves():
    """A history of three, two candidates after it."""
    segments = one_user(seen=[0, 1, 2, 3, 3])
    assert drawn(segments.visible_RQK[0]) == ["x....", "xx...", "xxx..", "xxxx.", "xxx.x"]
    assert drawn(segments.strictly_visible_RQK[0]) == [".....", "x....", "xx...", "xxx..", "xxx.."]
    assert not segments.looks_ahead


def test_blind_requests_see_whole_earlier_requests():
    """Two tokens per event; the second and the third event share a request."""
    segments = one_user(event=[0, 0, 1, 1, 2, 2], seen=[0, 0, 2, 2, 2, 2], length=6)
    assert drawn(segments.visible_RQK[0]) == ["x.....", "xx....", "xxx...", "xxxx..", "xx..x.", "xx..xx"]
    strict = ["......", "......", "xx....", "xx....", "xx....", "xx...."]
    assert drawn(segments.strictly_visible_RQK[0]) == strict


def test_strictness_hides_the_tokens_of_the_own_event():
    segments = one_user(event=[0, 0, 1, 1, 1])
    assert drawn(segments.visible_RQK[0]) == ["x....", "xx...", "xxx..", "xxxx.", "xxxxx"]
    assert drawn(segments.strictly_visible_RQK[0]) == [".....", ".....", "xx...", "xx...", "xx..."]
    assert segments.sees_nothing_RL.tolist() == [[True, True, False, False, False]]


def test_a_history_may_be_visible_to_all_of_itself():
    """But not, where strictness matters, to the event itself."""
    segments = one_user(seen=[3, 3, 3, 3, 3])
    assert drawn(segments.visible_RQK[0]) == ["xxx..", "xxx..", "xxx..", "xxxx.", "xxx.x"]
    assert drawn(segments.strictly_visible_RQK[0]) == [".xx..", "x.x..", "xx...", "xxx..", "xxx.."]
    assert segments.looks_ahead
    assert not one_user(seen=[1, 2, 3, 4, 5]).looks_ahead, "up to itself is not ahead"


@pytest.mark.parametrize("events", (False, True))
@pytest.mark.parametrize("seen", (False, True))
@pytest.mark.parametrize("strict", (False, True))
def test_the_softmax_runs_over_what_is_seen_or_over_the_slot_itself(events, seen, strict):
    met = {"sees": 0, "sees nothing": 0}
    for seed in range(3):
        segments = random_segments(seed, events, seen)
        visible = segments.strictly_visible_RQK if strict else segments.visible_RQK
        mask = segments.softmax_mask(strict)
        assert mask.any(-1).all(), "a softmax over nothing is not a number"
        empty = ~visible.any(-1)
        assert torch.equal(mask[~empty], visible[~empty])
        assert torch.equal(mask[empty], torch.eye(L, dtype=torch.bool).expand(3, L, L)[empty])
        met["sees"] += int((~empty).sum())
        met["sees nothing"] += int(empty.sum()) if strict else 1
        bias = segments.mask_bias(torch.bfloat16, strict)
        assert torch.equal(bias[:, 0] == 0, mask)
        assert torch.equal(bias[:, 0].isneginf(), ~mask)
    assert_not_vacuous(met)


def test_where_causality_is_all_one_mask_serves_all_rows():
    segment = torch.tensor([[4, 4, 4, 4, 4], [7, 7, 7, -1, -1]])
    segments = Segments(segment, torch.zeros_like(segment))
    assert segments.causality_is_all
    assert segments.shift_is_strict
    assert drawn(segments.softmax_mask()[0]) == ["x....", "xx...", "xxx..", "xxxx.", "xxxxx"]
    assert drawn(segments.softmax_mask(strict=True)[0]) == ["x....", "x....", "xx...", "xxx..", "xxxx."]
    assert segments.softmax_mask().shape == segments.softmax_mask(strict=True).shape == (1, 5, 5)
    assert segments.sees_nothing_RL[:, :3].tolist() == [[True, False, False]] * 2, "a user's first slot"


def test_events_of_several_slots_need_a_strict_mask_of_their_own():
    segments = one_user(event=[0, 0, 1, 1, 2])
    assert segments.causality_is_all
    assert not segments.shift_is_strict
    assert not one_user(seen=[0, 1, 2, 3, 3]).causality_is_all


@pytest.mark.parametrize("strict", (False, True))
def test_masks_are_made_once_for_all_layers(strict):
    segments = random_segments(0, events=True, seen=True)
    assert segments.softmax_mask(strict) is segments.softmax_mask(strict)
    assert segments.mask_bias(torch.float32, strict) is segments.mask_bias(torch.float32, strict)
    assert segments.mask_bias(torch.bfloat16, strict).dtype == torch.bfloat16
    assert not torch.equal(segments.softmax_mask(strict), segments.softmax_mask(not strict))
