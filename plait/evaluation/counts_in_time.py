"""How soon counts age: where the data is cut in time, tables of training rows are older than what is asked.

Shape letters: Q questions (held-out events).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from plait.data import Dataset
from plait.evaluation.answers import Answers, measure
from plait.evaluation.beyond_accuracy import some_answers
from plait.evaluation.counts_effect import AgeEffects, CountsInTime, effects
from plait.evaluation.run_files import (
    Result,
    answers_counted_until_test,
    answers_without_counts,
    measured_answers,
)

AGES = 3  # parts of the questions, with as many in each as ties of time allow
DAY_S = 86_400


def counts_in_time(
    runs: Mapping[Path, Result], dataset: Dataset, metrics: Sequence[str], num_draws: int = 1000
) -> CountsInTime | None:
    """What counts do to finished runs of one variant; None where the data is not cut in time, or no run has counts that
    pay.

    Args:
        runs: by folder, those of every seed.
    """
    counted = {folder: answers_counted_until_test(folder, result) for folder, result in runs.items()}
    until_test = [answers for answers in counted.values() if answers is not None]
    if dataset.training_ends_s is None or len(until_test) < len(runs) or not runs:
        return None
    of_training = [measured_answers(folder, result) for folder, result in runs.items()]
    without = [its for folder, result in runs.items() if (its := answers_without_counts(folder, result))]
    assert len(without) == len(runs), "a run with counts keeps its answers without them"
    alone = [measure(its) for its in without]
    same_request = next(iter(runs.values())).settings.model.exposure.same_request
    age_s_Q = dataset.target_times(dataset.targets("test", same_request)) - dataset.training_ends_s
    return CountsInTime(
        effects([measure(its) for its in until_test], alone, metrics, num_draws),
        tuple(effects_by_age(of_training, without, age_s_Q, metrics, num_draws)),
    )


def effects_by_age(
    with_counts: Sequence[Answers],
    without: Sequence[Answers],
    age_s_Q: Int64[np.ndarray, " Q"],
    metrics: Sequence[str],
    num_draws: int = 1000,
) -> Iterator[AgeEffects]:
    """What counts do, by the age of the question.

    Args:
        with_counts, without: of the same runs in the same order, to the same questions.
        age_s_Q: seconds from the end of what is counted to each question.
    """
    for is_in_Q in ages(age_s_Q):
        sides = [[measure(some_answers(run, is_in_Q)) for run in runs] for runs in (with_counts, without)]
        found_s = age_s_Q[is_in_Q]
        yield AgeEffects(
            float(found_s.min()) / DAY_S,
            float(found_s.max()) / DAY_S,
            len(found_s),
            effects(sides[0], sides[1], metrics, num_draws),
        )


def ages(age_s_Q: Int64[np.ndarray, " Q"]) -> Iterator[Bool[np.ndarray, " Q"]]:
    """The questions of each age, the young first; equal ages are not parted.

    >>> [is_in_Q.nonzero()[0].tolist() for is_in_Q in ages(np.array([5, 1, 9, 1, 7, 3]))]
    [[1, 3], [0, 5], [2, 4]]
    """
    cuts = np.quantile(age_s_Q, np.arange(1, AGES) / AGES, method="inverted_cdf")
    part_Q = np.searchsorted(cuts, age_s_Q, side="left")
    return (part_Q == part for part in np.unique(part_Q))
