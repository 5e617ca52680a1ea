import inspect

import numpy as np
import polars as pl
import pytest

from plait.data import Dataset, LeaveOneOut, Temporal, prepare, windows
from plait.schema import UNKNOWN_ITEM, Regression

NUM_USERS, NUM_ITEMS = 23, 11
SPLITS = [LeaveOneOut(), Temporal(1_000_000_500, 1_000_000_700), Temporal(validation=0.3, test=0.1)]


def random_log(seed=0):
    """Users of 1 to 37 events, many of them tied; each event's rating is its rank in the log, to be told apart."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(NUM_USERS), rng.integers(1, 38, NUM_USERS))
    rows = len(user)
    return pl.DataFrame(
        {
            "user": [f"user {number:02}" for number in user],
            "item": rng.integers(0, NUM_ITEMS, rows) * 5,
            "time": 1_000_000_000 + rng.integers(0, 90, rows) * 11,
            "rank": np.arange(rows, dtype=np.float64),
        }
    )


@pytest.fixture(scope="module", params=SPLITS, ids=["leave_one_out", "cuts", "shares"])
def data(request, tmp_path_factory):
    return prepare(
        random_log(),
        user="user",
        item="item",
        time="time",
        actions={"rank": Regression(0, 10_000)},
        out=tmp_path_factory.mktemp("batches") / "out",
        min_user_events=1,
        min_item_events=1,
        split=request.param,
    )


def users_of(data):
    """Every user's rows, and where the validation and the test segment begin, the plain way."""
    start, time_s = np.load(data.folder / "start.npy"), np.load(data.folder / "time_s.npy")
    for user in range(data.num_users):
        rows = list(range(start[user], start[user + 1]))
        if isinstance(data.manifest.split, LeaveOneOut):
            yield rows, max(len(rows) - 2, 0), max(len(rows) - 1, 0)
        else:
            cuts = data.manifest.split.cut_validation_s, data.manifest.split.cut_test_s
            yield rows, *(sum(time_s[row] < cut for row in rows) for cut in cuts)


def events_of(batch):
    """Each sequence's events, told apart by their action."""
    return [part[:, 0].tolist() for part in np.split(batch.action_EA, batch.start_U1[1:-1])]


def test_segments_and_queries(data):
    users = list(users_of(data))
    for part, segment in (("validation", lambda v, t, n: (v, t)), ("test", lambda v, t, n: (t, n))):
        expected = []
        for user, (rows, validation, test) in enumerate(users):
            begin, end = segment(validation, test, len(rows))
            if begin > 0:
                expected += [(user, rows[at], rows[begin]) for at in range(begin, end)]
        targets = data.targets(part)
        found = np.stack([targets.user_Q, targets.event_Q, targets.history_end_Q], axis=1)
        assert found.tolist() == [list(query) for query in expected]
        counts = data.manifest.counts
        assert len(targets) == getattr(counts, f"{part}_queries") > NUM_USERS // 2
    assert data.train_users().tolist() == [u for u, (_, validation, _) in enumerate(users) if validation >= 2]
    assert data.manifest.counts.train_events == sum(validation for _, validation, _ in users)


def test_every_event_is_in_one_segment_and_no_target_sees_a_target(data):
    validation, test = data.targets("validation"), data.targets("test")
    queried = np.concatenate([validation.event_Q, test.event_Q])
    counts = data.manifest.counts
    assert len(np.unique(queried)) == len(queried)
    skipped = counts.validation_without_history + counts.test_without_history
    assert counts.train_events + len(queried) + skipped == counts.events
    for targets in (validation, test):
        assert (targets.history_end_Q <= targets.event_Q).all()
        first = np.unique(targets.history_end_Q)
        assert np.isin(first, targets.event_Q).all()  # history ends exactly where the first candidate stands


def test_shares_become_cuts_of_that_share(tmp_path):
    options = {"user": "user", "item": "item", "time": "time", "actions": {}, "min_user_events": 1}
    data = prepare(random_log(), out=tmp_path / "out", split=Temporal(validation=0.3, test=0.1), **options)
    time_s, cuts = np.load(data.folder / "time_s.npy"), data.manifest.split
    assert (time_s >= cuts.cut_test_s).mean() == pytest.approx(0.1, abs=0.02)
    assert (time_s >= cuts.cut_validation_s).mean() == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize(("max_events", "lead"), [(1, 0), (5, 2), (7, 0), (7, 3), (1000, 5)])
def test_training_windows_are_the_last_training_events_and_their_lead(data, max_events, lead):
    users, ranks = list(users_of(data)), np.load(data.folder / "action.npy")[:, 0]
    chosen = data.train_users()[::-1].copy()
    batch = data.train_batch(chosen, max_events, lead)
    assert batch.user_U.tolist() == chosen.tolist()
    for user, events, lead_found in zip(chosen, events_of(batch), batch.lead_U, strict=True):
        rows, validation, _ = users[user]
        begin = max(validation - max_events, 0)
        expected = rows[max(begin - lead, 0) : validation]
        assert events == ranks[expected].tolist() and lead_found == begin - max(begin - lead, 0)
    lengths = data.train_lengths(max_events)
    assert (lengths == (batch.num_events_U - batch.lead_U)[::-1]).all()
    assert max_events == 1000 or (lengths == max_events).any()


def test_random_windows_are_runs_of_training_events_and_reach_both_ends(data):
    users, ranks = list(users_of(data)), np.load(data.folder / "action.npy")[:, 0]
    rng, max_events, lead = np.random.default_rng(0), 3, 2
    longest = int(np.argmax([validation for _, validation, _ in users]))
    rows, validation, _ = users[longest]
    training, begins = ranks[rows[:validation]].tolist(), set()
    for _ in range(300):
        batch = data.train_batch(np.array([longest]), max_events, lead, rng)
        events, before = events_of(batch)[0], int(batch.lead_U[0])
        begin = training.index(events[before])
        assert len(events) == before + max_events and before == min(begin, lead)
        assert training[begin - before : begin + max_events] == events
        begins.add(begin)
    assert begins == set(range(validation - max_events + 1)) and len(begins) > 5


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize(("max_events", "lead"), [(1, 0), (5, 2), (1000, 5)])
def test_targets_come_last_after_their_history(data, part, max_events, lead):
    ranks, start = np.load(data.folder / "action.npy")[:, 0], np.load(data.folder / "start.npy")
    targets = data.targets(part)
    targets = targets[np.random.default_rng(0).permutation(len(targets))[:37]]
    batch = data.target_batch(targets, max_events, lead)
    for query, (events, lead_found) in enumerate(zip(events_of(batch), batch.lead_U, strict=True)):
        history = ranks[start[targets.user_Q[query]] : targets.history_end_Q[query]].tolist()
        assert events == [*history[-(max_events + lead) :], ranks[targets.event_Q[query]]]
        assert len(events) - 1 - lead_found == min(len(history), max_events)
    items = np.load(data.folder / "item.npy")
    assert (batch.item_E[batch.start_U1[1:] - 1] == items[targets.event_Q]).all()


def test_batches_do_not_depend_on_batch_mates(data):
    users = data.train_users()[:7]
    together = events_of(data.train_batch(users, 5, 2))
    assert together == [events_of(data.train_batch(users[at : at + 1], 5, 2))[0] for at in range(7)]


def test_the_window_test_would_notice_a_shifted_window(data, monkeypatch):
    """A window that slips by one event, into the validation segment, fails the comparison above."""

    def slipped(start, end, max_events, lead, rng=None):
        return windows.windows(start + 1, end + 1, max_events, lead, rng)

    monkeypatch.setattr("plait.data.dataset.windows", slipped)
    with pytest.raises(AssertionError):
        test_training_windows_are_the_last_training_events_and_their_lead(data, 5, 2)


def test_seen_items_are_the_whole_history(data):
    targets = data.targets("test")[::3]
    start_Q1, item_S = data.seen_items(targets)
    items, start = np.load(data.folder / "item.npy"), np.load(data.folder / "start.npy")
    for query in range(len(targets)):
        expected = items[start[targets.user_Q[query]] : targets.history_end_Q[query]]
        assert (item_S[start_Q1[query] : start_Q1[query + 1]] == expected).all() and len(expected)
    assert len(start_Q1) == len(targets) + 1 and start_Q1[-1] == len(item_S)


def test_history_is_everything_of_one_user(data):
    user = data.user_index("user 05")
    batch, (rows, _, _) = data.history(user), list(users_of(data))[user]
    log = random_log().filter(pl.col("user") == "user 05").sort("time", maintain_order=True)
    assert batch.time_s_E.tolist() == log["time"].to_list() and len(rows) == len(log)
    assert batch.item_E.tolist() == data.item_index(log["item"]).tolist()
    assert events_of(batch) == [log["rank"].to_list()] and batch.lead_U.tolist() == [0]


def test_training_counts_of_items(data):
    items = np.load(data.folder / "item.npy")
    training = [item for rows, validation, _ in users_of(data) for item in items[rows[:validation]]]
    assert data.train_item_counts().tolist() == np.bincount(training, minlength=NUM_ITEMS + 1).tolist()
    assert data.train_item_counts()[UNKNOWN_ITEM] == 0


def test_training_labels_of_actions_are_counted(data, tmp_path):
    missing = pl.when(pl.col("rank") % 3 > 0).then("rank")
    log = random_log().with_columns(missing.alias("rank"), last=pl.lit(None, pl.Float64))
    kept = {name: getattr(data.manifest.settings, name) for name in ("min_user_events", "min_item_events")}
    names = {"user": "user", "item": "item", "time": "time", "split": data.manifest.split}
    actions = {"rank": Regression(0, 10_000), "last": Regression(0, 1)}
    with_gaps = prepare(log, **names, **kept, actions=actions, out=tmp_path / "out")
    value_EA = np.load(with_gaps.folder / "action.npy")
    training = [row for rows, validation, _ in users_of(with_gaps) for row in rows[:validation]]
    known = int((~np.isnan(value_EA[training, 0])).sum())
    assert 0 < known < len(training), "nothing missing, or nothing there"
    assert with_gaps.train_action_counts().tolist() == [known, 0]


def test_ids_and_indices_are_inverses(data):
    assert data.item_ids().to_list() == [5 * item for item in range(NUM_ITEMS)]
    assert data.item_index(data.item_ids()).tolist() == list(range(1, NUM_ITEMS + 1))
    assert data.item_index([5, 6, "10", "x", None]).tolist() == [
        2,
        UNKNOWN_ITEM,
        3,
        UNKNOWN_ITEM,
        UNKNOWN_ITEM,
    ]
    assert data.item_index([]).tolist() == []
    assert [data.user_index(name) for name in data.user_ids()] == list(range(data.num_users))
    with pytest.raises(ValueError, match=r"no user 'user 055' in .*; did you mean 'user 05'"):
        data.user_index("user 055")
    with pytest.raises(ValueError, match=r"no user 'x' in .*; its \d+ user ids are text from 'user 00' to "):
        data.user_index("x")
    with pytest.raises(ValueError, match=r"no user 5 in .*; its \d+ user ids are text from 'user 00' to "):
        data.user_index(5)


def test_bad_requests_are_refused(data):
    with pytest.raises(ValueError, match="max_events=0, lead=0: expected max_events >= 1"):
        data.train_batch(data.train_users(), 0, 0)
    with pytest.raises(ValueError, match="part='tset'; expected"):
        inspect.unwrap(Dataset.targets)(data, "tset")  # without the type checks of a test run


@pytest.mark.parametrize(
    "settings",
    [{}, {"validation": 0.5}, {"cut_validation_s": 5, "cut_test_s": 5}, {"validation": 0.5, "test": 0.5}],
)
def test_half_a_temporal_split_is_refused(settings):
    with pytest.raises(
        ValueError, match=r"give validation and test, .*, or cut_validation_s before cut_test_s"
    ):
        Temporal(**settings)


def test_cuts_outside_the_log_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"the log's times run from 1000000000 to \d+ s; put both cuts inside"
    ):
        prepare(
            random_log(),
            user="user",
            item="item",
            time="time",
            actions={},
            out=tmp_path,
            split=Temporal(5, 7),
        )


@pytest.mark.parametrize(
    ("split", "events", "told"),
    [
        (Temporal(1_000_000_001, 1_000_000_002), 9, "no event lies between the cuts, so nothing is left"),
        (LeaveOneOut(), 2, "leaves no event to train on: every user has fewer than three"),
    ],
)
def test_a_split_that_leaves_a_part_empty_is_refused(split, events, told, tmp_path):
    log = pl.DataFrame(
        {
            "user": [user for user in range(3) for _ in range(events)],
            "item": [nth % 5 for nth in range(3 * events)],
            "time": [1_000_000_000 + 60 * nth for nth in range(3 * events)],
        }
    )
    columns = {name: name for name in log.columns}
    least = {"min_user_events": 1, "min_item_events": 1}
    with pytest.raises(ValueError, match=told):
        prepare(log, **columns, actions={}, out=tmp_path, split=split, **least)
