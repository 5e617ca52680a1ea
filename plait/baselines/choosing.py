"""Windows, decays and damping are chosen by validation from a small grid, whose first entry is what is usual."""

from collections.abc import Callable, Iterable
from typing import TypeVar

Contender = TypeVar("Contender")


def best_of(options: Iterable[Contender], judge: Callable[[Contender], float] | None) -> Contender:
    """The option that is judged best, the first of equals. Without a judge the first: then no other is fitted.

    >>> best_of([3, 5, 4], judge=float), best_of([3, 5, 4], judge=lambda _: 0.0), best_of([3, 5, 4], judge=None)
    (5, 3, 3)
    """
    remaining = iter(options)
    best = next(remaining)
    if judge is None:
        return best
    most = judge(best)
    for option in remaining:
        value = judge(option)
        if value > most:
            best, most = option, value
    return best
