"""The audit, against verdicts written down by hand from the papers."""

import pytest
from random_layouts import NOTATIONS, assert_caught

from plait.layouts import CATALOGUE, Layout, audit, leaks, resolve

# Per layout: P1, tokens per event, retrieves?, scores?, and per target the offsets of the newest item and
# action in the trunk, with the P2 verdict. "-" where none is ever seen, or no action is predicted.
BY_HAND = {
    "item": ("weak", 1, True, "no", {"i[t+1]": (0, "-", "-")}),
    "action_in": ("partial", 1, True, "no", {"i[t+1]": (0, 0, "-")}),
    "lagged_in": ("partial", 1, True, "no", {"i[t+1]": (0, -1, "-")}),
    "action_out": ("partial", 1, False, "early", {"a[t]": (0, "-", "early")}),
    "both_out": ("partial", 1, True, "early", {"i[t+1]": (0, "-", "-"), "a[t]": (0, "-", "early")}),
    "next_action_out": ("partial", 1, False, "no", {"a[t+1]": (0, "-", "violated")}),
    "next_both_out": ("partial", 1, True, "no", {"i[t+1]": (0, "-", "-"), "a[t+1]": (0, "-", "violated")}),
    "next_action": ("partial", 1, False, "no", {"a[t+1]": (0, 0, "violated")}),
    "lac": ("full", 1, True, "early", {"i[t+1]": (0, -1, "-"), "a[t]": (0, -1, "early")}),
    "next_both": ("full", 1, True, "no", {"i[t+1]": (0, 0, "-"), "a[t+1]": (0, 0, "violated")}),
    "pc": ("full", 1, True, "late", {"i[t+1]": (0, 0, "-"), "a[t+1] | i[t+1]": (0, 0, "late")}),
    "interleaved": ("full", 2, True, "early", {"a[t]": (0, -1, "early"), "i[t+1]": (0, 0, "-")}),
    "lac_patched": ("full", 1, True, "early", {"a[t]": (0, -1, "early"), "i[t+1] | a[t]": (0, -1, "-")}),
    "attn_lfa": ("partial", 1, False, "early", {"a[t]": (0, -1, "early")}),
    "attn_mvp": ("partial", 1, False, "early", {"a[t]": (0, -1, "early")}),
    "attn_mvp_early": ("partial", 1, False, "early", {"a[t]": (0, -1, "early")}),
    "attn_dhn": ("partial", 1, False, "early", {"a[t]": (0, -1, "early")}),
    "genrank": ("partial", 1, False, "early", {"a[t]": (0, -1, "early")}),
    "lum": ("weak", 2, True, "no", {"i[t]": (-1, "-", "-")}),
}
NOT_YET_NAMED = {
    "attn_lfa": "i[t] -> a[t] {pool}",
    "attn_mvp": "i[t] -> a[t] {values, pool}",
    "attn_mvp_early": "i[t] -> a[t] {values}",
    "attn_dhn": "i[t] -> a[t] {helix, pool}",
    "genrank": "(i[t], a[t]) -> () / (i[t], a[?]) -> a[t]",
    "lum": "c[t] -> i[t]; i[t] -> ()",
}


def named(name: str) -> Layout:
    return CATALOGUE[name].layout if name in CATALOGUE else Layout.parse(NOT_YET_NAMED[name])


def check_by_hand() -> None:
    for name, (informed, tokens, retrieves, scores, targets) in BY_HAND.items():
        found = audit(named(name))
        seen = {
            str(t.target): (t.trunk.get("i", "-"), t.trunk.get("a", "-"), t.conditioning or "-")
            for t in found.targets
        }
        assert (found.informed, found.tokens_per_event) == (informed, tokens), name
        assert (found.can_retrieve, found.can_score) == (retrieves, scores), name
        assert seen == targets, name
        assert found.leaks == (), name
        assert bool(found.why_not_score) == (scores == "no"), name


def test_every_row_of_the_catalogue_has_the_verdicts_written_by_hand():
    assert set(CATALOGUE) <= set(BY_HAND), "a new layout needs its verdicts written down"
    check_by_hand()


def test_a_token_that_does_not_see_itself_is_noticed(monkeypatch):
    right = leaks.newest_seen
    broken = lambda tokens, candidate, field, index, own: right(tokens, candidate, field, index - 1, own)  # noqa: E731
    monkeypatch.setattr(leaks, "newest_seen", broken)
    assert_caught(check_by_hand)


@pytest.mark.parametrize(
    ("text", "information"),
    [
        ("i[t] -> i[t+1]", "weak: legal and cheap, but the actions are discarded"),
        ("(i[t], a[t]) -> i[t+1]", "partial: actions inform the next item but do not supervise"),
        ("i[t] -> (i[t+1], a[t])", "partial: actions supervise, but the model never sees engagement"),
        ("(i[t], a[t]) -> a[t+1]", "partial: items do not supervise"),
        ("(i[t], a[t]) -> (i[t+1], a[t+1])", "full: items and actions both inform and supervise"),
    ],
)
def test_p1_in_the_papers_words(text, information):
    assert audit(Layout.parse(text)).information == information


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("i[t] -> i[t+1]", "no action is predicted"),
        ("i[t] -> a[t]", "a[t] early: the trunk attends with the item in sight"),
        ("i[t] -> a[t+1]", "a[t+1] violated: the action is predicted without access to its item"),
        ("(i[t], a[t]) -> a[t+1]", "a[t+1] violated: the action is predicted without access to its item"),
        ("i[t] -> (i[t+1], a[t+1])", "a[t+1] violated: the action is predicted without access to its item"),
        (
            "(i[t], a[t]) -> a[t+1] | i[t+1]",
            "a[t+1] late: the item enters only at the head (patched conditioning)",
        ),
        (
            "(i[t], a[t]) -> a[t+1] | i[t]",
            "a[t+1] violated: the action is predicted without access to its item",
        ),
        (
            "i[t] -> (a[t], a[t+1])",
            "a[t] early: the trunk attends with the item in sight; "
            "a[t+1] violated: the action is predicted without access to its item",
        ),
    ],
)
def test_p2_in_the_papers_words(text, verdict):
    assert audit(Layout.parse(text)).conditioning == verdict


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("i[t] -> i[t+1]", "it predicts no action"),
        ("i[t] -> a[t+1]", "its action score cannot depend on the candidate (P2)"),
        ("i[t] -> a[t] / c[t] -> i[t]", "the tokens of a candidate predict no action"),
    ],
)
def test_why_a_layout_cannot_score(text, why):
    found = audit(Layout.parse(text))
    assert (found.can_score, found.why_not_score) == ("no", why)
    assert f"scores a candidate    no: {why}" in str(found)


def test_a_target_that_sees_its_item_answers_before_one_that_does_not():
    assert audit(Layout.parse("(i[t], a[t]) -> (a[t+1], a[t+2] | i[t+2])")).can_score == "late"


def test_str_says_all_of_it():
    assert str(audit(resolve("pc"))).splitlines() == [
        "P1 information        full: items and actions both inform and supervise",
        "                        i[t+1] from items up to i[t], actions up to a[t]",
        "                        a[t+1] from items up to i[t], actions up to a[t], i[t+1] at the head",
        "P2 action given item  a[t+1] late: the item enters only at the head (patched conditioning)",
        "P3 no leak            kept",
        "retrieves             yes",
        "scores a candidate    late",
        "tokens per event      1",
        "blind to its request  no other event of it; i[t+1], a[t+1] only where it ends",
        "counts of actions     the effect of its item, and the user's residuals before it",
    ]
    assert audit(named("next_action")).counted.endswith("; not the effect of its item (P2)")
    assert audit(named("item")).counted == "none: no action of an event to come is predicted"
    assert audit(named("action_out")).blindness == "no other event of it"
    assert (
        audit(named("lac")).blindness
        == "no other event of it; a[t-1] of an earlier one; i[t+1] only where it ends"
    )
    assert "i[t] from conditions up to c[t], items up to i[t-1], no action" in str(audit(named("lum")))


@pytest.mark.parametrize("text", NOTATIONS)
def test_a_layout_audits_itself(text):
    layout = Layout.parse(text)
    assert layout.audit() == audit(layout)
