"""What lists hold, against plain loops over users, lists and pairs."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.evaluation.selection import Selection
from plait.metrics import recommended, table
from plait.metrics.intervals import average, bootstrap, estimate
from plait.metrics.recommended import Recommended, coverage, least_of_frequent
from plait.metrics.statistic import mean_over_users
from plait.metrics.table import BEYOND_ACCURACY, metric_of, task_of
from plait.schema import FIRST_VALUE, MISSING_VALUE, PADDING, UNSEEN_VALUE

V = 40


def invented(num_lists: int = 60, seed: int = 0) -> tuple[Recommended, np.ndarray]:
    """Lists that end early here and there, of users with several; items with up to three values, or none."""
    rng = np.random.default_rng(seed)
    item_LK = np.stack([rng.permutation(V)[:5] + 1 for _ in range(num_lists)]).astype(np.int32)
    item_LK[
        np.arange(5) >= rng.integers(0, 6, num_lists)[:, None] + (rng.random(num_lists) < 0.8)[:, None] * 5
    ] = 0
    code_VC = np.full((V + 1, 3), PADDING)
    for item in range(1, V + 1):
        values = rng.permutation(6)[: rng.integers(1, 4)] + FIRST_VALUE
        code_VC[item, : len(values)] = values
    code_VC[3], code_VC[4] = (MISSING_VALUE, PADDING, PADDING), (UNSEEN_VALUE, PADDING, PADDING)
    events_V1 = np.concatenate([[0], rng.integers(0, 9, V) ** 2])
    return Recommended(rng.integers(0, 25, num_lists), item_LK, events_V1), code_VC


def mean_of_users(values: list[tuple[int, float]]) -> float:
    users = sorted({user for user, _ in values})
    return float(np.mean([np.mean([value for of, value in values if of == user]) for user in users]))


def by_hand(lists: Recommended, code_VC: np.ndarray) -> dict[str, float]:
    total, shown, found = (
        int(lists.events_V1.sum()),
        set(),
        {name: [] for name in ("novelty", "frequent", "diversity")},
    )
    frequent = least_of_frequent(lists.events_V1)
    met = {"short": 0, "new": 0, "unlike": 0, "alike": 0, "unknown": 0}
    for user, item_K in zip(lists.user_L.tolist(), lists.item_LK.tolist(), strict=True):
        items = [item for item in item_K if item]
        shown |= set(items)
        met["short"] += len(items) < 5
        if not items:
            continue
        counts = [int(lists.events_V1[item]) for item in items]
        met["new"] += 0 in counts
        found["novelty"].append((user, float(np.mean([-math.log2(max(1, n) / total) for n in counts]))))
        found["frequent"].append((user, float(np.mean([n >= frequent for n in counts]))))
        values = [{code for code in code_VC[item] if code >= FIRST_VALUE} for item in items]
        pairs = [1 - len(a & b) / len(a | b) for a, b in combinations(values, 2) if a and b]
        met["unknown"] += any(not of for of in values)
        met["unlike"] += 1.0 in pairs
        met["alike"] += min(pairs, default=1.0) < 1
        if pairs:
            found["diversity"].append((user, float(np.mean(pairs))))
    assert_not_vacuous(met, above=3)
    return {"coverage": len(shown) / V} | {name: mean_of_users(values) for name, values in found.items()}


def check_by_hand() -> None:
    lists, code_VC = invented()
    found = table.measured_on_lists(lists, {"genre": code_VC})
    assert list(found) == ["coverage@10", "novelty@10", "frequent@10", "diversity@10:genre"]
    for name, value in by_hand(lists, code_VC).items():
        (its,) = (statistic for full, statistic in found.items() if full.startswith(name))
        assert its.value == pytest.approx(value, rel=1e-12), name


def test_what_lists_hold_is_what_a_loop_finds(monkeypatch):
    check_by_hand()
    monkeypatch.setattr(recommended, "LISTS_AT_A_TIME", 7)
    check_by_hand()
    monkeypatch.setattr(recommended, "FIRST_VALUE", MISSING_VALUE)  # what is not known would be a value
    assert_caught(check_by_hand)


def test_half_of_all_events_are_of_what_is_frequent():
    rng = np.random.default_rng(3)
    for _ in range(50):
        events_N = rng.integers(0, 12, rng.integers(1, 9))
        least, total = least_of_frequent(events_N), events_N.sum()
        assert events_N[events_N >= least].sum() >= total / 2
        assert least == 1 or events_N[events_N > least].sum() < total / 2
    assert least_of_frequent(np.zeros(3, int)) == 1


def test_the_interval_of_coverage_is_as_wide_as_other_users_scatter():
    """Of users drawn anew, not of users drawn from these, whose lists repeat."""
    rng = np.random.default_rng(5)
    chance_V = 1 / np.arange(1, 301) / np.sum(1 / np.arange(1, 301))
    drawn = [
        coverage(Recommended(np.arange(60), rng.choice(300, (60, 4), p=chance_V) + 1, np.ones(301, int)))
        for _ in range(120)
    ]
    spread = np.std([its.value for its in drawn])
    half = np.mean([estimate([its]).half_width for its in drawn])
    assert 0.8 < half / (2 * spread) < 1.5


def test_an_estimate_that_draws_nothing_is_the_bootstraps():
    runs = [
        mean_over_users(np.arange(30) % 9, np.random.default_rng(n).random(30), form="share") for n in (1, 2)
    ]
    assert estimate(runs) == average([bootstrap(run) for run in runs]).estimate
    unknown = [replace(run, parts=lambda: None) for run in runs]
    assert estimate(unknown) == average([bootstrap(run) for run in unknown]).estimate


def test_no_list_is_no_value():
    lists, code_VC = invented()
    empty = replace(lists, item_LK=np.zeros_like(lists.item_LK))
    assert table.measured_on_lists(empty, {"genre": code_VC}) == {}
    alone = table.measured_on_lists(lists, {"genre": np.full_like(code_VC, MISSING_VALUE)})
    assert not any(name.startswith("diversity") for name in alone) and len(alone) == 3


def test_entries_are_named_apart_and_choose_no_epoch():
    entries = [*table.TABLE, *BEYOND_ACCURACY]
    for names in ([its.name for its in entries], [its.label for its in entries]):
        assert len(set(names)) == len(entries)
    for metric in BEYOND_ACCURACY:
        (name,) = metric.full_names("genre")
        assert metric_of(name) is metric and task_of(name) == "retrieval"
        with pytest.raises(ValueError, match=r"protocol.select = .* is told of the test alone"):
            Selection.parse(name)
