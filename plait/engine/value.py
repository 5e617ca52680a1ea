"""A ranking value: what a candidate is worth, by a formula over what it is predicted to bring (LAC paper, section 3.3).

    0.7 * like + 0.3 * log1p(watch_s)

A formula is arithmetic over names: + - * / and powers, and the functions of `FUNCTIONS`. It is read by Python's parser
and never run by Python: whatever is none of that is refused, however it is written. A name that is no Python name
stands in quotes: 2 * "watch time" + "device=phone".

Shape letters: M candidates, I rows of the item table (row 0 the unknown item).
"""

import ast
import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from types import MappingProxyType
from typing import assert_never, final

import numpy as np
from jaxtyping import Float64, Int64

from plait.schema import shortened

LONGEST, DEEPEST, LARGEST_POWER = 2_000, 100, 100  # characters; operations within each other; of an exponent
LONGEST_TOLD = 100  # characters of a formula in a message


@dataclass(frozen=True)
class Function:
    """What a formula may call, and how many arguments it takes."""

    compute: Callable[..., np.ndarray]
    least: int = 1
    most: float = 1


def _of_all(compute: np.ufunc, *parts: np.ndarray) -> np.ndarray:
    return reduce(compute, parts)


FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        "abs": Function(np.abs),
        "sqrt": Function(np.sqrt),
        "exp": Function(np.exp),
        "log": Function(np.log),
        "log1p": Function(np.log1p),
        "min": Function(partial(_of_all, np.minimum), 2, math.inf),
        "max": Function(partial(_of_all, np.maximum), 2, math.inf),
    }
)
OPERATORS: Mapping[type[ast.AST], Callable[..., np.ndarray]] = MappingProxyType(
    {
        ast.Add: np.add,
        ast.Sub: np.subtract,
        ast.Mult: np.multiply,
        ast.Div: np.divide,
        ast.Pow: np.power,
        ast.USub: np.negative,
        ast.UAdd: np.positive,
    }
)


@final
@dataclass(frozen=True)
class WrittenNumber:
    """Written out."""

    value: float


@final
@dataclass(frozen=True)
class Name:
    """Stands for a number of each candidate."""

    name: str


@final
@dataclass(frozen=True)
class Operation:
    """An operator or a function on its parts."""

    text: str  # as the formula has it
    compute: Callable[..., np.ndarray]
    parts: tuple["Part", ...]


Part = WrittenNumber | Name | Operation


@final
@dataclass(frozen=True)
class Formula:
    """A formula that holds nothing but arithmetic."""

    text: str
    root: Part

    @classmethod
    def parse(cls, text: str) -> "Formula":
        """
        Raises:
            ValueError: it is no formula, holds anything but arithmetic, or is too long or too deep.

        >>> Formula.parse('0.7 * like + "watch time" ** 0.5').names
        ('like', 'watch time')
        >>> Formula.parse("like.real")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: value 'like.real': 'like.real' is no arithmetic; expected numbers, names, + - * / **, ...
        """
        return cls(text, _Reader(text).read())

    @property
    def names(self) -> tuple[str, ...]:
        """Each once, in the order of the formula."""
        return tuple(dict.fromkeys(_names_in(self.root)))

    def check_names(
        self,
        actions: Sequence[str],
        others: Sequence[str] = (),
        unfit: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            actions: the columns of what is predicted.
            others: further names that have numbers.
            unfit: names that have none, and what to do about each.

        Raises:
            ValueError: a name has no number, or none is an action's.
        """
        known = (*actions, *others)
        for name in self.names:
            if name in known:
                continue
            if name in unfit:
                raise ValueError(f"{_told(self.text)}: {unfit[name]}")
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"{_told(self.text)}: no number is called {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else ".")
                + f" A formula may name {shortened(known, most=10) or 'nothing here'}"
            )
        if not set(self.names) & set(actions):
            raise ValueError(
                f"{_told(self.text)} names no action, so no model is needed for it; it may name "
                f"{shortened(actions, most=10)}"
            )

    def of(
        self, numbers: Mapping[str, Float64[np.ndarray, " M"]], whose: Callable[[int], str]
    ) -> Float64[np.ndarray, " M"]:
        """The values of candidates, in fp64.

        Args:
            numbers: for every name, NaN where missing.
            whose: a candidate in a message.

        Raises:
            ValueError: the formula, or a part of it, is not finite for some candidate; says for which.
        """
        assert self.names, "`check_names` wants an action"
        with np.errstate(all="ignore"):  # told below, with the candidate
            return self._value(self.root, numbers, whose)

    def _value(
        self, part: Part, numbers: Mapping[str, np.ndarray], whose: Callable[[int], str]
    ) -> np.ndarray:
        match part:
            case WrittenNumber(value=value):
                return np.full(len(numbers[self.names[0]]), value)
            case Name(name=name):
                found_M = numbers[name]
            case Operation():
                found_M = part.compute(*(self._value(inner, numbers, whose) for inner in part.parts))
            case _:
                assert_never(part)
        bad_M = np.flatnonzero(~np.isfinite(found_M))
        if len(bad_M):
            raise self._refused(part, found_M, int(bad_M[0]), numbers, whose)
        return found_M

    def _refused(
        self,
        part: Part,
        found_M: np.ndarray,
        at: int,
        numbers: Mapping[str, np.ndarray],
        whose: Callable[[int], str],
    ) -> ValueError:
        where, names = f"{_told(self.text)}: ", dict.fromkeys(_names_in(part))
        if isinstance(part, Name):
            return ValueError(
                f"{where}{part.name} is missing for {whose(at)}; fill it in, or leave that item out"
            )
        assert isinstance(part, Operation), "a number that is written out is finite"
        told = ", ".join(f"{name} = {numbers[name][at]:.6g}" for name in names)
        return ValueError(
            f"{where}{part.text} is {found_M[at]} for {whose(at)}{f' ({told})' if told else ''}; keep it finite, such "
            "as by dividing by max(..., 1e-6)"
        )


@final
@dataclass(frozen=True)
class Value:
    """A formula that was checked against a model, with the numbers of items that it names."""

    formula: Formula
    number_I: Mapping[str, Float64[np.ndarray, " I"]] = field(
        default_factory=dict
    )  # by dense item, NaN where missing

    def of(
        self,
        predicted: Mapping[str, np.ndarray],
        item_M: Int64[np.ndarray, " M"],
        context: Mapping[str, float],
        whose: Callable[[int], str],
    ) -> Float64[np.ndarray, " M"]:
        """The values of candidates.

        Args:
            predicted: by action column.
            context: numbers of the moment, NaN where missing.

        Raises:
            ValueError: as `Formula.of`, or the value was made for another model.
        """
        known = (*self.number_I, *context, *predicted)
        last = int(item_M.max(initial=0))
        strange = [name for name in self.formula.names if name not in known]
        if strange or any(last >= len(number_I) for number_I in self.number_I.values()):
            raise ValueError(
                f"{_told(self.formula.text)} was made for another model or catalogue; make it anew, with `value` "
                "of the recommender that scores"
            )
        numbers: dict[str, np.ndarray] = {name: number_I[item_M] for name, number_I in self.number_I.items()}
        numbers |= {name: np.full(len(item_M), number) for name, number in context.items()}
        numbers |= {name: number_M.astype(np.float64) for name, number_M in predicted.items()}
        return self.formula.of(numbers, whose)


@dataclass(frozen=True)
class _Reader:
    """From text to arithmetic."""

    text: str

    def read(self) -> Part:
        if len(self.text) > LONGEST:
            raise ValueError(
                f"value of {len(self.text):,} characters, expected at most {LONGEST:,}; shorten the formula"
            )
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            why = error.msg if isinstance(error, SyntaxError) else type(error).__name__
            raise ValueError(
                f"{_told(self.text)} is no formula ({why}); expected one such as 0.7 * like + 0.3 * log1p(watch_s)"
            ) from None
        self._check_depth(tree)
        return self._part(tree)

    def _check_depth(self, tree: ast.expr) -> None:
        layer: list[ast.AST] = [tree]
        for _ in range(DEEPEST + 2):  # below the deepest operation stand a name, and how it is read
            layer = [inner for node in layer for inner in ast.iter_child_nodes(node)]
        if layer:
            raise ValueError(
                f"{_told(self.text)} has more than {DEEPEST} operations within each other; write a simpler formula"
            )

    def _part(self, node: ast.expr) -> Part:
        match node:
            case ast.Constant(value=bool()):
                raise self._refused(node)
            case ast.Constant(value=int() | float() as value):
                return WrittenNumber(self._finite(value))
            case ast.Constant(value=str() as name) | ast.Name(id=name):
                return Name(name)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return Operation(self._shown(node), OPERATORS[type(node.op)], (self._part(operand),))
            case ast.BinOp(op=ast.Pow(), left=left, right=right):
                return Operation(self._shown(node), np.power, (self._part(left), self._exponent(right)))
            case ast.BinOp(left=left, right=right) if type(node.op) in OPERATORS:
                parts = self._part(left), self._part(right)
                return Operation(self._shown(node), OPERATORS[type(node.op)], parts)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                function = self._function(name, len(arguments))
                return Operation(self._shown(node), function.compute, tuple(map(self._part, arguments)))
            case _:
                raise self._refused(node)

    def _exponent(self, node: ast.expr) -> WrittenNumber:
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as size)):
                exponent = -self._finite(size)
            case ast.Constant(value=int() | float() as size):
                exponent = self._finite(size)
            case _:
                exponent = math.nan
        if not abs(exponent) <= LARGEST_POWER:
            raise ValueError(
                f"{_told(self.text)}: a power is a number from -{LARGEST_POWER} to {LARGEST_POWER}, and "
                f"{self._shown(node)} is none; take exp(b * log(a)) for others"
            )
        return WrittenNumber(exponent)

    def _function(self, name: str, given: int) -> Function:
        if name not in FUNCTIONS:
            near = difflib.get_close_matches(name, FUNCTIONS, n=1)
            raise ValueError(
                f"{_told(self.text)}: no function is called {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else ".")
                + f" There are {', '.join(FUNCTIONS)}"
            )
        function = FUNCTIONS[name]
        if not function.least <= given <= function.most:
            wanted = f"{function.least}" if function.least == function.most else f"at least {function.least}"
            raise ValueError(f"{_told(self.text)}: {name} takes {wanted}, and {given} are given")
        return function

    def _finite(self, value: int | float) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{_told(self.text)} holds a number beyond 1e308, which no score can be")
        return number

    def _refused(self, node: ast.expr) -> ValueError:
        return ValueError(
            f"{_told(self.text)}: {self._shown(node)!r} is no arithmetic; expected numbers, names, + - * / **, "
            f"brackets, and the functions {', '.join(FUNCTIONS)}"
        )

    def _shown(self, node: ast.expr) -> str:
        return ast.get_source_segment(self.text.strip(), node) or self.text


def _told(text: str) -> str:
    """A formula in a message.

    >>> _told("like"), len(_told("like + " * 100))
    ("value 'like'", 108)
    """
    return f"value {text if len(text) <= LONGEST_TOLD else text[: LONGEST_TOLD - 3] + '...'!r}"


def _names_in(part: Part) -> Iterator[str]:
    match part:
        case WrittenNumber():
            return
        case Name(name=name):
            yield name
        case Operation(parts=parts):
            for inner in parts:
                yield from _names_in(inner)
        case _:
            assert_never(part)
