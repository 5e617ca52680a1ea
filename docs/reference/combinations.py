"""Prints docs/reference/combinations.md: `make docs`, from what the models say."""

from collections.abc import Callable, Iterable
from typing import Any, get_args

from plait.layouts import CATALOGUE
from plait.layouts.event_roles import SameRequest
from plait.models.combining import Combination, combinations
from plait.models.questions import History
from plait.nn.config import TRUNKS
from plait.nn.positions import Positions, TimeAnchor

CHOICES: dict[str, tuple[str, ...]] = {
    "layout": tuple(CATALOGUE),
    "trunk": tuple(TRUNKS),
    "positions": get_args(Positions),
    "same_request": get_args(SameRequest),
    "time_anchor": get_args(TimeAnchor),
    "history": get_args(History),
}

HEAD = """# Combinations

Which layout goes with which trunk, positions and exposure. `make docs` makes this page from what the models
themselves say, and a test compares the two. What is allowed here is tested:

- no leak, by gradient and by value, times included;
- the same answers packed, padded and alone, in any company;
- the same answers with candidates in one pass or one by one;
- what was trained is what is served;
- an appended event equals a history encoded again;
- losses are finite without labels, and no weight is left that nothing trains.

```python
from plait.models.combining import combinations

allowed = [combination for combination in combinations() if not combination.problems]
```

The choices are `--layout`, `--model.trunk.kind` (with the switches of `--model.trunk.hstu`), `--model.trunk.positions`
and `--model.exposure.*`. Three choices are trained on candidates alone (`--protocol.supervise candidates`): a history
that is fully visible, the time of the request as anchor, and a layout that spells out its candidates. The first two
are trained on the candidates of the last request.
"""


def page() -> str:
    every = list(combinations())
    allowed = [combination for combination in every if not combination.problems]
    return "\n".join(
        [
            HEAD,
            f"## Allowed: {len(allowed):,} of {len(every):,}",
            "",
            "The cells say which `time_anchor`, and which `history`. Every row goes with both ways of `same_request`.",
            "",
            *_allowed(allowed),
            "## Refused",
            "",
            "The model says the first reason that holds.",
            "",
            *_refused(every),
        ]
    )


def _allowed(allowed: list[Combination]) -> Iterable[str]:
    """A table for the layouts that allow the same."""
    cells = {name: _cells([c for c in allowed if c.name == name]) for name in CATALOGUE}
    for layouts, table in _alike(CATALOGUE, cells.get):
        yield f"### {', '.join(layouts)}"
        yield ""
        yield f"| positions | {' | '.join(TRUNKS)} |"
        yield f"|---|{'---|' * len(TRUNKS)}"
        for positions in CHOICES["positions"]:
            yield f"| {positions} | {' | '.join(table[trunk, positions] for trunk in TRUNKS)} |"
        yield ""


def _cells(allowed: list[Combination]) -> dict[tuple[str, str], str]:
    """For a layout's trunk and positions, its exposures in words."""
    return {
        (trunk, positions): _in_words([c for c in allowed if (c.trunk, c.positions) == (trunk, positions)])
        for trunk in TRUNKS
        for positions in CHOICES["positions"]
    }


def _in_words(allowed: list[Combination]) -> str:
    anchors, histories = (_values(allowed, choice) for choice in ("time_anchor", "history"))
    assert len(allowed) == len(CHOICES["same_request"]) * len(anchors) * len(histories), "not a product"
    return f"{', '.join(anchors)}; {', '.join(histories)}" if allowed else "-"


def _refused(every: list[Combination]) -> Iterable[str]:
    """Every reason, and the choices that it holds for."""
    reasons = dict.fromkeys(problem for combination in every for problem in combination.problems)
    for reason in reasons:
        refused = [combination for combination in every if reason in combination.problems]
        found = {choice: _values(refused, choice) for choice in CHOICES}
        count = 1
        for values in found.values():
            count *= len(values)
        assert count == len(refused), f"not a product: {reason}"
        named = (
            f"{choice} {', '.join(values)}" for choice, values in found.items() if values != CHOICES[choice]
        )
        yield f"- **{'; '.join(named)}** ({len(refused):,}): {reason}."


def _values(those: list[Combination], choice: str) -> tuple[str, ...]:
    """The values of a choice that occur, in their usual order."""
    found = {_value(combination, choice) for combination in those}
    return tuple(value for value in CHOICES[choice] if value in found)


def _value(combination: Combination, choice: str) -> str:
    if choice in ("same_request", "time_anchor", "history"):
        return str(getattr(combination.exposure, choice))
    return str(getattr(combination, {"layout": "name"}.get(choice, choice)))


def _alike(names: Iterable[str], key: Callable[[str], Any]) -> Iterable[tuple[list[str], Any]]:
    """The names with equal keys together, in the order of their first."""
    groups: list[tuple[Any, list[str]]] = []
    for name in names:
        same = next((group for found, group in groups if found == key(name)), None)
        if same is None:
            groups.append((key(name), [name]))
        else:
            same.append(name)
    return ((group, found) for found, group in groups)


if __name__ == "__main__":
    print(page(), end="")
