"""Effects of items and users, against plain loops over events, and on a world whose effects are known."""

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.counts import effects, histories
from plait.counts.effects import EffectScale, ItemTotals, LogitEffects, NumberEffects, Shares

NUM_ITEMS = 5
ITEM_DAMPING, USER_DAMPING, DECAY = 3.0, 2.0, 0.7


class Rated:
    """Training events of users, and for each of them a history: those events, then one that was not counted."""

    def __init__(self, scale: EffectScale, seed: int) -> None:
        rng = np.random.default_rng(seed)
        length_U = rng.integers(0, 7, size=11)
        length_U[3] = 0
        self.start_U1 = np.cumsum([0, *length_U])
        self.item_E = rng.integers(0, NUM_ITEMS, int(length_U.sum()))
        self.y_EK = drawn(scale, len(self.item_E), rng)
        self.start_H1 = self.start_U1 + np.arange(len(self.start_U1))
        later_U = self.start_U1[1:]
        self.item_S = np.insert(self.item_E, later_U, rng.integers(0, NUM_ITEMS, len(length_U)))
        self.y_SK = np.insert(self.y_EK, later_U, drawn(scale, len(length_U), rng), axis=0)
        self.is_counted_S = np.insert(np.ones(len(self.item_E), dtype=bool), later_U, False)
        self.item_H = rng.integers(0, NUM_ITEMS + 1, len(length_U))


def drawn(scale: EffectScale, count: int, rng: np.random.Generator) -> np.ndarray:
    match scale:
        case NumberEffects():
            return rng.integers(1, 6, (count, 1)).astype(float)
        case LogitEffects():
            return (rng.integers(0, 4, (count, 1)) > np.arange(3)).astype(
                float
            )  # three steps between four levels
        case Shares():
            return np.eye(3)[rng.integers(0, 3, count)]
    raise AssertionError(scale)


def mean_of(scale: EffectScale, y_EK: np.ndarray) -> np.ndarray:
    count = len(y_EK)
    match scale:
        case NumberEffects():
            return np.array([sum(y) / count for y in y_EK.T])
        case LogitEffects():
            return np.array([(sum(y) + 0.5) / (count + 1) for y in y_EK.T])
        case Shares():
            return np.array([(sum(y) + 0.5) / (count + 0.5 * y_EK.shape[1]) for y in y_EK.T])
    raise AssertionError(scale)


def plain(scale: EffectScale, rated: Rated, history: int, met: dict[str, int]) -> np.ndarray:
    """The prediction for one history and one item, by loops alone."""
    mean_K = mean_of(scale, rated.y_EK)

    def item_mean(item: int, without: np.ndarray | None) -> np.ndarray:
        total_K, count = ITEM_DAMPING * mean_K, ITEM_DAMPING
        for other, y_K in zip(rated.item_E, rated.y_EK, strict=True):
            if other == item != 0:
                total_K, count = total_K + y_K, count + 1
        if without is not None and item != 0:
            total_K, count = total_K - without, count - 1
        return total_K / count

    base_K = item_mean(rated.item_H[history], None)
    rows = range(rated.start_H1[history], rated.start_H1[history + 1])
    observed, expected, information, weights = 0.0, 0.0, 0.0, 0.0
    for back, row in enumerate(reversed(rows)):
        own = rated.y_SK[row] if rated.is_counted_S[row] else None
        usual_K, weight = item_mean(rated.item_S[row], own), DECAY**back
        observed, expected = observed + weight * rated.y_SK[row], expected + weight * usual_K
        information, weights = information + weight * (usual_K * (1 - usual_K)).sum(), weights + weight
        met["counted" if own is not None else "not counted"] += 1
    match scale:
        case NumberEffects():
            return base_K + (observed - expected) / (weights + USER_DAMPING)
        case LogitEffects():
            damping = USER_DAMPING * (mean_K * (1 - mean_K)).sum()
            logit_K = np.log(base_K / (1 - base_K)) + np.sum(observed - expected) / (information + damping)
            return 1 / (1 + np.exp(-logit_K))
        case Shares():
            found = base_K * (observed + USER_DAMPING * mean_K) / (expected + USER_DAMPING * mean_K)
            return found / found.sum()
    raise AssertionError(scale)


def check_effects(scale: EffectScale, seed: int) -> None:
    rated, met = Rated(scale, seed), {"counted": 0, "not counted": 0}
    totals = ItemTotals.of(scale, rated.y_EK, rated.item_E, NUM_ITEMS)
    expected_SK = totals.expected(rated.item_S, rated.y_SK, rated.is_counted_S, ITEM_DAMPING)
    weight_S = histories.recent(rated.start_H1, DECAY, last=len(rated.item_S))
    sum_HC = histories.sums(scale.to_sum(rated.y_SK, expected_SK), rated.start_H1, weight_S)
    found_HK = scale.moved(totals.means(rated.item_H, ITEM_DAMPING), sum_HC, USER_DAMPING, totals.mean_K)
    for history in range(len(rated.item_H)):
        np.testing.assert_allclose(found_HK[history], plain(scale, rated, history, met), rtol=1e-10)
    assert_not_vacuous(met, above=3)


SCALES = [
    pytest.param(scale, id=type(scale).__name__) for scale in (NumberEffects(), LogitEffects(), Shares())
]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", range(3))
def test_effects_are_those_of_a_plain_loop(scale, seed):
    check_effects(scale, seed)


@pytest.mark.parametrize("scale", SCALES)
def test_an_item_mean_with_its_own_label_is_caught(scale, monkeypatch):
    monkeypatch.setattr(
        ItemTotals, "expected", lambda self, item_S, y_SK, is_counted_S, damping: self.means(item_S, damping)
    )
    assert_caught(check_effects, scale, 0)


def test_levels_stay_in_order_whatever_a_user_adds():
    scale, rated = LogitEffects(), Rated(LogitEffects(), 0)
    totals = ItemTotals.of(scale, rated.y_EK, rated.item_E, NUM_ITEMS)
    base_MK = totals.means(rated.item_H, damping=0.5)
    for far in (-60.0, -1.0, 1.0, 60.0):
        sum_MC = np.tile([far, 1.0], (len(base_MK), 1))
        moved_MK = scale.moved(base_MK, sum_MC, 1.0, totals.mean_K)
        assert (np.diff(moved_MK, axis=1) <= 0).all() and ((moved_MK >= 0) & (moved_MK <= 1)).all()


@pytest.mark.parametrize("scale", SCALES)
def test_one_class_and_no_event_give_no_certainty(scale):
    for count in (0, 4):
        y_EK = np.tile(drawn(scale, 1, np.random.default_rng(0)), (count, 1))
        totals = ItemTotals.of(scale, y_EK, np.ones(count, np.int64), NUM_ITEMS)
        mean_MK = totals.means(np.array([0, 1, 2]), damping=1.0)
        assert np.isfinite(mean_MK).all()
        if not isinstance(scale, NumberEffects):
            assert ((mean_MK > 0) & (mean_MK < 1)).all()
            y_MK = 1 - y_EK[:1] if count else drawn(scale, 1, np.random.default_rng(0))
            if isinstance(scale, Shares):
                y_MK = np.eye(3)[[1]]
            assert np.isfinite(scale.losses(mean_MK[:1], y_MK)).all()


@pytest.mark.parametrize("scale", SCALES)
def test_the_truth_has_the_least_loss(scale):
    rng = np.random.default_rng(1)
    y_EK = drawn(scale, 4000, rng)
    truth_K = y_EK.mean(axis=0)
    least = scale.losses(np.tile(truth_K, (len(y_EK), 1)), y_EK).mean()
    for away in (0.9, 1.1):
        wrong_K = truth_K * (away if not isinstance(scale, Shares) else np.array([away, 1, 2 - away]))
        assert scale.losses(np.tile(wrong_K, (len(y_EK), 1)), y_EK).mean() > least


def test_a_user_who_gives_a_star_less_is_met():
    """Items of 1 to 5 stars, users who shift them: the damped residuals find both."""
    rng = np.random.default_rng(2)
    quality_V, shift_U = rng.normal(3, 1, 41), rng.normal(0, 1, 60)
    user_E, item_E = np.repeat(np.arange(60), 40), rng.integers(1, 41, 2400)
    y_EK = (quality_V[item_E] + shift_U[user_E])[:, None]
    totals = effects.ItemTotals.of(NumberEffects(), y_EK, item_E, 40)
    expected = totals.expected(item_E, y_EK, np.ones(2400, dtype=bool), 1.0)
    start_U1 = np.arange(0, 2401, 40)
    sum_UC = histories.sums(NumberEffects().to_sum(y_EK, expected), start_U1, np.ones(2400))
    found = NumberEffects().moved(np.zeros((60, 1)), sum_UC, 1.0, totals.mean_K)[:, 0]
    assert np.corrcoef(found, shift_U)[0, 1] > 0.97
