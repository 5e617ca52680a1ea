"""Metrics that no model can move are known before training: held against ranks of random scores."""

import itertools
from collections import Counter
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import fitted, settings_of
from tiny import (
    assert_caught,
    assert_not_vacuous,
    plan_of,
)

from plait.compare.comparing import compare
from plait.data import Dataset, Temporal, prepare
from plait.engine.ranking import FIRST_ITEM, Scores
from plait.evaluation import reachable
from plait.evaluation.answers import negatives_of, ranks_in_catalogue, targets_of
from plait.evaluation.reachable import Reach, check_can_choose
from plait.evaluation.selection import Selection
from plait.evaluation.settings import Protocol
from plait.layouts import resolve
from plait.metrics import retrieval
from plait.metrics.retrieval import places_of

METRICS = ("hr@1", "hr@5", "hr@10", "recall@5", "ndcg@10", "mrr")


VALUES = {"hr": retrieval.hr_at, "recall": retrieval.recall_at, "ndcg": retrieval.ndcg_at}


def made_of(folder, rows, **options) -> Dataset:
    log = pl.DataFrame(rows, schema=["user", "item"], orient="row").with_columns(time=pl.int_range(pl.len()))
    columns = {"user": "user", "item": "item", "time": "time", "min_user_events": 1, "min_item_events": 1}
    return prepare(log, actions={}, out=folder, **columns | options)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, dataset) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("logs")
    again = [(user, step % 3) for user in range(4) for step in range(6)]
    own = [(user, user * 3 + step % 3) for user in range(4) for step in range(6)]
    some = [(user, step % (3 + user % 2 * 3)) for user in range(6) for step in range(6)]
    few = [(user, (user + step) % 8) for user in range(4) for step in range(5)]
    one_left = [(user, (user + step) % 4) for user in range(4) for step in range(4)]
    several = [(user, 2 * user % 3 + step) for step in range(6) for user in range(5)]
    by_time = {"split": Temporal(cut_validation_s=10, cut_test_s=25)}
    logs = {"again": again, "own again": own, "some again": some, "few items": few, "one item left": one_left}
    found = {name: made_of(folder / name, rows) for name, rows in logs.items()}
    return found | {"tiny": dataset, "several answers": made_of(folder / "several", several, **by_time)}


def values_of_random_scores(data: Dataset, protocol: Protocol) -> dict[str, set[float]]:
    """By metric."""
    targets, rng = targets_of(data, "validation", plan_of("lac"), protocol), np.random.default_rng(0)
    item_C = torch.arange(FIRST_ITEM, FIRST_ITEM + data.num_items)
    found: dict[str, set[float]] = {metric: set() for metric in METRICS}
    for _ in range(60):
        score_QC = torch.from_numpy(rng.standard_normal((len(targets), data.num_items), dtype=np.float32))
        negatives = negatives_of(data, targets, protocol)
        scored = partial(iter, [Scores(item_C, score_QC)])
        rank_Q = ranks_in_catalogue(scored, data, targets, protocol, negatives)
        lists = places_of(targets.user_Q, data.lists(targets), data.target_items(targets), rank_Q)
        for metric in METRICS:
            name, _, k = metric.partition("@")
            value_L = VALUES[name](int(k), lists) if k else retrieval.reciprocal_rank(lists)
            found[metric].add(float(value_L.mean()))
    return found


def is_refused(data: Dataset, protocol: Protocol, metric: str) -> bool:
    targets = targets_of(data, "validation", plan_of("lac"), Protocol())
    try:
        check_can_choose(Reach(data, resolve("item"), protocol, targets), Selection.parse(metric))
    except ValueError:
        return True
    return False


def check_refusals(datasets: dict[str, Dataset]) -> Counter[str]:
    met: Counter[str] = Counter()
    for (name, data), filter_seen, negatives in itertools.product(
        datasets.items(), (True, False), (None, 1, 3)
    ):
        protocol = Protocol(filter_seen=filter_seen, negatives=negatives)
        try:
            by_metric = values_of_random_scores(data, protocol)
        except ValueError:  # fewer items than are to be sampled
            met["too few"] += len(METRICS)
            continue
        for metric, values in by_metric.items():
            case = (name, metric, filter_seen, negatives, values)
            if metric == "mrr" and 0 < max(values) - min(values) < 1e-6:  # of answers that are never hit
                values = {0.0}
            assert is_refused(data, protocol, metric) == (len(values) == 1), case
            met[("moves", "stands")[len(values) == 1]] += 1
    return met


def test_what_cannot_move_is_refused_and_nothing_else(datasets):
    assert_not_vacuous(check_refusals(datasets), above=10)


def test_a_check_that_counts_seen_answers_as_open_is_caught(datasets, monkeypatch):
    monkeypatch.setattr(Dataset, "met_before", lambda self, targets: np.zeros(len(targets), dtype=bool))
    assert_caught(check_refusals, datasets)


def test_a_check_that_counts_seen_items_as_ranked_is_caught(datasets, monkeypatch):
    monkeypatch.setattr(
        reachable, "_num_others", lambda data, lists, protocol: np.full(len(lists), data.num_items)
    )
    assert_caught(check_refusals, datasets)


def test_a_check_that_takes_every_answer_for_its_lists_only_one_is_caught(datasets, monkeypatch):
    right = reachable._lists_can_change

    def of_one(metric, others_L, answers_L):
        return right(metric, others_L, np.ones_like(answers_L))

    monkeypatch.setattr(reachable, "_lists_can_change", of_one)
    assert_caught(check_refusals, {"several answers": datasets["several answers"]})


def test_training_refuses_what_cannot_move_before_it_writes(datasets, tmp_path):
    reason = r"ndcg@10 cannot change.*: all 4 answers were met before.*protocol.filter_seen = False lets them"
    with pytest.raises(ValueError, match=reason):
        fitted(datasets["again"], tmp_path / "run", settings_of("item"))
    with pytest.raises(ValueError, match=reason):
        compare(
            datasets["again"],
            [resolve("item")],
            1,
            tmp_path / "compared",
            settings_of().model,
            settings_of().optim,
            settings_of().protocol,
            "plait compare",
            report=lambda line: None,
        )
    assert not list(tmp_path.iterdir())
    kept = fitted(datasets["again"], tmp_path / "kept", settings_of("item", filter_seen=False, max_epochs=1))
    assert kept.epochs == 1


@pytest.mark.parametrize(("filter_seen", "layout"), [(True, "item"), (False, "item"), (True, "action_in")])
def test_a_share_that_cannot_be_hit_is_said(datasets, filter_seen, layout, tmp_path):
    lines: list[str] = []
    settings = settings_of("item" if layout == "item" else layout, filter_seen=filter_seen, max_epochs=1)
    data = datasets["some again"] if layout == "item" else datasets["tiny"]
    fitted(data, tmp_path / "run", settings, lines.append)
    said = [line for line in lines if "were met before" in line]
    if filter_seen and layout == "item":
        assert [line.split(" were")[0] for line in said] == [
            "50 % of the validation answers (3 of 6)",
            "50 % of the test answers (3 of 6)",
        ]
    elif not filter_seen:
        assert not said


@pytest.mark.parametrize(("filter_seen", "times"), [(True, 2), (False, 0)])
def test_what_was_met_before_is_found_once_a_part(datasets, filter_seen, times, tmp_path, monkeypatch):
    right, asked = Dataset.met_before, []

    def counted(data, targets):
        asked.append(len(targets))
        return right(data, targets)

    monkeypatch.setattr(Dataset, "met_before", counted)
    settings = settings_of("item", filter_seen=filter_seen, max_epochs=1)
    fitted(datasets["tiny"], tmp_path / "run", settings)
    assert len(asked) == times
