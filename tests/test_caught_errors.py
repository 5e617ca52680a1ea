"""Every error that the package catches is named once: none beside one that it is a kind of."""

import ast
import builtins
import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from types import ModuleType

from tiny import assert_caught, assert_not_vacuous

import plait


def modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(plait.__path__, "plait."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def what_is_caught(module: ModuleType) -> Iterator[ast.expr]:
    assert module.__file__
    with open(module.__file__, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(type=ast.expr() as caught):
                yield caught
            case ast.Call(func=ast.Name(id="suppress"), args=args):
                yield ast.Tuple(args)


def classes(named: ast.expr, module: ModuleType) -> Iterator[type[BaseException]]:
    match named:
        case ast.Tuple(elts=parts):
            for part in parts:
                yield from classes(part, module)
        case _:
            first, *rest = ast.unparse(named).split(".")
            found = getattr(module, first, None) or getattr(builtins, first)
            for name in rest:
                found = getattr(found, name)
            yield from found if isinstance(found, tuple) else (found,)


def check_named_once(module: ModuleType, met: Counter[str]) -> None:
    for caught in what_is_caught(module):
        named = list(classes(caught, module))
        met["one" if len(named) == 1 else "several"] += 1
        for one, other in permutations(named, 2):
            assert not issubclass(one, other), f"{module.__name__}: {one.__name__} is a {other.__name__}"


def test_no_error_is_named_beside_one_that_it_is_a_kind_of():
    met: Counter[str] = Counter()
    for module in modules():
        check_named_once(module, met)
    assert_not_vacuous(met, above=10)


def test_an_error_that_is_named_twice_is_caught(monkeypatch):
    from plait.data.logs import containers

    monkeypatch.setattr(containers, "DAMAGED", (*containers.DAMAGED, NotImplementedError))
    assert_caught(check_named_once, containers, Counter())
