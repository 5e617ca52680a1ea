"""Percentiles that have enough samples, and what became of requests."""

import math

import pytest
from tiny import assert_caught

from plait.load import figures
from plait.load.answers import Answer, answer_of, outcome_of
from plait.load.client import Reply
from plait.load.figures import kept_up, quantile_ms, stage_figures

DEADLINE_S = 0.5


def answered(latency_s: float = 0.1, status: int = 200, by: str = "model", behind_s: float = 0.0) -> Answer:
    return Answer("score", 1.0, 1.0 + behind_s, 1.0 + latency_s, status, by)


@pytest.mark.parametrize(("share", "least"), [(0.5, 20), (0.99, 1_000), (0.999, 10_000)])
def test_a_percentile_needs_ten_samples_beyond_it(share: float, least: int) -> None:
    latencies_s = [n / 1e3 for n in range(1, least + 1)]
    assert quantile_ms(latencies_s[:-1], share) == "not enough"
    assert quantile_ms(latencies_s, share) == pytest.approx(least - 10), "ten lie beyond it"


def check_what_never_came_is_the_slowest() -> None:
    answers = [answered()] * 900 + [answered(status=0, by="")] * 200
    (found,) = stage_figures("x", answers, 1.0, 10.0, DEADLINE_S).kinds
    assert found.samples == 1_100 and found.p50_ms == pytest.approx(100) and found.p99_ms == "no answer"


def test_what_never_came_is_the_slowest() -> None:
    check_what_never_came_is_the_slowest()


def test_leaving_out_what_never_came_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = quantile_ms
    monkeypatch.setattr(
        figures, "quantile_ms", lambda s, share: right([x for x in s if math.isfinite(x)], share)
    )
    assert_caught(check_what_never_came_is_the_slowest)


OUTCOMES = {
    "good": answered(),
    "late": answered(0.6),
    "fallback": answered(by="fallback"),
    "429": answered(status=429, by=""),
    "503": answered(status=503, by=""),
    "failed": answered(status=422, by=""),
    "no answer": answered(status=0, by=""),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_outcomes_are_told_apart(outcome: str) -> None:
    assert outcome_of(OUTCOMES[outcome], DEADLINE_S) == outcome


def test_they_are_counted_and_only_good_ones_are_goodput() -> None:
    answers = [
        answer for count, answer in enumerate(OUTCOMES.values(), start=1) for _ in range(count)
    ]  # one good, two late, ...
    (found,) = stage_figures("x", answers, 1.0, 10.0, DEADLINE_S).kinds
    assert found.outcomes == {outcome: count for count, outcome in enumerate(OUTCOMES, start=1)}
    assert found.requests == 28 and found.good_per_s == pytest.approx(0.1)
    assert found.samples == 1 + 2 + 3 + 7, "of answers, and of what had none; refusals are quick"


def test_queueing_stands_apart_from_the_model() -> None:
    headers = {"server-timing": "queue;dur=30, model;dur=12.5, other;dur=1"}
    reply = Reply(200, headers, b'{"answered_by": "model", "items": [1]}')
    answers = [answer_of("score", 0.0, 0.0, 0.1, reply)] * 20
    (found,) = stage_figures("x", answers, 1.0, 1.0, DEADLINE_S).kinds
    assert (found.queue_p50_ms, found.model_p50_ms) == (30.0, 12.5) and found.queue_p99_ms == "not enough"


def test_a_proxys_page_is_an_answer_without_words() -> None:
    found = answer_of("score", 0.0, 0.0, 0.1, Reply(502, {}, b"<html>\xff"))
    assert (outcome_of(found, DEADLINE_S), found.problem) == ("failed", "502: ")


def test_an_append_that_is_safe_in_time_is_good() -> None:
    found = answer_of("append", 0.0, 0.0, 0.1, Reply(200, {}, b'{"events":[{"id":"a","status":"stored"}]}'))
    assert outcome_of(found, DEADLINE_S) == "good"


@pytest.mark.parametrize(
    ("behind_s", "latency_s", "valid"), [(0.004, 0.005, True), (0.02, 0.1, False), (0.02, 0.3, True)]
)
def test_lateness_counts_beside_what_is_measured(behind_s: float, latency_s: float, valid: bool) -> None:
    assert kept_up([answered(latency_s, behind_s=behind_s)] * 50) is valid


def test_one_hiccup_of_many_requests_is_none_of_the_figures() -> None:
    """At a hundred requests, nothing is told of the slowest ten."""
    fine = [answered(behind_s=0.0)] * 95
    assert kept_up(fine + [answered(behind_s=0.09)] * 5) and not kept_up(
        fine + [answered(behind_s=0.09)] * 20
    )


def test_a_stage_without_requests_has_no_figures() -> None:
    found = stage_figures("x", [], 1.0, 1.0, DEADLINE_S)
    assert found.kinds == () and found.is_valid
