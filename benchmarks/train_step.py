"""What a training step costs: packing, bf16 and layouts, as ratios measured in one run.

    python benchmarks/train_step.py --out benchmarks/results/train_step.json

Variants are interleaved round by round; each figure is the median over rounds, with the range beside it. A
step is forward, backward, clipping and AdamW; item heads run on item-predicting tokens only.
"""

import statistics
import time
from pathlib import Path

import cyclopts
import numpy as np
import torch
from provenance import write_result

from plait.data.sources.prepared import get
from plait.layouts import resolve
from plait.layouts.cost import BACKWARD, trunk_flops
from plait.layouts.packing import pack, pad
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import Inputs, Packer, training_inputs
from plait.nn.config import TrunkConfig
from plait.nn.dropout import draw_from
from plait.nn.initialising import initialised
from plait.nn.precision import autocast
from plait.nn.runtime import tune_process
from plait.papers.lum_speed import power_law_lengths
from plait.papers.timing import Step, whole_step
from plait.randomness import Stream, torch_generator
from plait.schema import Action, EventBatch, Regression
from plait.training.flops import step_flops

NUM_ITEMS = 3706
ROUNDS = 7
SEED = 0


def batch_of(length_U: np.ndarray) -> EventBatch:
    """Users of these lengths with random items and ratings."""
    rng = np.random.default_rng(SEED)
    num_events = int(length_U.sum())
    return EventBatch(
        user_U=np.arange(len(length_U)),
        start_U1=np.concatenate([[0], np.cumsum(length_U)]),
        lead_U=np.zeros(len(length_U), dtype=np.int64),
        item_E=rng.integers(1, NUM_ITEMS + 1, num_events),
        action_EA=rng.integers(1, 6, (num_events, 1)).astype(np.float32),
        time_s_E=np.arange(num_events),
        request_E=np.arange(num_events),
    )


def model_of(layout: str, dim: int, num_layers: int, max_events: int) -> GenerativeRecommender:
    config = ModelConfig(
        layout=str(resolve(layout)),
        settings=ModelSettings(trunk=TrunkConfig(dim=dim, num_layers=num_layers, num_heads=dim // 64)),
        num_items=NUM_ITEMS,
        actions=(Action("rating", Regression(1, 5)),),
        max_events=max_events,
    )
    return trainable(config)


def trainable(config: ModelConfig) -> GenerativeRecommender:
    """As a run starts it."""
    model = initialised(GenerativeRecommender(config), torch_generator(SEED, Stream.WEIGHTS))
    draw_from(model, torch_generator(SEED, Stream.DROPOUT))
    return model


def trunk_step(model: GenerativeRecommender, inputs: list[Inputs], precision: str) -> Step:
    """Forward and backward of the trunk alone, over the rows of the inputs."""
    dim = model.config.settings.trunk.dim
    rows = [torch.randn(*each.segments.segment_RL.shape, dim, requires_grad=True) for each in inputs]

    def step() -> None:
        for x_RLD, each in zip(rows, inputs, strict=True):
            with autocast(precision, "cpu"):
                loss = model.trunk(x_RLD, each.segments).float().square().mean()
            loss.backward()

    return step


def medians_ms(steps: dict[str, Step]) -> dict[str, dict[str, float]]:
    """Median and range over the rounds, all variants in turn within each."""
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start_s = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - start_s) * 1e3)
    return {
        name: {"median_ms": statistics.median(t), "min_ms": min(t), "max_ms": max(t)}
        for name, t in times.items()
    }


def ml_100k_lengths() -> np.ndarray:
    return get("ml-100k").train_lengths(200)


def measure_packing(length_U: np.ndarray, users_per_step: int, precision: str) -> dict[str, object]:
    """Packed rows, length buckets and pad-to-maximum over the same users and steps."""
    order = np.random.default_rng(SEED).permutation(length_U)[: 8 * users_per_step]
    in_order = np.split(order, range(users_per_step, len(order), users_per_step))
    bucketed = np.split(np.sort(order), range(users_per_step, len(order), users_per_step))
    longest = int(length_U.max())
    model = model_of("lac", 128, 2, longest)
    plans: dict[str, tuple[list[np.ndarray], Packer]] = {
        "padded": (in_order, pad),
        "buckets": (bucketed, pad),
        "packed": (in_order, pack),
    }
    inputs = {
        name: [training_inputs(model.plan, batch_of(lengths), packer) for lengths in batches]
        for name, (batches, packer) in plans.items()
    }
    found: dict[str, object] = {
        "fill_padded": float(
            np.mean([(each.segments.segment_RL >= 0).float().mean() for each in inputs["padded"]])
        ),
        "fill_packed": float(
            np.mean([(each.segments.segment_RL >= 0).float().mean() for each in inputs["packed"]])
        ),
        "useful_tokens": int(order.sum()),
    }
    for what, make in (("whole_step", whole_step), ("trunk", trunk_step)):
        times = medians_ms({name: make(model, each, precision) for name, each in inputs.items()})
        found[what] = times | {
            "packed_over_padded": times["padded"]["median_ms"] / times["packed"]["median_ms"],
            "packed_over_buckets": times["buckets"]["median_ms"] / times["packed"]["median_ms"],
        }
    return found


def measure_layouts(max_events: int, num_users: int) -> dict[str, object]:
    """Interleaved over lac, and bf16 over fp32, at d = 256 and 4 layers, users of full length."""
    batch = batch_of(np.full(num_users, max_events))
    models = {layout: model_of(layout, 256, 4, max_events) for layout in ("lac", "interleaved")}
    inputs = {layout: [training_inputs(model.plan, batch)] for layout, model in models.items()}
    found: dict[str, object] = {}
    for what, make in (("whole_step", whole_step), ("trunk", trunk_step)):
        steps = {
            f"{layout}_{precision}": make(models[layout], inputs[layout], precision)
            for layout in models
            for precision in ("bf16", "fp32")
        }
        times = medians_ms(steps)
        flops = {layout: _flops(what, model, inputs[layout][0]) for layout, model in models.items()}
        theory = flops["interleaved"] / flops["lac"]
        found[what] = times | {"interleaved_over_lac_theory": theory}
        for precision in ("bf16", "fp32"):
            ratio = times[f"interleaved_{precision}"]["median_ms"] / times[f"lac_{precision}"]["median_ms"]
            found[what] |= {
                f"interleaved_over_lac_{precision}": ratio,
                f"share_of_theory_{precision}": ratio / theory,
            }
        for layout in models:
            ratio = times[f"{layout}_fp32"]["median_ms"] / times[f"{layout}_bf16"]["median_ms"]
            found[what] |= {f"bf16_over_fp32_{layout}": ratio}
    return found


def _flops(what: str, model: GenerativeRecommender, inputs: Inputs) -> float:
    if what == "whole_step":
        return step_flops(model, inputs)
    trunk = model.config.settings.trunk
    length_U = torch.bincount(inputs.segments.segment_RL.flatten() + 1)[1:].double()
    edges = float((length_U**2).sum()) / 2
    return (1 + BACKWARD) * trunk_flops(inputs.num_tokens, edges, trunk.dim, trunk.num_layers)


def main(*, out: Path) -> None:
    """Measures everything and writes one JSON file."""
    switches = tune_process()
    result: dict[str, object] = {"switches": switches, "rounds": ROUNDS, "num_items": NUM_ITEMS}
    for name, lengths, users in (("ml_100k", ml_100k_lengths(), 32), ("power_law", power_law_lengths(), 256)):
        for precision in ("bf16", "fp32"):
            result[f"packing_{name}_{precision}"] = measure_packing(lengths, users, precision)
    for max_events, users in ((200, 16), (1024, 4)):
        result[f"layouts_T{max_events}"] = measure_layouts(max_events, users)
    write_result(out, result)


if __name__ == "__main__":
    cyclopts.run(main)
