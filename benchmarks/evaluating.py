"""What the validation of an epoch and the test take, and how often a history is encoded for them.

    python benchmarks/evaluating.py ml-100k --out benchmarks/results/evaluating-ml-100k.json

The default protocol, models of two layers of width 64, untrained. One forward pass answers what comes next and what is
done with it, so `histories` of `targets` are encoded. Layouts take turns in every round; times are processor time of
one thread, the median of the rounds with the range beside it. `--before CHECKOUT` measures another checkout beside this
one, each round in a process of its own.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cyclopts
import torch
from provenance import write_result
from train_step import trainable

from plait.cli.datasets import open_dataset
from plait.data import Dataset
from plait.evaluation.answers import answers_of, batch_of_targets, in_context, targets_of
from plait.evaluation.settings import Protocol
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.nn.config import TrunkConfig
from plait.nn.precision import Multiplied, autocast
from plait.nn.runtime import tune_process

PARTS = ("validation", "test")
PRECISIONS: tuple[Multiplied, ...] = ("fp32", "bf16")

Taken = dict[str, float]  # milliseconds, by what was measured


def main(
    dataset: str,
    *,
    out: Path | None = None,
    layouts: Sequence[str] = ("item", "lac", "interleaved", "genrank"),
    rounds: int = 5,
    before: Path | None = None,
) -> None:
    """Measures, and writes one JSON file; without a file, prints one round.

    Args:
        dataset: a name of `plait data list`, or a prepared folder.
    """
    tune_process()
    torch.set_num_threads(1)
    if out is None:
        print(json.dumps(round_of(dataset, layouts)))
        return
    checkouts = {"here": Path(__file__).parent.parent} | ({"before": before} if before else {})
    taken: dict[str, list[Taken]] = {name: [] for name in checkouts}
    for _ in range(rounds):
        for name, checkout in checkouts.items():
            taken[name].append(in_a_process(checkout, dataset, layouts))
    found = {
        name: {what: summed([each[what] for each in its]) for what in its[0]} for name, its in taken.items()
    }
    write_result(out, {"rounds": rounds, "encoded": encoded(dataset, layouts), "milliseconds": found})


def in_a_process(checkout: Path, dataset: str, layouts: Sequence[str]) -> Taken:
    chosen = (word for layout in layouts for word in ("--layouts", layout))
    words = [sys.executable, __file__, dataset, *chosen]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    said = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])


def round_of(name: str, layouts: Sequence[str]) -> Taken:
    dataset, protocol, found = open_dataset(name), Protocol(), Taken()
    models = {layout: model_of(layout, dataset) for layout in layouts}
    for layout, model in models.items():
        for precision in PRECISIONS:
            for part in PARTS:
                start_s = time.process_time()
                with autocast(precision, "cpu"):
                    answers_of(model, dataset, part, protocol)
                found[f"{layout} {part} {precision}"] = 1e3 * (time.process_time() - start_s)
    return found


def model_of(layout: str, dataset: Dataset) -> GenerativeRecommender:
    config = ModelConfig(
        layout=str(resolve(layout)),
        settings=ModelSettings(trunk=TrunkConfig(dim=64, num_layers=2, num_heads=2)),
        num_items=dataset.num_items,
        actions=dataset.actions,
        max_events=Protocol().max_events,
    )
    return trainable(config)


def encoded(name: str, layouts: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many histories are encoded for how many targets."""
    dataset, protocol, found = open_dataset(name), Protocol(), {}
    for layout in layouts:
        for part in PARTS:
            plan = protocol.plan(resolve(layout), model_of(layout, dataset).config.settings)
            asked = in_context(dataset, targets_of(dataset, part, plan, protocol), plan)
            count_B = batch_of_targets(dataset, asked, plan)[1]
            found[f"{layout} {part}"] = {"histories": len(count_B), "targets": len(asked)}
    return found


def summed(taken_ms: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(taken_ms), "min": min(taken_ms), "max": max(taken_ms)}


if __name__ == "__main__":
    cyclopts.run(main)
