"""What the probe chooses to multiply matrices in, and what each way does to a whole training step.

    python benchmarks/arithmetic.py --out benchmarks/results/arithmetic.json

`lac` over a trunk of two layers (four at d = 256). Ways take turns within every round; a ratio is torch's own fp32 over
the way, so above 1 the way is faster. Times are of the processor, so that others on the machine disturb them less.
"""

import statistics
import time
from pathlib import Path

import cyclopts
import numpy as np
from provenance import write_result
from train_step import Step, batch_of, model_of, whole_step

from plait.models.inputs import training_inputs
from plait.nn.arithmetic import choice, in_words, measure_multiplying
from plait.nn.precision import Multiplied, products_by
from plait.nn.runtime import tune_process

SHAPES = {
    (64, 2, 50): 16,
    (128, 2, 200): 16,
    (256, 4, 200): 16,
    (256, 4, 1024): 4,
}  # d, layers, T: users of a step
ROUNDS = 5


def step_of(precision: Multiplied, shape: tuple[int, int, int]) -> Step:
    dim, num_layers, num_events = shape
    model = model_of("lac", dim, num_layers, num_events)
    batch = batch_of(np.full(SHAPES[shape], num_events))
    step = whole_step(model, [training_inputs(model.plan, batch)], precision)

    def by_library() -> None:
        with products_by(precision):
            step()

    return by_library


def cpu_ms(steps: dict[Multiplied, Step]) -> dict[Multiplied, list[float]]:
    """Of every round, after one that warms up."""
    found: dict[Multiplied, list[float]] = {name: [] for name in steps}
    for number in range(ROUNDS + 1):
        for name, step in steps.items():
            start_s = time.process_time()
            step()
            if number:
                found[name].append((time.process_time() - start_s) * 1e3)
    return found


def measured_at(shape: tuple[int, int, int]) -> dict[str, object]:
    measure_multiplying(shape[0], "cpu")  # the first of a process starts torch's machinery, too
    start_s = time.process_time()
    probe = measure_multiplying(shape[0], "cpu")
    probe_ms = (time.process_time() - start_s) * 1e3
    times = cpu_ms({way: step_of(way, shape) for way in probe})
    ratios = {
        way: [usual / its for usual, its in zip(times["fp32"], its_times, strict=True)]
        for way, its_times in times.items()
    }
    return {
        "chosen": choice(probe),
        "because": in_words(probe),
        "probe_cpu_ms": round(probe_ms, 1),
        "step_cpu_ms": {way: round(statistics.median(its), 1) for way, its in times.items()},
        "times_as_fast": {way: round(statistics.median(its), 2) for way, its in ratios.items()},
        "range": {way: [round(min(its), 2), round(max(its), 2)] for way, its in ratios.items()},
    }


def main(out: Path) -> None:
    tune_process()
    result: dict[str, object] = {}
    for shape in SHAPES:
        dim, num_layers, num_events = shape
        name = f"d = {dim}, {num_layers} layers, T = {num_events}"
        result[name] = measured_at(shape)
        print(f"{name}: {result[name]}", flush=True)
    write_result(out, result)


if __name__ == "__main__":
    cyclopts.run(main)
