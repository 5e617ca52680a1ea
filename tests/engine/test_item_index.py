"""An index of items: scores are exact, recall is what was measured, all lists are the exact answer, filters hold, and
what is damaged or of another model is refused."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy import sparse
from tiny import assert_caught, batch_of, model_of, trunk_of

from plait import files
from plait.cli.bulk import Asking
from plait.counts.beside import Counts, ItemCounts, Tables
from plait.data.history import Columns
from plait.data.vocabulary import Vocabulary
from plait.engine import item_index, one_pass
from plait.engine.by_index import measured_recall, retrieve_by_index
from plait.engine.item_index import ABOUT, INDEX, ItemIndex, index_of_items, load_index, save_index
from plait.engine.state import State, encode
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.saving import save_model
from plait.nn.losses import RetrievalLoss
from plait.recommender import Recommender
from plait.service.service import Model

pytest.importorskip("faiss", reason="the extra [ann] is part of [test]")

NUM_ITEMS = 2_000
LENGTHS = (5, 9, 2, 12)
K, PROBES = 10, 12
FakeData = SimpleNamespace(manifest=SimpleNamespace(content_hash="of data"))


@pytest.fixture(scope="module")
def model() -> GenerativeRecommender:
    """With a bias that matters."""
    settings = ModelSettings(
        trunk=trunk_of(), retrieval=RetrievalLoss(l2_norm=True, temperature=0.2, item_bias="popularity")
    )
    small = model_of("i[t] -> i[t+1]", settings=settings)
    grown = GenerativeRecommender(replace(small.config, num_items=NUM_ITEMS)).eval()
    rng = np.random.default_rng(0)
    for parameter in grown.parameters():
        parameter.data.copy_(parameter.data.new_tensor(rng.normal(0, 0.4, tuple(parameter.shape))))
    assert grown.item_bias is not None
    grown.item_bias.popularity_V.copy_(
        grown.item_bias.popularity_V.new_tensor(rng.normal(0, 2, NUM_ITEMS + 1))
    )
    return grown


def state_of(model: GenerativeRecommender) -> State:
    batch = batch_of(LENGTHS)
    rng = np.random.default_rng(1)
    batch = replace(batch, item_E=rng.integers(1, NUM_ITEMS + 1, len(batch.item_E)))
    return one_pass.encode(model, encode(batch, model.plan.window, model.plan.lead))


@pytest.fixture(scope="module")
def indices(model) -> dict[str, ItemIndex]:
    all_lists = index_of_items(model, "ivf").about.num_lists
    return {
        "hnsw": index_of_items(model, "hnsw"),
        "ivf": index_of_items(model, "ivf", PROBES),
        "all lists": index_of_items(model, "ivf", all_lists),
    }


def exact_scores(model: GenerativeRecommender, state: State) -> np.ndarray:
    """By dense item; column 0 is -inf."""
    item_UV, score_UV = one_pass.retrieve(model, state, NUM_ITEMS, False)
    whole = np.full((len(LENGTHS), NUM_ITEMS + 1), -np.inf)
    np.put_along_axis(whole, item_UV, score_UV.astype(np.float64), axis=1)
    return whole


def check_answers(model: GenerativeRecommender, index: ItemIndex) -> Counter:
    state, met = state_of(model), Counter()
    exact_UI = exact_scores(model, state)
    for k in (1, K, 50):
        item_UK, score_UK, num_exact = retrieve_by_index(model, state, k, True, index)
        expected_UK, _ = one_pass.retrieve(model, state, k, True)
        assert item_UK.shape == (len(LENGTHS), k) and (np.diff(score_UK) <= 0).all() and num_exact == 0
        np.testing.assert_allclose(
            score_UK, np.take_along_axis(exact_UI, item_UK, axis=1), rtol=1e-5, atol=1e-5
        )
        for user, item_K in enumerate(item_UK):
            assert len(set(item_K)) == k and not set(item_K) & set(state.seen_U[user])
            met["found"] += len(set(item_K) & set(expected_UK[user]))
        met["asked"] += expected_UK.size
    assert met["found"] > 0.5 * met["asked"]
    return met


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "all lists"])
def test_scores_are_exact_whatever_is_found(model, indices, kind):
    met = check_answers(model, indices[kind])
    assert kind != "all lists" or met["found"] == met["asked"]


def test_recall_is_the_share_of_the_exact_answer(model, indices):
    state, found = state_of(model), {}
    exact_UK = one_pass.retrieve(model, state, 50, False)[0]
    for kind, index in indices.items():
        item_UK, _, _ = retrieve_by_index(model, state, 50, False, index)
        same = [len(set(a) & set(b)) / 50 for a, b in zip(item_UK, exact_UK, strict=True)]
        found[kind] = measured_recall(model, state, 50, index)
        assert found[kind] == pytest.approx(np.mean(same))
    assert found["all lists"] == 1.0 and 0 < found["ivf"] < 1.0


def counts_that_outweigh_the_model() -> Counts:
    """Rules by which 20 items follow each."""
    rng, size = np.random.default_rng(2), NUM_ITEMS + 1
    rules = sparse.random_array((size, size), density=0.01, rng=rng, dtype=np.float32).tocsr()
    tables = Tables(np.ones(size), rules, 5, 0.7, None, reads_own=False)
    return Counts(ItemCounts(tables, np.array([0.1, 1.0]), ""), None, "causal")


def test_what_counts_add_most_to_is_a_candidate(model, indices, monkeypatch):
    alone = exact_scores(model, state_of(model))
    monkeypatch.setattr(model, "counts", counts_that_outweigh_the_model())
    assert not np.allclose(exact_scores(model, state_of(model))[:, 1:], alone[:, 1:], atol=0.1)
    all_is_found(model, indices["hnsw"])
    monkeypatch.setattr(item_index, "OF_COUNTS", 0)
    assert_caught(check_answers, model, indices["hnsw"])


def without_the_bias(monkeypatch):
    right = item_index._with_one

    def forgotten(query_UD):
        with_one_Ud = right(query_UD)
        with_one_Ud[:, -1] = 0.0
        return with_one_Ud

    monkeypatch.setattr(item_index, "_with_one", forgotten)


def candidates_without_the_bias(monkeypatch):
    right = ItemIndex.candidates

    def forgotten(self, query_UD, breadth):
        with pytest.MonkeyPatch.context() as patch:
            without_the_bias(patch)
            return right(self, query_UD, breadth)

    monkeypatch.setattr(ItemIndex, "candidates", forgotten)


def all_is_found(model: GenerativeRecommender, index: ItemIndex) -> None:
    met = check_answers(model, index)
    assert met["found"] == met["asked"]


@pytest.mark.parametrize("mutant", [without_the_bias, candidates_without_the_bias])
def test_a_forgotten_bias_is_caught(mutant, model, indices, monkeypatch):
    monkeypatch.setattr(item_index, "SPARE", 0)
    all_is_found(model, indices["all lists"])
    mutant(monkeypatch)
    assert_caught(all_is_found, model, indices["all lists"])


def test_filters_hold_and_what_they_leave_too_short_is_exact(model, indices):
    state, kept_I = state_of(model), np.zeros(NUM_ITEMS + 1, dtype=bool)
    kept_I[np.argsort(exact_scores(model, state).max(axis=0))[1 : K + 20]] = True  # the worst for everyone
    item_UK, score_UK, num_exact = retrieve_by_index(model, state, K, True, indices["ivf"], kept_I=kept_I)
    expected = one_pass.retrieve(model, state, K, True, kept_I=kept_I)
    np.testing.assert_array_equal(item_UK, expected[0])
    np.testing.assert_allclose(score_UK, expected[1], rtol=1e-5)
    assert num_exact == len(LENGTHS)
    ids = pl.Series("item_id", [f"i{n}" for n in range(NUM_ITEMS)])
    columns = Columns(user="user", item="item", time="time", time_unit="s")
    recommender = Recommender(model, Vocabulary.of_items(ids), columns)
    with pytest.warns(UserWarning, match=r"fewer than 10 items for 4 of 4 users; .* the whole catalogue"):
        recommender.retrieve(state, K, mask=kept_I[1:], index=indices["ivf"])
    assert len(recommender.retrieve(state, K, index=indices["ivf"])) == K * len(LENGTHS)


def test_an_index_is_saved_with_whose_it_is_and_how_good(model, indices, tmp_path):
    save_index(replace(indices["ivf"]), tmp_path)
    loaded, state = load_index(model, tmp_path), state_of(model)
    assert loaded.about == indices["ivf"].about and loaded.about.num_probes == PROBES
    for found, expected in zip(
        retrieve_by_index(model, state, K, True, loaded),
        retrieve_by_index(model, state, K, True, indices["ivf"]),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    other = GenerativeRecommender(model.config).eval()
    with pytest.raises(
        ValueError, match="of another model, whose items lie elsewhere; build the index again"
    ):
        load_index(other, tmp_path)
    with pytest.raises(ValueError, match="the index is of another model"):
        retrieve_by_index(other, state, K, True, loaded)
    about = (tmp_path / ABOUT).read_bytes()
    (tmp_path / ABOUT).write_bytes(about + b" ")
    with pytest.raises(ValueError, match=r"about.json is damaged .* build the index again"):
        load_index(model, tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(ValueError, match=r"has no index/items.faiss; build an index with `plait index`"):
        load_index(model, tmp_path)


def check_version_stays(indices: dict[str, ItemIndex], folder: Path) -> None:
    """Of a model that gets an index: what serves it does not swap it, and lists of many users go on."""
    asked, version = Asking(None, FakeData, folder), Model("one", folder, None).version()
    named = asked.named
    save_index(indices["ivf"], folder)
    assert len(version) > 8 and Model("one", folder, None).version() == version and asked.named == named


def test_an_index_leaves_the_models_version_as_it_is(model, indices, tmp_path, monkeypatch):
    save_model(model, tmp_path)
    check_version_stays(indices, tmp_path)
    hashes = files.Hashes.read(tmp_path)
    assert hashes is not None and "model.safetensors" in hashes.files
    monkeypatch.setattr(item_index, "INDEX", "items.faiss")
    assert_caught(check_version_stays, indices, tmp_path)


def test_an_index_that_lost_its_hashes_and_is_damaged_is_refused(model, indices, tmp_path):
    save_index(indices["hnsw"], tmp_path)
    (tmp_path / item_index.FOLDER / files.HASHES).unlink()
    (tmp_path / INDEX).write_bytes((tmp_path / INDEX).read_bytes()[:200])
    with (
        pytest.warns(UserWarning, match="has no hashes.json"),
        pytest.raises(ValueError, match=r"items.faiss cannot be read .* build the index again"),
    ):
        load_index(model, tmp_path)


def test_what_cannot_be_built_is_refused(model, monkeypatch):
    with pytest.raises(ValueError, match="num_probes = 3: they are of kind = 'ivf'"):
        index_of_items(model, "hnsw", 3)
    with pytest.raises(ValueError, match="num_probes = 99999: expected 1 to"):
        index_of_items(model, "ivf", 99_999)
    with pytest.raises(ValueError, match="predicts no items"):
        index_of_items(model_of("i[t] -> a[t]"), "ivf")

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(item_index.importlib, "import_module", missing)
    with pytest.raises(ValueError, match=r"needs faiss, which is not installed: pip install 'plait\[ann\]'"):
        index_of_items(model, "ivf")
