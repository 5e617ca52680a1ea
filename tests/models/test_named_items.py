"""A training step encodes the items that it names, and learns from them what the whole catalogue would teach it."""

import numpy as np
import pytest
import torch
from allocations import allocations
from tiny import ACTIONS, MAX_EVENTS, assert_caught, batch_of, started, trunk_of

from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import Inputs, training_inputs
from plait.nn.dropout import draw_from
from plait.nn.encoders import ItemEncoder, ItemEncoding, ItemVectors
from plait.nn.losses import RetrievalLoss
from plait.schema import Categories, Category, Feature, FeatureTable, Vector
from plait.training import flops

NUM_ITEMS = 400
FEATURES = (
    Feature("brand", Category(("x", "y", "z"))),
    Feature("genre", Categories("|", ("a", "b"), most=2)),
    Feature("text", Vector(width=5)),
)
LOSSES = {
    "full": RetrievalLoss(kind="full"),
    "uniform": RetrievalLoss(kind="sampled", num_negatives=9, sampler="uniform"),
    "popularity": RetrievalLoss(kind="sampled", num_negatives=9, log_q="both"),
    "in batch": RetrievalLoss(kind="info_nce", log_q="none"),
    "in batch, corrected": RetrievalLoss(kind="info_nce", l2_norm=True, temperature=0.3),
}
SAMPLED = [name for name in LOSSES if name != "full"]


def model_of(loss: str, layout: str = "lac", id_dropout: float = 0.3, dim: int = 12) -> GenerativeRecommender:
    torch.manual_seed(4)
    settings = ModelSettings(
        trunk=trunk_of(dropout=0.2),
        retrieval=LOSSES[loss],
        items=ItemEncoding(feature_dim=3, id_dropout=id_dropout),
    )
    config = ModelConfig(
        layout=str(resolve(layout)),
        settings=settings,
        num_items=NUM_ITEMS,
        actions=ACTIONS,
        max_events=MAX_EVENTS,
        item_features=FEATURES,
    )
    model, draw = started(GenerativeRecommender(config)).train(), np.random.default_rng(0)
    code_VK = draw.integers(0, 4, (NUM_ITEMS + 1, 3)).astype(np.int32)
    table = FeatureTable(FEATURES, code_VK, draw.normal(size=(NUM_ITEMS + 1, 5)).astype(np.float32))
    events_V = draw.integers(0, 4, NUM_ITEMS + 1)
    model.items.describe(table, events_V)
    model.sampler = model.retrieval.make_sampler(torch.from_numpy(events_V), torch.Generator().manual_seed(7))
    return model


def inputs_of(model: GenerativeRecommender) -> Inputs:
    """Of users some of whose items are unknown."""
    batch = batch_of((5, 3, 9, 1))
    batch.item_E[[2, 6]] = 0
    return training_inputs(model.plan, batch)


def step(model: GenerativeRecommender) -> dict[str, torch.Tensor]:
    """The losses of one step and all its gradients."""
    draw_from(model, torch.Generator().manual_seed(7))
    losses = model.losses(inputs_of(model))
    model.total(losses).backward()
    return losses | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_equal_to_the_whole_catalogue(loss: str, layout: str = "lac") -> None:
    found = step(model_of(loss, layout))
    with pytest.MonkeyPatch.context() as patch:
        right = ItemEncoder.vectors
        patch.setattr(ItemEncoder, "vectors", lambda self, _=None: right(self))
        whole = step(model_of(loss, layout))
    assert found.keys() == whole.keys() and "items.new_item_D" in found
    for name, expected in whole.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6, msg=name)
    assert all(found[name].any() for name in ("items.embedding.weight", "items.codes.table.weight"))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", ("lac", "interleaved", "pc"))
def test_a_step_learns_what_it_would_from_the_whole_catalogue(loss, layout):
    check_equal_to_the_whole_catalogue(loss, layout)


def test_the_comparison_notices_vectors_of_other_items(monkeypatch):
    right = ItemVectors.of

    def neighbours(self: ItemVectors, item_E: torch.Tensor) -> torch.Tensor:
        if self.item_U is None:
            return right(self, item_E)
        return right(ItemVectors(self.vector_UD.roll(1, 0), self.item_U), item_E)

    monkeypatch.setattr(ItemVectors, "of", neighbours)
    assert_caught(check_equal_to_the_whole_catalogue, "uniform")


def num_encoded(loss: str, layout: str = "lac") -> int:
    rows = []
    with pytest.MonkeyPatch.context() as patch:
        right = ItemEncoder._vectors
        patch.setattr(ItemEncoder, "_vectors", lambda *arguments: rows.append(right(*arguments)) or rows[-1])
        step(model_of(loss, layout))
    (vector_ND,) = rows
    return len(vector_ND)


@pytest.mark.parametrize("loss", SAMPLED)
def test_only_the_items_that_a_step_names_are_encoded_once_each(loss):
    num_items = len(set(batch_of((5, 3, 9, 1)).item_E.tolist()) | {0})
    drawn = 9 if loss in ("uniform", "popularity") else 0
    assert num_items <= num_encoded(loss) <= num_items + drawn < NUM_ITEMS / 10
    assert num_encoded("full") == NUM_ITEMS + 1


def test_a_layout_that_asks_for_no_item_never_encodes_the_catalogue():
    assert num_encoded("full", "action_out") < NUM_ITEMS / 10


@pytest.mark.parametrize("loss", LOSSES)
def test_flops_count_the_items_that_a_step_encodes(loss):
    """At most: a negative that is drawn twice, or is the batch's, is counted once more than it is encoded."""
    model, drawn = model_of(loss), 9 if loss in ("uniform", "popularity") else 0
    counted = flops._num_encoded(model, inputs_of(model))
    assert num_encoded(loss) <= counted <= num_encoded(loss) + drawn


def test_no_tensor_of_a_step_is_as_long_as_the_catalogue():
    """Draws of id dropout, left out here, and the gradient of the id table are all that is left of it."""
    model = model_of("uniform", id_dropout=0.0)
    with allocations() as found:
        model.losses(inputs_of(model))
    assert 0 < found.largest_bytes < model.items.embedding.weight.nbytes / 2
