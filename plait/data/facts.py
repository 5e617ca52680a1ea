"""What to know about prepared events before anything is trained on them: counted here, and put in words.

Shape letters: U users, E events, A actions, V items.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from plait.data.columns.actions import known_values, read_as
from plait.data.manifest import ActionFacts, Facts, Largest, Manifest, left_out
from plait.data.queries import met_before, queries
from plait.schema import Action
from plait.wording import setting

YEAR_1971_S = 31_536_000


def facts_of(
    arrays: Mapping[str, np.ndarray], actions: Sequence[Action], tables: Mapping[str, pl.DataFrame]
) -> dict[str, Any]:
    """The fields of `Facts` that the arrays of a prepared folder tell.

    Args:
        arrays, tables: by the names of their files.
    """
    start_U1, item_E, time_s_E = arrays["start"], arrays["item"], arrays["time_s"]
    parts = {
        "validation": queries(start_U1, arrays["validation"], arrays["test"]),
        "test": queries(start_U1, arrays["test"], start_U1[1:]),
    }
    met_Q = met_before(start_U1, item_E, *map(np.concatenate, zip(*parts.values(), strict=True)))
    ends = np.cumsum([len(user_Q) for user_Q, _, _ in parts.values()])
    met = {part: int(of.sum()) for part, of in zip(parts, np.split(met_Q, ends[:-1]), strict=True)}
    return {
        "first_s": int(time_s_E.min()),
        "last_s": int(time_s_E.max()),
        "actions": {
            action.name: read_as(action.kind).facts(known_values(arrays["action"][:, at]))
            for at, action in enumerate(actions)
        },
        "met_before": met,
        "largest_user": _largest(np.diff(start_U1), tables["users"]["user_id"]),
        "largest_item": _largest(np.bincount(item_E)[1:], tables["items"]["item_id"]),
    }


def _largest(events_V: np.ndarray, ids: pl.Series) -> Largest:
    at = int(events_V.argmax())
    return Largest(id=ids[at], events=int(events_V[at]))


def date(time_s: int | np.integer) -> str:
    """In UTC, without a time of day of zeros.

    >>> date(1_577_836_800), date(1_577_836_801)
    ('2020-01-01', '2020-01-01 00:00:01')
    """
    return f"{datetime.fromtimestamp(int(time_s), UTC):%Y-%m-%d %H:%M:%S}".removesuffix(" 00:00:00")


def summary_lines(manifest: Manifest) -> Iterator[str]:
    """What a prepared folder holds, and where the rows of the log went."""
    counts, facts = manifest.counts, manifest.facts
    yield (
        f"{counts.events:,} events, {counts.users:,} users, {counts.items:,} items; "
        f"{manifest.tied_share:.1%} of the events share a time with another of their user"
        + _words_of_order(manifest)
    )
    gone = (counts.rejected, counts.duplicates_removed, counts.single_event_rows, counts.core_rows)
    yield from manifest.read_as
    yield f"{counts.rows_read:,} rows read, left out: {left_out(manifest.settings, *gone)}"
    conditions = [f"{feature.name} (of the moment)" for feature in manifest.conditions]
    conditions += [f"{name} (of the item: asked, never given)" for name in manifest.settings.item_conditions]
    if conditions:
        yield f"conditions: {', '.join(conditions)}"
    for name, events in counts.without_vector.items():
        yield f"{name}: {events:,} of {counts.events:,} events have a value that its table of vectors lacks: unseen"
    if facts is not None:
        yield from _lines_of_facts(manifest, facts)


def _words_of_order(manifest: Manifest) -> str:
    facts, order = manifest.facts, manifest.settings.order
    if facts is None or order is None:
        return ""
    return f", {facts.tied_in_order / manifest.counts.events:.1%} also its {order}"


def _lines_of_facts(manifest: Manifest, facts: Facts) -> Iterator[str]:
    counts = manifest.counts
    if manifest.settings.time is not None:
        yield f"times from {date(facts.first_s)} to {date(facts.last_s)}"
    if manifest.settings.time is not None and facts.last_s < YEAR_1971_S:
        yield (
            f"all times lie before 1971, the last at {date(facts.last_s)}, read in {manifest.settings.time_unit}; "
            f"where that is wrong, prepare again with another {setting('time_unit')}"
        )
    for name, action in facts.actions.items():
        yield f"{name}: {_words_of_action(action)}{_missing(counts.events - action.known, counts.events)}"
    yield (
        f"largest: user {facts.largest_user.id!r} with {facts.largest_user.events / counts.events:.1%} of the events, "
        f"item {facts.largest_item.id!r} with {facts.largest_item.events / counts.events:.1%}"
    )
    if facts.users_left_out:
        yield f"{facts.users_left_out:,} users of the log have no event left"
    lacking = {"item": counts.items_without_features, "user": counts.users_without_features}
    for what, table in facts.tables.items():
        there = counts.items if what == "item" else counts.users
        yield f"{there - lacking[what]:,} of {there:,} {what}s have a row in {table}"
    if facts.repeats:
        yield (
            f"{facts.repeats:,} events repeat a user's item and time and were kept; {setting('deduplicate', True)} "
            "drops them"
        )
    yield from lines_of_met(
        {part: (met, getattr(counts, f"{part}_queries")) for part, met in facts.met_before.items()}
    )


def _words_of_action(action: ActionFacts) -> str:
    """
    >>> _words_of_action(ActionFacts(known=4, low=1, high=5, mean=3.25))
    '1 to 5, mean 3.25'
    >>> _words_of_action(ActionFacts(known=4, events={"tv": 3, "phone": 1}))
    'tv 75.0%, phone 25.0%'
    """
    if not action.known:
        return "no value"
    if action.events:
        return ", ".join(f"{value} {events / action.known:.1%}" for value, events in action.events.items())
    return f"{action.low:.6g} to {action.high:.6g}, mean {action.mean:.4g}"


def _missing(missing: int, events: int) -> str:
    return f"; missing in {missing / events:.1%} of the events" if missing else ""


def lines_of_met(met_of: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """How much of each part no model can hit under the default filter, with what to do about it.

    Args:
        met_of: by part, the answers that were met before, and all.

    >>> list(lines_of_met({"validation": (0, 9), "test": (47, 50)}))
    ['94 % of the test answers (47 of 50) were met before; under the default filter each is a certain miss: \
protocol.filter_seen = False lets them count']
    """
    for part, (met, asked) in met_of.items():
        if met:
            yield (
                f"{share(met, asked)} of the {part} answers ({met:,} of {asked:,}) were met before; under the "
                f"default filter each is a certain miss: {setting('protocol.filter_seen', False)} lets them count"
            )


def share(some: int, of: int) -> str:
    """In whole percent, where that is neither all nor nothing.

    >>> share(999, 1000), share(1, 1000), share(3, 3), share(2, 3)
    ('99.9 %', '0.1 %', '100 %', '67 %')
    """
    rounded = round(100 * some / of)
    return f"{rounded} %" if some == of or 0 < rounded < 100 else f"{100 * some / of:.1f} %"
