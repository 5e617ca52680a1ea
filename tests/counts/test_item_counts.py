"""Tables of items, each against plain loops over the events of one user at a time."""

import numpy as np
import pytest
from scipy import sparse
from tiny import assert_caught, assert_not_vacuous

from plait.counts import histories, items

NUM_ITEMS = 7  # few, so that pairs come again
WINDOW = 3


class Events:
    """Random events of users, some of them without any; item 7 never occurs, the unknown one does."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        length_U = rng.integers(0, 9, size=13)
        length_U[5] = 0
        self.start_U1 = np.cumsum([0, *length_U])
        self.item_E = rng.integers(0, NUM_ITEMS, int(length_U.sum()))
        self.time_s_E = rng.integers(0, 1000, len(self.item_E))
        request_E = np.cumsum(rng.random(len(self.item_E)) < 0.5)
        self.causal_E = np.arange(len(self.item_E))
        self.blind_E = np.array(
            [
                next(
                    row
                    for row in range(len(self.item_E))
                    if request_E[row] == request_E[event] and self.user_of(row) == self.user_of(event)
                )
                for event in range(len(self.item_E))
            ]
        )

    def user_of(self, row: int) -> int:
        return int(np.searchsorted(self.start_U1, row, side="right")) - 1

    def of_users(self) -> list[list[int]]:
        return [self.item_E[a:b].tolist() for a, b in zip(self.start_U1[:-1], self.start_U1[1:], strict=True)]


@pytest.fixture(params=range(3), ids="seed {}".format)
def events(request) -> Events:
    return Events(request.param)


def check_followers(events: Events, history_end_E: np.ndarray) -> None:
    table = np.zeros((NUM_ITEMS + 1, NUM_ITEMS + 1))
    met = {"pairs": 0, "users apart": 0, "unknown": 0}
    for event, item in enumerate(events.item_E):
        for distance in range(1, WINDOW + 1):
            before = history_end_E[event] - distance
            if before < 0:
                continue
            if events.user_of(before) != events.user_of(event):
                met["users apart"] += 1
            elif item == 0 or events.item_E[before] == 0:
                met["unknown"] += 1
            else:
                table[events.item_E[before], item] += 1 / distance
                met["pairs"] += 1
    found = items.followers(events.item_E, events.start_U1, history_end_E, NUM_ITEMS, WINDOW)
    np.testing.assert_allclose(found.toarray(), table, rtol=1e-12)
    sum_V1 = table.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(items.shares(found).toarray(), table / np.where(sum_V1, sum_V1, 1), rtol=1e-12)
    assert_not_vacuous(met)


def test_followers_are_those_of_a_plain_loop(events):
    check_followers(events, events.causal_E)


def test_followers_of_what_is_blind_to_its_request_are_those_of_a_plain_loop(events):
    assert (events.blind_E < events.causal_E).any()
    check_followers(events, events.blind_E)


def test_rules_across_users_are_caught(events, monkeypatch):
    right = items.followers

    def of_one_user(item_E, start_U1, *others):
        return right(item_E, np.array([0, len(item_E)]), *others)

    monkeypatch.setattr(items, "followers", of_one_user)
    assert_caught(check_followers, events, events.causal_E)


def test_popularity_is_that_of_a_plain_loop(events):
    expected, recent = np.zeros(NUM_ITEMS + 1), np.zeros(NUM_ITEMS + 1)
    newest = max(events.time_s_E)
    for item, time_s in zip(events.item_E, events.time_s_E, strict=True):
        if item:
            expected[item] += 1
            recent[item] += 2.0 ** -((newest - time_s) / 100)
    assert expected[NUM_ITEMS] == 0 and (events.item_E == 0).any()
    np.testing.assert_array_equal(items.popularity(events.item_E, NUM_ITEMS), expected)
    found = items.recent_popularity(events.item_E, events.time_s_E, NUM_ITEMS, half_life_s=100.0)
    np.testing.assert_allclose(found, recent, rtol=1e-12)


def check_weighted_rows(events: Events) -> None:
    """What a user's last items say of every item."""
    table = items.followers(events.item_E, events.start_U1, events.causal_E, NUM_ITEMS, WINDOW)
    weight_S = histories.recent(events.start_U1, decay=0.5, last=4)
    rows = histories.rows_of(events.item_E, events.start_U1, NUM_ITEMS, weight_S)
    dense, met = table.toarray(), {"cut away": 0, "weighted": 0}
    for user, its in enumerate(events.of_users()):
        expected = np.zeros(NUM_ITEMS + 1)
        for back, item in enumerate(reversed(its)):
            if back < 4:
                expected += 0.5**back * dense[item]
            met["cut away" if back >= 4 else "weighted"] += 1
        for of in (table, dense):
            np.testing.assert_allclose(items.scores(rows, of)[user], expected, rtol=1e-12)
    assert_not_vacuous(met)


def test_scores_are_those_of_a_plain_loop(events):
    check_weighted_rows(events)


def test_a_history_read_from_its_old_end_is_caught(events, monkeypatch):
    right = histories.steps_back
    monkeypatch.setattr(
        histories,
        "steps_back",
        lambda start_H1: (
            np.arange(start_H1[-1]) - np.repeat(start_H1[:-1], np.diff(start_H1)) + 0 * right(start_H1)
        ),
    )
    assert_caught(check_weighted_rows, events)


def met_by_users(events: Events) -> np.ndarray:
    met_UV = np.zeros((len(events.start_U1) - 1, NUM_ITEMS + 1))
    for user, its in enumerate(events.of_users()):
        met_UV[user, [item for item in its if item]] = 1
    return met_UV


def together(events: Events) -> sparse.csr_array:
    return items.together(histories.items_met(events.item_E, events.start_U1, NUM_ITEMS))


def check_neighbours(events: Events, keep: int) -> None:
    met_UV, kept = met_by_users(events), {"kept": 0, "left out": 0}
    found = items.neighbours(together(events), keep, damping=2.0).toarray()
    for item in range(NUM_ITEMS + 1):
        similar = {
            other: (met_UV[:, item] * met_UV[:, other]).sum()
            / (np.sqrt(met_UV[:, item].sum() * met_UV[:, other].sum()) + 2.0)
            for other in range(1, NUM_ITEMS + 1)
            if other != item
        }
        least = sorted(similar.values())[-keep]
        for other, near in similar.items():
            is_kept = near >= least and near > 0
            assert found[item, other] == pytest.approx(near if is_kept else 0.0)
            kept["kept" if is_kept else "left out"] += 1
    assert_not_vacuous(kept)


@pytest.mark.parametrize("keep", [1, 3])
def test_neighbours_are_those_of_a_plain_loop(events, keep):
    check_neighbours(events, keep)


def test_neighbours_of_which_none_is_left_out_are_caught(events, monkeypatch):
    monkeypatch.setattr(np, "partition", lambda near, last: np.zeros_like(near))
    assert_caught(check_neighbours, events, 3)


def test_ease_is_a_ridge_regression_of_each_item_on_the_others(events):
    met_UV = met_by_users(events)
    found = items.ease(together(events), l2=3.0)
    for item in range(1, NUM_ITEMS + 1):
        others = [other for other in range(1, NUM_ITEMS + 1) if other != item]
        gram = met_UV[:, others].T @ met_UV[:, others] + 3.0 * np.eye(len(others))
        expected = np.linalg.solve(gram, met_UV[:, others].T @ met_UV[:, item])
        np.testing.assert_allclose(found[others, item], expected, atol=1e-12)
    assert not found[0].any() and not found[:, 0].any() and not np.diag(found).any()
    assert np.abs(found).max() > 0.05


def test_what_has_no_count_stands_below_in_order_of_popularity():
    popularity_V1 = np.array([0.0, 3, 9, 9, 1])
    score_HV1 = np.array([[0.0, 0, 0, 0, 0.01], [0.0, 0, 0, 0, 0]])
    found = items.backed(score_HV1, popularity_V1)
    assert np.argsort(-found[0], kind="stable").tolist() == [4, 2, 3, 1, 0]
    assert np.argsort(-found[1], kind="stable").tolist() == [2, 3, 1, 4, 0]
    assert found[0, 2] == found[0, 3] < 0


def test_nothing_to_count_gives_empty_tables():
    nothing, start = np.zeros(0, np.int64), np.zeros(3, np.int64)
    assert items.popularity(nothing, 2).tolist() == [0, 0, 0]
    assert items.recent_popularity(nothing, nothing, 2, 1.0).tolist() == [0, 0, 0]
    assert items.followers(nothing, start, nothing, 2, 5).nnz == 0
    met = histories.items_met(nothing, start, 2)
    assert isinstance(met, sparse.csr_array) and items.neighbours(items.together(met), 3, 1.0).nnz == 0
    assert not items.ease(items.together(met), 1.0).any()
