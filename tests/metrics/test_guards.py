"""Every part of every guard of the metrics stops some input alone, and what lies just inside of it passes."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from guards import Case, unnoticed
from tiny import assert_caught, assert_not_vacuous

from plait.metrics import intervals, retrieval, scoring, statistic

Call = Callable[[Any], object]
EMPTY = np.array([], dtype=np.int64)
USERS = np.arange(3)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def negatives(
    start: Sequence[int], seen: Sequence[int] = (2, 3), answers: Sequence[int] = (1, 1), count: int = 1
) -> Call:
    given = (np.array(answers), np.array(start), np.array(seen, dtype=np.int64))
    return lambda its: its.sample_negatives(5, *given, count, np.random.default_rng(0))


def ranked(answer: int, scores: np.ndarray) -> Call:
    return lambda its: its.ranks_of(np.array([answer]), scores[None])


def placed(ranks: np.ndarray, k: int = 1) -> Call:
    lists, rank_Q = np.arange(len(ranks)), ranks.astype(np.int64)
    return lambda its: its.hr_at(k, its.places_of(lists, lists, lists, rank_Q))


RETRIEVAL = [
    Case(ranked(0, array(0.1, 0.2)), None),
    Case(ranked(1, array(0.1, 0.2)), None),
    Case(ranked(-1, array(0.1, 0.2)), "names column -1"),
    Case(ranked(2, array(0.1, 0.2)), "names column 2"),
    Case(ranked(0, array(0.1, np.nan)), "NaN|nan"),
    Case(placed(array(1, 2)), None),
    Case(placed(array(1, 2), k=0), "k=0"),
    Case(placed(array()), "no queries"),
    Case(placed(array(1, 0)), "ranks start at 1"),
    Case(negatives((0, 1, 2)), None),
    Case(negatives((0, 2)), "expected 3 offsets"),
    Case(negatives((1, 1, 2)), "expected 3 offsets"),
    Case(negatives((0, 1, 1)), "expected 3 offsets"),
    Case(negatives((0, 1, 2), seen=(5, 1), answers=(1, 5)), None),
    Case(negatives((0, 1, 2), seen=(6, 3)), "item 6 is not"),
    Case(negatives((0, 1, 2), seen=(-1, 3)), "item -1 is not"),
    Case(negatives((0, 1, 2), answers=(1, 6)), "item 6 is not"),
    Case(negatives((0, 1, 2), answers=(0, 1)), "item 0 is not"),
    Case(negatives((0, 1, 2), count=3), None),
    Case(negatives((0, 1, 2), count=4), "has 3 unseen items"),
]


def boot(
    users: np.ndarray = USERS, seed: int = 0, num_draws: int = 40, value: float | None = 0.5
) -> intervals.Bootstrap:
    return intervals.Bootstrap(value, np.full(num_draws, 0.5), users, seed, "higher", len(users))


def difference(**other: Any) -> Call:
    return lambda its: its.paired_difference(boot(), boot(**other))


def drawn(num_draws: int) -> Call:
    return lambda its: its.bootstrap(statistic.mean_over_users(USERS, array(0, 1, 1)), num_draws)


INTERVALS = [
    Case(drawn(40), None),
    Case(drawn(39), "num_draws"),
    Case(lambda its: its.average([boot()]), None),
    Case(lambda its: its.average([]), "no runs"),
    Case(difference(), None),
    Case(difference(users=USERS + 1), "not the same users"),
    Case(difference(seed=1), "seed"),
    Case(difference(num_draws=41), "draws"),
    Case(difference(value=None), "not defined"),
    Case(lambda its: its.paired_difference(boot(value=None), boot()), "not defined"),
]


def pairs(predictions: np.ndarray, labels: np.ndarray) -> Call:
    return lambda its: its.log_loss(its.labelled(USERS[: len(labels)], predictions, labels))


def categories(labels: np.ndarray, first: float = 0.5) -> Call:
    probabilities = np.array([[first, 0.5], [0.25, 0.75]])
    return lambda its: its.log_loss(its.labelled(USERS[:2], probabilities, labels))


SCORING = [
    Case(pairs(array(0.0, 1.0, np.nan), array(0, 1, np.nan)), None),
    Case(pairs(array(0.5, 0.5), array(np.nan, np.nan)), "no labelled events"),
    Case(pairs(array(0.5, np.nan), array(0, 1)), "event 1 has a label"),
    Case(pairs(array(0.5, np.inf), array(0, 1)), "event 1 has a label"),
    Case(pairs(array(0.5, 0.5), array(0, 2)), "expected 0 or 1"),
    Case(pairs(array(0.5, -0.1), array(0, 1)), "no probability"),
    Case(pairs(array(0.5, 1.1), array(0, 1)), "no probability"),
    Case(lambda its: its.calibration_error(its.labelled(USERS, array(0, 0.5, 1), array(0, 1, 1)), 1), None),
    Case(
        lambda its: its.calibration_error(its.labelled(USERS, array(0, 0.5, 1), array(0, 1, 1)), 0),
        "num_bins=0",
    ),
    Case(categories(array(0, 1)), None),
    Case(categories(array(0, np.nan)), None),
    Case(categories(array(0, 2)), "expected a category's index"),
    Case(categories(array(0, 0.5)), "expected a category's index"),
    Case(categories(array(0, 1), first=1.5), "no probability"),
]


def share(*values: float) -> Call:
    return lambda its: its.mean_over_users(USERS, array(*values), form="share")


STATISTIC = [
    Case(lambda its: its.mean_over_users(USERS, array(0, 1, 1)), None),
    Case(lambda its: its.mean_over_users(EMPTY, array()), "no events"),
    Case(lambda its: its.mean_over_users(USERS, array(0, np.nan, 1)), "position 1 is nan"),
    Case(share(0, 1, 0), None),
    Case(share(0, -0.5, 1), "position 1 is -0.5"),
    Case(share(0, 0, 1.5), "position 2 is 1.5"),
    Case(lambda its: its.mean_over_users(USERS, array(0, 1.5, -1)), None),
]
CASES = {retrieval: RETRIEVAL, intervals: INTERVALS, scoring: SCORING, statistic: STATISTIC}


def check_guards(module: ModuleType, cases: Sequence[Case]) -> None:
    missed, count = unnoticed(module, cases)
    assert_not_vacuous({"parts": count})
    assert not missed, missed


@pytest.mark.parametrize("module", CASES, ids=lambda module: module.__name__)
def test_every_part_of_a_guard_stops_an_input_alone(module: ModuleType) -> None:
    check_guards(module, CASES[module])
    refusing = [n for n, case in enumerate(CASES[module]) if case.refused]
    without = [case for n, case in enumerate(CASES[module]) if n != refusing[0]]
    assert_caught(check_guards, module, without)
