"""What a stage found, in figures: latencies, what became of requests, and whether the generator kept up.

Shape letters: R requests.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plait.load.answers import OUTCOMES, Answer, Outcome, outcome_of
from plait.load.mix import KINDS, Kind

BEYOND = 10  # samples that must lie beyond a quantile
LATE_SHARE, LATE_S = 0.1, 0.005  # what of a latency may be the generator's own lateness
Ms = float | Literal["not enough", "no answer"]


@dataclass(frozen=True)
class KindFigures:
    """Requests of one kind.

    Args:
        samples: latencies that the quantiles are of: those of every answer, whoever gave it, and of what had none.
        good_per_s: goodput: answers by the model, or events that are safe, within the deadline.
        queue_p50_ms: how long questions waited in the service, of those that it told of.
        model_p50_ms: how long the passes took that answered them.
        problem: the first one, in the service's words.
    """

    kind: Kind
    requests: int
    samples: int
    p50_ms: Ms
    p99_ms: Ms
    p999_ms: Ms
    good_per_s: float
    outcomes: dict[Outcome, int]
    queue_p50_ms: Ms
    queue_p99_ms: Ms
    model_p50_ms: Ms
    model_p99_ms: Ms
    problem: str


@dataclass(frozen=True)
class StageFigures:
    """One rate of arrivals.

    Args:
        behind_p99_ms: how late the generator sent, 99th percentile (the largest where there are few).
        is_valid: whether it kept up; if not, its own lateness stands in the latencies.
        hit_rate: of lookups of users' states, as the service counted them; None where it did not tell.
        processor_ms: the service's processor time by request; None where its process is not ours.
    """

    name: str
    per_s: float
    seconds: float
    kinds: tuple[KindFigures, ...]
    behind_p50_ms: float
    behind_p99_ms: float
    behind_most_ms: float
    is_valid: bool
    hit_rate: float | None = None
    processor_ms: float | None = None


def quantile_ms(latencies_s: Sequence[float], share: float) -> Ms:
    """A quantile by nearest rank, in milliseconds; none where fewer than ten samples lie beyond it.

    What had no answer is infinite.

    >>> quantile_ms([0.001 * n for n in range(1, 101)], 0.5), quantile_ms([0.001] * 999, 0.99)
    (50.0, 'not enough')
    """
    count = len(latencies_s)
    if round(count * (1 - share), 6) < BEYOND:
        return "not enough"
    rank = math.ceil(round(count * share, 6))
    found = float(np.partition(np.asarray(latencies_s), rank - 1)[rank - 1])
    return round(found * 1e3, 3) if math.isfinite(found) else "no answer"


def stage_figures(
    name: str, answers: Sequence[Answer], per_s: float, seconds: float, deadline_s: float
) -> StageFigures:
    """All that answers alone can tell."""
    by_kind = {kind: [answer for answer in answers if answer.kind == kind] for kind in KINDS}
    kinds = tuple(_of_kind(kind, mine, seconds, deadline_s) for kind, mine in by_kind.items() if mine)
    behind_ms = np.array([answer.behind_s for answer in answers] or [0.0]) * 1e3
    p50, p99, most = np.quantile(behind_ms, [0.5, 0.99, 1.0], method="higher").round(3).tolist()
    return StageFigures(name, per_s, seconds, kinds, p50, p99, most, kept_up(answers))


def kept_up(answers: Sequence[Answer]) -> bool:
    """Whether the generator's lateness is small beside what it measures: below 5 ms, or below a tenth of the latency.

    Both are looked at where the figures end: ten samples from their largest, and at the median where there are few.
    """
    if not answers:
        return True
    share = min(max(1 - BEYOND / len(answers), 0.5), 0.999)
    behind_s = np.quantile([answer.behind_s for answer in answers], share, method="higher")
    latency_s = np.quantile([answer.latency_s for answer in answers], share, method="higher")
    return bool(behind_s <= max(LATE_S, LATE_SHARE * latency_s))


def good_answers(answers: Iterable[Answer], deadline_s: float) -> int:
    return sum(outcome_of(answer, deadline_s) == "good" for answer in answers)


def _of_kind(kind: Kind, answers: Sequence[Answer], seconds: float, deadline_s: float) -> KindFigures:
    counted = Counter(outcome_of(answer, deadline_s) for answer in answers)
    took_s = [
        answer.latency_s if answer.status else math.inf for answer in answers if answer.status in (0, 200)
    ]
    queue_s = [answer.queue_s for answer in answers if answer.queue_s is not None]
    model_s = [answer.model_s for answer in answers if answer.model_s]
    return KindFigures(
        kind=kind,
        requests=len(answers),
        samples=len(took_s),
        p50_ms=quantile_ms(took_s, 0.5),
        p99_ms=quantile_ms(took_s, 0.99),
        p999_ms=quantile_ms(took_s, 0.999),
        good_per_s=round(counted["good"] / seconds, 3),
        outcomes={outcome: counted[outcome] for outcome in OUTCOMES if counted[outcome]},
        queue_p50_ms=quantile_ms(queue_s, 0.5),
        queue_p99_ms=quantile_ms(queue_s, 0.99),
        model_p50_ms=quantile_ms(model_s, 0.5),
        model_p99_ms=quantile_ms(model_s, 0.99),
        problem=next((answer.problem for answer in answers if answer.problem), ""),
    )
