"""Layouts: what an event becomes, as data. The notation, its parser and its printer.

    lac          (i[t], a[t-1]) -> (i[t+1], a[t])
    interleaved  i[t] -> a[t]; a[t] -> i[t+1]
    pc           (i[t], a[t]) -> (i[t+1], a[t+1] | i[t+1])

    layout    = tokens [ "/" tokens ] ;
    tokens    = token { ";" token } ;
    token     = shown "->" predicted [ "{" ride { "," ride } "}" ] ;
    shown     = fact | "(" fact { "," fact } ")" ;
    predicted = "()" | target | "(" target { "," target } ")" ;
    target    = fact { "|" fact } ;
    fact      = ("i" | "a" | "c") "[" ( "t" [ ("+" | "-") number ] | "?" ) "]" ;
    ride      = "values" | "pool" | "helix" ;

`Layout.parse` and `str` are inverses of each other. A layout never sees a tensor.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args

from plait.layouts.facts import Fact, Field, Ride, Target, Token
from plait.layouts.leaks import find_leaks

if TYPE_CHECKING:
    from plait.layouts.audit import Audit

Part = TypeVar("Part")


@dataclass(frozen=True)
class Layout:
    """The tokens that each event becomes, in order, under causal attention.

    Args:
        tokens: the tokens of one event of the history.
        candidate: the tokens of a candidate, where they differ from the history's.
        allow_leaks: build a layout that can read its own answer (to study it; every table marks it).

    Raises:
        ValueError: a target could be read from what its token sees (P3 of the LAC paper, section 4.1). Or the tokens
            make no sense: nothing predicted, the same fact twice, an event yet to come shown, a past one predicted.

    >>> str(Layout.parse("(i[t],a[t-1])->(i[t+1],a[t])"))
    '(i[t], a[t-1]) -> (i[t+1], a[t])'
    """

    tokens: tuple[Token, ...]
    candidate: tuple[Token, ...] = ()
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(f"layout '{self}': {problem}")
        leaks = find_leaks(self.tokens, self.candidate)
        if leaks and not self.allow_leaks:
            raise ValueError(
                f"layout '{self}' leaks (P3, LAC paper section 4.1): " + "; ".join(leaks) + ". "
                "Show a fact only where it is known, or pass allow_leaks=True to study the leak."
            )

    def __str__(self) -> str:
        history = "; ".join(map(str, self.tokens))
        return f"{history} / {'; '.join(map(str, self.candidate))}" if self.candidate else history

    @classmethod
    def parse(cls, text: str, *, allow_leaks: bool = False) -> "Layout":
        """The layout that `text` spells.

        Raises:
            ValueError: the text is not in the notation (the message points at the character and says what
                was expected), or the layout is refused (see the class).
        """
        return _Parser(text).layout(allow_leaks)

    @property
    def all_tokens(self) -> tuple[Token, ...]:
        return self.tokens + self.candidate

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(target for token in self.all_tokens for target in token.predicted)

    @property
    def predicts(self) -> frozenset[Field]:
        """Every field that some token predicts."""
        return frozenset(target.fact.field for target in self.targets)

    def answers(self, target: Target, in_candidate: bool) -> bool:
        """Whether a target is asked about an event yet to come: at the candidate's own tokens, which are the history's
        where none are spelled, or at an earlier event's."""
        return in_candidate or target.offset > 0 or not self.candidate

    @property
    def fields(self) -> frozenset[Field]:
        """Every field that some token shows, predicts or is given."""
        return self.embedded | self.predicts

    @property
    def embedded(self) -> frozenset[Field]:
        """Every field that enters as a vector: shown by a token, given to a prediction, or in attention's values."""
        shown = {fact.field for token in self.all_tokens for fact in token.shown}
        given = {fact.field for target in self.targets for fact in target.given}
        return frozenset(shown | given | ({"a"} if self.rides else set()))

    @property
    def rides(self) -> frozenset[Ride]:
        return frozenset(ride for token in self.all_tokens for ride in token.rides)

    @property
    def lag(self) -> int:
        """How many events back, at most, a shown or given fact lies."""
        facts = [fact for token in self.all_tokens for fact in token.shown]
        facts += [fact for target in self.targets for fact in target.given]
        return max((-fact.offset for fact in facts if fact.offset is not None), default=0)

    @property
    def tokens_per_event(self) -> int:
        return len(self.tokens)

    def audit(self) -> "Audit":
        """What each target can see, and what the layout can do: `plait.layouts.audit`."""
        from plait.layouts.audit import audit  # the audit reads layouts, so it cannot be imported first

        return audit(self)


def _problems(layout: Layout) -> Iterator[str]:
    """What keeps the tokens from making sense, whether or not leaks are allowed; the first one counts."""
    if not layout.tokens:
        yield "a layout needs at least one token"
    if not layout.targets:
        yield "no token predicts anything, so there is nothing to train"
    for tokens, may_mask in ((layout.tokens, False), (layout.candidate, True)):
        targets = [target.fact for token in tokens for target in token.predicted]
        for fact in _repeated(targets):
            yield f"{fact} is predicted twice; let one token predict it"
        for token in tokens:
            yield from _problems_of_shown(token, may_mask)
            for target in token.predicted:
                yield from _problems_of_target(target)
                if tokens is layout.candidate and target.offset > 0:
                    yield f"a candidate's token predicts {target.fact}; a candidate answers for its own event: [t]"


def _problems_of_shown(token: Token, may_mask: bool) -> Iterator[str]:
    if not token.shown:
        yield "a token shows nothing; let it show a fact, such as i[t]"
    for fact in _repeated(token.shown):
        yield f"a token shows {fact} twice"
    for ride in _repeated(token.rides):
        yield f"{ride} is named twice in {{{', '.join(token.rides)}}}"
    for fact in token.shown:
        if fact.offset is None:
            if fact.field != "a" or not may_mask:
                yield f"{fact} is shown; the learned mask is a candidate's action: only a[?], only after '/'"
        elif fact.offset > 0:
            yield f"a token shows {fact}, an event that is yet to come; show [t] or earlier"


def _problems_of_target(target: Target) -> Iterator[str]:
    for fact in (target.fact, *target.given):
        if fact.offset is None:
            yield f"{fact} is no fact of the log: it can be shown, not predicted or given"
    if target.offset < 0:
        yield f"{target.fact} is predicted, an event that is past; predict [t] or later"
    for fact in _repeated(target.given):
        yield f"{fact} is given twice to the head of {target.fact}"
    for fact in target.given:
        if fact.offset is not None and fact.offset > target.offset:
            yield f"{fact} is given to the head of {target.fact}, which belongs to an earlier event"


def _repeated(parts: Sequence[Part]) -> list[Part]:
    return sorted({part for part in parts if parts.count(part) > 1}, key=parts.index)


class _Parser:
    """Recursive descent over the grammar of the module docstring."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def layout(self, allow_leaks: bool) -> Layout:
        tokens = self.separated(self.token, ";")
        candidate = self.separated(self.token, ";") if self.take("/") else ()
        self.skip_spaces()
        if self.at < len(self.text):
            self.fail("expected ';', '/' or the end (several facts stand in parentheses)")
        return Layout(tokens, candidate, allow_leaks)

    def token(self) -> Token:
        shown = self.group(self.fact)
        self.need("->")
        predicted = self.group(self.target, may_be_empty=True)
        rides: tuple[Ride, ...] = ()
        if self.take("{"):
            rides = self.separated(self.ride, ",")
            self.need("}")
        return Token(shown, predicted, rides)

    def group(self, part: Callable[[], Part], may_be_empty: bool = False) -> tuple[Part, ...]:
        if not self.take("("):
            return (part(),)
        if may_be_empty and self.take(")"):
            return ()
        parts = self.separated(part, ",")
        self.need(")", "',' or ')'")
        return parts

    def separated(self, part: Callable[[], Part], separator: str) -> tuple[Part, ...]:
        parts = [part()]
        while self.take(separator):
            parts.append(part())
        return tuple(parts)

    def target(self) -> Target:
        fact, *given = self.separated(self.fact, "|")
        return Target(fact, tuple(given))

    def fact(self) -> Fact:
        field = self.word(get_args(Field), "a fact: i[t], a[t-1], c[t], ...")
        self.need("[")
        if self.take("?"):
            self.need("]")
            return Fact(field, None)
        self.need("t", "'t' or '?'")
        offset = 0
        for sign, symbol in ((1, "+"), (-1, "-")):
            if self.take(symbol):
                offset = sign * self.number()
                break
        self.need("]", "'+', '-' or ']'")
        return Fact(field, offset)

    def ride(self) -> Ride:
        return self.word(get_args(Ride), "a ride: values, pool or helix")

    def word(self, words: tuple[Any, ...], expected: str) -> Any:
        self.skip_spaces()
        found = self.match(r"[A-Za-z_]+")
        if found not in words:
            self.fail(f"expected {expected}")
        self.at += len(found)
        return found

    def number(self) -> int:
        self.skip_spaces()
        found = self.match(r"[0-9]+")
        if not found:
            self.fail("expected a number")
        self.at += len(found)
        return int(found)

    def match(self, pattern: str) -> str:
        found = re.compile(pattern).match(self.text, self.at)
        return found.group() if found else ""

    def take(self, symbol: str) -> bool:
        self.skip_spaces()
        found = self.text.startswith(symbol, self.at)
        self.at += len(symbol) * found
        return found

    def need(self, symbol: str, expected: str = "") -> None:
        if not self.take(symbol):
            self.fail(f"expected {expected or repr(symbol)}")

    def skip_spaces(self) -> None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1

    def fail(self, expected: str) -> NoReturn:
        found = repr(self.match(r"\w+|.")) if self.at < len(self.text) else "the end"
        one_line = re.sub(r"\s", " ", self.text)
        raise ValueError(
            f"layout does not parse at character {self.at + 1}: {expected}, found {found}\n"
            f"  {one_line}\n  {' ' * self.at}^"
        )
