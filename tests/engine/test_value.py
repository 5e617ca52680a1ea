"""Formulas: what they say, and what they refuse.

Shape letters: M candidates.
"""

import ast
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.engine import value
from plait.engine.value import DEEPEST, LONGEST, Formula, Value

CANDIDATES = 5
COLUMNS = {
    "like": np.array([0.5, 0.25, 1.0, 0.75, 0.1]),
    "watch time": np.array([3.0, 0.0, 1.5, 20.0, 7.0]),
    "price": np.array([-2.0, 0.5, 1.0, 9.0, 4.0]),
}
BY_HAND = {
    "abs": np.abs, "sqrt": np.sqrt, "exp": np.exp, "log": np.log, "log1p": np.log1p,
    "min": lambda *parts: np.min(parts, axis=0), "max": lambda *parts: np.max(parts, axis=0),
}  # fmt: skip
BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}
ATOM, POWER, SIGN = 5, 4, 3


@dataclass(frozen=True)
class Written:
    """An expression, its values by numpy, and whether any of its parts is beyond numbers."""

    text: str
    value_M: np.ndarray
    binds: int
    is_finite: bool

    def within(self, least: int) -> str:
        return self.text if self.binds >= least else f"({self.text})"


def written(text: str, value_M: np.ndarray, binds: int, *parts: Written) -> Written:
    is_finite = bool(np.isfinite(value_M).all()) and all(part.is_finite for part in parts)
    return Written(text, value_M, binds, is_finite)


def drawn(draw: random.Random, depth: int, met: Counter[str]) -> Written:
    """A random expression with brackets only where the grammar of arithmetic needs them."""
    what = draw.choice(["name", "number", "sign", "power", "call", *BINDS, *BINDS]) if depth else "name"
    met[what] += 1
    if what == "name":
        name = draw.choice(list(COLUMNS))
        return written(name if name.isidentifier() else repr(name), COLUMNS[name], ATOM)
    if what == "number":
        number = draw.choice([0, 2, 0.3, 1e-3])
        return written(str(number), np.full(CANDIDATES, float(number)), ATOM)
    part = drawn(draw, depth - 1, met)
    if what == "sign":
        return written(f"-{part.within(SIGN)}", -part.value_M, SIGN, part)
    if what == "power":
        power = draw.choice([2, 0.5, -1])
        return written(
            f"{part.within(ATOM)} ** {power}",
            np.power(part.value_M, np.full(CANDIDATES, float(power))),
            POWER,
            part,
        )
    other = drawn(draw, depth - 1, met)
    if what == "call":
        name = draw.choice(list(BY_HAND))
        parts = (part, other) if name in ("min", "max") else (part,)
        value_M = BY_HAND[name](*(one.value_M for one in parts))
        return written(f"{name}({', '.join(one.text for one in parts)})", value_M, ATOM, *parts)
    binds = BINDS[what]
    compute = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}[what]
    text = f"{part.within(binds)} {what} {other.within(binds + 1)}"
    return written(text, compute(part.value_M, other.value_M), binds, part, other)


def values_of(formula: Formula) -> np.ndarray | None:
    """None where the formula says of a candidate that it has none."""
    try:
        return formula.of(COLUMNS, "candidate {}".format)
    except ValueError as error:
        assert "candidate" in str(error)
        return None


def check_formulas_are_numpy_by_hand() -> None:
    met: Counter[str] = Counter()
    for seed in range(400):
        with np.errstate(all="ignore"):
            expected = drawn(random.Random(seed), 4, met)
        formula = Formula.parse(expected.text)
        if not formula.names:
            continue
        found_M = values_of(formula)
        assert (found_M is not None) == expected.is_finite, expected.text
        assert found_M is None or np.array_equal(found_M, expected.value_M), expected.text
        met["finite" if expected.is_finite else "beyond"] += 1
    assert_not_vacuous(met, above=50)


def test_a_formula_is_numpy_by_hand() -> None:
    check_formulas_are_numpy_by_hand()


@pytest.mark.parametrize("mutant", [{ast.Sub: np.add}, {ast.USub: np.positive}, {ast.Div: np.multiply}])
def test_a_formula_that_computes_otherwise_is_caught(mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value, "OPERATORS", {**value.OPERATORS, **mutant})
    assert_caught(check_formulas_are_numpy_by_hand)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("like.real", "'like.real' is no arithmetic"),
        ("__import__('os')", "no function is called '__import__'"),
        ("like.__class__()", "is no arithmetic"),
        ("(lambda: 1)() * like", "is no arithmetic"),
        ("lambda like: like", "is no arithmetic"),
        ("[like for like in price]", "is no arithmetic"),
        ("sum(x for x in like)", "no function is called 'sum'"),
        ("like[0]", "is no arithmetic"),
        ("f'{like}'", "is no arithmetic"),
        ("like if price else 0", "is no arithmetic"),
        ("like > 0.5", "is no arithmetic"),
        ("like and price", "is no arithmetic"),
        ("like // 2", "is no arithmetic"),
        ("~like", "is no arithmetic"),
        ("True * like", "'True' is no arithmetic"),
        ("1j * like", "is no arithmetic"),
        ("None", "is no arithmetic"),
        ("(like := 2)", "is no arithmetic"),
        ("log(like, base=2)", "is no arithmetic"),
        ("max(like, *price)", "'*price' is no arithmetic"),
        ("like = 2", "is no formula (invalid syntax)"),
        ("import os", "is no formula"),
        ("", "is no formula"),
        ("like; price", "is no formula"),
        ("a\0b", "is no formula"),
        ("\ud800", "is no formula"),
        ("lgo(like)", "no function is called 'lgo'; did you mean 'log'?"),
        ("log(like, price)", "log takes 1, and 2 are given"),
        ("max(like)", "max takes at least 2, and 1 are given"),
        ("9 ** 9 ** 9 * like", "a power is a number from -100 to 100, and 9 ** 9 is none"),
        ("like ** 1e9", "and 1e9 is none"),
        ("like ** -101", "and -101 is none"),
        ("like ** price", "and price is none; take exp(b * log(a))"),
        ("1e999 * like", "a number beyond 1e308"),
        ("1" + "0" * 400 + " * like", "a number beyond 1e308"),
        ("-" * (DEEPEST + 1) + "like", f"more than {DEEPEST} operations within each other"),
        ("like" + " + 1" * (DEEPEST + 1), f"more than {DEEPEST} operations within each other"),
        ("(" * 900 + "like" + ")" * 900, "is no formula"),
        ("like + " * LONGEST, "expected at most 2,000; shorten"),
    ],
)  # fmt: skip
def test_what_is_no_arithmetic_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError) as refused:
        Formula.parse(text)
    assert why in str(refused.value) and len(str(refused.value)) < 400


def test_as_deep_as_may_be() -> None:
    assert Formula.parse("like" + " + 1" * DEEPEST).of(COLUMNS, str)[0] == 0.5 + DEEPEST
    assert Formula.parse("-" * DEEPEST + "like").of(COLUMNS, str)[0] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("like / 'watch time'", "like / 'watch time' is inf for candidate 1 (like = 0.25, watch time = 0); keep it"),
        ("min(1 / 'watch time', 5) * like", "1 / 'watch time' is inf for candidate 1 (watch time = 0)"),
        ("log(price) + like", "log(price) is nan for candidate 0 (price = -2)"),
        ("like * exp(100 * price)", "exp(100 * price) is inf for candidate 3 (price = 9)"),
        ("like * (1 / 0)", "1 / 0 is inf for candidate 0; keep it finite"),
        ("like + left", "left is missing for candidate 2; fill it in, or leave that item out"),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_told_with_the_candidate(text: str, message: str) -> None:
    left_M = np.array([1.0, 1.0, np.nan, 1.0, 1.0])
    with pytest.raises(ValueError) as refused:
        Formula.parse(text).of({**COLUMNS, "left": left_M}, "candidate {}".format)
    assert message in str(refused.value)


def test_names_are_held_against_what_has_numbers() -> None:
    unfit = {"device": "the context 'device' is a category"}

    def check(text: str) -> None:
        Formula.parse(text).check_names(["like", "watch time"], ["price"], unfit)

    check('price * like + "watch time"')
    for text, message in (
        ("0.7 * lke", "no number is called 'lke'; did you mean 'like'? A formula may name 'like', 'wa"),
        ("like * xyz", "no number is called 'xyz'. A formula may name"),
        ("like * device", "the context 'device' is a category"),
        ("2 * price", "names no action"),
        ("1 + 1", "names no action"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as refused:
            check(text)
        assert message in str(refused.value)


def test_a_value_of_another_model_is_refused() -> None:
    item_M, predicted = np.array([1, 4]), {"like": np.array([0.5, 0.25], np.float32)}
    of_five = Value(Formula.parse("price * like"), {"price": np.array([np.nan, 1.0, 2.0, 3.0, 4.0])})
    assert of_five.of(predicted, item_M, {}, str).tolist() == [0.5, 1.0]
    of_two = Value(of_five.formula, {"price": np.array([np.nan, 1.0])})
    for wrong in (of_two, Value(Formula.parse("click * like"))):
        with pytest.raises(ValueError, match="made for another model or catalogue; make it anew"):
            wrong.of(predicted, item_M, {}, str)
