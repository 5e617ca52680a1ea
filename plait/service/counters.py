"""What Prometheus reads of a service."""

from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest

LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64)
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)


@final
class Counters:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "plait_requests", "Requests by route and status", ["route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "plait_request_seconds",
            "From the headers to the answer",
            ["route"],
            buckets=LATENCY_S,
            registry=self.registry,
        )
        self.answered = Counter(
            "plait_answered",
            "Answers by model and by what gave them",
            ["model", "by"],
            registry=self.registry,
        )
        self.together = Histogram(
            "plait_questions_together",
            "Questions in one pass",
            ["model"],
            buckets=SIZES,
            registry=self.registry,
        )
        self.model = Histogram(
            "plait_model_seconds",
            "One pass of the model",
            ["model"],
            buckets=LATENCY_S,
            registry=self.registry,
        )
        self.commit = Histogram(
            "plait_commit_seconds",
            "One group of appends, until it is safe",
            buckets=LATENCY_S,
            registry=self.registry,
        )
        self.events = Counter(
            "plait_events", "Events by what became of them", ["outcome"], registry=self.registry
        )
        self.waiting = Gauge("plait_waiting", "Questions in the queue", registry=self.registry)
        self.states = Gauge(
            "plait_states", "Users whose states are in memory", ["model"], registry=self.registry
        )
        self.state_bytes = Gauge("plait_state_bytes", "What they take", ["model"], registry=self.registry)
        self.lookups = Gauge(
            "plait_state_lookups",
            "Questions about users by whether a state was there",
            ["model", "found"],
            registry=self.registry,
        )
        self.swaps = Counter(
            "plait_swaps", "Versions that took the place of another", ["model"], registry=self.registry
        )
        self.told = Counter(
            "plait_told",
            "Answers of rankers that read interests, by what they were told",
            ["model", "interests"],
            registry=self.registry,
        )
        self.queries_failed = Counter(
            "plait_queries_failed",
            "Queries of interests that failed otherwise than by a deadline, a full queue or a missing history",
            ["model", "error"],
            registry=self.registry,
        )
        self.kept = Counter(
            "plait_interests_kept",
            "Interests of users by what became of them on their way into the store or out of it",
            ["fate"],
            registry=self.registry,
        )
        self._add_shadow()
        self._add_log()

    def _add_shadow(self) -> None:
        self.shadowed = Counter(
            "plait_shadowed",
            "Answers that a shadow was to give, by what became of them",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.shadow_overlap = Histogram(
            "plait_shadow_overlap",
            "The share of items shown that a shadow would have shown",
            ["model"],
            buckets=SHARES,
            registry=self.registry,
        )
        self.shadow_difference = Summary(
            "plait_shadow_difference",
            "Mean absolute difference between an action as answered and as a shadow predicts it",
            ["model", "action"],
            registry=self.registry,
        )

    def _add_log(self) -> None:
        self.logged = Counter(
            "plait_logged_rows",
            "Rows of the answer log by what became of them",
            ["table", "fate"],
            registry=self.registry,
        )
        self.log_failures = Counter(
            "plait_log_failures",
            "Files of the answer log that could not be written",
            ["table"],
            registry=self.registry,
        )

    def page(self) -> bytes:
        return generate_latest(self.registry)
