"""What it saves that rows which nobody reads have no queries where tokens attend last, against all rows, in one run.

    python benchmarks/rows_read.py --out benchmarks/results/rows_read.json

Users of exactly T events, d = 256, 4 layers, fp32, untrained. `train all`: a step that supervises every event; `train
candidates`: those of the last request alone, which has 10 events; `evaluate`: the item and the action of one event to
come for each user; `score`: 1,000 candidates of one user whose history is encoded for them. `encode` is that history.

`every` computes all rows, `read` those that are read: they take turns within every round. Times are processor time of
one thread, the median of the rounds with the range beside it. `share` is that of the tokens that are read; where it is
too large to gain anything, all are computed either way, and times differ by noise alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import cyclopts
import numpy as np
import torch
from one_pass import milliseconds
from provenance import write_result
from train_step import NUM_ITEMS, batch_of, trainable, whole_step

from plait.engine import one_pass
from plait.engine.multiplying import multiplied_in
from plait.engine.state import encode
from plait.layouts import audit, resolve
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import Inputs, query_inputs, training_inputs
from plait.nn import read
from plait.nn.config import TrunkConfig
from plait.nn.runtime import tune_process
from plait.schema import Action, EventBatch, Regression

REQUEST_EVENTS = 10
CANDIDATES = 1000
RANKER = "i[t] -> a[t]; a[t] -> ()"
Run = Callable[[], object]


@dataclass(frozen=True)
class Architecture:
    layout: str
    trunk: str
    positions: str


ARCHITECTURES = {
    "item gpt": Architecture("item", "gpt", "rope"),
    "lac gpt": Architecture("lac", "gpt", "rope"),
    "lac hstu": Architecture("lac", "hstu", "rab"),
    "pc gpt": Architecture("pc", "gpt", "rope"),
    "interleaved gpt": Architecture("interleaved", "gpt", "rope"),
    "interleaved hstu": Architecture("interleaved", "hstu", "rab"),
    "ranker gpt": Architecture(RANKER, "gpt", "rope"),
    "ranker hstu": Architecture(RANKER, "hstu", "rab"),
    "attn_lfa gpt": Architecture("attn_lfa", "gpt", "rope"),
    "attn_mvp gpt": Architecture("attn_mvp", "gpt", "rope"),
    "attn_mvp_early gpt": Architecture("attn_mvp_early", "gpt", "rope"),
    "attn_mvp_early hstu": Architecture("attn_mvp_early", "hstu", "rab"),
    "attn_dhn gpt": Architecture("attn_dhn", "gpt", "rope"),
    "genrank gpt": Architecture("genrank", "gpt", "alibi"),
    "genrank hstu": Architecture("genrank", "hstu", "genrank"),
}


@contextmanager
def every_row() -> Iterator[None]:
    """All rows have queries, for the time inside."""
    with patch.object(read, "LARGEST_SHARE", -1.0):
        yield


def model_of(its: Architecture, num_events: int, dim: int, num_layers: int) -> GenerativeRecommender:
    trunk = TrunkConfig(
        kind=its.trunk, dim=dim, num_layers=num_layers, num_heads=dim // 64, positions=its.positions
    )
    config = ModelConfig(
        layout=str(resolve(its.layout)),
        settings=ModelSettings(trunk=trunk),
        num_items=NUM_ITEMS,
        actions=(Action("rating", Regression(1, 5)),),
        max_events=num_events,
    )
    return trainable(config)


def in_requests(num_users: int, num_events: int) -> EventBatch:
    of_user_E = (np.arange(num_events) - num_events) // REQUEST_EVENTS  # the last request is whole
    return replace(batch_of(np.full(num_users, num_events)), request_E=np.tile(of_user_E, num_users))


def both(inputs: Inputs, run: Callable[[Inputs], Run]) -> dict[str, Run]:
    return {"every": run(replace(inputs, read=None)), "read": run(inputs)}


def trained(model: GenerativeRecommender, batch: EventBatch, supervise: str) -> tuple[Inputs, dict[str, Run]]:
    inputs = training_inputs(replace(model.plan, supervise=supervise), batch)
    return inputs, both(inputs, lambda its: whole_step(model, [its], "fp32"))


def evaluated(model: GenerativeRecommender, batch: EventBatch) -> tuple[Inputs, dict[str, Run]]:
    inputs = query_inputs(model.plan, batch, ("i", "a"))

    def run(its: Inputs) -> Run:
        def forward() -> None:
            with torch.no_grad():
                model(its)

        return forward

    return inputs, both(inputs, run)


def served(model: GenerativeRecommender, num_events: int) -> dict[str, dict[str, Run]]:
    state = encode(batch_of(np.array([num_events])), model.plan.window, model.plan.lead)
    item_UC = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, (1, CANDIDATES))
    runs: dict[str, Run] = {"encode": lambda: one_pass.encode(model, state)}
    if audit(model.layout).can_score != "no":
        runs["score"] = lambda: one_pass.score(model, state, item_UC, at_s=10**9)

    def of_every(run: Run) -> Run:
        def all_rows() -> None:
            with every_row(), multiplied_in("fp32"):
                run()

        return all_rows

    def of_read(run: Run) -> Run:
        def some_rows() -> None:
            with multiplied_in("fp32"):
                run()

        return some_rows

    return {name: {"every": of_every(run), "read": of_read(run)} for name, run in runs.items()}


def measured(variants: dict[str, Run], rounds: int, inputs: Inputs | None = None) -> dict[str, object]:
    times = milliseconds(variants, rounds)
    found: dict[str, object] = dict(times)
    found["every_over_read"] = times["every"]["median_ms"] / times["read"]["median_ms"]
    if inputs is not None:
        read_tokens = inputs.num_tokens if inputs.read is None else len(inputs.read.cell_M)
        found["share"] = read_tokens / inputs.num_tokens
    return found


def main(
    *,
    out: Path,
    architectures: Sequence[str] = tuple(ARCHITECTURES),
    events: Sequence[int] = (200, 1024),
    tokens: int = 3200,
    dim: int = 256,
    num_layers: int = 4,
    rounds: int = 5,
) -> None:
    """Measures every architecture and writes one JSON file; after each what there is so far.

    Args:
        tokens: events of a step, of as many users as that takes.
    """
    switches = tune_process()
    torch.set_num_threads(1)
    found: dict[str, dict[str, object]] = {}
    for num_events in events:
        for name in architectures:
            model = model_of(ARCHITECTURES[name], num_events, dim, num_layers)
            batch = in_requests(max(1, tokens // num_events), num_events)
            parts: dict[str, dict[str, object]] = {}
            for supervise in ("all", "candidates"):
                inputs, variants = trained(model.train(), batch, supervise)
                parts[f"train {supervise}"] = measured(variants, rounds, inputs)
            inputs, variants = evaluated(model.eval(), batch)
            parts["evaluate"] = measured(variants, rounds, inputs)
            for what, variants in served(model, num_events).items():
                parts[what] = measured(variants, rounds)
            found[f"{name}, T = {num_events}"] = parts
            ratios = {part: round(float(str(its["every_over_read"])), 2) for part, its in parts.items()}
            print(f"{name}, T = {num_events}: {ratios}", flush=True)
            write_result(out, {"switches": switches, "rounds": rounds, "threads": 1, **found})


if __name__ == "__main__":
    cyclopts.run(main)
