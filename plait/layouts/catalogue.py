"""The layouts with names, and where each comes from."""

import difflib
from dataclasses import dataclass

from plait.layouts.notation import Layout


@dataclass(frozen=True)
class Entry:
    layout: Layout
    source: str


def _entry(notation: str, source: str) -> Entry:
    return Entry(Layout.parse(notation), source)


CATALOGUE: dict[str, Entry] = {
    "item": _entry("i[t] -> i[t+1]", "LAC table 2 row 1; SASRec"),
    "action_in": _entry("(i[t], a[t]) -> i[t+1]", "LAC table 2 row 2"),
    "lagged_in": _entry("(i[t], a[t-1]) -> i[t+1]", "LAC table 2 row 3"),
    "action_out": _entry("i[t] -> a[t]", "LAC table 2 row 4"),
    "both_out": _entry("i[t] -> (i[t+1], a[t])", "LAC section 4.1; the ablation of lac"),
    "next_action_out": _entry("i[t] -> a[t+1]", "LAC table 2 row 5"),
    "next_both_out": _entry("i[t] -> (i[t+1], a[t+1])", "LAC table 2 row 6"),
    "next_action": _entry("(i[t], a[t]) -> a[t+1]", "LAC table 2 row 7"),
    "lac": _entry("(i[t], a[t-1]) -> (i[t+1], a[t])", "LAC table 2 row 8"),
    "next_both": _entry("(i[t], a[t]) -> (i[t+1], a[t+1])", "LAC table 2 row 9"),
    "pc": _entry("(i[t], a[t]) -> (i[t+1], a[t+1] | i[t+1])", "LAC table 2 row 10"),
    "interleaved": _entry("i[t] -> a[t]; a[t] -> i[t+1]", "LAC table 2 row 11; HSTU"),
    "genrank": _entry("(i[t], a[t]) -> () / (i[t], a[?]) -> a[t]", "GenRank section 4"),
    "attn_lfa": _entry("i[t] -> a[t] {pool}", "AttnMVP section 3"),
    "attn_mvp": _entry("i[t] -> a[t] {values, pool}", "AttnMVP section 4"),
    "attn_mvp_early": _entry("i[t] -> a[t] {values}", "AttnMVP section 4, table 2"),
    "attn_dhn": _entry("i[t] -> a[t] {helix, pool}", "AttnMVP section 5"),
    "lum": _entry("c[t] -> i[t]; i[t] -> ()", "LUM section 4.1"),
    "lac_patched": _entry("(i[t], a[t-1]) -> (a[t], i[t+1] | a[t])", "Plait"),
}


def resolve(name_or_notation: str, *, allow_leaks: bool = False) -> Layout:
    """The layout of a catalogue name, or the one that a notation spells.

    Raises:
        ValueError: neither a name (the nearest is suggested) nor a notation that parses.

    >>> str(resolve("item"))
    'i[t] -> i[t+1]'
    """
    text = name_or_notation.strip()
    if text in CATALOGUE:
        return CATALOGUE[text].layout
    if "[" in text or ">" in text:
        return Layout.parse(text, allow_leaks=allow_leaks)
    near = difflib.get_close_matches(text, CATALOGUE, n=1)
    raise ValueError(
        f"no layout is named {text!r}"
        + (f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(CATALOGUE)}")
        + " (or write one out, such as 'i[t] -> i[t+1]')"
    )


def name_of(layout: Layout) -> str:
    """The catalogue's name of a layout, else its notation."""
    names = (name for name, entry in CATALOGUE.items() if str(entry.layout) == str(layout))
    return next(names, str(layout))
