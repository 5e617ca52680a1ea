"""Users and seeds drawn together: equal layouts are told apart as seldom as promised, and unequal ones are found.

`benchmarks/verdicts.py` simulates more of the same.

Shape letters: L layouts, S seeds, U users, D draws of users, E events.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tiny import assert_caught, assert_not_vacuous

from plait.compare import significance
from plait.compare.results import Contrast, against
from plait.compare.significance import (
    LEVEL,
    SeedScatter,
    Side,
    as_drawn,
    drawn,
    interval,
    scattering_apart,
    tell_apart,
)
from plait.metrics.intervals import Bootstrap, bootstrap
from plait.metrics.scoring import auc, labelled, rmse
from plait.metrics.statistic import Parts, Statistic, mean_over_users

U, D = 101, 100
WEIGHT_DU = np.random.default_rng(0).multinomial(U, np.full(U, 1 / U), size=D) / U
Sides = dict[str, Side]


def run_of(value_U: np.ndarray) -> Bootstrap:
    mean = float(value_U.mean())
    parts = Parts((value_U - mean) / U, np.full(U, 1 / U), "mean")
    return Bootstrap(mean, WEIGHT_DU @ value_U, np.arange(U), 0, "higher", U, parts)


def sides_of(value_LSU: np.ndarray, trained_as: str = "") -> Sides:
    return {
        f"layout {n}": Side(
            {seed: run_of(value_U) for seed, value_U in enumerate(value_SU)}, trained_as=trained_as
        )
        for n, value_SU in enumerate(value_LSU)
    }


def equal(
    num_layouts: int, num_seeds: int, flips: float, main_effect: float, trials: int = 300
) -> Iterator[np.ndarray]:
    """Of equal layouts whose runs' means scatter by 1 over users: that much of it flips, and seeds that move all users
    by a main effect of so many times the flips' variance."""
    rng = np.random.default_rng((num_layouts, num_seeds, int(10 * flips), int(10 * main_effect)))
    for _ in range(trials):
        own_L1U = np.sqrt(U * (1 - flips)) * rng.standard_normal((num_layouts, 1, U))
        flip_LSU = np.sqrt(U * flips) * rng.standard_normal((num_layouts, num_seeds, U))
        seed_LS1 = np.sqrt(main_effect * flips) * rng.standard_normal((num_layouts, num_seeds, 1))
        yield own_L1U + flip_LSU + seed_LS1


def marks(sides: Sides, stream: int = 0) -> tuple[bool, bool]:
    """Whether something is told from the first layout, and from the best."""
    found = list(drawn(sides, stream).values())
    reference = tell_apart([(side, found[0]) for side in found[1:]])
    best = found.pop(int(np.argmax([side.value for side in found])))
    against_best = tell_apart([(side, best) for side in found], list(combinations(found, 2)))
    told = (any(its.together.p < LEVEL for its in of) for of in (reference, against_best))
    return next(told), next(told)


CELLS = [(2, 2, 1.0, 0.0), (2, 3, 0.5, 3.0), (5, 2, 0.5, 1.0), (5, 3, 1.0, 10.0), (11, 2, 1.0, 3.0)]


def check_false_marks(cells: list[tuple[int, int, float, float]], trials: int = 300) -> None:
    """5 % are promised; of 300, 9 % are as likely as 1 in 300."""
    counts = {"judged": 0}
    for cell in cells:
        found = [marks(sides_of(value_LSU), n) for n, value_LSU in enumerate(equal(*cell, trials))]
        counts["judged"] += len(found)
        assert np.mean(found, axis=0).max() <= 0.09, cell
    assert_not_vacuous(counts, above=trials * len(cells) - 1)


def test_equal_layouts_are_seldom_told_apart() -> None:
    check_false_marks(CELLS)


def test_forgotten_main_effects_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SeedScatter, "main_effect_D", lambda its, num_draws, rng: np.zeros(num_draws))
    assert_caught(check_false_marks, CELLS[3:4], 100)


def test_a_best_that_is_taken_for_one_named_beforehand_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "tell_apart", lambda pairs, beside=(): tell_each_alone(pairs))
    assert_caught(check_false_marks, CELLS[4:], 100)


def tell_each_alone(pairs: list[significance.Pair]) -> list[significance.Told]:
    return [significance.tell_apart([pair])[0] for pair in pairs]


def check_power(num_seeds: int, flips: float, least: float) -> None:
    """Of five layouts the second is better by 3.2 standard errors. A test that is told that there is no main effect
    finds it three times in four."""
    distance = 3.2 * np.sqrt(2 * (1 - flips + flips / num_seeds))
    found = 0
    for n, value_LSU in enumerate(equal(5, num_seeds, flips, 0.0)):
        value_LSU[1] += distance
        joint = list(drawn(sides_of(value_LSU), n).values())
        found += tell_apart([(side, joint[0]) for side in joint[1:]])[0].together.p < LEVEL
    assert found >= least * 300


@pytest.mark.parametrize(("num_seeds", "flips", "least"), [(2, 1.0, 0.35), (3, 1.0, 0.47), (2, 0.5, 0.55)])
def test_a_better_layout_is_found(
    num_seeds: int, flips: float, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_power(num_seeds, flips, least)
    monkeypatch.setattr(
        significance, "_expected", lambda flips_GSD: 0.0
    )  # flips counted with the seeds once more
    assert_caught(check_power, num_seeds, flips, least)


def of_events(of: Callable[..., Statistic], rng: np.random.Generator) -> Statistic:
    """A metric of five events a user: users' labels are fixed, a run's predictions err by themselves."""
    user_E = np.repeat(np.arange(307), 5)
    label_E = (np.random.default_rng(1).random(len(user_E)) < 0.3).astype(float)
    return of(user_E, 0.4 * label_E + rng.normal(0, 0.5, len(user_E)), label_E)


METRICS = {
    "mean": lambda user_E, predicted_E, label_E: mean_over_users(user_E, predicted_E),
    "auc": lambda user_E, predicted_E, label_E: auc(labelled(user_E, predicted_E, label_E)),
    "rmse": lambda user_E, predicted_E, label_E: rmse(labelled(user_E, predicted_E, label_E)),
}


def check_flips(metric: str) -> None:
    """Sixty seeds without a main effect: their variance is that of the flips, give or take 20 %."""
    rng = np.random.default_rng(7)
    runs = {seed: bootstrap(of_events(METRICS[metric], rng), 100) for seed in range(60)}
    scatter, _ = significance._scatters([Side(runs)])
    assert scatter.freedom == 59
    assert 0.6 < scatter.flips / scatter.between < 1.6


@pytest.mark.parametrize("metric", METRICS)
def test_the_flips_part_is_known_for_ratios_and_orders_too(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_flips(metric)
    monkeypatch.setattr(significance, "_expected", lambda flips_GSD: float((flips_GSD**2).sum()))
    assert_caught(check_flips, metric)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 3), st.floats(0, 3))
def test_intervals_agree_with_the_p_beside_them(
    seed: int, num_layouts: int, num_seeds: int, gap: float
) -> None:
    rng = np.random.default_rng(seed)
    value_LSU = rng.normal(0, 5, (num_layouts, num_seeds, U)) + gap * rng.normal(0, 1, (num_layouts, 1, 1))
    found = list(drawn(sides_of(value_LSU)).values())
    for told in tell_apart([(side, found[0]) for side in found[1:]], list(combinations(found[1:], 2))):
        for its in (told.alone, told.together):
            assert (its.p < LEVEL) == (not its.low <= 0 <= its.high)
        assert told.together.p >= told.alone.p and told.together.low <= told.alone.low
        assert told.alone.value == told.together.value


def test_one_pair_pays_for_no_other() -> None:
    first, second = drawn(sides_of(next(equal(2, 3, 0.5, 1.0)))).values()
    [told] = tell_apart([(first, second)])
    assert told.alone == told.together
    low, high = interval(first.value - second.value, first.value_D - second.value_D)
    assert high - low == pytest.approx(
        told.alone.high - told.alone.low, rel=0.1
    )  # flips, or users, of 100 draws


def half_widths(sides: Sides) -> list[float]:
    first, *others = drawn(sides).values()
    return [its.alone.high - its.alone.value for its in tell_apart([(side, first) for side in others])]


def test_what_has_no_seeds_is_in_no_pool_and_gets_no_noise() -> None:
    value_LSU = next(equal(3, 3, 0.5, 30.0))
    sides = sides_of(value_LSU)
    counted = Side({0: run_of(value_LSU[0, 0])}, has_seeds=False)
    before, after = drawn(sides), drawn(sides | {"counts": counted})
    assert {name: its.value_D.tolist() for name, its in before.items()} == {
        name: after[name].value_D.tolist() for name in before
    }
    assert after["counts"].value_D.tolist() == as_drawn(counted.runs[0]).value_D.tolist()
    assert counted.covers_seeds and not replace(counted, has_seeds=True).covers_seeds


def test_one_seed_each_leaves_users_alone() -> None:
    sides = sides_of(next(equal(2, 1, 0.5, 30.0)))
    assert drawn(sides)["layout 1"].value_D.tolist() == as_drawn(sides["layout 1"].runs[0]).value_D.tolist()
    assert not any(side.covers_seeds for side in sides.values())


def check_seeds_of_both(told_against: Callable[..., dict[str, Contrast]]) -> None:
    value_LSU = next(equal(3, 2, 0.5, 1.0))
    sides = sides_of(value_LSU) | {"one seed": Side({0: run_of(value_LSU[0, 0])})}
    joint = drawn(sides)
    found = {(a, b): its.covers_seeds for b in sides for a, its in told_against(b, sides, joint).items()}
    assert found == {(a, b): "one seed" not in (a, b) for a in sides for b in sides if a != b}
    assert_not_vacuous(Counter(found.values()))


def test_a_difference_covers_seeds_where_both_sides_do() -> None:
    check_seeds_of_both(against)


def test_a_difference_that_asks_one_side_alone_is_caught() -> None:
    def of_one(other: str, sides: Sides, joint: dict[str, Bootstrap]) -> dict[str, Contrast]:
        found = against(other, sides, joint)
        return {
            name: structs.replace(its, covers_seeds=sides[name].covers_seeds) for name, its in found.items()
        }

    assert_caught(check_seeds_of_both, of_one)


def shaken(factor: float) -> list[float]:
    """Half-widths to the first of five layouts, whose last one's three seeds are moved apart."""
    value_LSU = next(equal(5, 3, 1.0, 1.0))
    value_LSU[4] += factor * np.array([-1.0, 0.0, 1.0])[:, None]
    return half_widths(sides_of(value_LSU))


def check_loner() -> None:
    calm, one_shaken = shaken(0.0), shaken(300.0)
    assert one_shaken[:3] == pytest.approx(calm[:3], rel=0.5), "the others are told as before"
    assert one_shaken[3] > 100, "and this one by its own seeds"


def test_a_layout_whose_seeds_scatter_more_leaves_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    check_loner()
    monkeypatch.setattr(significance, "_loners", lambda scatters: set())
    assert_caught(check_loner)


@pytest.mark.parametrize("num_layouts", [2, 3, 5])
def test_who_scatters_more_is_found_beside_any_number_of_others(num_layouts: int) -> None:
    value_LSU = next(equal(num_layouts, 3, 1.0, 1.0))
    assert scattering_apart(sides_of(value_LSU)) == set()
    value_LSU[1] += 300.0 * np.array([-1.0, 0.0, 1.0])[:, None]
    assert scattering_apart(sides_of(value_LSU)) == {"layout 1"}
    assert scattering_apart(sides_of(value_LSU[1:2])) == set(), "nobody to hold it against"


def check_paired_by_seed(trained_as: str) -> None:
    """Two checkpoints of each run: what a seed does to one it does to the other."""
    rng, marked = np.random.default_rng(3), 0
    for n in range(100):
        both_SU = rng.normal(0, 10, (3, 1)) + rng.normal(0, 1, (3, U))
        value_LSU = np.stack([both_SU, both_SU + rng.normal(0, 1, (3, U)) + rng.normal(0, 0.1, (3, 1))])
        first, second = drawn(sides_of(value_LSU, trained_as), n).values()
        marked += tell_apart([(second, first)])[0].alone.p < LEVEL
        assert tell_apart([(second, replace(first, value=second.value - 2.0))])  # a shift of all
    assert marked <= 9
    value_LSU[1] += 2.0
    first, second = drawn(sides_of(value_LSU, trained_as)).values()
    assert tell_apart([(second, first)])[0].alone.p < LEVEL


def test_sides_of_the_same_runs_are_paired_by_seed() -> None:
    check_paired_by_seed("lac")
    assert_caught(check_paired_by_seed, "")
    one, other = sides_of(next(equal(2, 3, 0.5, 1.0)), "lac").values()
    with pytest.raises(ValueError, match="sides of the same runs with other seeds"):
        drawn({"one": one, "other": replace(other, runs={5: other.runs[0]})})


def test_draws_without_the_metric_are_left_out() -> None:
    first, second = drawn(sides_of(next(equal(2, 2, 0.5, 1.0)))).values()
    value_D = first.value_D.copy()
    value_D[::7] = np.nan
    [told] = tell_apart([(replace(first, value_D=value_D), second)])
    assert np.isfinite([told.together.low, told.together.high, told.together.p]).all()


def test_nothing_is_asked_of_nobody() -> None:
    assert drawn({}) == {} and tell_apart([]) == []
