"""Tokens, targets and reads, against a slow reference in plain Python; and that training equals serving.

A source is written down as START, MASK, or the number of an event of the batch.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from random_layouts import (
    LAYOUTS,
    QUICK,
    PlainLayout,
    assert_caught,
    assert_not_vacuous,
    batches,
    build,
    layouts,
)

from plait.layouts import Layout, arrange, audit, resolve
from plait.layouts.arrange import (
    MASK,
    NOTHING,
    SPECIALS,
    START,
    Tokens,
    candidate_predictions,
    candidate_tokens,
    training_predictions,
)
from plait.layouts.event_roles import EventRoles, history_alone, last_events_to_come
from plait.layouts.facts import Fact, Field, Target, Token

Batch = tuple[np.ndarray, np.ndarray]
RAGGED: Batch = (
    np.array([0, 5, 6, 13]),
    np.array([2, 0, 0]),
)  # windows of 3, 1 and 7 events; leads of 2, 0, 0


def roles_of(batch: Batch, hypothetical: bool) -> EventRoles:
    return last_events_to_come(*batch) if hypothetical else history_alone(*batch)


def reference(layout: Layout, batch: Batch, hypothetical: bool) -> Iterator[tuple[int, int, Token, int, int]]:
    """For every token: its user, its position, what it is, its event, and its user's first event."""
    start_U1, lead_U = batch
    for user, lead in enumerate(lead_U):
        first, end = start_U1[user], start_U1[user + 1]
        history = [
            (event, token) for event in range(first + lead, end - hypothetical) for token in layout.tokens
        ]
        own = [(end - 1, token) for token in candidate_tokens(layout)] if hypothetical else []
        for position, (event, token) in enumerate(history + own):
            yield user, position, token, event, first


def source_of(fact: Fact, event: int, first: int) -> int:
    if fact.offset is None:
        return MASK
    return START if event + fact.offset < first else SPECIALS + event + fact.offset


def shown_by(tokens: Tokens, row: int) -> list[tuple[str, int]]:
    shown = [(column.field, int(column.source_N[row])) for column in tokens.shown]
    return sorted((field, source) for field, source in shown if source != NOTHING)


def check_tokens(layout: Layout, batch: Batch, hypothetical: bool) -> None:
    tokens = arrange.arrange(layout, roles_of(batch, hypothetical))
    expected = list(reference(layout, batch, hypothetical))
    users = [user for user, *_ in expected]
    assert tokens.length_U.tolist() == [users.count(user) for user in range(len(batch[1]))]
    assert tokens.position_N.tolist() == [position for _, position, *_ in expected]
    for row, (_, _, token, event, first) in enumerate(expected):
        facts = sorted((fact.field, source_of(fact, event, first)) for fact in token.shown)
        assert shown_by(tokens, row) == facts, (row, str(token))


def check_targets(layout: Layout, batch: Batch) -> None:
    start_U1, _ = batch
    found = {
        (
            asked.target,
            int(row),
            int(label),
            tuple((field, int(source_M[m])) for field, source_M in asked.given_M),
        )
        for asked in training_predictions(layout, history_alone(*batch))
        for m, (row, label) in enumerate(zip(asked.token_M, asked.label_M, strict=True))
    }
    expected = {
        (
            target,
            row,
            event + target.offset,
            tuple((fact.field, source_of(fact, event, first)) for fact in target.given),
        )
        for row, (user, _, token, event, first) in enumerate(reference(layout, batch, False))
        for target in token.predicted
        if event + target.offset < start_U1[user + 1]
    }
    assert found == expected
    assert sum(len(asked.token_M) for asked in training_predictions(layout, history_alone(*batch))) == len(
        expected
    ), "each target once"


def check_everything() -> None:
    kinds = {NOTHING: "nothing", START: "start", MASK: "mask", SPECIALS: "event"}
    met = dict.fromkeys([*kinds.values(), "targets", "given"], 0)

    @QUICK
    @given(layouts(), batches())
    def agrees(plain: PlainLayout, batch: Batch) -> None:
        layout = build(plain)
        for hypothetical in (False, True):
            check_tokens(layout, batch, hypothetical)
        check_targets(layout, batch)
        shown = arrange.arrange(layout, last_events_to_come(*batch)).shown
        for column in shown:
            for source, kind in kinds.items():
                met[kind] += int((np.minimum(column.source_N, SPECIALS) == source).sum())
        for asked in training_predictions(layout, history_alone(*batch)):
            met["targets"] += len(asked.token_M)
            met["given"] += len(asked.token_M) * len(asked.given_M)

    agrees()
    assert_not_vacuous(met, above=30)


def test_tokens_and_targets_agree_with_a_slow_reference():
    check_everything()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_and_targets_of_the_known_layouts(layout):
    check_tokens(layout, RAGGED, hypothetical=False)
    check_tokens(layout, RAGGED, hypothetical=True)
    check_targets(layout, RAGGED)


def test_a_flipped_offset_is_noticed(monkeypatch):
    right = arrange._sources

    def flipped(column, *places):
        mirrored = [fact and Fact(fact.field, fact.offset and -fact.offset) for fact in column]
        return right(mirrored, *places)

    monkeypatch.setattr(arrange, "_sources", flipped)
    assert_caught(check_everything)


def test_a_start_one_event_too_late_is_noticed(monkeypatch):
    monkeypatch.setattr(
        arrange, "_event_or_start", lambda event, first: np.where(event > first, event + SPECIALS, START)
    )
    assert_caught(check_everything)


def test_candidates_that_show_what_history_shows_are_noticed(monkeypatch):
    monkeypatch.setattr(arrange, "candidate_tokens", lambda layout: layout.tokens)
    assert_caught(check_everything)


def relative(tokens: Tokens, row: int, first: int) -> list[tuple[str, int]]:
    """Shown facts with events counted from `first`, so that users of different batches compare."""
    return [(field, s if s < SPECIALS else s - first + SPECIALS) for field, s in shown_by(tokens, row)]


def check_prefixes(layout: Layout) -> None:
    whole = arrange.arrange(layout, history_alone(np.array([0, 9]), np.array([2])))
    for end in range(3, 9):
        prefix = arrange.arrange(layout, history_alone(np.array([0, end]), np.array([2])))
        assert prefix.length_U[0] == (end - 2) * layout.tokens_per_event
        for row in range(prefix.length_U[0]):
            assert shown_by(prefix, row) == shown_by(whole, row)
            assert prefix.position_N[row] == whole.position_N[row]


def check_history_beside_a_candidate(layout: Layout) -> None:
    with_candidate = arrange.arrange(layout, last_events_to_come(*RAGGED))
    start_U1, lead_U = RAGGED
    first_row = np.cumsum(with_candidate.length_U) - with_candidate.length_U
    for user, lead in enumerate(lead_U):
        first, end = int(start_U1[user]), int(start_U1[user + 1])
        history = arrange.arrange(layout, history_alone(np.array([0, end - 1 - first]), np.array([lead])))
        assert with_candidate.length_U[user] == history.length_U[0] + len(candidate_tokens(layout))
        for row in range(history.length_U[0]):
            there = int(first_row[user]) + row
            assert relative(with_candidate, there, first) == relative(history, row, 0)
            assert with_candidate.position_N[there] == history.position_N[row] == row


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tokens_of_a_prefix_are_the_first_tokens_of_the_whole(layout):
    check_prefixes(layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hypothetical_event_leaves_the_history_as_it_is(layout):
    check_history_beside_a_candidate(layout)


@pytest.mark.parametrize("check", [check_prefixes, check_history_beside_a_candidate])
def test_tokens_that_depend_on_what_comes_after_are_noticed(monkeypatch, check):
    right = arrange._sources

    def last_is_hidden(*args):
        source_N = right(*args)
        source_N[-1:] = START
        return source_N

    monkeypatch.setattr(arrange, "_sources", last_is_hidden)
    assert_caught(lambda: check(resolve("lac")))


@pytest.mark.parametrize("layout", [case for case in LAYOUTS if "/" not in str(case.id)])
def test_an_implied_candidate_shows_what_the_event_shows_once_it_has_happened(layout):
    """Train tokens = serve tokens: a candidate's tokens are a prefix of those that its event then emits."""
    hypothetical = arrange.arrange(layout, last_events_to_come(np.array([0, 6]), np.array([1])))
    happened = arrange.arrange(layout, history_alone(np.array([0, 6]), np.array([1])))
    for row in range(hypothetical.length_U[0]):
        assert shown_by(hypothetical, row) == shown_by(happened, row)


EVENT = SPECIALS  # sources of one user's events: EVENT + n


@pytest.mark.parametrize(
    ("text", "candidate"),
    [
        ("lac", [[("a", EVENT + 2), ("i", EVENT + 3)]]),  # a[T], the last observed action
        ("lac_patched", [[("a", EVENT + 2), ("i", EVENT + 3)]]),
        ("interleaved", [[("i", EVENT + 3)]]),  # the item only
        ("pc", []),  # none: last hidden state and coupler
        ("item", []),
        ("next_both", []),
        ("(i[t], a[t]) -> () / (i[t], a[?]) -> a[t]", [[("a", MASK), ("i", EVENT + 3)]]),
        ("c[t] -> i[t]; i[t] -> ()", [[("c", EVENT + 3)]]),  # a condition query
        ("c[t] -> i[t]; i[t] -> a[t]; a[t] -> ()", [[("c", EVENT + 3)], [("i", EVENT + 3)]]),
        ("c[t] -> a[t]; c[t-1] -> i[t]", [[("c", EVENT + 3)], [("c", EVENT + 2)]]),
        ("(i[t], a[t-2], a[t-1]) -> a[t]", [[("a", EVENT + 1), ("a", EVENT + 2), ("i", EVENT + 3)]]),
    ],
)  # fmt: skip
def test_what_a_candidate_after_three_events_shows(text, candidate):
    layout = resolve(text)
    tokens = arrange.arrange(layout, last_events_to_come(np.array([0, 4]), np.array([0])))
    rows = range(3 * layout.tokens_per_event, tokens.length_U[0])
    assert [shown_by(tokens, row) for row in rows] == candidate


def test_a_lag_before_the_window_is_true_where_the_log_has_it():
    lac = resolve("lac")
    with_lead = arrange.arrange(lac, history_alone(np.array([0, 4]), np.array([1])))
    without = arrange.arrange(lac, history_alone(np.array([0, 3]), np.array([0])))
    assert with_lead.length_U.tolist() == without.length_U.tolist() == [3], "a lead emits no tokens"
    assert shown_by(with_lead, 0) == [("a", EVENT), ("i", EVENT + 1)]
    assert shown_by(without, 0) == [("a", START), ("i", EVENT)]


def test_lags_of_two_start_twice():
    tokens = arrange.arrange(
        Layout.parse("(i[t], a[t-2]) -> i[t+1]"), history_alone(np.array([0, 3, 6]), np.array([0, 0]))
    )
    lags = [dict(shown_by(tokens, row))["a"] for row in range(6)]
    assert lags == [START, START, EVENT, START, START, EVENT + 3], (
        "the second user's lags never reach the first's"
    )


def test_a_batch_may_have_no_users_and_a_user_no_history():
    nobody = arrange.arrange(
        resolve("interleaved"), history_alone(np.array([0]), np.array([], dtype=np.int64))
    )
    assert nobody.length_U.tolist() == [] and nobody.position_N.tolist() == []
    cold = arrange.arrange(resolve("lac"), last_events_to_come(np.array([0, 1]), np.array([0])))
    assert shown_by(cold, 0) == [("a", START), ("i", EVENT)]


READABLE = [
    pytest.param(case.values[0], field, id=f"{field} of {case.id}")
    for case in LAYOUTS
    for field in ("i", "a")
    if candidate_predictions(case.values[0], field, last_events_to_come(np.array([0, 9]), np.array([0])))
    is not None
]


def check_read(layout: Layout, field: Field) -> None:
    start_U1, lead_U = np.array([0, 5, 13]), np.array([1, 0])
    asked = candidate_predictions(layout, field, last_events_to_come(start_U1, lead_U))
    assert asked is not None
    assert asked.label_M.tolist() == [4, 12], "the last event of each user is read about"
    trained = {t.target: t for t in training_predictions(layout, history_alone(start_U1, lead_U))}[
        asked.target
    ]
    arranged = arrange.arrange(layout, last_events_to_come(start_U1, lead_U))
    training_first_row = np.array([0, 4]) * layout.tokens_per_event
    serving_first_row = np.cumsum(arranged.length_U) - arranged.length_U
    for user, label in enumerate(asked.label_M):
        m = trained.label_M.tolist().index(label)
        assert asked.token_M[user] - serving_first_row[user] == trained.token_M[m] - training_first_row[user]
        assert [(f, s[user]) for f, s in asked.given_M] == [(f, s[m]) for f, s in trained.given_M]


IMPLIED = [
    case for case in READABLE if "/" not in str(case.id)
]  # a spelled candidate is not arranged in training


@pytest.mark.parametrize(("layout", "field"), IMPLIED)
def test_reading_agrees_with_the_training_of_the_longer_window(layout, field):
    check_read(layout, field)


def test_a_read_at_another_token_or_of_another_target_is_noticed(monkeypatch):
    right = arrange.reader
    monkeypatch.setattr(arrange, "reader", lambda *args: replace(right(*args), token=1))
    assert_caught(lambda: check_read(resolve("interleaved"), "a"))


def test_a_spelled_candidate_is_read_at_its_own_tokens():
    layout = Layout.parse("i[t] -> () / (i[t], a[t-1]) -> (); (a[?], i[t]) -> a[t]")
    asked = candidate_predictions(layout, "a", last_events_to_come(np.array([0, 4]), np.array([0])))
    assert asked is not None and asked.token_M.tolist() == [4], (
        "three of history, then the candidate's second"
    )
    assert candidate_predictions(layout, "i", last_events_to_come(np.array([0, 4]), np.array([0]))) is None


def test_a_patched_head_is_given_the_last_observed_action():
    asked = candidate_predictions(
        resolve("lac_patched"), "i", last_events_to_come(np.array([0, 4, 7]), np.array([0, 0]))
    )
    assert asked is not None
    assert [(field, source.tolist()) for field, source in asked.given_M] == [("a", [EVENT + 2, EVENT + 5])]


NINE: Batch = (np.array([0, 9]), np.array([0]))  # eight events of history and one to read about, event 8


def answers(layout: Layout, field: str) -> dict[tuple[int, Target], str]:
    """Every token and target that predicts `field` of event 8, with how it sees the item of that event."""
    found, item_in_sight = {}, False
    for row, (_, _, token, event, _) in enumerate(reference(layout, NINE, hypothetical=True)):
        item_in_sight |= event == 8 and Fact("i", 0) in token.shown
        for target in token.predicted:
            if target.fact.field == field and event + target.offset == 8:
                at_head = Fact("i", target.offset) in target.given
                found[row, target] = "early" if item_in_sight else "late" if at_head else "no"
    return found


def check_reads() -> None:
    met = dict.fromkeys(["early", "late", "no", "no action", "an item", "no item"], 0)

    @settings(QUICK, max_examples=600)
    @given(layouts())
    def agrees(plain: PlainLayout) -> None:
        layout = build(plain)
        items, actions = answers(layout, "i"), answers(layout, "a")
        item, action = (
            candidate_predictions(layout, field, last_events_to_come(*NINE)) for field in ("i", "a")
        )
        assert (item is not None) == bool(items) == audit(layout).can_retrieve
        if item is not None:
            assert (item.token_M[0], item.target) in items
        best = min(actions.values(), key=["early", "late", "no"].index, default="no")
        assert audit(layout).can_score == best
        if action is not None:
            assert actions.get((action.token_M[0], action.target)) == best
        met["an item" if items else "no item"] += 1
        met[best if actions else "no action"] += 1

    agrees()
    assert_not_vacuous(met, above=10)


def test_what_the_audit_says_can_be_read_is_read_where_it_is_best():
    check_reads()


def test_a_reader_that_takes_the_first_token_is_noticed(monkeypatch):
    right = arrange.reader
    monkeypatch.setattr(arrange, "reader", lambda *args: (found := right(*args)) and replace(found, token=0))
    assert_caught(check_reads)


def test_a_history_too_short_to_predict_from_is_refused():
    start_U1, lead_U = np.array([0, 4, 5]), np.array([0, 0])
    with pytest.raises(
        ValueError, match=r"user 1 of the batch has 0 events of history; predicting i\[t\+1\] needs 1"
    ):
        candidate_predictions(resolve("item"), "i", last_events_to_come(start_U1, lead_U))
    assert candidate_predictions(resolve("lac"), "a", last_events_to_come(start_U1, lead_U)) is not None, (
        "a first item can be scored"
    )
    with pytest.raises(ValueError, match=r"user 1 of the batch has 1 events of history; .* needs 2"):
        candidate_predictions(
            Layout.parse("i[t] -> i[t+2]"), "i", last_events_to_come(np.array([0, 4, 6]), lead_U)
        )


def test_a_window_without_room_for_its_candidate_is_our_mistake():
    with pytest.raises(AssertionError, match="holds its lead and its candidates"):
        arrange.arrange(resolve("lac"), last_events_to_come(np.array([0, 2]), np.array([2])))
