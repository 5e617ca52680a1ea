"""Targets that must not see their own request, targets of training, and several targets of one history at once."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.data import Dataset, LeaveOneOut, Temporal, prepare
from plait.data.manifest import Split

NUM_USERS = 19


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    """Leave-one-out: what is held out has events of its request before it, but for a cut in time."""
    return made(tmp_path_factory.mktemp("requests") / "data", LeaveOneOut())


@pytest.fixture(scope="module")
def temporal(tmp_path_factory) -> Dataset:
    return made(tmp_path_factory.mktemp("requests") / "data", Temporal(validation=0.2, test=0.2))


def made(out: Path, split: Split) -> Dataset:
    """Requests of one to four events; a few users with all their events in one."""
    rng = np.random.default_rng(2)
    rows = []
    for user in range(NUM_USERS):
        time = 1_000
        for _ in range(1 if user % 6 == 5 else int(rng.integers(3, 8))):
            time += int(rng.integers(1, 100)) * 10
            rows += [(f"u{user:02d}", int(item), time) for item in rng.integers(0, 30, rng.integers(1, 5))]
    log = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return prepare(
        log,
        user="user",
        item="item",
        time="time",
        actions=[],
        out=out,
        min_user_events=1,
        min_item_events=1,
        split=split,
    )


def requests_of(dataset: Dataset, user: int) -> list[int]:
    return dataset.history(int(user)).request_E.tolist()


def first_row(dataset: Dataset, user: int) -> int:
    return int(dataset._start_U1[user])


def check_blind(dataset: Dataset) -> None:
    met = {"as before": 0, "shorter": 0, "left out": 0}
    for part in ("validation", "test"):
        causal, blind = dataset.targets(part), dataset.targets(part, "blind")
        found = dict(zip(blind.event_Q.tolist(), blind.history_end_Q.tolist(), strict=True))
        for user, event, end in zip(causal.user_Q, causal.event_Q, causal.history_end_Q, strict=True):
            first = first_row(dataset, user)
            requests = requests_of(dataset, user)
            own = first + requests.index(requests[event - first])
            expected = min(end, own)
            assert found.get(int(event)) == (expected if expected > first else None)
            met["left out" if expected == first else "shorter" if expected < end else "as before"] += 1
    assert_not_vacuous(met)


def test_a_blind_target_sees_nothing_of_its_own_request(data):
    check_blind(data)


def check_before_requests(dataset: Dataset) -> None:
    """As blind targets, but none is left out."""
    causal = dataset.targets("test")
    before = dataset.before_requests(causal)
    assert before.event_Q.tolist() == causal.event_Q.tolist()
    met = {"shorter": 0, "all that there is": 0}
    for user, event, end, found in zip(
        causal.user_Q, causal.event_Q, causal.history_end_Q, before.history_end_Q, strict=True
    ):
        first, requests = first_row(dataset, user), requests_of(dataset, user)
        own = first + requests.index(requests[event - first])
        assert found == (end if own == first else min(own, end))
        met["all that there is" if own == first else "shorter"] += own == first or own < end
    assert_not_vacuous(met)


def test_targets_of_candidates_end_before_their_request(data):
    check_before_requests(data)


def test_windows_hold_the_history_and_the_last_request(data):
    users_U = data.train_users()
    length_U = data.last_request_lengths(data.whole_training(users_U))
    for user, length in zip(users_U.tolist(), length_U.tolist(), strict=True):
        requests = requests_of(data, user)[: int(data._validation_U[user]) - first_row(data, user)]
        assert length == requests.count(requests[-1])
    batch = data.train_batch(users_U, 3 + length_U, lead=0)
    available_U = data._validation_U[users_U] - data._start_U1[users_U]
    assert batch.num_events_U.tolist() == np.minimum(3 + length_U, available_U).tolist()
    assert len(set(length_U.tolist())) > 2


def check_parts(data: Dataset, num_requests: int, requests_per_part: int) -> None:
    """Against the requests of each user, one by one from the last."""
    expected = []
    for user in data.train_users().tolist():
        first = first_row(data, user)
        requests = requests_of(data, user)[: int(data._validation_U[user]) - first]
        ends = [
            at + 1
            for at in range(len(requests))
            if at + 1 == len(requests) or requests[at] != requests[at + 1]
        ]
        last = ends[::-1][:num_requests]
        expected += [(user, first + end) for end in last[::requests_per_part][::-1]]
    of = data.training_parts(num_requests, requests_per_part)
    assert list(zip(of.user_B.tolist(), of.end_B.tolist(), strict=True)) == expected
    assert len(expected) > len(data.train_users()) or num_requests == 1


@pytest.mark.parametrize(("num_requests", "per_part"), [(1, 1), (100, 1), (100, 2), (3, 2)])
def test_parts_end_with_every_so_many_th_request_from_the_last(data, num_requests, per_part):
    check_parts(data, num_requests, per_part)


def test_a_target_that_sees_its_request_is_caught(data, monkeypatch):
    monkeypatch.setattr(Dataset, "_ends_before_own_request", lambda self, targets: targets.history_end_Q)
    assert_caught(check_blind, data)
    assert_caught(check_before_requests, data)


@pytest.mark.parametrize("num_requests", [1, 3])
def test_targets_of_training_are_the_last_requests(data, num_requests):
    found = data.train_targets(num_requests)
    expected = []
    for user in data.train_users().tolist():
        first, end = first_row(data, user), int(data._validation_U[user])
        requests = requests_of(data, user)[: end - first]
        for request in sorted(set(requests))[-num_requests:]:
            begin = requests.index(request)
            rows = [n for n, r in enumerate(requests) if r == request]
            expected += [(user, first + n, first + begin) for n in rows if begin > 0]
    listed = zip(found.user_Q.tolist(), found.event_Q.tolist(), found.history_end_Q.tolist(), strict=True)
    assert list(listed) == expected and len(expected) > NUM_USERS


@pytest.mark.parametrize("max_events", [2, 100])
def test_targets_of_one_history_share_it(temporal, max_events):
    data = temporal
    targets = data.targets("test")[2:]
    batch, count_U = data.candidate_batch(targets, max_events, lead=1)
    assert count_U.sum() == len(targets) and (count_U > 1).any()
    at = 0
    for user, count in enumerate(count_U.tolist()):
        for nth in range(count):
            alone = data.target_batch(targets[np.array([at])], max_events, lead=1)
            rows = slice(batch.start_U1[user], batch.start_U1[user + 1] - count)
            mine = batch.start_U1[user + 1] - count + nth
            assert [*batch.item_E[rows].tolist(), batch.item_E[mine]] == alone.item_E.tolist()
            assert batch.time_s_E[mine] == alone.time_s_E[-1] and batch.lead_U[user] == alone.lead_U[0]
            at += 1
    assert at == len(targets)
