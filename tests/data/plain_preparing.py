"""Preparation as one would explain it: rows as dictionaries, plain loops. What the fast one must equal."""

from collections import Counter
from itertools import groupby


def random_rows(rng, num_rows, text_ids):
    """A log of few users, items and times, so that ties, duplicates, poor users and items abound."""
    users, items = ((size * rng.random(num_rows) ** 2).astype(int) for size in (11, 13))
    return [
        {
            "user": f"u{user * 7 % 11}" if text_ids else int(user) * 1_000_003,
            "item": f"i{item}" if text_ids else int(item),
            "time": 1_000_000_000 + int(rng.integers(0, 5)),
            "exposure": int(rng.integers(0, 3)),
            "place": int(rng.integers(0, 4)),
            "rating": [None, 1.0, 2.5, 5.0][rng.integers(0, 4)],
        }
        for user, item in zip(users, items, strict=True)
    ]


def plain_prepare(rows, *, order=None, request=None, deduplicate=False, min_user=1, min_item=1):
    """Sorted, filtered rows by user, each with its request number, and how many rows each step removed."""
    removed = Counter()
    rows = sorted(rows, key=lambda row: (row["user"], row["time"], row[order] if order else 0))
    seen = set()
    duplicate = [
        (key := (row["user"], row["item"], row["time"])) in seen or seen.add(key) is not None for row in rows
    ]
    removed["duplicates"] = sum(duplicate)
    if deduplicate:
        rows = [row for row, again in zip(rows, duplicate, strict=True) if not again]
    several = Counter(row["user"] for row in rows)
    kept = [row for row in rows if several[row["user"]] > 1]
    removed["single_event_rows"] = len(rows) - len(kept)
    while True:
        user_rows, item_rows = Counter(r["user"] for r in kept), Counter(r["item"] for r in kept)
        core = [
            r for r in kept if user_rows[r["user"]] >= max(min_user, 2) and item_rows[r["item"]] >= min_item
        ]
        removed["core_rows"] += len(kept) - len(core)
        if len(core) == len(kept):
            break
        kept = core
    by_user = {user: list(events) for user, events in groupby(kept, key=lambda row: row["user"])}
    for events in by_user.values():
        number = 0
        for before, row in zip([None, *events], events, strict=False):
            number += before is not None and before[request or "time"] != row[request or "time"]
            row["request_number"] = number
    return by_user, removed
