"""What scoring candidates in one pass costs beside one forward pass for each, and beside its matrix products alone.

    python benchmarks/one_pass.py --out benchmarks/results/one_pass.json

One user with a history of T events, C candidates, fp32. Variants take turns within every round; times are processor
time, the median of the rounds with the range beside it, and ratios are of the same run.

- `cached`: the history was encoded before. `with history`: it is encoded, too. `append`: one event more.
- `products`: those of `cached` alone, by MKL and by oneDNN (where that is exact here); the floor is the faster one.
  `cached` is multiplied by MKL, as torch does it; beside it stands `cached` by each.
- `one by one`: one forward pass for each of a few candidates, times C over their number. `--whole` runs all.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cyclopts
import numpy as np
import torch
import torch.nn.functional as F
from provenance import write_result
from train_step import NUM_ITEMS, batch_of, trainable

from plait.engine import one_pass, plain
from plait.engine.state import State, append, encode
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.nn.arithmetic import EXACT, measure
from plait.nn.config import TrunkConfig
from plait.nn.precision import Multiplied, products_by
from plait.nn.runtime import tune_process
from plait.schema import Action, EventBatch, Regression

ONE_BY_ONE = 8
LAYOUTS = ("lac", "interleaved", "pc", "genrank", "attn_mvp")

Variant = Callable[[], object]


def model_of(layout: str, kind: str, dim: int, num_layers: int, num_events: int) -> GenerativeRecommender:
    """Its window has room for one event more."""
    config = ModelConfig(
        layout=str(resolve(layout)),
        settings=ModelSettings(
            trunk=TrunkConfig(kind=kind, dim=dim, num_layers=num_layers, num_heads=dim // 64)
        ),
        num_items=NUM_ITEMS,
        actions=(Action("rating", Regression(1, 5)),),
        max_events=num_events + 1,
    )
    return trainable(config).eval()


def products(
    model: GenerativeRecommender, num_keys: int, num_queries: int, multiplied: Multiplied
) -> Variant:
    """The matrix products of `num_queries` tokens that attend to so many keys, and nothing else."""
    config = model.config.settings.trunk
    weights = [m.weight for m in model.trunk.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {weight.shape[1]: torch.randn(num_queries, weight.shape[1]) for weight in weights}
    q_NXH = torch.randn(config.num_heads, num_queries, config.head_width)
    k_NKH = torch.randn(config.num_heads, num_keys, config.head_width)

    def run() -> None:
        with torch.no_grad(), products_by(multiplied):
            for weight in weights:
                F.linear(inputs[weight.shape[1]], weight)
            for _ in range(model.trunk.num_attentions):
                for q_XH, k_KH in zip(q_NXH, k_NKH, strict=True):
                    for queries in range(0, num_queries, 256):  # scores stay in the cache
                        q_XH[queries : queries + 256] @ k_KH.T @ k_KH

    return run


def scored_by(multiplied: Multiplied, score: Variant) -> Variant:
    def run() -> None:
        with products_by(multiplied):
            score()

    return run


def exact_ways(dim: int) -> list[Multiplied]:
    return [way for way, its in measure(dim, "cpu").items() if way != "bf16" and its.error <= EXACT]


def grown(model: GenerativeRecommender, state: State, event: EventBatch) -> State:
    return one_pass.append(model, state, append(state, event, model.plan.window, model.plan.lead))


def milliseconds(variants: dict[str, Variant], rounds: int) -> dict[str, dict[str, float]]:
    """All in turn within each round; of processor time."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            start_s = time.process_time()
            run()
            if number:  # the first round warms up
                taken[name].append(1e3 * (time.process_time() - start_s))
    return {
        name: {"median_ms": statistics.median(ms), "min_ms": min(ms), "max_ms": max(ms)}
        for name, ms in taken.items()
    }


def measured(
    layout: str, kind: str, dim: int, num_layers: int, num_events: int, count: int, rounds: int, whole: bool
) -> dict[str, object]:
    model = model_of(layout, kind, dim, num_layers, num_events)
    state = encode(batch_of(np.array([num_events])), model.plan.window, model.plan.lead)
    kept, event = one_pass.encode(model, state), batch_of(np.array([1]))
    event.time_s_E[:] = num_events
    item_UC = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, (1, count))
    few = count if whole else min(count, ONE_BY_ONE)
    variants: dict[str, Variant] = {
        "cached": lambda: one_pass.score(model, kept, item_UC),
        "with history": lambda: one_pass.score(model, state, item_UC),
        "encode": lambda: one_pass.encode(model, state),
        "append": lambda: grown(model, kept, event),
        "one by one": lambda: plain.score(model, state, item_UC[:, :few]),
    }
    ways = exact_ways(dim)
    variants |= {
        f"cached {way}": scored_by(way, lambda: one_pass.score(model, kept, item_UC)) for way in ways
    }
    own = len(model.layout.candidate) or (0 if layout == "pc" else 1)
    if own:
        keys = num_events * model.layout.tokens_per_event
        variants |= {f"products {way}": products(model, keys, own * count, way) for way in ways}
    times = milliseconds(variants, rounds)
    of = {name: its["median_ms"] for name, its in times.items()}
    of["one by one"] *= count / few
    floor = min((ms for name, ms in of.items() if name.startswith("products")), default=None)
    assert kept.kept is not None
    return {
        "layout": layout,
        "trunk": kind,
        "dim": dim,
        "layers": num_layers,
        "T": num_events,
        "C": count,
        "state_bytes": kept.kept.encoded.nbytes,
        "times": times,
        "one_by_one_candidates": few,
        "one_by_one_over_cached": of["one by one"] / of["cached"],
        "one_by_one_over_with_history": of["one by one"] / of["with history"],
        "cached_over_floor": floor and of["cached"] / floor,
        "cached_by_the_fastest_over_floor": floor and min(of[f"cached {way}"] for way in ways) / floor,
        "encode_over_append": of["encode"] / of["append"],
    }


def main(
    *,
    out: Path,
    layouts: Sequence[str] = LAYOUTS,
    kinds: Sequence[str] = ("gpt", "hstu"),
    events: Sequence[int] = (200, 1024, 4096),
    candidates: Sequence[int] = (100, 1000, 10_000),
    dim: int = 256,
    num_layers: int = 4,
    rounds: int = 5,
    whole: bool = False,
) -> None:
    """Measures every choice and writes one JSON file."""
    switches = tune_process()
    torch.set_num_threads(1)
    results = []
    for layout in layouts:
        for kind in kinds:
            for num_events in events:
                for count in candidates:
                    found = measured(layout, kind, dim, num_layers, num_events, count, rounds, whole)
                    print({name: value for name, value in found.items() if name != "times"}, flush=True)
                    results.append(found)
    write_result(
        out,
        {
            "switches": switches,
            "torch": torch.__version__,
            "processor_class": torch.backends.cpu.get_cpu_capability(),
            "threads": 1,
            "rounds": rounds,
            "results": results,
        },
    )


if __name__ == "__main__":
    cyclopts.run(main)
