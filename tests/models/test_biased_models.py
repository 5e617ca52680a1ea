"""A model with a bias of items: it trains, ranks, serves, grows and is saved with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from described import COLD, described, reading_model
from small_runs import MODEL, PROTOCOL, fitted, settings_of
from tiny import RETRIEVERS, asked_in_training, assert_caught, batch_of, model_of, part_of, trunk_of

from plait.data import Dataset
from plait.engine import asking, plain, steps
from plait.engine.state import encode
from plait.evaluation import answers
from plait.evaluation.answers import answers_of
from plait.layouts import Layout, resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.saving import load_model, save_model
from plait.nn.encoders import ItemEncoding
from plait.nn.item_bias import ItemBias
from plait.nn.losses import RetrievalLoss
from plait.schema import FeatureTable

WINDOW = PROTOCOL.max_events
KINDS = ("popularity", "learned")


def biased_model(layout: Layout, kind: str, count_V: np.ndarray | None = None) -> GenerativeRecommender:
    """Its bias is as large as its other scores, and its temperature is not 1."""
    retrieval = RetrievalLoss(kind="full", temperature=0.4, item_bias=kind)
    settings = ModelSettings(trunk=trunk_of(), retrieval=retrieval)
    model = model_of(layout, settings=settings, max_events=WINDOW)
    count(model, (np.arange(model.config.num_items + 1) * 7) ** 2 % 40 if count_V is None else count_V)
    return model


def count(model: GenerativeRecommender, count_V: np.ndarray) -> None:
    assert isinstance(model.item_bias, ItemBias)
    model.item_bias.count(torch.from_numpy(count_V))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", RETRIEVERS)
def test_the_loss_is_that_of_the_logits_that_rank(layout, kind):
    model = biased_model(layout, kind)
    inputs = asked_in_training(layout, batch_of((5, 3)), max_events=WINDOW)
    loss, met = model.losses(inputs)["retrieval"], 0
    for questions, state_MD in zip(inputs.questions, model(inputs), strict=True):
        if questions.target.fact.field == "i":
            item_M = inputs.item_E[questions.label_M]
            logit_MV = model.item_scores(state_MD)
            torch.testing.assert_close(torch.nn.functional.cross_entropy(logit_MV, item_M), loss)
            met += len(item_M)
    assert met > 3


@torch.no_grad()
def check_serving(dataset: Dataset, model: GenerativeRecommender) -> None:
    """What is retrieved, and how an answer ranks, is by the scores of the model; they are far from those without."""
    found = answers_of(model, dataset, "test", replace(PROTOCOL, filter_seen=False))
    moved = 0
    for user in range(dataset.num_users):
        history = part_of(dataset.history(user), 0, 0, len(dataset.history(user).item_E) - 1)
        state = encode(history, WINDOW, model.layout.lag)
        item_1K, score_1K = plain.retrieve(model, state, model.config.num_items, filter_seen=False)
        coming = asking.coming_of(model, "i", state, None, None)
        score_V = model.item_scores(plain._item_step(model, coming, asking.no_condition(coming.events)))[
            0
        ].numpy()
        np.testing.assert_allclose(score_1K[0], score_V[item_1K[0]], rtol=1e-5, atol=1e-5)
        assert (np.diff(score_V[item_1K[0]]) <= 1e-5).all()
        item = int(found.item_Q[user])
        assert found.rank_Q is not None and found.rank_Q[user] == (score_V[1:] >= score_V[item]).sum()
        bias_V = model.bias_of_items().numpy()
        moved += int(found.rank_Q[user] != ((score_V - bias_V)[1:] >= (score_V - bias_V)[item]).sum())
    assert moved > 6, "the bias decides"


@pytest.mark.parametrize("kind", KINDS)
def test_serving_and_evaluation_rank_by_the_same_scores(dataset, kind):
    check_serving(dataset, biased_model(resolve("lac"), kind, dataset.train_item_counts()))


@pytest.mark.parametrize("room", [plain, answers])
def test_a_bias_that_serving_or_evaluation_leaves_out_is_caught(dataset, room, monkeypatch):
    right = room.catalogue_of
    monkeypatch.setattr(room, "catalogue_of", lambda model: replace(right(model), bias_I=None))
    assert_caught(
        check_serving, dataset, biased_model(resolve("lac"), "popularity", dataset.train_item_counts())
    )


@pytest.fixture(scope="module")
def features_data(tmp_path_factory) -> Dataset:
    return described(tmp_path_factory.mktemp("described") / "data")


def check_added(data: Dataset, kind: str) -> None:
    """The scores of the catalogue stay; an added item scores as a new one that is described like it."""
    settings = ModelSettings(trunk=trunk_of(), retrieval=RetrievalLoss(temperature=0.4, item_bias=kind))
    model = reading_model(data, str(resolve("lac")), settings, WINDOW)
    count(model, data.train_item_counts())
    cold = int(data.item_index([COLD])[0])
    of, row = data.item_features, np.array([cold])
    grown = model.with_items(FeatureTable(of.features, of.code_NK[row], of.vector_NW[row]))
    state, k = encode(data.history(3), WINDOW, 1), grown.config.num_items
    (before_1K, score_1K), (after_1K, grown_1K) = (
        plain.retrieve(each, state, each.config.num_items, False) for each in (model, grown)
    )
    before, after = (
        dict(zip(item_1K[0].tolist(), found_1K[0].tolist(), strict=True))
        for item_1K, found_1K in ((before_1K, score_1K), (after_1K, grown_1K))
    )
    assert after[k] == pytest.approx(before[cold], abs=1e-5)
    assert {item: after[item] for item in before} == pytest.approx(before, abs=1e-5)
    assert model.bias_of_items()[1:].std() > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_items_that_come_later_have_the_bias_of_new_ones(features_data, kind):
    check_added(features_data, kind)


def test_an_added_item_without_a_bias_is_caught(features_data, monkeypatch):
    right = ItemBias.with_items

    def without(self, num_added):
        grown = right(self, num_added)
        grown.popularity_V[-num_added:] = 0.0
        return grown

    monkeypatch.setattr(ItemBias, "with_items", without)
    assert_caught(check_added, features_data, "popularity")


def test_items_that_share_a_vector_part_by_their_bias(features_data, monkeypatch):
    """Without ids, items that are described alike are one vector in the ranking, and yet not one score."""
    settings = ModelSettings(
        trunk=trunk_of(),
        items=ItemEncoding(use_id=False),
        retrieval=RetrievalLoss(temperature=0.4, item_bias="popularity"),
    )
    model = reading_model(features_data, str(resolve("lac")), settings, WINDOW)
    model.items.code_VC[:] = model.items.code_VC[1]
    model.items.vector_VX[:] = model.items.vector_VX[1]
    count(model, features_data.train_item_counts())
    state, k = encode(features_data.history(3), WINDOW, 1), model.config.num_items
    bias_V = model.bias_of_items().numpy()
    expected = np.argsort(-bias_V[1:], kind="stable") + 1
    for logits in (steps.STEP_LOGITS, 5):
        monkeypatch.setattr(steps, "STEP_LOGITS", logits)
        item_1K, score_1K = plain.retrieve(model, state, k, filter_seen=False)
        assert item_1K[0].tolist() == expected.tolist()
        np.testing.assert_allclose(score_1K[0] - score_1K[0, 0], bias_V[expected] - bias_V.max(), atol=1e-5)
    assert len(np.unique(bias_V)) > 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_is_saved_with_the_model(kind, tmp_path):
    model = biased_model(resolve("lac"), kind)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.bias_of_items(), model.bias_of_items()) and loaded.bias_of_items().std() > 0.5
    assert loaded.config == model.config


def test_a_layout_that_predicts_no_item_and_a_model_that_asks_for_none_have_none():
    settings = ModelSettings(trunk=trunk_of(), retrieval=RetrievalLoss(item_bias="learned"))
    assert model_of(resolve("genrank"), settings=settings).item_bias is None
    assert not any("item_bias" in name for name in model_of(resolve("lac")).state_dict())


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("popularity", "full"), ("learned", "full"), ("learned", "sampled"), ("learned", "info_nce")],
)
def test_training_counts_the_items_and_learns_what_is_to_be_learned(dataset, kind, loss, tmp_path):
    settings = settings_of("lac", max_epochs=1)
    retrieval = RetrievalLoss(kind=loss, item_bias=kind)
    settings = replace(settings, model=replace(MODEL, retrieval=retrieval))
    bias = fitted(dataset, tmp_path, settings).model.item_bias
    count_V = dataset.train_item_counts()
    known = count_V > 0
    expected = torch.from_numpy(np.log(count_V[known] + 0.5)).float()
    torch.testing.assert_close(bias.popularity_V[known], expected)
    assert (bias.learned_V is not None) == (kind == "learned")
    if bias.learned_V is not None:
        assert (bias.learned_V[known] != 0).float().mean() > 0.5
