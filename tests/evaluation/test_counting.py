"""Baselines under a protocol, against plain loops over one user at a time, and on logs that are hard to count.

Shape letters: Q queries.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_runs import PROTOCOL
from tiny import assert_caught, assert_not_vacuous, prepared, random_log

from plait.baselines import actions, asking, retrieval
from plait.baselines.asking import questions, training_log
from plait.baselines.retrieval import AfterRecent
from plait.counts import items
from plait.data import Dataset, Temporal, prepare
from plait.evaluation import counting
from plait.evaluation.answers import Answers, measure
from plait.evaluation.counting import against_counting, baselines_of
from plait.evaluation.settings import Protocol
from plait.metrics.retrieval import NEVER
from plait.schema import Action, Amount, Binary, Categorical, Ordinal, Regression

KEPT = replace(PROTOCOL, filter_seen=False)


def test_retrieval_answers_are_those_of_one_user_at_a_time(dataset):
    check_rules(dataset, PROTOCOL)
    check_rules(dataset, KEPT)
    check_rules(dataset, KEPT, window=1, last=1)


def test_a_filter_that_is_left_out_is_caught(dataset, monkeypatch):
    nothing = lambda self, targets: (np.zeros(len(targets) + 1, np.int64), np.zeros(0, np.int64))  # noqa: E731
    monkeypatch.setattr(Dataset, "seen_items", nothing)
    assert_caught(check_rules, dataset, PROTOCOL)


def test_tables_that_know_the_held_out_events_are_caught(dataset, monkeypatch):
    right = Dataset.train_batch

    def everything(self, *arguments, **named):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self, "_validation_U", self._start_U1[1:])
            return right(self, *arguments, **named)

    monkeypatch.setattr(Dataset, "train_batch", everything)
    assert_caught(check_rules, dataset, PROTOCOL)


def check_rules(dataset: Dataset, protocol: Protocol, window: int = 5, last: int = 4) -> None:
    """Sequential rules, half the weight for each step back: the ranks of all test events. Transitions leave items
    without a count, which stand in order of popularity."""
    log = training_log(dataset, "causal")
    table = items.shares(items.followers(log.item_E, log.start_U1, log.history_end_E, log.num_items, window))
    popularity = items.popularity(log.item_E, log.num_items)
    found = counting._answers_of_items(
        dataset, protocol, log, dataset.targets("test"), AfterRecent(table, popularity, last, decay=0.5)
    )
    plain, counts = np.zeros((dataset.num_items + 1,) * 2), np.zeros(dataset.num_items + 1)
    histories = [dataset.history(user).item_E for user in range(dataset.num_users)]
    for item_E in histories:
        train = item_E[:-2]
        counts += np.bincount(train, minlength=len(counts))
        for at, item in enumerate(train):
            for back in range(1, min(window, at) + 1):
                plain[train[at - back], item] += 1 / back
    plain /= np.maximum(plain.sum(axis=1, keepdims=True), 1e-9)
    met = {"ranked": 0, "seen before": 0, "by popularity": 0}
    for user, item_E in enumerate(histories):
        *history, item = item_E.tolist()
        score = sum(0.5**back * plain[before] for back, before in enumerate(reversed(history[-last:])))

        def key(other: int, score: np.ndarray = score) -> tuple[float, float]:
            return (round(score[other], 9), 0.0 if score[other] > 0 else counts[other])

        seen = set(history) if protocol.filter_seen else set()
        rivals = [other for other in range(1, dataset.num_items + 1) if other != item and other not in seen]
        expected = NEVER if item in seen else 1 + sum(key(other) >= key(item) for other in rivals)
        assert found.rank_Q is not None and found.rank_Q[user] == expected
        met["seen before"] += item in history
        met["ranked"] += 1 < expected < NEVER
        met["by popularity"] += score[item] == 0
    assert found.user_Q.tolist() == list(range(dataset.num_users))
    assert_not_vacuous(met if window == 1 else {name: met[name] for name in ("ranked", "seen before")})


def test_a_user_s_history_is_what_a_model_s_is(dataset):
    """Of the test, the validation's event is in it, and was not counted."""
    asked = questions(dataset, dataset.targets("test"), training_log(dataset, "causal"))
    for user in range(dataset.num_users):
        whole = dataset.history(user)
        begin, end = asked.histories.start_H1[user : user + 2]
        assert asked.histories.item_S[begin:end].tolist() == whole.item_E[:-1].tolist()
        assert asked.histories.is_counted_S[begin:end].tolist() == [True] * (end - begin - 1) + [False]
        assert asked.item_Q[user] == whole.item_E[-1]
        np.testing.assert_array_equal(asked.label_QA[user], whole.action_EA[-1])


@pytest.fixture(scope="module")
def of_requests(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Segments of several events, and requests that hold several events each."""
    nth = pl.int_range(pl.len()).over("user")
    log = random_log(40).with_columns(time=1_000_000 + 60 * nth // 150 * 150)
    return prepared(log, tmp_path_factory.mktemp("requests") / "data", split=Temporal(1_000_300, 1_000_600))


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("same_request", ["causal", "blind"])
def test_questions_share_histories_and_know_nothing_of_their_own_request(of_requests, part, same_request):
    targets = of_requests.targets(part, same_request)
    asked = questions(of_requests, targets, training_log(of_requests, same_request))
    assert len(asked.item_Q) == len(targets) > len(asked.histories) > 3
    for query, (user, event, end) in enumerate(
        zip(targets.user_Q, targets.event_Q, targets.history_end_Q, strict=True)
    ):
        start = of_requests._start_U1[user]
        begin, last = asked.histories.start_H1[asked.history_Q[query] :][:2]
        assert asked.histories.item_S[begin:last].tolist() == of_requests._item_E[start:end].tolist()
        assert asked.item_Q[query] == of_requests._item_E[event]


def test_blind_tables_hold_no_pair_of_one_request(of_requests):
    causal, blind = (training_log(of_requests, how) for how in ("causal", "blind"))
    request_E = of_requests.train_batch(np.arange(of_requests.num_users), 1 << 40, 0).request_E
    inside = 0
    for event, (end, own_end) in enumerate(zip(blind.history_end_E, causal.history_end_E, strict=True)):
        assert own_end == event >= end
        user = np.searchsorted(blind.start_U1, event, side="right") - 1
        begins = [r for r in range(blind.start_U1[user], event + 1) if request_E[r] == request_E[event]]
        assert end == begins[0]
        inside += end < event
    assert inside > 10


@pytest.mark.parametrize("same_request", ["causal", "blind"])
def test_answers_are_those_of_the_questions_that_models_are_asked(of_requests, tmp_path, same_request):
    found, answers = baselines_of(of_requests, PROTOCOL, same_request, tmp_path)
    targets = of_requests.targets("test", same_request)
    assert (
        len(answers)
        == len(found.counted)
        == len(retrieval.RETRIEVAL_BASELINES) - 1 + len(actions.ACTION_BASELINES)
    )
    for its in answers.values():
        np.testing.assert_array_equal(its.user_Q, targets.user_Q)
        np.testing.assert_array_equal(its.item_Q, of_requests.target_items(targets))
        assert (its.rank_Q is None) == bool(its.predicted) and measure(its)


def test_kept_answers_are_read_and_others_are_counted_anew(dataset, tmp_path, monkeypatch):
    found, answers = baselines_of(dataset, PROTOCOL, "causal", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(counting, "_counted", None)
        again, read = baselines_of(dataset, PROTOCOL, "causal", tmp_path)
        assert again == found and answers.keys() == read.keys()
        for name, its in answers.items():
            for field, value in vars(its).items():
                np.testing.assert_equal(getattr(read[name], field), value)
    other, _ = baselines_of(dataset, KEPT, "causal", tmp_path)
    assert not other.left_out and other.counted[-5].name == "own frequency"


def every_kind(tmp_path: Path, change=lambda log: log, **arguments) -> Dataset:
    """A log with an action of every kind that depends on item and user, and one that is never known."""
    rng = np.random.default_rng(4)
    log = random_log(60)
    user = log["user"].str.slice(1).cast(int).to_numpy()
    item = log["item"].str.slice(1).cast(int).to_numpy()
    level = (item % 5 + user % 3 + rng.integers(0, 2, len(log))) // 2
    frame = log.select("user", "item", "time").with_columns(
        stars=pl.Series(1.0 + level),
        liked=pl.Series((level > 1).astype(int)),
        watch_s=pl.Series(np.expm1(level * 1.0)),
        paid=pl.Series(np.where(level > 1, 10.0 * level, 0.0)),
        device=pl.Series(np.array(["phone", "tablet", "tv", "car"])[level]),
        grade=pl.Series(level),
    )
    kinds = {
        "stars": Regression(1, 5),
        "liked": Binary(),
        "watch_s": Amount(),
        "paid": Amount(zero_inflated=True),
        "device": Categorical(("phone", "tablet", "tv", "car")),
        "grade": Ordinal((0, 1, 2, 3)),
    }
    return prepare(
        change(frame),
        user="user",
        item="item",
        time="time",
        actions=[Action(name, kind) for name, kind in kinds.items()],
        out=tmp_path / "data",
        min_item_events=1,
        **arguments,
    )


def value_of(answers: Answers, metric: str) -> float:
    value = measure(answers)[metric].value
    assert value is not None
    return value


def test_every_kind_of_action_is_better_known_by_item_and_user(tmp_path):
    _, answers = baselines_of(every_kind(tmp_path), PROTOCOL, "causal", tmp_path / "kept")
    for metric in (
        "rmse:stars",
        "log_loss:liked",
        "rmse_scaled:watch_s",
        "rmse_scaled:paid",
        "log_loss:device",
        "log_loss:grade",
    ):
        mean, item, both = (
            value_of(answers[name], metric) for name in ("mean", "item mean", "item and user")
        )
        assert mean > item > both, metric
    for name in ("device", "grade"):
        chance_QV = answers["item and user"].predicted[name]
        assert (chance_QV >= 0).all() and np.allclose(chance_QV.sum(axis=1), 1)


def test_one_class_and_no_variance_are_answered(tmp_path):
    def constant(log: pl.DataFrame) -> pl.DataFrame:
        return log.with_columns(
            pl.lit(3.0).alias("stars"),
            pl.lit(1).alias("liked"),
            pl.lit(0.0).alias("paid"),
            pl.lit("tv").alias("device"),
            pl.lit(None, dtype=pl.Int64).alias("grade"),
        )

    dataset = every_kind(tmp_path, constant)
    found, answers = baselines_of(dataset, PROTOCOL, "causal", tmp_path / "kept")
    for its in answers.values():
        for name, predicted in its.predicted.items():
            assert np.isfinite(predicted).all(), name
    assert set(answers["item and user"].predicted["stars"]) == {3.0}
    assert (answers["item and user"].predicted["liked"] > 0.8).all()
    assert (answers["item and user"].predicted["paid"] == 0).all()
    assert found.note == ""


def test_items_that_came_once_and_new_ones_are_ranked(tmp_path):
    """Every item has one event, so that of the test none was ever counted."""
    log = random_log(12).with_row_index().with_columns(item=pl.format("i{}", "index")).drop("index")
    found, answers = baselines_of(prepared(log, tmp_path / "data"), PROTOCOL, "causal", tmp_path / "kept")
    for its in found.counted[:6]:
        rank_Q = answers[its.name].rank_Q
        assert rank_Q is not None and (rank_Q > 1).all() and (rank_Q < NEVER).all(), its.name


def test_what_is_too_large_to_be_counted_is_left_out_and_said(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "EASE_ITEMS", 16)
    monkeypatch.setattr(retrieval, "DENSE_ITEMS", 16)
    found, answers = baselines_of(dataset, PROTOCOL, "causal", tmp_path / "few")
    assert "17 items" in found.left_out["EASE"] and "EASE" not in answers
    monkeypatch.undo()
    monkeypatch.setattr(retrieval, "PAIRED_EVENTS", 100)
    many_events, _ = baselines_of(dataset, PROTOCOL, "causal", tmp_path / "pairs")
    assert {"sequential rules", "item-kNN"} == set(many_events.left_out) - {"own frequency"}
    monkeypatch.undo()
    _, dense = baselines_of(dataset, PROTOCOL, "causal", tmp_path / "many")
    for name, its in answers.items():
        np.testing.assert_equal(its.rank_Q, dense[name].rank_Q)


def test_without_a_validation_part_settings_are_the_usual_ones(dataset, tmp_path, monkeypatch):
    right = Dataset.targets

    def without(self, part, same_request="causal", **more):
        targets = right(self, part, same_request, **more)
        return targets[:0] if part == "validation" else targets

    monkeypatch.setattr(Dataset, "targets", without)
    found, _ = baselines_of(dataset, PROTOCOL, "causal", tmp_path)
    assert "no validation part" in found.note
    said = {its.name: its.settings for its in found.counted}
    assert said["sequential rules"] == "within 10 events, the last 20 weighted 0.8 for each step back"
    assert "rating: item damped by 5" in said["item mean"]


def test_the_best_of_the_grid_is_taken(dataset, tmp_path, monkeypatch):
    """Nothing beats the settings that were chosen on the validation."""
    found, _ = baselines_of(dataset, KEPT, "causal", tmp_path)
    log, validation = training_log(dataset, "causal"), dataset.targets("validation")
    chosen = {its.name: its.settings for its in found.counted}
    tried = 0
    for baseline in retrieval.RETRIEVAL_BASELINES:
        values = {
            option.settings: counting._selected_metric(dataset, KEPT, log, validation, option)
            for option in baseline.options(log)
        }
        assert values[chosen[baseline.name]] == max(values.values()), baseline.name
        tried += len(values)
    assert tried > 20


@pytest.mark.parametrize("baseline", retrieval.RETRIEVAL_BASELINES, ids=lambda baseline: baseline.name)
def test_a_user_without_history_is_shown_what_is_popular(dataset, baseline):
    log = training_log(dataset, "causal")
    nobody = asking.Histories(
        np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros(0, bool), np.zeros(2, np.int64)
    )
    popularity_V1 = items.popularity(log.item_E, log.num_items)
    for option in baseline.options(log):
        (score_V1,) = option.scores(nobody)
        if baseline.name != "recent popularity":
            by_score, by_popularity = (
                np.unique(of[1:], return_inverse=True)[1] for of in (score_V1, popularity_V1)
            )
            assert by_score.tolist() == by_popularity.tolist()


def test_the_line_says_by_how_much_the_best_count_is_beaten(dataset, tmp_path):
    _, answers = baselines_of(dataset, KEPT, "causal", tmp_path)
    first = answers["popularity"]
    good = replace(first, rank_Q=np.ones_like(first.item_Q), predicted=answers["mean"].predicted)
    line = against_counting(good, answers)
    assert line.startswith("against counting: ndcg@10 +0.") and line.count("beaten") == 1
    assert "rmse:rating" in line and "auc:liked" in line and "not told apart" in line
    bad = replace(first, rank_Q=np.full_like(first.item_Q, NEVER))
    assert "it is better" in against_counting(bad, answers)
