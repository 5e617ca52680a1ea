"""Counting answers what it is judged by, in the log's ids and units."""

from collections.abc import Iterable

import numpy as np
import polars as pl
import pytest
from small_runs import PROTOCOL
from tiny import ACTIONS, assert_caught, assert_not_vacuous, part_of, random_log

import plait
from plait import counting_recommender
from plait.baselines import actions, retrieval
from plait.data import Dataset
from plait.evaluation.answers import Answers
from plait.evaluation.counting import baselines_of
from plait.schema import EventBatch

KEPT = plait.Protocol(max_events=PROTOCOL.max_events, filter_seen=False)


@pytest.fixture(scope="module")
def judged(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answers]:
    return baselines_of(dataset, KEPT, "causal", tmp_path_factory.mktemp("judged"))[1]


def before_the_test(dataset: Dataset, user: int) -> EventBatch:
    whole = dataset.history(user)
    return part_of(whole, 0, 0, len(whole.item_E) - 1)


def check_lists(dataset: Dataset, judged: dict[str, Answers], names: Iterable[str]) -> None:
    met = {"lists": 0, "unlike the first": 0}
    for name in names:
        baseline = plait.CountingRecommender.fit(dataset, name, protocol=KEPT)
        top_LK = judged[name].top_LK
        assert top_LK is not None
        for user in range(0, dataset.num_users, 4):
            found = baseline.retrieve(baseline.encode(before_the_test(dataset, user)), filter_seen=False)
            assert found["item"].to_list() == dataset.items.ids_at(top_LK[user].astype(np.int64)).to_list()
            assert found["rank"].to_list() == list(range(1, 11))
            assert found["score"].is_sorted(descending=True)
            assert found["user"].unique().to_list() == [f"u{user:02d}"]
            met["lists"] += 1
            met["unlike the first"] += top_LK[user].tolist() != top_LK[0].tolist()
    assert_not_vacuous(met, above=9)


def test_baselines_recommend_the_lists_that_they_are_judged_by(dataset, judged, monkeypatch):
    check_lists(dataset, judged, [family.name for family in retrieval.RETRIEVAL_BASELINES])
    right = counting_recommender.Histories
    monkeypatch.setattr(
        counting_recommender,
        "Histories",
        lambda item_E, *others: right(item_E[::-1].copy(), *others),  # the newest event first
    )
    assert_caught(check_lists, dataset, judged, ["sequential rules"])


def check_actions(dataset: Dataset, judged: dict[str, Answers], names: Iterable[str]) -> None:
    met = {"known": 0}
    for name in names:
        baseline = plait.CountingScorer.fit(dataset, name)
        for user in range(dataset.num_users):
            item = dataset.item_ids()[int(dataset.history(user).item_E[-1]) - 1]
            found = baseline.score(baseline.encode(before_the_test(dataset, user)), [item, "i03"])
            assert found["item"].to_list() == [item, "i03"]
            rating = judged[name].predicted["rating"][user]
            assert found["rating"][0] == pytest.approx(rating, rel=1e-6)
            assert 0 <= found["liked"][0] <= 1
            met["known"] += 1
    assert_not_vacuous(met)


def test_baselines_score_as_they_are_judged(dataset, judged, monkeypatch):
    check_actions(dataset, judged, [family.name for family in actions.ACTION_BASELINES])
    right = counting_recommender.CountedHistory
    monkeypatch.setattr(
        counting_recommender,
        "CountedHistory",
        lambda state, is_counted_E: right(state, ~is_counted_E),
    )
    assert_caught(check_actions, dataset, judged, ["item and user"])


def test_what_a_request_hides_is_not_counted(tmp_path):
    """Lists are those that counting is judged by, of histories that end where the request of the answer begins."""
    columns = {name: name for name in ("user", "item", "time", "request")}
    log = random_log().with_columns(request=pl.int_range(pl.len()).over("user") // 3)
    data = plait.prepare(log, **columns, actions=list(ACTIONS), out=tmp_path / "data", min_item_events=1)
    judged_LK = baselines_of(data, KEPT, "blind", tmp_path / "judged")[1]["sequential rules"].top_LK
    blind, causal = (
        plait.CountingRecommender.fit(data, "sequential rules", protocol=KEPT, same_request=kind)
        for kind in ("blind", "causal")
    )
    met = {"other lists": 0}
    for user in range(data.num_users):
        whole = data.history(user)
        end = int(np.flatnonzero(whole.request_E == whole.request_E[-1])[0])
        history = blind.encode(part_of(whole, 0, 0, end))
        found = blind.retrieve(history, filter_seen=False)["item"].to_list()
        assert found == data.items.ids_at(judged_LK[user].astype(np.int64)).to_list()
        met["other lists"] += found != causal.retrieve(history, filter_seen=False)["item"].to_list()
    assert_not_vacuous(met)


def test_tables_of_the_log_are_read_as_models_read_them(dataset):
    baseline = plait.CountingRecommender.fit(dataset, "item-kNN")
    log = random_log().filter(user="u03")
    of_dataset = baseline.retrieve(baseline.encode(dataset.history(3)), 3)
    of_table = baseline.retrieve(baseline.encode(log), 3)
    assert of_table["item"].to_list() == of_dataset["item"].to_list()
    assert not set(of_table["item"]) & set(log["item"])
    nobody = baseline.encode(log.drop("user").head(1))
    assert baseline.retrieve(nobody, 2)["user"].to_list() == [None, None]
    with pytest.raises(ValueError, match="k = 99"):
        baseline.retrieve(nobody, 99)
    scorer = plait.CountingScorer.fit(dataset, "item and user")
    assert len(scorer.score(scorer.encode(random_log()), ["i01", "i02"])) == 2 * 23
    with pytest.raises(ValueError, match="'i99'"):
        scorer.score(scorer.encode(log), ["i99"])


def test_what_is_not_counted_is_refused_with_what_there_is(dataset):
    with pytest.raises(ValueError, match="called 'popularty'; did you mean 'popularity'"):
        plait.CountingRecommender.fit(dataset, "popularty")
    with pytest.raises(ValueError, match=r"ranks items is called 'item mean'.* There are popularity, recent"):
        plait.CountingRecommender.fit(dataset, "item mean")
    with pytest.raises(ValueError, match="'own frequency' is not counted here: seen items are filtered"):
        plait.CountingRecommender.fit(dataset, "own-frequency")
    with pytest.raises(ValueError, match="predicts actions is called 'EASE'"):
        plait.CountingScorer.fit(dataset, "EASE")
