"""What is said of layouts that are alike: the best of them is a matter of chance.

Shape letters: S seeds, U users, K layouts.
"""

from collections.abc import Mapping

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.compare import results
from plait.compare.results import Contrast, Cost, Row, summarise
from plait.compare.significance import SeedNoise
from plait.evaluation.provenance import Provenance
from plait.metrics.intervals import Bootstrap, Difference
from plait.metrics.statistic import mean_over_users

U = 101
COST = Cost(
    train_flops=1,
    train_tokens=1,
    wall_s=1,
    train_wall_s=1,
    epochs=1,
    best_epoch=1,
    peak_memory_mb=1,
    tokens_per_event=1,
    num_parameters=1,
)


def against_best(value_UK: np.ndarray) -> dict[str, Contrast]:
    return against(value_UK, "vs_best")


def against(value_UK: np.ndarray, which: str) -> dict[str, Contrast]:
    """Each layout against the best of them, or against the first; one seed."""
    return over_seeds(value_UK[None], which)


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
    monkeypatch.setattr(
        results, "_despite_choice", results._by_holm
    )  # as if the best had been named beforehand
    assert_caught(check_chance, 8)


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
    monkeypatch.setattr(results.SeedNoise, "of", lambda seeds: SeedNoise())
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


def by_range(
    differences: Mapping[str, Difference], means: Mapping[str, Bootstrap], best: str
) -> dict[str, float]:
    """All differences measured alike, in the metric's own unit."""
    range_D = np.ptp([mean.value_D - (mean.value or 0.0) for mean in means.values()], axis=0)
    return {name: float(np.mean(range_D >= abs(each.value))) for name, each in differences.items()}


def test_a_layout_that_scatters_hides_no_difference_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    check_beside_one_that_scatters()
    monkeypatch.setattr(results, "_despite_choice", by_range)
    assert_caught(check_beside_one_that_scatters)


def test_equal_layouts_and_a_difference_that_all_users_have() -> None:
    """No standard error at all: one is sure to differ, the other is not."""
    value_U = np.arange(U) / 128
    found = against_best(np.stack([value_U, value_U, value_U - 0.25], axis=1))
    assert [found[f"layout {k}"].p_adjusted for k in (1, 2)] == pytest.approx([1, 2 / 501])


def test_two_layouts_leave_no_choice_to_pay_for() -> None:
    [contrast] = against_best(alike(0, 2) - np.array([0.0, 0.15])).values()
    assert 0.001 < contrast.difference.p < 0.1 and contrast.p_adjusted == pytest.approx(
        contrast.difference.p, rel=0.5
    )


def test_a_reference_is_fixed_beforehand() -> None:
    """The layouts against it are corrected by Holm, also where it happens to be the best."""
    value_UK = alike(0, 5) - np.array([0, 0.1, 0.15, 0.2, 0.25])
    vs_reference, vs_best = (against(value_UK, which) for which in ("vs_reference", "vs_best"))
    raw = sorted(contrast.difference.p for contrast in vs_reference.values())
    assert min(each.p_adjusted for each in vs_reference.values()) == pytest.approx(4 * raw[0])
    assert {each.other for each in (*vs_reference.values(), *vs_best.values())} == {"layout 0"}
    assert vs_best["layout 1"].p_adjusted > vs_reference["layout 1"].p_adjusted
