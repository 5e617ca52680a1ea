"""What checks the calls of the package while it is tested: shapes of arrays. Other types are mypy's.

jaxtyping decorates every function and class of the package as it is imported. Its decorator looks at the arguments of
each call, whatever they are annotated with, and at those with a shape twice; and it compiles its checks anew for every
function inside a function, at every call of the outer one. Together that took a third of the suite's time, so what
names no shape is left as it was, arguments are checked once, and checks are compiled once.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jaxtyping
from beartype import beartype

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

jaxtypings_own = jaxtyping.jaxtyped
compiled: dict[tuple[object, ...], Callable[..., Any]] = {}


def check_shapes(wanted: bool) -> None:
    jaxtyping.config.update("jaxtyping_disable", not wanted)


def decorator(*, typechecker: Callable[..., Any]) -> Callable[[Decorated], Decorated]:
    return partial(decorated, typechecker)


def decorated(typechecker: Callable[..., Any], given: Decorated) -> Decorated:
    """A function that names the shape of an array, or a class whose fields do, is checked at every call; any other is
    as it was, and so is one inside a function while nothing is checked."""
    is_unchecked = jaxtyping.config.jaxtyping_disable and "<locals>" in given.__qualname__
    if is_unchecked or not names_a_shape(given.__init__ if inspect.isclass(given) else given):
        return given
    return jaxtypings_own(given, typechecker=typechecker)


def checked(function: Decorated) -> Decorated:
    """A function that jaxtyping calls to check the arguments of a call, or its answer, compiled. With the answer come
    the arguments again, whose shapes are known by then."""
    if function.__annotations__.get("return", Any) is not Any:
        function.__annotations__ = {"return": function.__annotations__["return"]}
    if not names_a_shape(function):
        return function
    signature = function.__module__, function.__code__, *map(known_by, function.__annotations__.items())
    if signature not in compiled:
        compiled[signature] = beartype(function)
    return compiled[signature]


def known_by(annotated: tuple[str, object]) -> tuple[str, object]:
    """A shape is another class each time that it is named, with the same text."""
    name, annotation = annotated
    return name, repr(annotation) if may_be_shape(annotation) else annotation


def names_a_shape(function: Callable[..., object]) -> bool:
    return any(may_be_shape(each) for each in getattr(function, "__annotations__", {}).values())


def may_be_shape(annotation: object) -> bool:
    """Whatever takes brackets, where it is given as text."""
    return "[" in annotation if isinstance(annotation, str) else "jaxtyping." in repr(annotation)


jaxtyping.jaxtyped = decorator  # of whatever is imported from now on
