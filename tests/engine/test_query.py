"""Group queries: many conditions of a user over one encoded history, each as if it were asked alone.

Shape letters: U users, N conditions, G columns of conditions, W width of an interest.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tiny import (
    CONDITIONS,
    NUM_CONDITIONS,
    NUM_ITEMS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    trunk_of,
)

from plait.engine import asking, one_pass, plain, steps
from plait.engine.ranking import keys_of_items
from plait.engine.state import append, before, behind, encode
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.questions import Exposure
from plait.nn.config import TRUNKS
from plait.nn.losses import RetrievalLoss

LENGTHS = (7, 1, 4)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
HSTU = replace(TRUNKS["hstu"], dim=8, num_layers=2, num_heads=2, dropout=0.0, positions="rab")
SETTINGS = {
    "gpt": ModelSettings(trunk=trunk_of()),
    "projected": ModelSettings(trunk=trunk_of("rope"), interest_dim=5, retrieval=RetrievalLoss(l2_norm=True)),
    "blind": ModelSettings(trunk=trunk_of("alibi"), exposure=Exposure(same_request="blind")),
    "hstu": ModelSettings(trunk=HSTU),
    "at one moment": ModelSettings(trunk=HSTU, exposure=Exposure(time_anchor="request")),
}
AT_S = 2_000_000


@pytest.fixture(params=SETTINGS)
def model(request) -> GenerativeRecommender:
    return model_of(resolve("lum"), settings=SETTINGS[request.param])


def conditions(num: int = 5) -> np.ndarray:
    """Others for every user, missing and unseen ones among them; one comes twice."""
    rng = np.random.default_rng(2)
    condition_UNG = rng.integers(0, NUM_CONDITIONS, (len(LENGTHS), num, len(CONDITIONS)))
    condition_UNG[:, 0], condition_UNG[:, 1], condition_UNG[:, -1] = 0, 2, 2
    return condition_UNG


def state_of(model, length_U=LENGTHS):
    batch = batch_of(length_U)
    return one_pass.encode(model, encode(batch, model.plan.window, model.plan.lead))


def check_queries(model: GenerativeRecommender) -> None:
    state, condition_UNG = state_of(model), conditions()
    ask = partial(one_pass.query, model, at_s=AT_S)
    found_UNW = ask(state, condition_UNG)
    width = model.config.settings.interest_dim or model.config.settings.trunk.dim
    assert found_UNW.shape == (*condition_UNG.shape[:2], width) and found_UNW.dtype == np.float32
    close(found_UNW, plain.query(model, state, condition_UNG, at_s=AT_S))
    for n in range(condition_UNG.shape[1]):
        close(found_UNW[:, [n]], ask(state, condition_UNG[:, [n]]))
    close(found_UNW[:, ::-1], ask(state, condition_UNG[:, ::-1]))
    close(found_UNW[:, 1], found_UNW[:, -1])
    with steps.smaller(3 * steps.bytes_per_token(model)):
        close(found_UNW, ask(state, condition_UNG))
    apart = [np.abs(found_UNW[:, 0] - found_UNW[:, 1]).max(), np.abs(found_UNW[0] - found_UNW[2]).max()]
    assert_not_vacuous({"conditions and users apart": int(min(apart) > 1e-3)})


def test_conditions_in_one_pass_are_as_one_by_one(model):
    check_queries(model)


def test_a_condition_that_another_one_is_told_is_caught(monkeypatch):
    right = asking.candidate_lists_of

    def broken(*arguments):
        batch = right(*arguments)
        return replace(batch, condition_EG=np.tile(batch.condition_EG[:1], (len(batch.item_E), 1)))

    monkeypatch.setattr(asking, "candidate_lists_of", broken)
    assert_caught(check_queries, model_of(resolve("lum")))


def test_a_state_that_grew_answers_as_one_encoded_anew(model):
    whole = batch_of((6, 3))
    ones_U = np.ones(2, dtype=np.int64)
    plan, asked = model.plan, conditions()[:2]
    earlier = one_pass.encode(model, encode(before(whole, ones_U), plan.window, plan.lead))
    grown = one_pass.append(model, earlier, append(earlier, behind(whole, ones_U), plan.window, plan.lead))
    anew = one_pass.encode(model, encode(whole, plan.window, plan.lead))
    found_UNW = one_pass.query(model, grown, asked, at_s=AT_S)
    close(found_UNW, one_pass.query(model, anew, asked, at_s=AT_S))
    assert np.abs(found_UNW - one_pass.query(model, earlier, asked, at_s=AT_S)).max() > 1e-3


def test_a_list_under_a_condition_is_what_its_interest_is_most_similar_to(model):
    """Retrieval, by both engines, is the similarity of `query` and `keys_of_items`, divided by the temperature."""
    state, condition_UG = state_of(model), conditions()[:, 2]
    interest_UW = one_pass.query(model, state, condition_UG[:, None], at_s=AT_S)[:, 0]
    similarity_UV = interest_UW @ keys_of_items(model).numpy().T
    for engine in (one_pass, plain):
        item_UK, score_UK = engine.retrieve(
            model, state, NUM_ITEMS, filter_seen=False, at_s=AT_S, condition_UG=condition_UG
        )
        close(np.take_along_axis(similarity_UV, item_UK - 1, axis=1), score_UK * model.retrieval.temperature)
    others, _ = one_pass.retrieve(model, state, NUM_ITEMS, filter_seen=False, at_s=AT_S)
    assert (others != item_UK).any(), "conditions change lists"


def test_items_that_are_described_alike_have_one_vector_each():
    """`keys_of_items` undoes the grouping of the catalogue."""
    model = model_of(resolve("lum"), settings=SETTINGS["projected"])
    with torch.no_grad():
        expected = model.retrieval.keys(model.compared(model.items.table()[1:]))
    close(keys_of_items(model), expected)


def test_layouts_that_show_no_condition_are_refused():
    for notation in ("item", "lac", "interleaved"):
        model = model_of(resolve(notation))
        with pytest.raises(ValueError, match=r"is not asked under conditions: .* train layout 'lum'"):
            one_pass.query(model, state_of(model), conditions())
    model = model_of(resolve("lum"))
    with pytest.raises(ValueError, match="no conditions to ask under: 0 for 3 users"):
        plain.query(model, state_of(model), conditions()[:, :0])
