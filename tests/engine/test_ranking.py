"""Equal scores rank by catalogue order, whatever is asked beside them; lists of any length agree."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from described import COLD, described, reading_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import assert_caught, assert_not_vacuous, trunk_of

from plait.data import Dataset
from plait.engine import plain, ranking, steps
from plait.engine.ranking import (
    Catalogue,
    Scores,
    Seen,
    best,
    best_of_parts,
    catalogue_of,
    scores_at,
    without,
)
from plait.engine.state import encode
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.nn.losses import RetrievalLoss
from plait.schema import FeatureTable

WINDOW = 6


def parts_of(score_UV: np.ndarray, sizes: list[int], order_V: np.ndarray) -> list[Scores]:
    """The catalogue in parts of these sizes and the rest, its items in this order."""
    cuts = np.unique(np.clip(np.cumsum([0, *sizes, len(order_V)]), 0, len(order_V)))
    of_parts = [order_V[a:b] for a, b in pairwise(cuts)]
    return [Scores(torch.from_numpy(v + 1), torch.from_numpy(score_UV[:, v])) for v in of_parts]


def by_hand(score_V: np.ndarray, seen: set[int], k: int) -> list[int]:
    return sorted(set(range(1, len(score_V) + 1)) - seen, key=lambda item: (-score_V[item - 1], item))[:k]


def check_order(seed: int, levels: int, sizes: list[int], shuffled: bool) -> dict[str, int]:
    rng = np.random.default_rng(seed)
    num_users, num_items = int(rng.integers(1, 4)), int(rng.integers(4, 80))
    score_UV = rng.integers(-levels, levels, (num_users, num_items)).astype(np.float32)
    score_UV[score_UV == 0] *= rng.choice([-1, 1])  # zero has two signs, and they are equal
    seen_U = [rng.choice(num_items + 1, int(rng.integers(0, num_items // 2)), False) for _ in score_UV]
    order_V = rng.permutation(num_items) if shuffled else np.arange(num_items)
    k = int(rng.integers(1, num_items // 2 + 1))
    parts = parts_of(score_UV, sizes, order_V)
    hidden = [without(part, Seen.joined(seen_U)) for part in parts]
    score_UK, item_UK = best_of_parts(hidden, k)
    tied = 0
    for user, score_V in enumerate(score_UV):
        expected = by_hand(score_V, set(seen_U[user].tolist()), k + 1)
        assert item_UK[user].tolist() == expected[:k]
        assert score_UK[user].tolist() == score_V[np.array(expected[:k]) - 1].tolist()
        tied += len(expected) > k and score_V[expected[k] - 1] == score_V[expected[k - 1] - 1]
    return {"ties where the list ends": tied, "parts": len(parts) > 1}


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 30), st.lists(st.integers(1, 30), max_size=4), st.booleans())
def test_the_best_are_those_of_a_stable_sort(seed, levels, sizes, shuffled):
    check_order(seed, levels, sizes, shuffled)


def check_many_orders() -> None:
    found = [check_order(seed, 3, [7, 11], seed % 2 == 0) for seed in range(40)]
    assert_not_vacuous({name: sum(one[name] for one in found) for name in found[0]}, above=5)


def test_there_were_ties_and_parts():
    check_many_orders()


def test_topk_alone_is_caught(monkeypatch):
    def alone(score_UC, item_UC, k):
        top = score_UC.topk(k)
        return top.values, item_UC.gather(1, top.indices)

    monkeypatch.setattr(ranking, "best", alone)
    assert_caught(check_many_orders)


def check_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many columns the best are found among few, ties and filtered items included."""
    monkeypatch.setattr(ranking, "GROUP", 5)
    monkeypatch.setattr(ranking, "WORTH_GROUPING", 1)
    met = Counter[str]()
    for seed in range(120):
        rng = np.random.default_rng(seed)
        k, levels = int(rng.integers(1, 6)), int(rng.choice([3, 30, 1000]))
        score_UC = rng.integers(0, levels, (3, 83)).astype(np.float32)
        score_UC[rng.random(score_UC.shape) < rng.choice([0.0, 0.5, 0.95])] = -np.inf
        item_C = rng.permutation(83)
        found = best(torch.from_numpy(score_UC), torch.from_numpy(item_C).expand(3, -1), k)
        order_UC = np.lexsort((np.tile(item_C, (3, 1)), -score_UC), axis=1)[:, :k]
        assert np.array_equal(found[0], np.take_along_axis(score_UC, order_UC, 1))
        assert np.array_equal(found[1], item_C[order_UC])
        few = ranking._narrowed(torch.from_numpy(score_UC), torch.from_numpy(item_C).expand(3, -1), k)[0]
        met["narrowed" if few.shape[1] < 83 else "all"] += 1
        sorted_UC = -np.sort(-score_UC, axis=1)
        met["tied where narrowed"] += few.shape[1] < 83 and bool(
            (sorted_UC[:, k - 1] == sorted_UC[:, k]).any()
        )
    assert_not_vacuous({name: met[name] for name in ("narrowed", "all", "tied where narrowed")}, above=10)


def test_the_best_of_many_columns_are_found_among_few(monkeypatch):
    check_narrowed(monkeypatch)


def test_groups_that_tie_and_are_left_out_are_caught(monkeypatch):
    monkeypatch.setattr(ranking, "_highest_groups", lambda highest_UJ, k: highest_UJ.topk(k).indices)
    assert_caught(check_narrowed, monkeypatch)


def test_a_score_of_some_item_is_that_of_the_catalogue():
    rng = np.random.default_rng(2)
    score_UV = rng.normal(size=(3, 20)).astype(np.float32)
    item_UN = rng.integers(1, 21, (3, 5))
    found = scores_at(parts_of(score_UV, [4, 9], rng.permutation(20)), item_UN)
    assert found.tolist() == np.take_along_axis(score_UV, item_UN - 1, 1).tolist()


def test_a_score_that_is_no_number_is_refused():
    table_VD = torch.ones(3, 2)
    catalogue = Catalogue(RetrievalLoss(), table_VD, torch.arange(1, 4), np.arange(4))
    with pytest.raises(ValueError, match="query 1 has NaN for 3 of 3 scores"):
        list(catalogue.parts(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]])))
    assert best(torch.zeros(1, 3), torch.tensor([[3, 1, 2]]), 2)[1].tolist() == [[1, 2]]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    return described(tmp_path_factory.mktemp("described") / "data")


def with_twins(data: Dataset, num_twins: int = 40) -> tuple[GenerativeRecommender, list[int]]:
    """A model of many new items that are described as one of the catalogue is, among others that are not."""
    model = reading_model(data, str(resolve("lac")), ModelSettings(trunk=trunk_of()), WINDOW)
    like, of = int(data.item_index([COLD])[0]), data.item_features
    others = [item for item in range(1, 12) if (of.vector_NW[item] != of.vector_NW[like]).any()]
    row_N = np.array([like] * num_twins + others + [like])
    grown = model.with_items(FeatureTable(of.features, of.code_NK[row_N], of.vector_NW[row_N]))
    twins = [*data.item_index([COLD, "z-later"]).tolist()]
    first = model.config.num_items + 1
    return grown, twins + list(range(first, first + num_twins)) + [first + len(row_N) - 1]


@pytest.mark.parametrize("logits", [steps.STEP_LOGITS, 100, 16])
def test_items_described_alike_have_one_score_and_the_catalogues_order(data, logits, monkeypatch):
    model, twins = with_twins(data)
    monkeypatch.setattr(steps, "STEP_LOGITS", logits)
    catalogue, num_items = catalogue_of(model), model.config.num_items
    assert len(catalogue.key_WD) < num_items - 40 and sorted(catalogue.item_V.tolist()) == list(
        range(1, num_items + 1)
    )
    table_VD = model.items.table()[catalogue.item_V]
    row_V = np.repeat(np.arange(len(catalogue.key_WD)), np.diff(catalogue.start_W1))
    torch.testing.assert_close(catalogue.key_WD[torch.from_numpy(row_V)], table_VD)
    histories = [data.history(user) for user in (3, 11)]
    alone = [encode(history, WINDOW, 1) for history in histories]
    for state in alone:
        lists = [plain.retrieve(model, state, k, False) for k in (1, 5, 20, num_items)]
        whole, score_V = (found[0].tolist() for found in lists[-1])
        assert all(item_1K[0].tolist() == whole[: item_1K.shape[1]] for item_1K, _ in lists)
        place = whole.index(twins[0])
        assert whole[place : place + len(twins)] == twins
        assert len(set(score_V[place : place + len(twins)])) == 1 and len(set(score_V)) > 10


def test_a_digest_that_two_descriptions_share_changes_nothing(data, monkeypatch):
    model, _ = with_twins(data)
    expected = ranking.first_alike(model.items)
    monkeypatch.setattr(ranking, "_digests", lambda bits_NX: bits_NX.new_zeros(len(bits_NX)))
    found = ranking.first_alike(model.items)
    alike = found != torch.arange(1, len(found) + 1)
    assert (found[alike] == expected[alike]).all(), "at worst it keeps apart what is alike"


def test_without_ids_all_that_is_described_alike_is_one(data):
    model, twins = with_twins(data)
    model.items.embedding = None
    like_V = ranking.first_alike(model.items)
    code_VX = torch.cat([model.items.code_VC.float(), model.items.vector_VX], dim=1)[1:]
    for item, like in enumerate(like_V.tolist()):
        same_V = (code_VX == code_VX[item]).all(1)
        assert like == int(same_V.nonzero()[0]) + 1
    assert len(set(like_V.tolist())) < len(like_V) - 40 and twins
