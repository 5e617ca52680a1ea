"""Batches made ahead of the step that needs them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def ahead(make: Callable[[Key], Value], keys: Iterable[Key], depth: int = 2) -> Iterator[Value]:
    """`make(key)` for every key, in order, `depth` of them ahead in a thread. An error there is raised here.

    >>> list(ahead(lambda n: n * n, range(4)))
    [0, 1, 4, 9]
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        pending: deque[Future[Value]] = deque()
        for key in keys:
            pending.append(thread.submit(make, key))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
