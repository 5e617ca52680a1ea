"""The notation: parsing and printing are inverses, and errors point at the character."""

import re
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_layouts import (
    LAYOUTS,
    NOTATIONS,
    QUICK,
    PlainLayout,
    assert_caught,
    assert_not_vacuous,
    build,
    layouts,
)

from plait.layouts import CATALOGUE, Layout, name_of, resolve
from plait.layouts.facts import Fact, Field, Target, Token


def check_inverse() -> None:
    seen = {"candidate": 0, "rides": 0, "given": 0, "nothing": 0}

    @QUICK
    @given(layouts())
    def inverse(plain: PlainLayout) -> None:
        layout = build(plain)
        assert Layout.parse(str(layout), allow_leaks=True) == layout
        seen["candidate"] += bool(layout.candidate)
        seen["rides"] += bool(layout.rides)
        seen["given"] += any(target.given for token in layout.tokens for target in token.predicted)
        seen["nothing"] += any(not token.predicted for token in layout.tokens)

    inverse()
    assert_not_vacuous(seen, above=10)


def test_parsing_is_the_inverse_of_printing():
    check_inverse()


def test_a_printer_that_drops_rides_is_noticed(monkeypatch):
    right = Token.__str__
    monkeypatch.setattr(Token, "__str__", lambda token: right(token).partition(" {")[0])
    assert_caught(check_inverse)


@pytest.mark.parametrize("text", NOTATIONS)
def test_the_papers_spelling_is_what_is_printed(text):
    assert str(Layout.parse(text)) == text


def test_spaces_do_not_matter():
    spaced = {"changed": 0}

    @settings(QUICK, max_examples=40)
    @given(layouts(), st.data())
    def any_spaces(plain: PlainLayout, data: st.DataObject) -> None:
        layout = build(plain)
        parts = re.findall(r"->|[A-Za-z]+|\d+|[^\s\w]", str(layout))
        gap = st.sampled_from(["", " ", "\t", "\n  "])
        text = "".join(data.draw(gap) + part for part in parts) + data.draw(gap)
        assert Layout.parse(text, allow_leaks=True) == layout
        spaced["changed"] += text != str(layout)

    any_spaces()
    assert_not_vacuous(spaced, above=30)


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("", 1, "expected a fact: i[t], a[t-1], c[t], ..., found the end"),
        ("item[t] -> i[t+1]", 1, "expected a fact: i[t], a[t-1], c[t], ..., found 'item'"),
        ("() -> i[t+1]", 2, "expected a fact: i[t], a[t-1], c[t], ..., found ')'"),
        ("i -> a[t]", 3, "expected '[', found '-'"),
        ("i[T] -> a[t]", 3, "expected 't' or '?', found 'T'"),
        ("i[tx] -> a[t]", 4, "expected '+', '-' or ']', found 'x'"),
        ("i[t+] -> a[t]", 5, "expected a number, found ']'"),
        ("i[t-", 5, "expected a number, found the end"),
        ("i[?+1] -> a[t]", 4, "expected ']', found '+'"),
        ("i[t] = a[t]", 6, "expected '->', found '='"),
        ("(i[t] a[t]) -> i[t+1]", 7, "expected ',' or ')', found 'a'"),
        ("i[t] -> i[t+1], a[t]", 15, "expected ';', '/' or the end (several facts stand in"),
        ("i[t] -> a[t] {values", 21, "expected '}', found the end"),
        ("i[t] -> a[t] {keys}", 15, "expected a ride: values, pool or helix, found 'keys'"),
        ("i[t] -> a[t] {}", 15, "expected a ride: values, pool or helix, found '}'"),
        ("i[t] -> a[t+1] |", 17, "expected a fact: i[t], a[t-1], c[t], ..., found the end"),
        ("i[t] -> a[t]; ", 15, "expected a fact: i[t], a[t-1], c[t], ..., found the end"),
        ("i[t] -> a[t] / i[t] -> () / i[t] -> ()", 27, "expected ';', '/' or the end"),
        ("i[t]\n->\ta]", 10, "expected '[', found ']'"),
    ],
)  # fmt: skip
def test_a_parse_error_points_at_the_character(text, at, message):
    with pytest.raises(ValueError, match=rf"at character {at}: {re.escape(message)}") as error:
        Layout.parse(text)
    _, shown, caret = str(error.value).split("\n")
    assert caret == " " * (2 + at - 1) + "^"
    assert shown == "  " + re.sub(r"\s", " ", text), "one line, so that the caret stands under its character"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("i[t] -> ()", "no token predicts anything"),
        ("i[t] -> (a[t], a[t])", "a[t] is predicted twice"),
        ("i[t] -> a[t]; i[t] -> a[t]", "a[t] is predicted twice"),
        ("(i[t], i[t]) -> a[t]", "a token shows i[t] twice"),
        ("i[t] -> a[t] {pool, pool}", "pool is named twice in {pool, pool}"),
        ("i[t] -> a[t+1] | i[t+1] | i[t+1]", "i[t+1] is given twice to the head of a[t+1]"),
        ("i[t+1] -> a[t+2]", "a token shows i[t+1], an event that is yet to come; show [t] or earlier"),
        ("i[t-1] -> a[t-1]", "a[t-1] is predicted, an event that is past; predict [t] or later"),
        ("i[t] -> a[t] | c[t+1]", "c[t+1] is given to the head of a[t], which belongs to an earlier event"),
        ("(i[t], a[?]) -> a[t]", "a[?] is shown; the learned mask is a candidate's action"),
        ("i[t] -> () / i[?] -> a[t]", "i[?] is shown; the learned mask is a candidate's action"),
        ("a[?] -> () / a[?] -> (); i[t] -> a[t]", "a[?] is shown; the learned mask is a candidate's action"),
        ("i[t] -> a[?]", "a[?] is no fact of the log"),
        (
            "i[t] -> () / i[t] -> a[t+1]",
            "a candidate's token predicts a[t+1]; a candidate answers for its own",
        ),
        ("i[t] -> a[t+1] | a[?]", "a[?] is no fact of the log"),
    ],
)
def test_what_makes_no_sense_is_refused_even_where_leaks_are_allowed(text, problem):
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        Layout.parse(text, allow_leaks=True)
    assert str(error.value).startswith(f"layout '{' '.join(text.split())}': ")


def test_a_layout_without_tokens_or_with_a_token_that_shows_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        Layout(())
    with pytest.raises(ValueError, match="a token shows nothing"):
        Layout((Token((), (Target(Fact("i", 1)),)),))


def test_properties_read_the_candidate_and_the_heads_too():
    layout = Layout.parse("i[t] -> a[t+1] | a[t-2] | i[t+1] {pool} / (i[t], a[?]) -> a[t] | c[t-3]")
    assert layout.fields == {"i", "a", "c"}
    assert layout.rides == {"pool"}
    assert layout.lag == 3
    assert layout.tokens_per_event == 1
    assert Layout.parse("i[t] -> i[t+1] {values}").fields == {"i", "a"}, (
        "an action in the values is used, though not shown"
    )
    assert Layout.parse("i[t] -> i[t+1]").fields == {"i"}


def test_history_and_candidate_may_predict_the_same_action():
    layout = Layout.parse("(i[t], a[t-1]) -> (i[t+1], a[t]) / i[t] -> a[t]")
    assert [str(token) for token in layout.candidate] == ["i[t] -> a[t]"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_name_or_a_notation_resolves_to_the_layout(layout):
    assert resolve(f" {name_of(layout)} ") == layout


def test_every_catalogue_name_resolves_and_no_two_are_the_same_layout():
    assert len({entry.layout for entry in CATALOGUE.values()}) == len(CATALOGUE)
    assert all(name_of(resolve(name)) == name for name in CATALOGUE)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"no layout is named 'interleave'; did you mean 'interleaved'\?"):
        resolve("interleave")
    with pytest.raises(ValueError, match=r"there are item, action_in, .*or write one out"):
        resolve("zzz")


@pytest.mark.parametrize("field", get_args(Field))
def test_parts_built_with_their_defaults_are_the_shortest_notation(field):
    """What is left out in Python is what is left out in writing: now, nothing given, nothing predicted, no ride."""
    assert str(Fact(field)) == f"{field}[t]"
    assert str(Target(Fact(field))) == f"{field}[t]"
    token = Token((Fact(field),))
    assert str(token) == f"{field}[t] -> ()"
    layout = Layout((Token((Fact(field),), (Target(Fact("i", 1)),)),))
    assert layout == Layout.parse(f"{field}[t] -> i[t+1]") and not layout.candidate and not layout.allow_leaks
