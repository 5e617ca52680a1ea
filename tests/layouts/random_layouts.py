"""Layouts and batches for property tests, and the bookkeeping that keeps such tests honest."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

from plait.layouts import CATALOGUE, Layout
from plait.layouts.facts import Fact, Target, Token

# Shrinking would cost the mutants' tests most of their time.
QUICK = settings(max_examples=120, report_multiple_bugs=False, phases=[Phase.explicit, Phase.generate])

FIELDS = st.sampled_from(["i", "a", "c"])
RIDES = ("values", "pool", "helix")

# Beyond the catalogue: rides, spelled candidates, conditions, long lags, targets two events ahead.
EXTRA = (
    "i[t] -> a[t] {pool}",
    "i[t] -> a[t] {values, pool}",
    "i[t] -> a[t] {helix, pool}",
    "(i[t], a[t]) -> () / (i[t], a[?]) -> a[t]",
    "(i[t], a[t-1]) -> (i[t+1], a[t]) / i[t] -> a[t]",
    "i[t] -> () / (i[t], a[t-1]) -> (); (a[?], i[t]) -> a[t]",
    "c[t] -> i[t]; i[t] -> ()",
    "c[t] -> i[t]; i[t] -> a[t]; a[t] -> ()",
    "(i[t], a[t-2], a[t-1]) -> (i[t+2], a[t])",
    "(i[t], a[t]) -> (i[t+1], a[t+1] | i[t+1], i[t+2], a[t+2] | i[t+2])",
    "i[t-1] -> (i[t], i[t+1] | a[t-1] | i[t])",
)
NOTATIONS = (*(str(entry.layout) for entry in CATALOGUE.values()), *EXTRA)
LAYOUTS = [pytest.param(Layout.parse(text), id=text) for text in NOTATIONS]


# Plain data: building a layout inside a strategy would run beartype there, which draws random numbers.
PlainFact = tuple[str, int | None]
PlainTarget = tuple[PlainFact, list[PlainFact]]
PlainToken = tuple[list[PlainFact], list[PlainTarget], list[str]]
PlainLayout = tuple[list[PlainToken], list[PlainToken]]


def build(plain: PlainLayout) -> Layout:
    """The layout of drawn data. Some leak, so it is built with allow_leaks."""
    tokens, candidate = (
        tuple(
            Token(
                tuple(Fact(*fact) for fact in shown),
                tuple(Target(Fact(*fact), tuple(Fact(*g) for g in given)) for fact, given in targets),
                tuple(rides),
            )
            for shown, targets, rides in part
        )
        for part in plain
    )
    return Layout(tokens, candidate, allow_leaks=True)


@st.composite
def layouts(draw: st.DrawFn) -> PlainLayout:
    """Data of layouts that make sense, leaking or not."""
    tokens = draw(_tokens(is_candidate=False))
    candidate = draw(st.one_of(st.just([]), _tokens(is_candidate=True)))
    if not any(targets for _, targets, _ in (*tokens, *candidate)):
        tokens[0][1].append((("i", 1), []))
    return tokens, candidate


@st.composite
def _tokens(draw: st.DrawFn, is_candidate: bool) -> list[PlainToken]:
    """A candidate's may show the mask, and predict of their own event alone."""
    past = st.tuples(FIELDS, st.integers(-3, 0))
    shown = st.lists(
        past | st.just(("a", None)) if is_candidate else past, min_size=1, max_size=3, unique=True
    )
    rides = st.lists(st.sampled_from(RIDES), max_size=2, unique=True)
    tokens: list[PlainToken] = [(draw(shown), [], draw(rides)) for _ in range(draw(st.integers(1, 3)))]
    offsets = st.integers(0, 0 if is_candidate else 2)
    for field, offset in draw(st.lists(st.tuples(FIELDS, offsets), max_size=4, unique=True)):
        given = draw(st.lists(st.tuples(FIELDS, st.integers(-2, offset)), max_size=2, unique=True))
        tokens[draw(st.integers(0, len(tokens) - 1))][1].append(((field, offset), given))
    return tokens


@st.composite
def batches(draw: st.DrawFn, fewest: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Starts and leads of a few ragged users with at least `fewest` events in their windows."""
    users = draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(fewest, fewest + 4)), min_size=1, max_size=3)
    )
    start_U1 = np.cumsum([0, *(lead + window for lead, window in users)])
    return start_U1, np.array([lead for lead, _ in users])


def assert_not_vacuous(counts: Mapping[str, int], above: int) -> None:
    """A property must have met every case it is about. Fails otherwise than by an assertion, so that
    `assert_caught` cannot mistake it for the property."""
    if min(counts.values()) <= above:
        pytest.fail(f"proves too little: {counts}")


def assert_caught(check: Callable[[], None]) -> None:
    """`check` ran over a deliberately broken variant: it must fail, or it proves nothing."""
    with pytest.raises(AssertionError):
        check()
