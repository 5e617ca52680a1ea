"""What slots see, against the rule written as a loop; drawn masks for the cases that readers should know."""

from dataclasses import replace

import pytest
import torch
from tiny import assert_caught, assert_not_vacuous

from plait.nn import visibility
from plait.nn.visibility import Block, Clock, Segments, Visibility

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
            met["sees nothing"] += not segments.strictly_visible_RQK[row, query].any()
    assert_not_vacuous(met, above=20)


@pytest.mark.parametrize("events", (False, True), ids=("slots", "events"))
@pytest.mark.parametrize(
    ("seen", "ahead"), ((False, False), (True, False), (True, True)), ids=("causal", "prefix", "ahead")
)
def test_slots_see_what_the_rule_says(events, seen, ahead):
    check_against_the_rule(events, seen, ahead)


def another_users_slots(segments: Segments) -> Segments:
    return replace(segments, segment_RL=segments.segment_RL.clamp(max=0))


def slots_for_events(segments: Segments) -> Segments:
    return replace(segments, event_RL=None)


def numbers_within_the_row(segments: Segments) -> Segments:
    return replace(segments, nth_RL=torch.arange(L).expand(3, L))


def one_seen_more(segments: Segments) -> Segments:
    return replace(segments, seen_RL=segments.seen_RL + 1)


@pytest.mark.parametrize(
    "mutant", (another_users_slots, slots_for_events, numbers_within_the_row, one_seen_more)
)
def test_the_check_notices_a_part_that_is_wrong(mutant, monkeypatch):
    right = Visibility._visible
    monkeypatch.setattr(
        Visibility,
        "_visible",
        lambda self, *rest: right(Visibility(*[mutant(self.queries)] * 2), *rest),
    )
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
    assert Visibility(segments, segments).num_seen(strict=True).tolist() == [[0, 0, 2, 2, 2]]
    assert Visibility(segments, segments).num_seen(strict=False).tolist() == [[1, 2, 3, 4, 5]]


def test_a_history_may_be_visible_to_all_of_itself():
    """But not, where strictness matters, to the event itself."""
    segments = one_user(seen=[3, 3, 3, 3, 3])
    assert drawn(segments.visible_RQK[0]) == ["xxx..", "xxx..", "xxx..", "xxxx.", "xxx.x"]
    assert drawn(segments.strictly_visible_RQK[0]) == [".xx..", "x.x..", "xx...", "xxx..", "xxx.."]
    assert segments.looks_ahead
    assert not one_user(seen=[1, 2, 3, 4, 5]).looks_ahead, "up to itself is not ahead"


EVERY_KIND = pytest.mark.parametrize(
    ("events", "seen", "ahead"),
    [
        (events, seen, ahead)
        for events in (False, True)
        for seen, ahead in ((False, False), (True, False), (True, True))
    ],
)
STRICT = pytest.mark.parametrize("strict", (False, True), ids=("loose", "strict"))


@EVERY_KIND
@STRICT
def test_a_block_is_a_part_of_the_whole_and_counts_add_up(events, seen, ahead, strict, monkeypatch):
    monkeypatch.setattr(visibility, "COUNTED_PAIRS", 3 * L * 2)  # two queries at a time
    segments = random_segments(1, events, seen, ahead)
    within = Visibility(segments, segments)
    dense_RQK = within.dense(strict)
    block = Block(slice(1, 3), slice(3, 8), slice(2, 9))
    assert torch.equal(within.visible(block, strict), dense_RQK[block])
    assert torch.equal(within.num_seen(strict), dense_RQK.sum(-1)) and dense_RQK.any()


@EVERY_KIND
@STRICT
def test_queries_apart_see_what_they_see_among_the_keys(events, seen, ahead, strict):
    """Some slots of every row as queries, in any order; the keys in another order, too."""
    segments = random_segments(2, events, seen, ahead)
    draw = torch.Generator().manual_seed(0)
    slot_RQ = torch.stack([torch.randperm(L, generator=draw)[:5] for _ in range(3)])
    slot_RK = torch.stack([torch.randperm(L, generator=draw) for _ in range(3)])
    expected = segments.strictly_visible_RQK if strict else segments.visible_RQK
    expected = expected.gather(1, slot_RQ[:, :, None].expand(3, 5, L))
    real = (segments.segment_RL >= 0).gather(1, slot_RQ)
    assert torch.equal(Visibility(segments.at(slot_RQ), segments).dense(strict)[real], expected[real])
    turned = expected.gather(2, slot_RK[:, None].expand(3, 5, L))
    found = Visibility(segments.at(slot_RQ), segments.at(slot_RK)).dense(strict)
    assert torch.equal(found[real], turned[real]) and turned[real].any()


def test_places_apart_keep_their_times():
    segments = replace(one_user(), clock=Clock(*(torch.arange(5)[None] + 10 * n for n in range(5))))
    clock = segments.at(torch.tensor([[3, 1]])).clock
    assert [x.tolist() for x in vars(clock).values()] == [[[3 + 10 * n, 1 + 10 * n]] for n in range(5)]


def test_sides_that_do_not_fit_are_refused():
    segments = one_user()
    with pytest.raises(AssertionError, match="queries of 1 rows and keys of 2"):
        Visibility(segments, Segments(*torch.zeros(2, 2, 3, dtype=torch.int64)))
    with pytest.raises(AssertionError, match="events are told of queries and of keys, or of neither"):
        Visibility(segments, one_user(event=[0, 0, 1, 1, 1]))


def test_events_of_several_slots_need_a_strict_mask_of_their_own():
    segments = one_user(event=[0, 0, 1, 1, 2])
    assert segments.causality_is_all
    assert not segments.shift_is_strict
    assert not one_user(seen=[0, 1, 2, 3, 3]).causality_is_all


@STRICT
def test_masks_are_made_once_for_all_layers(strict, monkeypatch):
    segments, block = random_segments(0, events=True, seen=True), Block(slice(0, 2), slice(0, 4), slice(0, 9))
    first = Visibility(segments, segments).visible(block, strict)
    assert Visibility(segments, segments).visible(block, strict) is first
    assert not torch.equal(Visibility(segments, segments).visible(block, not strict), first)
    apart = segments.at(torch.arange(L).expand(3, L))
    assert Visibility(segments, apart).visible(block, strict) is not first, "of other keys"
    monkeypatch.setattr(visibility, "KEPT_BYTES", 4 * 2 * 4 * 9)
    more = Block(slice(0, 2), slice(4, 8), slice(0, 9))
    kept = [Visibility(segments, segments).visible(more, strict) for _ in range(2)]
    assert kept[0] is kept[1], "the fourth of four that fit"
    made = [Visibility(segments, segments).visible(more, not strict) for _ in range(2)]
    assert made[0] is not made[1] and torch.equal(*made), "and what does not fit is made again"
