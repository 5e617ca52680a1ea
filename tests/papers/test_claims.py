"""What may be said of a claim: planted differences are found, and chance is not taken for one.

Shape letters: U users, N runs.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import assert_caught, assert_not_vacuous

from plait.compare import significance
from plait.compare.significance import SeedScatter, drawn, tell_apart
from plait.metrics.scoring import labelled, rmse
from plait.metrics.statistic import Better, Statistic, mean_over_users
from plait.papers import claims
from plait.papers.claims import (
    Claim,
    ClaimVerdict,
    Repeated,
    Statistics,
    answer,
    judge,
    judge_repeated,
    sides_of,
    t_test,
)

U = 307
Judge = Callable[[Sequence[Claim], Statistics], tuple[ClaimVerdict, ...]]


def hits(seed: int, level: float, wobble: float = 0.0, users_seed: int = 0) -> dict[str, Statistic]:
    """Users who differ much between each other, and little between runs: higher is better in "hr@10", lower in
    "rmse:x", and the run is better in both by `level + wobble`."""
    hardness_U = np.random.default_rng(users_seed).normal(0, 0.2, U)
    noise_U = np.random.default_rng((seed, 1)).normal(0, 0.01, U)
    value_U = 0.5 + level + wobble + hardness_U + noise_U - noise_U.mean()
    error = 1.0 - level - wobble
    errors_U = error * (1 + np.random.default_rng(users_seed).normal(0, 0.2, U)) + noise_U - noise_U.mean()
    return {
        "hr@10": mean_over_users(np.arange(U), value_U),
        "rmse:x": rmse(labelled(np.arange(U), errors_U, np.zeros(U))),
    }


def measured(gap: float, num_seeds: int = 3, wobble: float = 0.002) -> Statistics:
    """`a` is better than `b` by `gap`; seeds scatter by about `wobble`."""
    found = {}
    for n in range(num_seeds):
        for side, (name, level) in enumerate((("a", gap), ("b", 0.0))):
            shift = wobble * (n - (num_seeds - 1) / 2)
            found[name, n] = hits(10 * side + n, level, shift if side else -shift)
    return found


def claim(first: str = "a", second: str = "b", metric: str = "hr@10", margin: float | None = None) -> Claim:
    return Claim(first=first, second=second, metric=metric, margin=margin)


def outcome(statistics: Statistics, *asked: Claim, judge: Judge = judge) -> list[str]:
    return [verdict.outcome for verdict in judge(asked, statistics)]


EXPECTED = {  # by sign of the gap
    1: ["reproduced", "not reproduced", "reproduced", "not reproduced"],
    0: ["too close to tell"] * 4,
    -1: ["not reproduced", "reproduced", "not reproduced", "reproduced"],
}
EITHER_WAY = (claim(), claim("b", "a"), claim(metric="rmse:x"), claim("b", "a", "rmse:x"))


def check_planted(judge: Judge, cases: Sequence[tuple[int, float]]) -> None:
    met: Counter[int] = Counter({1: 0, 0: 0, -1: 0})
    for sign, size in cases:
        assert outcome(measured(sign * size), *EITHER_WAY, judge=judge) == EXPECTED[sign], (sign, size)
        met[sign] += 1
    assert_not_vacuous({str(sign): count for sign, count in met.items()})


CASES = [(1, 0.05), (1, 0.02), (0, 0.0), (-1, 0.02), (-1, 0.05)]


def test_a_planted_difference_is_found_and_equal_models_are_too_close_to_tell() -> None:
    check_planted(judge, CASES)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(
            lambda asked, found: tuple(
                ClaimVerdict(
                    claim="", outcome="reproduced" if v.why.startswith("+") else "not reproduced", why=""
                )
                for v in judge(asked, found)
            ),
            id="sign of the difference alone",
        ),
        pytest.param(
            lambda asked, found: judge([claim(c.second, c.first, c.metric) for c in asked], found),
            id="sides swapped",
        ),
    ],
)
def test_a_broken_judge_is_caught(broken: Judge) -> None:
    assert_caught(check_planted, broken, CASES)


@settings(max_examples=12)
@given(st.floats(-0.2, 0.2), st.floats(0.005, 0.2))
def test_parity_follows_the_margin(gap: float, margin: float) -> None:
    """Users' noise is far below the room that is left to either side."""
    allowed = margin * 0.5  # b's value is about 0.5
    if abs(gap + allowed) < 0.02:
        return
    expected = "reproduced" if gap > -allowed else "not reproduced"
    assert outcome(measured(gap), claim(margin=margin)) == [expected]


def test_parity_across_the_margin_is_too_close() -> None:
    assert outcome(measured(-0.05), claim(margin=0.1)) == ["too close to tell"]


def runs_without_a_difference(trial: int, num_seeds: int, users: int = 41) -> Statistics:
    """Users agree on how good a run is, and runs scatter by training alone."""
    rng = np.random.default_rng((trial, num_seeds))
    level_N = rng.normal(0.5, 0.05, 2 * num_seeds)
    value_NU = level_N[:, None] + rng.normal(0, 0.01, (2 * num_seeds, users))
    names = [(name, seed) for name in "ab" for seed in range(num_seeds)]
    return {
        run: {"hr@10": mean_over_users(np.arange(users), value_U)}
        for run, value_U in zip(names, value_NU, strict=True)
    }


def share_of_false_findings(num_seeds: int, trials: int, *asked: Claim) -> float:
    found = [outcome(runs_without_a_difference(trial, num_seeds), *asked) for trial in range(trials)]
    return float(np.mean([its != ["too close to tell"] for its in found]))


def check_training_noise(num_seeds: int) -> None:
    """5 % are to be expected; of 120 trials, 12 % are as likely as 1 in 500."""
    assert share_of_false_findings(num_seeds, 120, claim()) < 0.12


@pytest.mark.parametrize("num_seeds", [2, 3])
def test_training_noise_is_not_taken_for_a_difference(
    num_seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_training_noise(num_seeds)
    runs = dict(runs_without_a_difference(0, num_seeds))
    runs |= {("a", n): raised(runs["a", n]["hr@10"], by=2.0) for n in range(num_seeds)}
    assert outcome(runs, claim()) == ["reproduced"]  # forty times what seeds scatter by
    monkeypatch.setattr(SeedScatter, "main_effect_D", lambda its, num_draws, rng: np.zeros(num_draws))
    assert share_of_false_findings(num_seeds, 30, claim()) > 0.5  # without the term
    assert_caught(check_training_noise, num_seeds)


def test_noise_is_pooled_over_all_variants_with_several_seeds() -> None:
    values = {"a": [0.1, 0.3], "b": [0.5, 0.5, 0.8], "c": [0.9]}
    runs = {
        (name, seed): {"hr@10": mean_over_users(np.arange(2), np.full(2, value))}
        for name, its in values.items()
        for seed, value in enumerate(its)
    }
    scatters = [significance._scatters([side])[0] for side in sides_of(runs, "hr@10", 100).values()]
    found = significance._pooled(scatters)
    assert found.mean_square == pytest.approx((0.02 + 0.06) / 3) and found.freedom == 3
    assert found.flips == pytest.approx(0), "users who are alike do not flip"
    assert sides_of(runs, "hr@5", 100) == {}


def raised(statistic: Statistic, by: float) -> dict[str, Statistic]:
    return {"hr@10": replace(statistic, under=lambda weight_DU: statistic.under(weight_DU) + by)}


def test_the_interval_is_that_of_a_t_test_where_users_are_alike() -> None:
    """Users who are all alike say nothing, so the bounds are those of Student's t over the seeds."""
    seeds = [[0.5, 0.52, 0.57], [0.4, 0.43, 0.41]]
    runs = {
        (name, n): {"hr@10": mean_over_users(np.arange(U), np.full(U, level))}
        for name, side in zip("ab", seeds, strict=True)
        for n, level in enumerate(side)
    }
    joint = drawn(sides_of(runs, "hr@10", 20_000))
    [told] = tell_apart([(joint["a"], joint["b"])])
    found, half = told.alone, 2.776 * np.sqrt(sum(np.var(side, ddof=1) / 3 for side in seeds))
    assert [found.low, found.high] == pytest.approx([found.value - half, found.value + half], rel=0.05)


def test_training_noise_widens_parity_too() -> None:
    """As good as the other on average, with a margin that users alone would stay within."""
    assert outcome(measured(0.0, wobble=0.002), claim(margin=0.05)) == ["reproduced"]
    assert outcome(measured(0.0, wobble=0.05), claim(margin=0.05)) == ["too close to tell"]


def test_one_seed_settles_nothing() -> None:
    found = judge([claim(), claim(margin=0.1)], measured(0.05, num_seeds=1))
    assert [verdict.outcome for verdict in found] == ["too close to tell"] * 2
    assert all("one seed" in verdict.why for verdict in found)


def test_many_claims_are_corrected_for() -> None:
    """One p-value of 0.02 or so, alone, said twenty times, and among twenty that are none in metrics of their own."""
    rng = np.random.default_rng(5)
    base_U = rng.normal(0, 1, U)
    shifted_U = rng.normal(0, 1, U)
    shifted_U += 2.35 / np.sqrt(U) * shifted_U.std() - shifted_U.mean()
    found: dict[tuple[str, int], dict[str, Statistic]] = {
        ("a", seed): {"auc:x": mean_over_users(np.arange(U), base_U + shifted_U)} for seed in (0, 1)
    }
    found |= {("b", seed): {"auc:x": mean_over_users(np.arange(U), base_U)} for seed in (0, 1)}
    names = [f"auc:x{n}" for n in range(20)]
    for (variant, _), its in found.items():
        if variant == "a":
            its |= {name: mean_over_users(np.arange(U), base_U + rng.normal(0, 1, U)) for name in names}
        else:
            its |= dict.fromkeys(names, its["auc:x"])
    assert {verdict.outcome for verdict in judge([claim(metric="auc:x")] * 20, found)} == {"reproduced"}
    among = judge([claim(metric=name) for name in ("auc:x", *names)], found)
    assert {verdict.outcome for verdict in among} == {"too close to tell"}


def test_what_was_not_measured_is_said() -> None:
    found = measured(0.05)
    asked = (claim("a", "c"), claim(metric="auc:y"), claim())
    assert outcome(found, *asked) == ["not measured", "not measured", "reproduced"]


def test_one_line_says_what_became_of_all_claims() -> None:
    found = judge((claim(), claim("b", "a"), claim("a", "c")), measured(0.05))
    assert answer(found) == "reproduced in 1 of 3 claims, not in 1, 0 too close to tell, 1 not measured"


def repeated(*value_N: float, bar: float = 0.0) -> Repeated:
    return Repeated(
        claim="", value_N=np.array(value_N, dtype=np.float64), bar=bar, unit="round", words="so it was"
    )


def test_runs_without_users_are_tested_by_their_spread() -> None:
    """Critical values of Student's t, two-sided at 5 %: 12.706 with one degree of freedom, 2.776 with four."""
    for critical, value_N in ((12.706, [0.0, 2.0]), (2.776, [3.0, 5.0, 4.0, 6.0, 2.0])):
        found, error = t_test(np.array(value_N)), np.std(value_N, ddof=1) / np.sqrt(len(value_N))
        half = critical * error
        assert [found.low, found.high] == pytest.approx([found.value - half, found.value + half], rel=0.001)
        above, below = (t_test(np.array(value_N), found.value - part * half).p for part in (1.01, 0.99))
        assert above < 0.05 < below
    assert t_test(np.array([1.0, 1.0]), 1.0).p == 1.0


@pytest.mark.parametrize("num_tests", [1, 2, 7])
def test_interval_and_p_of_repeated_runs_agree(num_tests: int) -> None:
    """The bar leaves the interval where p falls below 5 %, however many are told together."""
    value_N = np.array([3.0, 5.0, 4.0, 6.0])
    alone = t_test(value_N, num_tests=num_tests)
    for bound in (alone.low, alone.high):
        for step in (-1e-6, 1e-6):
            found = t_test(value_N, bound + step, num_tests)
            assert (found.p < 0.05) != (found.low <= bound + step <= found.high)


def test_repeated_runs_lie_above_or_below_the_bar_or_are_too_close() -> None:
    """The first would do alone; beside nineteen that say nothing it is what chance brings."""
    strong, weak, against = (repeated(40, 42, 41, bar=bar) for bar in (31.3, 40.6, 60.0))
    found = judge_repeated([strong, weak, against])
    assert [v.outcome for v in found] == ["reproduced", "too close to tell", "not reproduced"]
    assert found[0].why.startswith("+41.00 (+36.58 to +45.42), p = 0.0") and found[0].why.endswith(
        "; so it was"
    )
    nothing = repeated(-1, 0, 1)
    assert judge_repeated([strong, *[nothing] * 19])[0].outcome == "too close to tell"


def test_one_run_settles_nothing() -> None:
    [verdict] = judge_repeated([repeated(99.0)])
    assert verdict.outcome == "too close to tell"
    assert verdict.why == "so it was; but one round does not tell noise from a difference"


def test_a_margin_must_leave_room() -> None:
    with pytest.raises(ValueError, match="margin = 0"):
        claim(margin=0.0)


def turned(statistics: Statistics) -> Statistics:
    """Every metric negated, and its direction turned: nobody is better or worse for it."""

    def other(statistic: Statistic) -> Statistic:
        better: Better = "lower" if statistic.better == "higher" else "higher"
        return replace(statistic, under=lambda weight_DU: -statistic.under(weight_DU), better=better)

    return {
        run: {name: other(statistic) for name, statistic in its.items()} for run, its in statistics.items()
    }


def check_directions(judge: Judge) -> None:
    """Orders and parities of both metrics, inside the margin, across it and beyond: at 5 and 50 % of 0.5 or 1.0."""
    met: Counter[str] = Counter({"reproduced": 0, "not reproduced": 0, "too close to tell": 0})
    for gap in (-0.1, -0.05, -0.025, 0.0, 0.025, 0.1):
        found = measured(gap)
        for metric, margin in itertools.product(("hr@10", "rmse:x"), (None, 0.05, 0.5)):
            asked = (claim(metric=metric, margin=margin), claim("b", "a", metric, margin))
            outcomes = outcome(found, *asked, judge=judge)
            assert outcomes == outcome(turned(found), *asked, judge=judge), (gap, metric, margin)
            met.update(outcomes if margin else [])
    assert_not_vacuous(met)


class AsIfHigher(claims._Tested):
    """A parity that takes a lower error for a loss."""

    @property
    def gain(self) -> tuple[float, float]:
        return self.told.alone.low, self.told.alone.high


class EndsAsTheyCome(claims._Tested):
    @property
    def gain(self) -> tuple[float, float]:
        return self.sign * self.told.alone.low, self.sign * self.told.alone.high


def test_verdicts_do_not_change_when_a_metric_is_negated_and_its_direction_turned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_directions(judge)
    for broken in (AsIfHigher, EndsAsTheyCome):
        monkeypatch.setattr(claims, "_Tested", broken)
        assert_caught(check_directions, judge)
