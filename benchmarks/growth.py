"""How a training step grows: with the length of rows, the number of users, the catalogue and an action's values.

    python benchmarks/growth.py --out benchmarks/results/growth.json

What grew faster than it should was mended once; two runs show by how much, one of them with PYTHONPATH set to a
checkout of the commit before. The result names both the commit of this script and that of the library it measured.
Memory is the peak of the process above what it held before the step; times are medians of rounds in turn.
"""

import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import cyclopts
import numpy as np
import torch
from provenance import write_result
from train_step import ROUNDS, SEED, Step, batch_of, medians_ms, trainable, whole_step

import plait
from plait.layouts import resolve
from plait.layouts.packing import pack
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import training_inputs
from plait.nn.config import TrunkConfig
from plait.nn.losses import RetrievalLoss
from plait.nn.runtime import tune_process
from plait.randomness import Stream, torch_generator
from plait.schema import Action, Categorical, Category, EventBatch, Feature, FeatureTable, Regression, Vector
from plait.training.memory import forget_peak_memory, peak_memory_mb

ROW_LENGTHS = (1024, 2048, 4096)
TRUNKS = (("gpt", "rope"), ("gpt", "alibi"), ("gpt", "rab"), ("hstu", "alibi"), ("hstu", "rab"))
SHARES = (1.0, 0.75, 0.25, 0.5, 0.5, 0.6, 0.4)  # of a row, by user: four rows, three of them of two users
USERS, EVENTS = 32, 50  # of a step that measures items or actions
NUM_FEW, NUM_MANY = 1_000, 300_000
FEW_VALUES, MANY_VALUES = 10, 10_000
PACKED_USERS = 50_000
RATING = (Action("rating", Regression(1, 5)),)


def model_of(layout: str, num_items: int, max_events: int, **changes: object) -> GenerativeRecommender:
    config = ModelConfig(
        layout=str(resolve(layout)),
        settings=ModelSettings(),
        num_items=num_items,
        actions=RATING,
        max_events=max_events,
    )
    return trainable(replace(config, **changes))


def events_of(length_U: np.ndarray, num_items: int, num_values: int = 5, first_value: int = 1) -> EventBatch:
    batch, rng = batch_of(length_U), np.random.default_rng(SEED)
    num_events = len(batch.item_E)
    action_EA = rng.integers(first_value, first_value + num_values, (num_events, 1)).astype(np.float32)
    return replace(batch, item_E=rng.integers(1, num_items + 1, num_events), action_EA=action_EA)


def measure_rows(row_length: int) -> dict[str, object]:
    """Peak memory and time of forward and backward over four packed rows, d = 64, two layers of two heads."""
    found: dict[str, object] = {}
    batch = events_of((np.array(SHARES) * row_length).astype(int), NUM_FEW)
    for kind, positions in TRUNKS:
        settings = ModelSettings(trunk=TrunkConfig(kind=kind, positions=positions, dropout=0.0))
        model = model_of("lac", NUM_FEW, row_length, settings=settings)
        assert forget_peak_memory(), "the kernel does not tell the peak"
        before_mb, start_s = peak_memory_mb(), time.process_time()
        inputs = training_inputs(model.plan, batch)
        assert inputs.segments.segment_RL.shape == (4, row_length)
        model.total(model.losses(inputs)).backward()
        took_s, peak_mb = time.process_time() - start_s, peak_memory_mb()
        assert before_mb is not None and peak_mb is not None
        found[f"{kind} {positions}"] = {"peak_mb": peak_mb - before_mb, "processor_ms": took_s * 1e3}
        print(f"rows of {row_length}, {kind} {positions}: {found[f'{kind} {positions}']}", flush=True)
    return found


def measure_packing() -> dict[str, object]:
    """Many short users, in rows as long as one of them and in longer rows."""
    found: dict[str, object] = {}
    for row_length in (2, 200):
        times: list[float] = []
        while not times or (len(times) < ROUNDS and times[0] < 1):  # a slow one once
            start_s = time.process_time()
            pack(np.full(PACKED_USERS, 2), row_length)
            times.append(time.process_time() - start_s)
        found[f"{PACKED_USERS} users of 2 events, rows of {row_length}"] = {
            "median_ms": statistics.median(times) * 1e3,
            "rounds": len(times),
        }
    return found


def step_of_items(num_items: int, has_features: bool) -> Step:
    """A whole step under a sampled loss: two categories and a vector for every item, or its id alone."""
    features = (
        Feature("brand", Category(tuple(map(str, range(1_000))))),
        Feature("genre", Category(tuple(map(str, range(20))))),
        Feature("text", Vector(width=32)),
    )
    settings = ModelSettings(retrieval=RetrievalLoss(kind="sampled"))
    features = features if has_features else ()
    model = model_of("lac", num_items, EVENTS, settings=settings, item_features=features)
    rng, events_V = np.random.default_rng(SEED), np.ones(num_items + 1, dtype=np.int64)
    if features:
        code_VK = np.stack([rng.integers(0, high, num_items + 1) for high in (1_000, 20)], 1).astype(np.int32)
        vector_VW = rng.normal(size=(num_items + 1, 32)).astype(np.float32)
        model.items.describe(FeatureTable(features, code_VK, vector_VW), events_V)
    model.sampler = model.retrieval.make_sampler(
        torch.from_numpy(events_V), torch_generator(SEED, Stream.NEGATIVES)
    )
    inputs = training_inputs(model.plan, events_of(np.full(USERS, EVENTS), num_items))
    return whole_step(model, [inputs], "fp32")


def step_of_actions(layout: str, num_values: int) -> Step:
    """A whole step with one action of so many categories; a layout that predicts it also has an output for each."""
    action = Action("shop", Categorical(tuple(map(str, range(num_values)))))
    model = model_of(layout, NUM_FEW, EVENTS, actions=(action,))
    batch = events_of(np.full(USERS, EVENTS), NUM_FEW, num_values, first_value=0)
    return whole_step(model, [training_inputs(model.plan, batch)], "fp32")


def measure_items() -> dict[str, dict[str, float]]:
    return medians_ms(
        {
            f"{num_items} items, {'features' if has_features else 'ids alone'}": step_of_items(
                num_items, has_features
            )
            for num_items in (NUM_FEW, NUM_MANY)
            for has_features in (True, False)
        }
    )


def measure_actions() -> dict[str, dict[str, float]]:
    return medians_ms(
        {
            f"{layout}, {num_values} categories": step_of_actions(layout, num_values)
            for layout in ("action_in", "lac")
            for num_values in (FEW_VALUES, MANY_VALUES)
        }
    )


def commit_of_library() -> str:
    """Of the checkout that `plait` was imported from, which PYTHONPATH may have named."""
    folder = Path(plait.__file__).parent
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=folder, capture_output=True, text=True
    )
    return asked.stdout.strip()


def main(*, out: Path) -> None:
    """Measures everything and writes one JSON file."""
    result: dict[str, object] = {"library_commit": commit_of_library(), "switches": tune_process()}
    for row_length in ROW_LENGTHS:
        result[f"rows of {row_length}"] = measure_rows(row_length)
    for name, measure in (
        ("packing", measure_packing),
        ("items", measure_items),
        ("actions", measure_actions),
    ):
        result[name] = measure()
        print(f"{name}: {result[name]}", flush=True)
    write_result(out, result)


if __name__ == "__main__":
    cyclopts.run(main)
