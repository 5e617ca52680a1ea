"""Layouts as text for people: a row per catalogue entry, and one layout explained with its mask.

All drawn tokens come from `plait.layouts.arrange`, so a drawing cannot differ from what is trained.
Events count from 0, as positions do; `i2` is the item of event 2, `ix1` that of candidate 1, `a(start)` the
learned start before the first event, `a?` the mask action.

Shape letters: N tokens, the history's first, then those of each candidate.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from jaxtyping import Bool, Int64

from plait.layouts.arrange import (
    MASK,
    NOTHING,
    SPECIALS,
    START,
    Predictions,
    arrange,
    candidate_predictions,
    training_predictions,
)
from plait.layouts.audit import Audit, audit
from plait.layouts.catalogue import CATALOGUE, Entry, name_of
from plait.layouts.cost import relative_to_items, scoring_relative_to_items
from plait.layouts.event_roles import history_alone, last_events_to_come
from plait.layouts.facts import RIDE_NAMES, Field
from plait.layouts.notation import Layout

DIM, NUM_LAYERS = 256, 12  # of the model in every stated cost; the layers are those of the papers
CATALOGUE_EVENTS, EXPLAINED_EVENTS, EXPLAINED_CANDIDATES = 100, (100, 1000), 1000
CATALOGUE_HEADINGS = (
    "name",
    "notation",
    "tokens per event",
    f"training FLOPs against item-only (T = {CATALOGUE_EVENTS}, d = {DIM}, {NUM_LAYERS} layers)",
    "retrieves",
    "scores",
    "P1 information",
    "P2 action given item",
    "source",
)
WIDTH = 100  # columns of a terminal
HISTORY = -1  # owner of the tokens that every candidate sees


@dataclass(frozen=True)
class CatalogueRow:
    """What a table of layouts shows, in the order of CATALOGUE_HEADINGS."""

    name: str
    notation: str
    tokens_per_event: int
    relative_flops: float
    retrieves: bool
    scores: str  # early, late or no
    information: str  # full, partial or weak
    conditioning: str  # early, late or violated; a dash where no action is predicted
    source: str


def catalogue_rows() -> list[CatalogueRow]:
    """One row per layout of the catalogue, in its order."""
    return [_catalogue_row(name, entry) for name, entry in CATALOGUE.items()]


def token_labels(layout: Layout, num_events: int = 3, num_candidates: int = 2) -> list[str]:
    """Labels of the tokens of a history and of its candidates: the facts that each shows.

    >>> from plait.layouts.catalogue import resolve
    >>> token_labels(resolve("lac"))
    ['i0 a(start)', 'i1 a0', 'i2 a1', 'ix0 a2', 'ix1 a2']
    >>> token_labels(resolve("interleaved"), num_events=2, num_candidates=1)
    ['i0', 'a0', 'i1', 'a1', 'ix0']
    """
    return [" ".join(facts) for facts in _drawn(layout, num_events, num_candidates).facts]


def predicted_of(layout: Layout, num_events: int = 3) -> list[str]:
    """What each token of a history predicts, where the log goes on.

    >>> from plait.layouts.catalogue import resolve
    >>> predicted_of(resolve("interleaved"), num_events=2)
    ['a0', 'i1', 'a1', 'i2']
    """
    furthest = max(audited.target.offset for audited in audit(layout).targets)
    predicted = _predicted(layout, num_events, furthest)
    return [", ".join(facts) for facts in predicted[: num_events * layout.tokens_per_event]]


def mask_of(layout: Layout, num_events: int = 3, num_candidates: int = 2) -> Bool[np.ndarray, "N N"]:
    """Which token (row) may attend to which (column): the history is causal, and a candidate's token sees
    the history and its own candidate's tokens up to itself, never another candidate.

    With mixed values or a dual helix, no token sees its own event: its value holds the action predicted there. A
    pooling at the end is strict likewise, whatever the mask of the layers before it.
    """
    drawn = _drawn(layout, num_events, num_candidates)
    query_N1, key_1N = drawn.owner_N[:, None], drawn.owner_N[None, :]
    in_reach = (key_1N == HISTORY) | (key_1N == query_N1)
    seen = in_reach & (drawn.position_N[None, :] <= drawn.position_N[:, None])
    return seen & (drawn.event_N[None, :] != drawn.event_N[:, None]) if _is_strict(layout) else seen


def _is_strict(layout: Layout) -> bool:
    """Whether the attention of the layers sees earlier events alone."""
    return bool(layout.rides & {"values", "helix"})


def explain(layout: Layout) -> str:
    """All that Plait knows of a layout, for a terminal of 100 columns.

    >>> from plait.layouts.catalogue import resolve
    >>> print("\\n".join(explain(resolve("lac")).splitlines()[:7]))
    lac: (i[t], a[t-1]) -> (i[t+1], a[t])
    source: LAC table 2 row 8
    <BLANKLINE>
    Tokens of 3 events and candidate x0
      token 0: shows i0, a(start); predicts i1, a0
      token 1: shows i1, a0; predicts i2, a1
      token 2: shows i2, a1; predicts i3, a2
    """
    found = audit(layout)
    furthest = max(audited.target.offset for audited in found.targets)
    num_events = max(3, furthest)
    sections = [
        _title(layout),
        _section(
            f"Tokens of {num_events} events and candidate x0", _token_lines(layout, num_events, furthest)
        ),
        _section("Audit", str(found).splitlines()),
        _section(
            f"Trunk FLOPs against item-only, one token per event and per candidate, {NUM_LAYERS} layers",
            _cost_lines(layout, found),
        ),
        _section(_mask_heading(layout), _mask_lines(layout, num_events)),
    ]
    return "\n\n".join(sections)


@dataclass(frozen=True)
class _Drawn:
    facts: list[list[str]]  # by token: the facts that it shows
    owner_N: Int64[np.ndarray, " N"]  # the candidate that a token belongs to, or HISTORY
    position_N: Int64[np.ndarray, " N"]
    event_N: Int64[np.ndarray, " N"]


def _drawn(layout: Layout, num_events: int, num_candidates: int) -> _Drawn:
    """The tokens of one user's history, and of its candidates after it."""
    if num_events < 1 or num_candidates < 1:
        raise ValueError(f"a drawing needs an event and a candidate, got {num_events} and {num_candidates}")
    roles = last_events_to_come(
        np.array([0, num_events + num_candidates]), np.array([0]), np.array([num_candidates])
    )
    tokens = arrange(layout, roles)
    owner_N = np.maximum(tokens.event_N - num_events, HISTORY)
    names = _names(num_events, *(f"x{candidate}" for candidate in range(num_candidates)))
    shown = [(shown.field, shown.source_N) for shown in tokens.shown]
    facts = [_facts(shown, row, names) for row in range(len(owner_N))]
    return _Drawn(facts, owner_N, tokens.position_N, tokens.event_N)


def _names(num_events: int, *after: str) -> list[str]:
    return [*map(str, range(num_events)), *after]


def _facts(columns: Iterable[tuple[Field, np.ndarray]], row: int, names: list[str]) -> list[str]:
    """What the sources in one row of the columns are called."""
    words = {START: "(start)", MASK: "?"}
    sources = [(field, int(source[row])) for field, source in columns]
    return [
        field + (words[source] if source in words else names[source - SPECIALS])
        for field, source in sources
        if source != NOTHING
    ]


def _catalogue_row(name: str, entry: Entry) -> CatalogueRow:
    found = audit(entry.layout)
    verdicts = [target.conditioning for target in found.targets if target.conditioning]
    return CatalogueRow(
        name=name,
        notation=str(entry.layout),
        tokens_per_event=found.tokens_per_event,
        relative_flops=relative_to_items(entry.layout, CATALOGUE_EVENTS, DIM, NUM_LAYERS),
        retrieves=found.can_retrieve,
        scores=found.can_score,
        information=found.informed,
        conditioning=", ".join(verdicts) or "-",
        source=entry.source,
    )


def _section(heading: str, lines: list[str]) -> str:
    wrapped = (
        wrap(line, WIDTH - 2, subsequent_indent=" " * 24, break_on_hyphens=False) or [""] for line in lines
    )
    return "\n".join([heading, *(f"  {part}".rstrip() for parts in wrapped for part in parts)])


def _title(layout: Layout) -> str:
    name = name_of(layout)
    return f"{name}: {layout}\nsource: {CATALOGUE[name].source}" if name in CATALOGUE else str(layout)


def _token_lines(layout: Layout, num_events: int, furthest: int) -> list[str]:
    """Every token with what it shows and predicts, then where the next event's item and action are read."""
    predicted = _predicted(layout, num_events, furthest)
    drawn = _drawn(layout, num_events, num_candidates=1)
    lines = []
    for row, (facts, owner) in enumerate(zip(drawn.facts, drawn.owner_N, strict=True)):
        predicts = f"; predicts {', '.join(predicted[row]) or 'nothing'}" if owner == HISTORY else ""
        lines.append(f"{_place(drawn, row)}: shows {', '.join(facts)}{predicts}")
    if layout.rides:
        lines.append(
            f"actions enter by {', '.join(sorted(RIDE_NAMES[ride] for ride in layout.rides))}: seen from the event "
            "after theirs on"
        )
    lines.append(f"the next item: {_where_read(layout, 'i', drawn, num_events)}")
    lines.append(f"the action on x0: {_where_read(layout, 'a', drawn, num_events)}")
    return lines


def _predicted(layout: Layout, num_events: int, furthest: int) -> list[list[str]]:
    """By token of the history, the facts that it predicts where the log goes on."""
    names = _names(num_events + furthest)
    predicted: list[list[str]] = [[] for _ in range(len(names) * layout.tokens_per_event)]
    for found in training_predictions(layout, history_alone(np.array([0, len(names)]), np.array([0]))):
        for m, (row, label) in enumerate(zip(found.token_M, found.label_M, strict=True)):
            predicted[row].append(f"{found.target.fact.field}{names[label]}{_given(found, m, names)}")
    return predicted


def _where_read(layout: Layout, field: Field, drawn: _Drawn, num_events: int) -> str:
    found = candidate_predictions(
        layout, field, last_events_to_come(np.array([0, num_events + 1]), np.array([0]))
    )
    if found is None:
        return "not predicted"
    return f"read at {_place(drawn, int(found.token_M[0]))}{_given(found, 0, _names(num_events, 'x0'))}"


def _given(predictions: Predictions, row: int, names: list[str]) -> str:
    given = _facts(predictions.given_M, row, names)
    return f" given {', '.join(given)}" if given else ""


def _place(drawn: _Drawn, row: int) -> str:
    return f"token {row}" + ("" if drawn.owner_N[row] == HISTORY else f" (x{drawn.owner_N[row]})")


def _cost_lines(layout: Layout, found: Audit) -> list[str]:
    training = [f"T = {n}: {relative_to_items(layout, n, DIM, NUM_LAYERS):.2f}" for n in EXPLAINED_EVENTS]
    scoring = [
        f"T = {n}: {scoring_relative_to_items(layout, n, EXPLAINED_CANDIDATES, DIM, NUM_LAYERS):.2f}"
        for n in EXPLAINED_EVENTS
    ]
    lines = [f"training (d = {DIM})                  {', '.join(training)}"]
    if found.can_score != "no":
        lines.append(f"scoring {EXPLAINED_CANDIDATES} candidates (d = {DIM})   {', '.join(scoring)}")
    return lines


def _mask_heading(layout: Layout) -> str:
    heading = "Mask: a row's token sees the columns marked ■"
    if "pool" in layout.rides and not _is_strict(layout):
        heading += "; the pooling at the end, those of earlier events"
    return heading


def _mask_lines(layout: Layout, num_events: int) -> list[str]:
    drawn = _drawn(layout, num_events, num_candidates=2)
    labels = token_labels(layout, num_events)
    width = max(map(len, labels))
    history = int((drawn.owner_N == HISTORY).sum())
    lines = []
    for row, (label, seen_N) in enumerate(zip(labels, mask_of(layout, num_events), strict=True)):
        if row == history:
            lines.append("")
        cells = ["■" if seen else "·" for seen in seen_N]
        groups = [" ".join(cells[:history]), " ".join(cells[history:])]
        lines.append(f"{label:<{width}}  {' | '.join(filter(None, groups))}")
    return lines
