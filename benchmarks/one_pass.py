"""What scoring candidates in one pass costs beside one forward pass for each, and beside its matrix products alone.

    python benchmarks/one_pass.py --parts architectures --parts scored --whole --out benchmarks/results/one_pass.json
    python benchmarks/one_pass.py --parts appended --out benchmarks/results/append.json

One user with a history of T events, C candidates. Steps take turns within every round; times are processor time of
one thread, the median of the rounds with the range beside it, and ratios are of the same run.

- `cached`: the history was encoded before. `with history`: it is encoded, too. Both in fp32, and as `bf16`.
- `products`: those of `cached` alone, in fp32 by MKL and by oneDNN (where that is exact here), and in bf16. The floor
  of each is the fastest of its kind.
- `one by one`: one forward pass for each of a few candidates, times C over their number. `--whole` runs all of them for
  `lac` among the architectures.
- `append`: events one after the other, between two beginnings of a window, S = T / 8. `first` moves the keys into rooms
  that they can grow in; `reads` is the time to read weights and keys once.
- FLOPs are those of the LAC paper, equations 2 to 5, in attention and in all of the trunk.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import cyclopts
import numpy as np
import torch
import torch.nn.functional as F
from provenance import write_result
from train_step import NUM_ITEMS, batch_of, trainable

from plait.engine import one_pass, plain
from plait.engine.multiplying import multiplied_in, served_in
from plait.engine.state import State, append, encode
from plait.layouts import resolve
from plait.layouts.arrange import candidate_tokens
from plait.layouts.cost import scoring_flops, scoring_relative_to_items
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.nn.arithmetic import EXACT, measure_multiplying
from plait.nn.config import TrunkConfig
from plait.nn.precision import Multiplied, products_by
from plait.nn.runtime import tune_process
from plait.papers.timing import Step, milliseconds, summed, timed
from plait.schema import Action, Regression

ONE_BY_ONE = 8
ARCHITECTURES = (
    ("lac", "gpt"),
    ("interleaved", "gpt"),
    ("pc", "gpt"),
    ("genrank", "gpt"),
    ("attn_mvp", "gpt"),
    ("lac", "hstu"),
)

Part = Literal["appended", "architectures", "scored"]


def model_of(
    layout: str, kind: str, dim: int, num_layers: int, num_events: int, window_step: int = 1
) -> GenerativeRecommender:
    config = ModelConfig(
        layout=str(resolve(layout)),
        settings=ModelSettings(
            trunk=TrunkConfig(kind=kind, dim=dim, num_layers=num_layers, num_heads=dim // 64)
        ),
        num_items=NUM_ITEMS,
        actions=(Action("rating", Regression(1, 5)),),
        max_events=num_events,
        window_step=window_step,
        arithmetic="bf16",  # so that every way is allowed
    )
    return trainable(config).eval()


def products(model: GenerativeRecommender, num_keys: int, num_queries: int, multiplied: Multiplied) -> Step:
    """The matrix products of `num_queries` tokens that attend to so many keys, and nothing else."""
    config = model.config.settings.trunk
    dtype = torch.bfloat16 if multiplied == "bf16" else torch.float32
    weights = [m.weight.to(dtype) for m in model.trunk.modules() if isinstance(m, torch.nn.Linear)]
    inputs = {weight.shape[1]: torch.randn(num_queries, weight.shape[1]).to(dtype) for weight in weights}
    q_NXH = torch.randn(config.num_heads, num_queries, config.head_width).to(dtype)
    k_NKH = torch.randn(config.num_heads, num_keys, config.head_width).to(dtype)

    def run() -> None:
        with torch.no_grad(), products_by(multiplied):
            for weight in weights:
                F.linear(inputs[weight.shape[1]], weight)
            for _ in range(model.trunk.num_attentions):
                for q_XH, k_KH in zip(q_NXH, k_NKH, strict=True):
                    for queries in range(0, num_queries, 256):  # scores stay in the cache
                        q_XH[queries : queries + 256] @ k_KH.T @ k_KH

    return run


def by(multiplied: Multiplied, run: Step) -> Step:
    def in_it() -> None:
        with multiplied_in(multiplied):
            run()

    return in_it


def ways_of(dim: int) -> list[Multiplied]:
    """fp32 by whatever is exact here, and bf16."""
    return [
        way for way, its in measure_multiplying(dim, "cpu").items() if way == "bf16" or its.error <= EXACT
    ]


def scored(
    layout: str, kind: str, dim: int, num_layers: int, num_events: int, count: int, rounds: int, whole: bool
) -> dict[str, object]:
    model = model_of(layout, kind, dim, num_layers, num_events)
    state = encode(batch_of(np.array([num_events])), model.plan.window, model.plan.lead)
    item_UC = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, (1, count))
    few = count if whole else min(count, ONE_BY_ONE)
    own, keys = len(candidate_tokens(model.layout)), num_events * model.layout.tokens_per_event
    variants: dict[str, Step] = {
        "one by one": lambda: plain.score(model, state, item_UC[:, :few]),
        "encode": by("fp32", lambda: one_pass.encode(model, state)),
        "with history fp32": by("fp32", lambda: one_pass.score(model, state, item_UC)),
        "with history bf16": by("bf16", lambda: one_pass.score(model, state, item_UC)),
    }
    nbytes = {}
    for way in ways_of(dim):
        with multiplied_in(way):
            kept = one_pass.encode(model, state)
        nbytes[way] = kept.nbytes
        variants[f"cached {way}"] = by(way, lambda kept=kept: one_pass.score(model, kept, item_UC))
        if own:
            variants[f"products {way}"] = products(model, keys, own * count, way)
    times = milliseconds(variants, rounds)
    of = {name: its["median_ms"] for name, its in times.items()}
    of["one by one"] *= count / few
    floor = {
        kind: min((ms for name, ms in of.items() if name.startswith(f"products {kind}")), default=None)
        for kind in ("fp32", "bf16")
    }
    cached = {kind: min(ms for name, ms in of.items() if name.startswith(f"cached {kind}")) for kind in floor}
    return {
        "layout": layout,
        "trunk": kind,
        "dim": dim,
        "layers": num_layers,
        "T": num_events,
        "C": count,
        "state_bytes": nbytes,
        "served_in": served_in(model),
        "attention_flops_over_items": attention_over_items(layout, num_events, count),
        "trunk_flops_over_items": scoring_relative_to_items(model.layout, num_events, count, dim, num_layers),
        "trunk_flops": scoring_flops(model.layout, num_events, count, dim, num_layers),
        "times": times,
        "one_by_one_candidates": few,
        "one_by_one_over_cached": of["one by one"] / cached["fp32"],
        "one_by_one_over_with_history": of["one by one"] / of["with history fp32"],
        "cached_over_floor": {way: floor[way] and cached[way] / floor[way] for way in floor},
        "fp32_over_bf16": cached["fp32"] / cached["bf16"],
    }


def attention_over_items(layout: str, num_events: int, count: int) -> float:
    """Pairs that attend beside those of one token for each event and candidate (equations 2 and 4)."""
    its = resolve(layout)
    history, own = its.tokens_per_event * num_events, len(candidate_tokens(its)) * count
    return (history**2 / 2 + own * history) / (num_events**2 / 2 + count * num_events)


def appended(
    num_users: int, num_events: int, dim: int, num_layers: int, way: Multiplied
) -> dict[str, object]:
    """Events of all users at once, from T events on up to where the window begins anew, and that one."""
    step = num_events // 8
    model = model_of("lac", "gpt", dim, num_layers, num_events, step)
    state = encode(batch_of(np.full(num_users, num_events)), model.plan.window, model.plan.lead)
    event = batch_of(np.full(num_users, 1))
    events = (replace(event, time_s_E=np.full(num_users, num_users * num_events + at)) for at in range(step))
    with multiplied_in(way):
        encode_ms = min(timed(lambda: one_pass.encode(model, state)) for _ in range(2))
        kept = one_pass.encode(model, state)
        taken_ms = list(grown_ms(model, kept, events))
    reads = [model_bytes(model), kept.nbytes]
    usual_ms = statistics.median(taken_ms[1:-1])
    reads_ms = min(timed(reading(sum(reads))) for _ in range(3))
    return {
        "users": num_users,
        "T": num_events,
        "S": step,
        "dim": dim,
        "layers": num_layers,
        "arithmetic": way,
        "encode_ms": encode_ms,
        "append": summed(taken_ms[1:-1]),
        "first_ms": taken_ms[0],
        "window_begins_anew_ms": taken_ms[-1],
        "mean_over_window_ms": statistics.mean(taken_ms),
        "encode_over_append": encode_ms / usual_ms,
        "encode_over_mean": encode_ms / statistics.mean(taken_ms),
        "read_bytes": reads,
        "reads_ms": reads_ms,
        "append_over_reads": usual_ms / reads_ms,
    }


def grown_ms(model: GenerativeRecommender, state: State, events: Iterator[object]) -> Iterator[float]:
    for event in events:
        start_s = time.process_time()
        after = append(state, event, model.plan.window, model.plan.lead)
        state = one_pass.append(model, state, after)
        yield 1e3 * (time.process_time() - start_s)


def model_bytes(model: GenerativeRecommender) -> int:
    """Of the trunk's weights, which every event reads."""
    return sum(weight.nbytes for weight in model.trunk.blocks.parameters())


def reading(num_bytes: int) -> Step:
    """So many bytes, once."""
    x = torch.ones(num_bytes // 4)
    return x.sum


def main(
    *,
    out: Path,
    events: Sequence[int] = (200, 1024, 4096),
    candidates: Sequence[int] = (100, 1000, 10_000),
    users: Sequence[int] = (1, 64),
    architecture_events: int = 1024,
    architecture_candidates: int = 1000,
    dim: int = 256,
    num_layers: int = 4,
    rounds: int = 5,
    whole: bool = False,
    parts: Sequence[Part] = get_args(Part),
) -> None:
    """Measures every choice and writes one JSON file; after each part what there is so far."""
    switches = tune_process()
    torch.set_num_threads(1)
    found: dict[Part, list[dict[str, object]]] = {part: [] for part in parts}

    def add(part: Part, result: dict[str, object]) -> None:
        found[part].append(result)
        print(part, {name: value for name, value in result.items() if name != "times"}, flush=True)
        write_result(
            out,
            {
                "switches": switches,
                "torch": torch.__version__,
                "processor_class": torch.backends.cpu.get_cpu_capability(),
                "threads": 1,
                "rounds": rounds,
                **found,
            },
        )

    for num_users in users if "appended" in parts else ():
        for way in ("fp32", "bf16"):
            add("appended", appended(num_users, 1024, dim, num_layers, way))
    for layout, kind in ARCHITECTURES if "architectures" in parts else ():
        sizes = architecture_events, architecture_candidates
        all_of_them = whole and (layout, kind) == ARCHITECTURES[0]
        add("architectures", scored(layout, kind, dim, num_layers, *sizes, rounds, all_of_them))
    for num_events in events if "scored" in parts else ():
        for count in candidates:
            add("scored", scored("lac", "gpt", dim, num_layers, num_events, count, rounds, whole=False))


if __name__ == "__main__":
    cyclopts.run(main)
