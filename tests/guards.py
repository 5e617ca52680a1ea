"""Whether every part of every guard has an input that only it stops: the guards of a module, each part removed in turn.

A guard is a condition, anywhere in a function that raises: what a lone `if` asks before it, and every operand of `or`,
`and`, `|` and `&`. A part that may be removed without any case noticing is a part that nothing tests. What only words a
message is no guard.
"""

import ast
import copy
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Case:
    """An input, and the words in which it is refused; None where it is none to refuse."""

    call: Callable[[Any], object]  # given the module
    refused: str | None

    def holds(self, module: ModuleType) -> bool:
        try:
            self.call(module)
        except ValueError as error:
            return self.refused is not None and re.search(self.refused, str(error)) is not None
        except Exception:
            return False
        return self.refused is None


def unnoticed(module: ModuleType, cases: Sequence[Case]) -> tuple[list[str], int]:
    """The parts of guards whose removal no case notices, as text with their line, and how many parts there are."""
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    broken = [n for n, case in enumerate(cases) if not case.holds(module)]
    assert not broken, f"cases {broken} do not hold of the module as it is"
    missed, count = [], 0
    for words, mutant in mutants(tree):
        count += 1
        if all(case.holds(loaded(module, mutant)) for case in cases):
            missed.append(words)
    return missed, count


def mutants(tree: ast.Module) -> Iterator[tuple[str, ast.Module]]:
    """The module without each part of each guard."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    raising = [f for f in functions if any(isinstance(node, ast.Raise) for node in ast.walk(f))]
    words = {
        id(node) for raised in ast.walk(tree) if isinstance(raised, ast.Raise) for node in ast.walk(raised)
    }
    inside = [node for function in raising for line in function.body for node in ast.walk(line)]
    nodes = [node for node in inside if id(node) not in words]
    order = {id(node): n for n, node in enumerate(ast.walk(tree))}
    for node in nodes:
        for part, without in parts_of(node):
            changed = copy.deepcopy(tree)
            again = list(ast.walk(changed))[order[id(node)]]
            without(again)
            yield f"line {part.lineno}: {ast.unparse(part)}", ast.fix_missing_locations(changed)


def parts_of(node: ast.AST) -> Iterator[tuple[ast.expr, Callable[[Any], None]]]:
    """The parts of one condition, and how each is taken out of a copy of it."""
    match node:
        case ast.BoolOp(op=op, values=values):
            neutral = ast.Constant(value=isinstance(op, ast.And))
            for n, value in enumerate(values):
                yield value, lambda its, n=n: its.values.__setitem__(n, neutral)
        case ast.BinOp(op=ast.BitOr() | ast.BitAnd(), left=left, right=right):
            yield left, lambda its: keep(its, its.right)
            yield right, lambda its: keep(its, its.left)
        case ast.If(test=test, body=[ast.Raise()]) if not isinstance(test, ast.BoolOp):
            yield test, lambda its: setattr(its, "test", ast.Constant(value=False))


def keep(node: ast.BinOp, side: ast.expr) -> None:
    """Makes of `a | b` what is left of it: `a | a`."""
    node.left, node.right = side, copy.deepcopy(side)


class Mutant(InspectLoader):
    """A module made of other code."""

    def __init__(self, tree: ast.Module) -> None:
        self.source = ast.unparse(tree)

    def get_source(self, fullname: str) -> str:
        return self.source


def loaded(module: ModuleType, tree: ast.Module) -> ModuleType:
    """The mutant, beside the module in its package."""
    spec = spec_from_loader(f"{module.__name__}_without_a_part", Mutant(tree))
    assert spec is not None and spec.loader is not None
    made = module_from_spec(spec)
    sys.modules[made.__name__] = made  # where dataclasses look their annotations up
    try:
        spec.loader.exec_module(made)
    finally:
        del sys.modules[made.__name__]
    return made
