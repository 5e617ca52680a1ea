"""A tiny log of which items, users and moments are described, and models that read it all."""

from pathlib import Path

import numpy as np
import polars as pl
import torch
from tiny import ACTIONS, NUM_ITEMS, random_log, started

from plait.data import Dataset, LeaveOneOut, prepare
from plait.data.manifest import Split
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Protocol
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.late import LateSettings
from plait.schema import Feature
from plait.training.run import config_of

ITEM_FEATURES = tuple(map(Feature.parse, ("genre:categories:|", "year:number:3", "text:vector")))
USER_FEATURES = (Feature.parse("plan:category"),)
CONTEXT = tuple(map(Feature.parse, ("device:category", "hour:number:3")))
LATE = LateSettings(windows=(2, 4), similar="genre")
COLD = "z-cold"  # items of the table that the log never shows


def items_table() -> pl.DataFrame:
    """Every item's genres, year and vector; two items that the log lacks are twins of i03."""
    rng = np.random.default_rng(6)
    ids = [*(f"i{item:02d}" for item in range(NUM_ITEMS)), COLD, "z-later"]
    genres = ["|".join(rng.permutation(["a", "b", "c", "d"])[: rng.integers(1, 3)]) for _ in ids]
    years = rng.integers(1950, 2020, len(ids)).tolist()
    texts = rng.normal(size=(len(ids), 3)).tolist()
    for column in (genres, years, texts):
        column[-2:] = [column[3]] * 2
    return pl.DataFrame({"item": ids, "genre": genres, "year": years, "text": texts})


def users_table() -> pl.DataFrame:
    rng = np.random.default_rng(8)
    return pl.DataFrame(
        {"user": [f"u{user:02d}" for user in range(23)], "plan": rng.choice(["free", "paid"], 23)}
    )


def described_log() -> pl.DataFrame:
    """The random log, in which users come at the same times, two events a request; some devices are missing."""
    log, rng = random_log(), np.random.default_rng(9)
    device = rng.choice(["phone", "tablet", "tv", None, "phone"], len(log)).tolist()
    hour = pl.Series("hour", rng.integers(0, 24, len(log)))
    nth = pl.int_range(pl.len()).over("user")
    return log.with_columns(
        pl.Series("device", device),
        hour,
        pl.col("rating", "liked").fill_nan(None),
        time=1_000_000 + 3_600 * (nth // 2),
    )


def described(out: Path, split: Split = LeaveOneOut()) -> Dataset:
    return prepare(
        described_log(),
        user="user",
        item="item",
        time="time",
        actions=ACTIONS,
        out=out,
        min_item_events=1,
        split=split,
        items=items_table(),
        item_features=ITEM_FEATURES,
        users=users_table(),
        user_features=USER_FEATURES,
        context=CONTEXT,
        keep_unseen_items=True,
    )


def reading_model(
    dataset: Dataset, layout: str, settings: ModelSettings, max_events: int
) -> GenerativeRecommender:
    """An untrained model of all features whose weights are large, so that no path through it is near to zero."""
    torch.manual_seed(3)
    asked = RunSettings(layout=layout, model=settings, protocol=Protocol(max_events=max_events))
    model = started(GenerativeRecommender(config_of(dataset, asked))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if model.heads is not None:
        torch.nn.init.normal_(model.heads.weight_KD, std=0.05)
        torch.nn.init.constant_(model.heads.bias_K, 0.5)
    model.items.describe(dataset.item_features, dataset.train_item_counts())
    return model
