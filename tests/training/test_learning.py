"""Training learns a world whose rules are known, as far as the layout lets it see them."""

import numpy as np
import polars as pl
import pytest
from small_runs import fitted, silent
from tiny import prepared

from plait.data import Dataset
from plait.evaluation.answers import answers_of, metric_values
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkConfig

NUM_ITEMS = 29


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The next item is one further, or two if this one was liked: a coin decides. An item's number is its rating."""
    rng = np.random.default_rng(0)
    num_users, length = 90, 9
    liked_UT = rng.integers(0, 2, (num_users, length))
    moved_UT = np.cumsum(1 + liked_UT, axis=1) - (1 + liked_UT)
    item_UT = (rng.integers(0, NUM_ITEMS, (num_users, 1)) + moved_UT) % NUM_ITEMS
    log = pl.DataFrame(
        {
            "user": np.repeat(np.arange(num_users), length),
            "item": item_UT.reshape(-1),
            "time": np.tile(np.arange(length), num_users),
            "rating": 1.0 + item_UT.reshape(-1) % 5,
            "liked": liked_UT.reshape(-1).astype(np.float64),
        }
    )
    return prepared(log, tmp_path_factory.mktemp("world") / "data")


@pytest.mark.parametrize(
    ("layout", "sees_what_was_liked"),
    [("lac", False), ("interleaved", True), ("pc", True), ("lac_patched", True)],
)
def test_what_a_layout_can_see_is_learned(world, layout, sees_what_was_liked, tmp_path):
    """All predict the rating. Two items can follow: only a layout that sees the last action at its next item, in
    the trunk or at the head, can tell them apart; lac cannot, and finds the item every other time."""
    settings = RunSettings(
        layout=str(resolve(layout)),
        model=ModelSettings(trunk=TrunkConfig(dim=32, num_layers=1, num_heads=2, dropout=0.0)),
        optim=Optim(learning_rate=1e-2, warmup_steps=10, users_per_step=30, precision="fp32"),
        protocol=Protocol(max_events=7, max_epochs=40, validate_every=5, select="mrr"),
    )
    found = fitted(world, tmp_path, settings, silent)
    losses = [row["loss"] for row in found.progress.curve]
    assert losses[-1] < 0.5 * losses[0]
    values = metric_values(answers_of(found.model, world, "test", settings.protocol))
    assert values["rmse:rating"] < 0.5
    assert values["hr@5"] > 0.9
    if sees_what_was_liked:
        assert values["hr@1"] > 0.8
    else:
        assert 0.3 < values["hr@1"] < 0.7
    assert values["auc:liked"] < 0.75, "a coin cannot be predicted"
