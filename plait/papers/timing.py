"""What takes turns and is timed: one thread of a processor, in milliseconds of its time.

Seconds of a shared machine are no figures; ratios of variants that took turns within one run are.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from plait.evaluation.settings import Optim
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Inputs
from plait.nn.precision import Precision, autocast
from plait.training.optimiser import make_optimiser

Step = Callable[[], object]


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with a single thread, whose processor time is then that of the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed(run: Step) -> float:
    """Milliseconds of processor time."""
    start_s = time.process_time()
    run()
    return 1e3 * (time.process_time() - start_s)


def summed(taken_ms: Sequence[float]) -> dict[str, float]:
    """Median and range, in milliseconds."""
    return {"median_ms": statistics.median(taken_ms), "min_ms": min(taken_ms), "max_ms": max(taken_ms)}


def in_turns(variants: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """By variant, the milliseconds of each round: all in turn within each, and one more before, which warms up."""
    taken = [{name: timed(run) for name, run in variants.items()} for _ in range(rounds + 1)]
    return {name: [each[name] for each in taken[1:]] for name in variants}


def milliseconds(variants: Mapping[str, Step], rounds: int) -> dict[str, dict[str, float]]:
    """By variant, median and range of what `in_turns` takes."""
    return {name: summed(taken_ms) for name, taken_ms in in_turns(variants, rounds).items()}


def whole_step(model: GenerativeRecommender, inputs: Sequence[Inputs], precision: Precision = "fp32") -> Step:
    """A training step for each of the inputs, on a processor: forward, backward, clipping and AdamW."""
    optim = Optim()
    optimiser = make_optimiser(model, optim)

    def step() -> None:
        for each in inputs:
            with autocast(precision, "cpu"):
                loss = model.total(model.losses(each))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
            optimiser.step()

    return step
