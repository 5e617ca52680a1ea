"""All that a user did in a segment is one question's answers: one list from one history, against a reference that ranks
one user at a time, by formulas written down once more."""

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import PROTOCOL, settings_of
from tiny import (
    ACTIONS,
    assert_caught,
    assert_not_vacuous,
    before_the_next,
    model_of,
    part_of,
    prepared,
    random_log,
)

from plait.data import Dataset, SplitColumn, Temporal, prepare
from plait.engine.ranking import Scores
from plait.evaluation.answers import (
    answers_of,
    measure,
    negatives_of,
    ranks_in_catalogue,
)
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.run_files import ANSWERS, SETTINGS, load_answers, save_answers
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.metrics import table
from plait.metrics.retrieval import sample_negatives
from plait.models.generative import ModelSettings
from plait.models.inputs import query_inputs
from plait.models.questions import Exposure
from plait.randomness import Stream, numpy_generator
from plait.training.run import write_json

WINDOW = PROTOCOL.max_events
EACH = pl.int_range(pl.len()).over("user")
LENGTHS = (1, 5, 10)


@pytest.fixture(scope="module")
def baskets(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Several test events a user, some of an item twice, all users at the same times."""
    log = random_log().with_columns(time=1_000_000 + EACH)
    split = Temporal(cut_validation_s=1_000_003, cut_test_s=1_000_005)
    return prepared(log, tmp_path_factory.mktemp("baskets") / "data", split=split)


def by_hand(is_answer: list[bool], answers: int) -> dict[str, float]:
    """The metrics of one list, as ranx defines them."""
    places = [place for place, hit in enumerate(is_answer, start=1) if hit]
    found = {"mrr": 1 / places[0] if places else 0.0}
    for k in LENGTHS:
        top = [place for place in places if place <= k]
        ideal = sum(1 / math.log2(1 + place) for place in range(1, min(k, answers) + 1))
        found[f"hr@{k}"] = float(len(top) > 0)
        found[f"recall@{k}"] = len(top) / answers
        found[f"ndcg@{k}"] = sum(1 / math.log2(1 + place) for place in top) / ideal
    return found


@torch.no_grad()
def check_lists(dataset: Dataset, layout: str, filter_seen: bool) -> None:
    model = model_of(resolve(layout), max_events=WINDOW)
    found = measure(answers_of(model, dataset, "test", replace(PROTOCOL, filter_seen=filter_seen)))
    targets, values, met = dataset.targets("test"), [], Counter[str]()
    for user in np.unique(targets.user_Q).tolist():
        whole = dataset.history(user)
        begin = int(targets.history_end_Q[targets.user_Q == user][0] - dataset._start_U1[user])
        history, answers = part_of(whole, 0, 0, begin), whole.item_E[begin:].tolist()
        last = part_of(history, 0, max(0, begin - WINDOW), begin)
        (state_1D,) = model(query_inputs(model.plan, before_the_next(last), ("i",)))
        score_V = model.item_scores(state_1D)[0].numpy()
        seen = set(history.item_E.tolist()) if filter_seen else set()
        shown = [item for item in range(1, dataset.num_items + 1) if item not in seen]
        shown.sort(key=lambda item: -score_V[item])
        values.append(by_hand([item in answers for item in shown], len(set(answers))))
        met["several answers"] += len(set(answers)) > 1
        met["an item twice"] += len(set(answers)) < len(answers)
        met["seen before" if filter_seen else "nothing filtered"] += bool(seen & set(answers)) or not seen
    assert_not_vacuous(met, above=2)
    for name in values[0]:
        expected = np.mean([of_user[name] for of_user in values])
        assert found[name].value == pytest.approx(expected, rel=1e-12), name


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("layout", ["item", "pc"])
def test_several_answers_are_ranked_in_one_list(baskets, layout, filter_seen):
    check_lists(baskets, layout, filter_seen)


def test_answers_that_stand_in_lists_of_their_own_are_caught(baskets, monkeypatch):
    monkeypatch.setattr(Dataset, "lists", lambda self, targets: np.arange(len(targets)))
    assert_caught(check_lists, baskets, "item", False)


def values_of_who_knows(dataset: Dataset, protocol: Protocol) -> dict[str, float | None]:
    """The metrics of scores that put a user's answers first, one below the other, and all else behind them."""
    targets = dataset.targets("test")
    rng = np.random.default_rng(0)
    score_QV = rng.random((dataset.num_users, dataset.num_items + 1), dtype=np.float32)[targets.user_Q]
    for user, item in zip(targets.user_Q, dataset.target_items(targets), strict=True):
        score_QV[targets.user_Q == user, item] += 1
    scores = Scores(torch.arange(1, dataset.num_items + 1), torch.from_numpy(score_QV[:, 1:]))
    negatives, scored = negatives_of(dataset, targets, protocol), partial(iter, (scores,))
    rank_Q = ranks_in_catalogue(scored, dataset, targets, protocol, negatives)
    item_Q = dataset.target_items(targets)
    found = table.measured_on_ranks(targets.user_Q, dataset.lists(targets), item_Q, rank_Q)
    return {name: statistic.value for name, statistic in found.items()}


def check_perfect_is_one(dataset: Dataset) -> None:
    for negatives in (None, 3):
        values = values_of_who_knows(dataset, replace(PROTOCOL, filter_seen=False, negatives=negatives))
        recall = values.pop("recall@1")
        assert recall is not None and recall < 1, "several answers do not fit a list of one"
        assert {values[f"{name}@{k}"] for name in ("hr", "ndcg") for k in table.LISTS} == {1.0}
        assert values["mrr"] == values["recall@50"] == 1.0


def test_who_ranks_all_answers_first_is_perfect(baskets, monkeypatch):
    check_perfect_is_one(baskets)
    monkeypatch.setattr(
        Dataset, "answers", lambda self, its: (np.arange(len(its) + 1), self.target_items(its))
    )
    assert_caught(check_perfect_is_one, baskets)


def check_negatives_of_lists(dataset: Dataset) -> None:
    targets = dataset.targets("test")
    rows = [row_N.tolist() for row_N in negatives_of(dataset, targets, replace(PROTOCOL, negatives=5)) or ()]
    assert len(rows) == len(targets)
    item_Q, shared = dataset.target_items(targets), 0
    for user in np.unique(targets.user_Q):
        its = np.flatnonzero(targets.user_Q == user)
        for place in its:
            assert not set(rows[place]) & set(item_Q[its].tolist()), "an answer of the user is no negative"
            assert rows[place] == rows[its[0]]
            shared += int(place > its[0])
    assert_not_vacuous({"lists of several": shared}, above=9)


def test_sampled_items_are_no_answers_of_the_user_and_the_same_for_all_of_them(baskets, monkeypatch):
    check_negatives_of_lists(baskets)
    monkeypatch.setattr(
        Dataset, "answers", lambda self, its: (np.arange(len(its) + 1), self.target_items(its))
    )
    assert_caught(check_negatives_of_lists, baskets)


def test_sampled_items_of_one_answer_each_are_drawn_as_ever(dataset):
    """As they were drawn when an event was all there was to a list."""
    targets, protocol = dataset.targets("test"), replace(PROTOCOL, negatives=4)
    drawn = sample_negatives(
        dataset.num_items,
        dataset.target_items(targets),
        *dataset.seen_items(targets),
        4,
        numpy_generator(protocol.seed, Stream.RANKED, len(targets)),
    )
    assert np.stack(list(negatives_of(dataset, targets, protocol) or ())).tolist() == drawn.tolist()
    assert dataset.lists(targets).tolist() == list(range(len(targets)))


def test_events_of_a_request_that_began_before_the_segment_have_a_list_of_their_own(tmp_path: Path):
    """Some layouts are asked about them from before that request. They are the same lists for all."""
    log = random_log().with_columns(request=EACH // 2, part=(EACH - 3).clip(0, 2))
    columns = {name: name for name in ("user", "item", "time", "request")}
    split = SplitColumn("part", ("0",), ("1",), ("2",))
    data = prepare(
        log, **columns, split=split, actions=list(ACTIONS), out=tmp_path / "data", min_item_events=1
    )
    targets, found = data.targets("test"), {}
    for layout in ("pc", "lac"):
        exposure = Exposure(same_request="blind" if layout == "lac" else "causal")
        model = model_of(resolve(layout), max_events=WINDOW, settings=ModelSettings(exposure=exposure))
        found[layout] = answers_of(model, data, "test", PROTOCOL).list_Q.tolist()
    assert found["pc"] == found["lac"]
    for user in np.unique(targets.user_Q):
        its = np.flatnonzero(targets.user_Q == user)
        lists, place = data.lists(targets)[its], targets.event_Q[its] - data._start_U1[user]
        begins_inside = place[0] % 2 == 1
        assert len(set(lists)) == 1 + (begins_inside and len(its) > 1)


def as_before(folder: Path) -> None:
    """What was written before answers had lists."""
    with np.load(folder / ANSWERS) as found:
        arrays = {name: value for name, value in found.items() if name != "list_Q"}
    np.savez(folder / ANSWERS, allow_pickle=False, **arrays)


def test_answers_of_before_are_read_where_they_were_ranked_in_one_list(
    baskets, dataset, tmp_path, monkeypatch
):
    model = model_of(resolve("item"), max_events=WINDOW)
    monkeypatch.setattr("plait.evaluation.run_files.check_hashes", lambda *files: None)
    for data, negatives in ((baskets, None), (dataset, 5), (baskets, 3)):
        folder = tmp_path / f"{data.folder.parent.name}-{negatives}"
        folder.mkdir()
        protocol = replace(PROTOCOL, negatives=negatives)
        write_json(folder / SETTINGS, settings_of("item", negatives=negatives))
        now = answers_of(model, data, "test", protocol)
        before = now
        if negatives is None:  # each answer competed with the others
            with monkeypatch.context() as patch:
                patch.setattr(
                    Dataset, "answers", lambda self, its: (np.arange(len(its) + 1), self.target_items(its))
                )
                before = answers_of(model, data, "test", protocol)
            assert before.rank_Q.tolist() != now.rank_Q.tolist()
        save_answers(folder / ANSWERS, before)
        as_before(folder)
        if data is baskets and negatives:
            with pytest.raises(
                ValueError, match=r"^[^(]* holds several answers of a user, each ranked in a list of its own"
            ):
                load_answers(folder, data.actions)
            continue
        found = measure(load_answers(folder, data.actions))
        assert {n: s.value for n, s in found.items()} == {n: s.value for n, s in measure(now).items()}


def line(data: Dataset, **model: object) -> str:
    return protocol_line(data, replace(ModelSettings(), **model), Optim(precision="fp32"), PROTOCOL, [0])


def test_the_line_tells_of_lists_and_of_events_that_are_asked_one_by_one(baskets, dataset):
    assert "the answers to one list" in line(baskets) and "the answers to one list" not in line(dataset)
    assert "each asked about at its own time" not in line(baskets)
    trunk = replace(ModelSettings().trunk, positions="rab")
    assert "one list, each asked about at its own time" in line(
        baskets, trunk=trunk, exposure=Exposure(time_anchor="next")
    )


def test_the_line_tells_how_much_of_training_lies_after_the_test(baskets, dataset):
    log, after = pl.DataFrame(random_log()), []
    ranked = log.with_columns(nth=EACH, events=pl.len().over("user"))
    trained = ranked.filter(pl.col("nth") < pl.col("events") - 2)["time"]
    for tested in ranked.filter(pl.col("nth") == pl.col("events") - 1)["time"]:
        after.append((trained > tested).mean())
    assert 0.1 < np.mean(after) < 0.9
    assert dataset.training_after_test == pytest.approx(np.mean(after))
    told = f"in the mean {100 * np.mean(after):.2g} % of the training events happened after the test event"
    assert told in line(dataset)
    assert baskets.training_after_test == 0 and "happened after" not in line(baskets)


def test_the_line_tells_of_answers_that_training_never_saw(dataset, tmp_path):
    last = pl.int_range(pl.len(), 0, -1).over("user") == 1
    log = random_log().with_columns(
        item=pl.when(last & (pl.col("user") < "u05")).then(pl.lit("new")).otherwise("item")
    )
    other = prepared(log, tmp_path / "data")
    assert other.new_answers == (5, 23)
    assert "22 % of the test answers are items without a training event" in line(other)
    assert dataset.new_answers[0] == 0 and "without a training event" not in line(dataset)
