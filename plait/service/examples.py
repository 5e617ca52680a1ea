"""Requests that the interface's description shows, and that the tests send: of a log of ratings,
with a scenario that models of conditions are asked under."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/events": {
        "one event": {
            "events": [
                {
                    "id": "2f1c",
                    "user": "196",
                    "event": {"item_id": 242, "timestamp": 1_700_000_000, "rating": 4},
                }
            ]
        }
    },
    "/v1/retrieve": {
        "of a user": {"user": "196", "k": 5, "with_actions": True},
        "of a history": {
            "history": [{"item_id": 242, "timestamp": 1_600_000_000, "rating": 5}],
            "k": 5,
            "deny": [302],
        },
    },
    "/v1/score": {
        "by what is expected": {"user": "196", "items": [242, 302], "value": "2 * rating"},
        "of a history": {"history": [{"item_id": 242, "timestamp": 1_600_000_000}], "items": [302]},
    },
    "/v1/why": {
        "of what comes next": {"user": "196"},
        "of an item": {"history": [{"item_id": 242, "timestamp": 1_600_000_000}], "item": 302},
    },
    "/v1/query": {
        "of a user": {"user": "196", "conditions": [{"scenario": "search"}, {"scenario": "home"}], "k": 5},
        "with interests": {"user": "196", "conditions": [{"scenario": "search"}], "with_interests": True},
    },
    "/v1/interests": {
        "of a user": {"user": "196", "conditions": [{"scenario": "search"}, {}]},
        "of a history": {
            "history": [{"item_id": 242, "timestamp": 1_600_000_000, "scenario": "home"}],
            "conditions": [{"scenario": "search"}],
        },
    },
}
