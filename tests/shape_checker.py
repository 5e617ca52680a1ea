"""What checks the calls of the package while it is tested: shapes of arrays. Other types are mypy's."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from beartype import beartype

P = ParamSpec("P")
R = TypeVar("R")


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function that names the shape of an array is checked at every call; any other is as it was.

    To check all of them takes a third of the suite's time, most of it to compile the checks.
    """
    return beartype(function) if names_a_shape(function) else function


def names_a_shape(function: Callable[..., object]) -> bool:
    return any("jaxtyping." in repr(each) for each in getattr(function, "__annotations__", {}).values())
