"""P3, the rule that no target is readable: against a brute-force walk over a long sequence of events."""

import importlib

import pytest
from hypothesis import given
from random_layouts import QUICK, PlainLayout, assert_caught, assert_not_vacuous, build, layouts

from plait.layouts import Layout, audit, leaks
from plait.layouts.facts import Fact, Target

AUDIT = importlib.import_module("plait.layouts.audit")  # the package exports a function of that name
NOW = 7  # the event whose tokens are looked at: further from the first than any lag reaches


def visible(layout: Layout, index: int, in_candidate: bool) -> set[tuple[str, int]]:
    """Every (field, event) that token `index` of event NOW may read, walked token by token."""
    seen = set()
    for event in range(NOW):
        for token in layout.tokens:
            seen |= {(fact.field, event + fact.offset) for fact in token.shown if fact.offset is not None}
            seen |= {("a", event) for _ in token.rides}
    for token in (layout.candidate if in_candidate else layout.tokens)[: index + 1]:
        seen |= {(fact.field, NOW + fact.offset) for fact in token.shown if fact.offset is not None}
    return seen


def must_not_see(target: Target, facts: set[tuple[str, int]]) -> set[tuple[str, int]]:
    own = NOW + target.offset
    known_before = {"c": set(), "i": {("c", own)}, "a": {("c", own), ("i", own)}}[target.fact.field]
    return {(field, event) for field, event in facts if event >= own} - known_before


def newest(facts: set[tuple[str, int]]) -> dict[str, int]:
    return {field: max(event for f, event in facts if f == field) - NOW for field, _ in facts}


def check_against_brute_force() -> None:
    found = {
        "leak": 0,
        "clean": 0,
        "at the head": 0,
        "in a candidate": 0,
        "leaking layout": 0,
        "clean layout": 0,
    }

    @QUICK
    @given(layouts())
    def agrees(plain: PlainLayout) -> None:
        layout = build(plain)
        for audited in audit(layout).targets:
            trunk = visible(layout, audited.token, audited.in_candidate)
            head = {(fact.field, NOW + fact.offset) for fact in audited.target.given}
            assert audited.trunk == newest(trunk)
            assert audited.head == newest(head)
            in_trunk, at_head = must_not_see(audited.target, trunk), must_not_see(audited.target, head)
            fields = [field for facts in (in_trunk, at_head) for field in newest(facts)]
            assert len(audited.leaks) == len(fields), "one reason for every field and place that leaks"
            found["leak" if fields else "clean"] += 1
            found["at the head"] += bool(at_head)
            found["in a candidate"] += audited.in_candidate
        assert bool(leaks.find_leaks(layout.tokens, layout.candidate)) == bool(audit(layout).leaks)
        found["leaking layout" if audit(layout).leaks else "clean layout"] += 1

    agrees()
    assert_not_vacuous(found, above=10)


def test_the_leak_rule_agrees_with_a_walk_over_the_tokens():
    check_against_brute_force()


def test_a_token_that_does_not_see_itself_is_noticed(monkeypatch):
    """j < k where the rule says j <= k."""
    right = leaks.newest_seen
    broken = lambda tokens, candidate, field, index, own: right(tokens, candidate, field, index - 1, own)  # noqa: E731
    monkeypatch.setattr(leaks, "newest_seen", broken)
    assert_caught(check_against_brute_force)


def test_a_rule_one_event_too_lenient_is_noticed(monkeypatch):
    """<= where the rule says <."""
    right = leaks.leaks_into

    def broken(target, trunk, head):
        return right(Target(Fact(target.fact.field, target.offset + 1)), trunk, head)

    monkeypatch.setattr(AUDIT, "leaks_into", broken)
    assert_caught(check_against_brute_force)


def test_an_action_known_before_its_item_is_noticed(monkeypatch):
    monkeypatch.setattr(leaks, "BECOME_KNOWN", ("c", "a", "i"))
    assert_caught(check_against_brute_force)


def test_an_action_in_the_values_seen_by_its_own_event_is_noticed(monkeypatch):
    right = leaks.newest_seen

    def broken(tokens, candidate, field, index, in_candidate):
        rides = field == "a" and any(token.rides for token in tokens)
        return 0 if rides else right(tokens, candidate, field, index, in_candidate)

    monkeypatch.setattr(leaks, "newest_seen", broken)
    assert_caught(check_against_brute_force)


# LAC section 4.1 and figure 1: what breaks P3, with the reason.
ANTI_PATTERNS = {
    "(i[t], a[t]) -> a[t]": "a[t] is predicted, but a[t] itself is already visible (self-label leakage)",
    "(i[t], a[t]) -> (a[t], i[t+1])": "a[t] itself is already visible (self-label leakage)",
    "(i[t], a[t]) -> (a[t], i[t+1], a[t+1])": "a[t] itself is already visible (self-label leakage)",
    "i[t] -> (); a[t] -> a[t]": "a[t] itself is already visible",
    "i[t] -> i[t]": "i[t] itself is already visible",
    "a[t] -> i[t]": "a[t] is already visible: the action of an event becomes known after its item",
    "i[t] -> i[t+1] | a[t+1]": "a[t+1] is given to the head: the action of an event becomes known after",
    "i[t] -> i[t+1] | i[t+1]": "i[t+1] itself is given to the head (self-label leakage)",
    "i[t] -> (i[t+1] | a[t+1], a[t+1] | i[t+1])": "a[t+1] is given to the head",
    "c[t] -> (c[t], i[t])": "c[t] itself is already visible (self-label leakage)",
    "i[t] -> c[t]": "i[t] is already visible: the item of an event becomes known after its condition",
    "i[t] -> () / (i[t], a[t]) -> a[t]": "a[t] itself is already visible",
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), ANTI_PATTERNS.items())
def test_a_layout_that_reads_its_answer_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError) as refused:
        Layout.parse(text)
    message = str(refused.value)
    assert message.startswith(f"layout '{text}' leaks (P3, LAC paper section 4.1): ")
    assert reason in message
    assert "pass allow_leaks=True" in message


@pytest.mark.parametrize(("text", "reason"), ANTI_PATTERNS.items())
def test_an_allowed_leak_is_built_and_listed(text, reason):
    layout = Layout.parse(text, allow_leaks=True)
    assert any(reason in leak for leak in audit(layout).leaks)
    assert reason in str(audit(layout))


def test_a_leak_into_one_target_is_not_held_against_the_other():
    found = audit(Layout.parse("(i[t], a[t]) -> (a[t], i[t+1], a[t+1])", allow_leaks=True))
    leaking = {str(target.target): bool(target.leaks) for target in found.targets}
    assert leaking == {"a[t]": True, "i[t+1]": False, "a[t+1]": False}
    assert "a[t+1] violated: the action is predicted without access to its item" in found.conditioning


@pytest.mark.parametrize("text", ["i[t] -> a[t]", "i[t] -> i[t+1]", "(i[t], a[t]) -> i[t+1]"])
def test_the_papers_leak_free_examples_are_built(text):
    assert audit(Layout.parse(text)).leaks == ()


def test_a_condition_may_be_seen_by_the_item_and_action_of_its_event():
    assert audit(Layout.parse("c[t] -> i[t]; i[t] -> a[t]; a[t] -> c[t+1]")).leaks == ()
