"""What is said of layouts that are alike: the best of them is a matter of chance.

Shape letters: S seeds, U users, K layouts.
"""

import msgspec
import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.compare import results, significance
from plait.compare.results import Contrast, Cost, Row, summarise
from plait.compare.significance import LEVEL, Pair, SeedScatter, Told, tell_apart
from plait.evaluation.provenance import Provenance
from plait.metrics.statistic import mean_over_users

U = 101
COST = Cost(
    train_flops=1,
    train_tokens=1,
    wall_s=1,
    train_wall_s=1,
    train_cpu_s=1,
    epochs=1,
    best_epoch=1,
    peak_memory_mb=1,
    tokens_per_event=1,
    num_parameters=1,
)


def against_best(value_UK: np.ndarray) -> dict[str, Contrast]:
    return against(value_UK, "vs_best")


def against(value_UK: np.ndarray, which: str) -> dict[str, Contrast]:
    """Each layout against the best of them, or against the first; two seeds that do not differ."""
    return over_seeds(np.stack([value_UK, value_UK]), which)


def over_seeds(value_SUK: np.ndarray, which: str) -> dict[str, Contrast]:
    names = [f"layout {k}" for k in range(value_SUK.shape[2])]
    runs = [
        Row(layout=name, seed=seed, metrics={}, cost=COST, protocol="", provenance=Provenance())
        for name in names
        for seed in range(len(value_SUK))
    ]
    users_U = np.arange(value_SUK.shape[1])
    statistics = {
        (name, seed): {"hr@10": mean_over_users(users_U, value_SUK[seed, :, k])}
        for k, name in enumerate(names)
        for seed in range(len(value_SUK))
    }
    found = summarise(runs, statistics, names[0], 500)
    return {s.layout: contrast for s in found if (contrast := getattr(s.metrics["hr@10"], which))}


def alike(trial: int, num_layouts: int) -> np.ndarray:
    """Layouts of one quality, on users who differ more than the layouts do."""
    rng = np.random.default_rng((trial, num_layouts))
    return rng.normal(0, 1, (U, 1)) + rng.normal(0, 0.5, (U, num_layouts))


def check_chance(num_layouts: int, trials: int = 100) -> None:
    """5 % are to be expected, and by Holm 13 %; of 100 trials, 10 % are as likely as 1 in 35."""
    found = [against_best(alike(trial, num_layouts)) for trial in range(trials)]
    assert_not_vacuous({"differences": min(map(len, found))}, above=num_layouts - 2)
    assert sum(any(its.is_significant for its in each.values()) for each in found) < 0.1 * trials


def test_the_best_of_equal_layouts_is_marked_no_more_than_chance_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_chance(8)
    monkeypatch.setattr(results, "tell_apart", lambda pairs, beside=(): tell_apart(pairs))
    assert_caught(check_chance, 8)  # as if the best had been named beforehand


def check_training_noise(num_seeds: int, trials: int = 100) -> None:
    """Equal layouts whose runs differ by more than the choice of users could explain."""
    marked = 0
    for trial in range(trials):
        rng = np.random.default_rng((trial, num_seeds))
        value_SUK = alike(trial, 5) + rng.normal(0, 0.3, (num_seeds, 1, 5))
        marked += any(its.is_significant for its in over_seeds(value_SUK, "vs_best").values())
    assert marked < 0.1 * trials


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_training_noise_marks_no_layout(num_seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_training_noise(num_seeds)
    monkeypatch.setattr(SeedScatter, "main_effect_D", lambda its, num_draws, rng: np.zeros(num_draws))
    assert_caught(check_training_noise, num_seeds, 40)


def test_layouts_that_differ_by_more_than_their_seeds_are_marked() -> None:
    seed_SK = np.random.default_rng(0).normal(0, 0.02, (2, 1, 3))
    found = over_seeds(alike(0, 3) + seed_SK - np.array([0, 1.0, 2.0]), "vs_best")
    assert [its.is_significant for its in found.values()] == [True, True]


def check_beside_one_that_scatters() -> None:
    """The first layout is better than the next ones by five of their standard errors."""
    value_UK = alike(0, 7) - np.array([0, 0.35, 0.35, 0.35, 0.35, 0.35, 0.35])
    value_UK[:, 6] += np.random.default_rng(1).normal(0, 4, U)
    found = against_best(value_UK)
    assert found["layout 6"].difference.high > 0, "not told apart, or nothing is tested"
    assert all(found[f"layout {k}"].is_significant for k in range(1, 6))


def in_one_unit(pairs: list[Pair], beside: list[Pair]) -> list[Told]:
    """All differences measured alike, in the metric's own unit."""
    away_PD = significance.away_of([*pairs, *beside])
    reach = float(np.quantile(away_PD.max(axis=0), 1 - LEVEL))
    return [
        Told(told.alone, msgspec.structs.replace(told.alone, p=float(abs(told.alone.value) < reach)))
        for told in tell_apart(pairs)
    ]


def test_a_layout_that_scatters_hides_no_difference_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    check_beside_one_that_scatters()
    monkeypatch.setattr(results, "tell_apart", in_one_unit)
    assert_caught(check_beside_one_that_scatters)


def test_equal_layouts_and_a_difference_that_all_users_have() -> None:
    """No standard error at all: one is sure to differ, the other is not."""
    value_U = np.arange(U) / 128
    found = against_best(np.stack([value_U, value_U, value_U - 0.25], axis=1))
    assert [found[f"layout {k}"].p_adjusted for k in (1, 2)] == pytest.approx([1, 1 / 5001])


def test_two_layouts_leave_no_choice_to_pay_for() -> None:
    [contrast] = against_best(alike(0, 2) - np.array([0.0, 0.2])).values()
    assert 0.001 < contrast.difference.p < 0.1 and contrast.p_adjusted == contrast.difference.p


def test_a_reference_is_fixed_beforehand() -> None:
    """The layouts against it pay for each other, and where it happens to be the best, for no choice."""
    value_UK = alike(0, 5) - np.array([0, 0.1, 0.15, 0.2, 0.25])
    vs_reference, vs_best = (against(value_UK, which) for which in ("vs_reference", "vs_best"))
    assert {each.other for each in (*vs_reference.values(), *vs_best.values())} == {"layout 0"}
    for name, contrast in vs_reference.items():
        assert contrast.difference == vs_best[name].difference
        assert contrast.difference.p < contrast.p_adjusted < min(1.0, 8 * contrast.difference.p)
        assert vs_best[name].p_adjusted > contrast.p_adjusted
        assert vs_best[name].low < contrast.low < contrast.difference.low


@pytest.mark.parametrize("which", ["vs_reference", "vs_best"])
def test_one_seed_marks_nothing(which: str) -> None:
    value_SUK = np.stack([alike(0, 3) - np.array([0, 1.0, 2.0])] * 2)
    both, one = over_seeds(value_SUK, which), over_seeds(value_SUK[:1], which)
    assert [its.is_significant for its in both.values()] == [True, True]
    assert [its.is_significant for its in one.values()] == [False, False]
    assert all(its.p_adjusted < 0.001 and not its.covers_seeds for its in one.values())
