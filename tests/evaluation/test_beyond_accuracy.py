"""The lists that are kept, and slices of the answers, for models and baselines alike."""

from collections import Counter
from dataclasses import replace
from functools import partial

import msgspec
import numpy as np
import pytest
import torch
from described import described
from small_runs import PROTOCOL
from tiny import assert_caught, assert_not_vacuous, model_of, prepared, random_log

from plait.data import Dataset, Temporal
from plait.engine import steps
from plait.engine.ranking import Scores
from plait.evaluation import answers as answers_module
from plait.evaluation.answers import Answers, answers_of, measure, ranked_in_catalogue
from plait.evaluation.beyond_accuracy import TrainingFacts, beyond_accuracy, slices_of, some_answers
from plait.evaluation.counting import BASELINES, Baselines, baselines_of
from plait.evaluation.run_files import ANSWERS, load_answers, read_file, save_answers
from plait.layouts import resolve
from plait.metrics.table import CHIEF_LIST


@pytest.fixture(scope="module")
def of_lists(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Lists of several answers, from histories that leave fewer items than a list has, and more."""
    log = random_log(40)
    nth = np.concatenate([np.arange(n) for n in log.group_by("user", maintain_order=True).len()["len"]])
    late = log["user"].str.slice(1).cast(int).to_numpy() % 4
    log = log.with_columns(time=1_000_000 + 60 * (nth + late))
    return prepared(log, tmp_path_factory.mktemp("lists") / "data", split=Temporal(1_000_300, 1_000_420))


def check_lists(dataset: Dataset, filter_seen: bool, negatives: int | None) -> None:
    """Each list begins with the best items that the filter leaves, other answers included."""
    targets, protocol = dataset.targets("test"), replace(PROTOCOL, filter_seen=filter_seen)
    rng = np.random.default_rng(1)
    score_QV = rng.permuted(np.tile(np.arange(dataset.num_items), (len(targets), 1)), axis=1).astype(
        np.float32
    )
    list_Q, met = dataset.lists(targets), Counter[str]()
    score_QV = score_QV[np.searchsorted(list_Q, list_Q)]
    drawn = None if negatives is None else iter(rng.integers(1, 9, (len(targets), negatives)))
    halves = np.array_split(np.arange(1, dataset.num_items + 1), 2)

    def scored(rows: slice) -> list[Scores]:
        return [
            Scores(torch.from_numpy(item_C), torch.from_numpy(score_QV[rows][:, item_C - 1]))
            for item_C in halves
        ]

    parts = [
        ranked_in_catalogue(partial(scored, rows), dataset, targets[rows], protocol, drawn, CHIEF_LIST)
        for rows in steps.even(len(targets), 5)
    ]
    top_LK = answers_module.Ranked.joined(parts).top_of_lists(list_Q)
    assert top_LK is not None and len(top_LK) == len(np.unique(list_Q))
    for number, top_K in enumerate(top_LK.tolist()):
        query = int(np.flatnonzero(list_Q == number)[0])
        user, end = targets.user_Q[query], targets.seen_end_Q[query]
        seen = set(dataset._item_E[dataset._start_U1[user] : end].tolist()) if filter_seen else set()
        left = [item for item in range(1, dataset.num_items + 1) if item not in seen]
        best = sorted(left, key=lambda item: -score_QV[query, item - 1])[:CHIEF_LIST]
        assert top_K == best + [0] * (CHIEF_LIST - len(best))
        met["lists of several"] += (list_Q == number).sum() > 1
        met["answers shown"] += bool(set(dataset.target_items(targets)[list_Q == number]) & set(best))
        met["full" if len(best) == CHIEF_LIST else "short"] += 1
    assert_not_vacuous(met, above=3)


@pytest.mark.parametrize("negatives", [None, 3])
@pytest.mark.parametrize("filter_seen", [True, False])
def test_lists_hold_the_best_that_the_filter_leaves(of_lists, filter_seen, negatives):
    check_lists(of_lists, filter_seen, negatives)


def test_lists_without_their_filter_are_caught(of_lists, monkeypatch):
    monkeypatch.setattr(answers_module, "without", lambda part, seen: part)
    assert_caught(check_lists, of_lists, True, None)


def test_lists_are_those_of_a_model_however_much_is_ranked_at_a_time(of_lists, monkeypatch):
    model = model_of(resolve("lac"), max_events=PROTOCOL.max_events)
    whole = answers_of(model, of_lists, "test", PROTOCOL)
    assert whole.top_LK is not None and len(whole.top_LK) == len(np.unique(whole.list_Q))
    assert answers_of(model, of_lists, "validation", PROTOCOL).top_LK is None, "validation is asked often"
    monkeypatch.setattr(steps, "STEP_LOGITS", 30)
    np.testing.assert_array_equal(answers_of(model, of_lists, "test", PROTOCOL).top_LK, whole.top_LK)


def check_slices(dataset: Dataset, answers: Answers) -> None:
    known, met = TrainingFacts.of(dataset), Counter[str]()
    item_E, cut_U = dataset._item_E, dataset._validation_U
    train = [item_E[a:b].tolist() for a, b in zip(dataset._start_U1[:-1], cut_U, strict=True)]
    events = Counter(item for of_user in train for item in of_user)
    taken = {"item": np.zeros(len(answers.item_Q), int), "user": np.zeros(len(answers.item_Q), int)}
    for its, is_in_Q in slices_of(answers, known):
        taken[its.of] += is_in_Q
        assert its.num_answers == is_in_Q.sum()
        met[its.of] += 0 < its.num_answers < len(answers.item_Q)
        for user, item in zip(answers.user_Q[is_in_Q], answers.item_Q[is_in_Q], strict=True):
            count = events[int(item)] if its.of == "item" else len(train[user])
            assert its.least <= count and (its.most is None or count <= its.most)
    assert set(taken["item"]) == set(taken["user"]) == {1}, "each answer is in one slice of each kind"
    assert_not_vacuous(met, above=1)


def test_slices_part_the_answers_by_what_training_met(of_lists, monkeypatch):
    answers = answers_of(model_of(resolve("lac"), max_events=PROTOCOL.max_events), of_lists, "test", PROTOCOL)
    check_slices(of_lists, answers)
    monkeypatch.setattr(Dataset, "train_item_counts", lambda self: np.bincount(self._item_E, minlength=18))
    assert_caught(check_slices, of_lists, answers)


def test_a_slice_is_measured_as_if_it_were_all(of_lists):
    answers = answers_of(model_of(resolve("lac"), max_events=PROTOCOL.max_events), of_lists, "test", PROTOCOL)
    known = TrainingFacts.of(of_lists)
    told = beyond_accuracy([answers, answers], known, ("ndcg@10", "rmse:rating"))
    for (its, is_in_Q), found in zip(slices_of(answers, known), told.slices, strict=True):
        assert found.slice == its
        if not its.num_answers:
            assert found.metrics == {}
            continue
        values = measure(some_answers(answers, is_in_Q))
        assert found.metrics.keys() == {"ndcg@10", "rmse:rating"}
        for name, estimate in found.metrics.items():
            assert estimate.value == values[name].value
    assert {"coverage@10", "novelty@10", "frequent@10"} == set(told.lists)
    every = beyond_accuracy([answers], known).slices[-1].metrics
    assert {"auc:liked", "mrr", "hr@1"} <= set(every)


def test_features_of_categories_give_diversity_and_no_others(tmp_path):
    data = described(tmp_path / "data")
    known = TrainingFacts.of(data)
    assert set(known.categories) == {"genre"}
    codes, table = known.categories["genre"], data.item_features
    assert codes.shape == (data.num_items + 1, table.features[0].num_columns)
    _, counted = baselines_of(data, PROTOCOL, "causal", tmp_path / "kept")
    told = beyond_accuracy([counted["popularity"]], known)
    assert 0 < told.lists["diversity@10:genre"].value < 1
    assert beyond_accuracy([counted["item mean"]], known).lists == {}, "it ranks nothing"


def test_answers_and_baselines_of_before_are_read_without_lists(of_lists, tmp_path):
    found, counted = baselines_of(of_lists, PROTOCOL, "causal", tmp_path)
    assert all((its.top_LK is None) == (its.rank_Q is None) for its in counted.values())
    popular = counted["popularity"]
    assert len({tuple(top_K) for top_K in counted["recent popularity"].top_LK.tolist()}) > 1, (
        "seen items differ"
    )
    np.testing.assert_array_equal(
        load_answers(tmp_path / "popularity", of_lists.actions).top_LK, popular.top_LK
    )
    before = tmp_path / "before"
    before.mkdir()
    save_answers(before / ANSWERS, replace(popular, top_LK=None))
    read = load_answers(before, of_lists.actions)
    assert read.top_LK is None and beyond_accuracy([read], TrainingFacts.of(of_lists)).lists == {}
    path = tmp_path / f"{BASELINES}.json"
    asked = msgspec.structs.replace(read_file(path, Baselines).asked, kept_of_lists=0)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(found, asked=asked)))
    again, _ = baselines_of(of_lists, PROTOCOL, "causal", tmp_path)
    assert again.asked.kept_of_lists == CHIEF_LIST, "counted anew, with lists"
