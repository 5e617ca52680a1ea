"""What packing and group queries save a large user model, and which loss validation chooses for it.

    python benchmarks/lum.py --out benchmarks/results/lum.json

One thread, fp32, processor time. Variants take turns within every round; savings are of the medians of one run.

- packing: whole training steps of layout `lum` on packed rows, against rows padded to the window.
- group query: N conditions of every user in one pass, its history encoded within it, against a sequence for each. What
  tokens allow, with histories of T events, is 1 - (2 T + N) / (N (2 T + 1)).
- losses (`--losses-too`): validation NDCG@10 of a simulated world's items under a scenario and a query, for each loss.

`plait study lum-table-6` measures the first two on a simulated log.

Source: the LUM paper, table 6: 82 % and 78 %.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cyclopts
import numpy as np
import torch
from provenance import write_result
from train_step import NUM_ITEMS, batch_of, trainable

import plait
from plait.data.simulator import World, simulate
from plait.engine.state import encode
from plait.evaluation.settings import Protocol
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.nn.config import TrunkConfig
from plait.nn.losses import RetrievalLoss
from plait.nn.runtime import tune_process
from plait.papers.lum_speed import Technique, group_query, packing, power_law_lengths
from plait.papers.timing import milliseconds
from plait.schema import Category, EventBatch, Feature

SCENARIOS = Feature("scenario", Category(tuple("abcdefgh")))
INFO_NCE = RetrievalLoss(kind="info_nce", log_q="none", l2_norm=True, temperature=0.2)
LOSSES = (
    RetrievalLoss(kind="info_nce", log_q="none"),
    RetrievalLoss(kind="info_nce", log_q="none", l2_norm=True, temperature=0.05),
    RetrievalLoss(kind="info_nce", log_q="none", l2_norm=True, temperature=0.1),
    RetrievalLoss(kind="info_nce"),
    RetrievalLoss(kind="info_nce", l2_norm=True, temperature=0.1),
    RetrievalLoss(kind="info_nce", l2_norm=True, temperature=0.2),
)


def lum_of(dim: int, num_layers: int, max_events: int) -> GenerativeRecommender:
    trunk = TrunkConfig(dim=dim, num_layers=num_layers, num_heads=max(1, dim // 64))
    return trainable(
        ModelConfig(
            layout=str(resolve("lum")),
            settings=ModelSettings(trunk=trunk, retrieval=INFO_NCE),
            num_items=NUM_ITEMS,
            actions=(),
            max_events=max_events,
            conditions=(SCENARIOS,),
        )
    )


def with_conditions(batch: EventBatch) -> EventBatch:
    condition_E1 = np.random.default_rng(1).integers(2, SCENARIOS.num_codes, (len(batch.item_E), 1))
    return EventBatch(**vars(batch) | {"condition_EG": condition_E1, "action_EA": batch.action_EA[:, :0]})


def measured(its: Technique, rounds: int) -> dict[str, object]:
    """Times with and without, what that saves, and which share that is of what the tokens allow."""
    times = milliseconds({"with": its.fast.run, "without": its.plain.run}, rounds)
    saved = 1 - times["with"]["median_ms"] / times["without"]["median_ms"]
    limit = 1 - its.fast.tokens / its.plain.tokens
    return {"times": times, "saved": saved, "tokens_allow": limit, "share": saved / limit}


def packed(dim: int, num_layers: int, max_events: int, num_users: int, rounds: int) -> dict[str, object]:
    length_U = power_law_lengths(num_users, mean=max_events / 5, longest=max_events)
    batch, model = with_conditions(batch_of(length_U)), lum_of(dim, num_layers, max_events)
    its = packing(model, [batch], model.layout.tokens_per_event * max_events)
    return {"dim": dim, "layers": num_layers, "T": max_events, "users": num_users, **measured(its, rounds)}


def queried(
    dim: int, num_layers: int, num_events: int, num_users: int, num_conditions: int, rounds: int
) -> dict[str, object]:
    batch = with_conditions(batch_of(np.full(num_users, num_events)))
    model = lum_of(dim, num_layers, num_events).eval()
    state = encode(batch, model.plan.window, model.plan.lead)  # without keys: each way encodes
    codes_N1 = 2 + np.arange(num_conditions)[:, None] % (SCENARIOS.num_codes - 2)
    its = group_query(model, state, np.tile(codes_N1, (num_users, 1, 1)))
    return {"dim": dim, "layers": num_layers, "T": num_events, "users": num_users, "conditions": num_conditions,
            **measured(its, rounds)}  # fmt: skip


def losses(epochs: int) -> list[dict[str, object]]:
    """The best validation NDCG@10 of each, one seed."""
    world = World(num_users=600, num_events=24, num_items=200, queries=0.5)
    protocol = Protocol(max_epochs=epochs, patience=4, filter_seen=False, max_events=50)
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = simulate(world, Path(folder) / "world", conditions=("scenario", "query"))
        for loss in LOSSES:
            lines: list[str] = []
            settings = ModelSettings(trunk=TrunkConfig(dim=32), retrieval=loss)
            plait.fit(data, layout="lum", model=settings, protocol=protocol, report=lines.append)
            best = max(
                float(line.split("ndcg@10")[1].split()[0].rstrip(",")) for line in lines if "ndcg@10" in line
            )
            found.append({"loss": asdict(loss), "validation_ndcg@10": best})
            print(found[-1], flush=True)
    return found


def main(
    *,
    out: Path,
    dim: int = 64,
    num_layers: int = 2,
    events: Sequence[int] = (50, 256),
    conditions: Sequence[int] = (5, 10),
    rounds: int = 5,
    losses_too: bool = False,
    epochs: int = 12,
) -> None:
    """Measures every choice and writes one JSON file."""
    switches = tune_process()
    torch.set_num_threads(1)
    of_packing, of_queries = [], []
    for num_events in events:
        of_packing.append(packed(dim, num_layers, num_events, 64, rounds))
        print({name: value for name, value in of_packing[-1].items() if name != "times"}, flush=True)
        for num_conditions in conditions:
            of_queries.append(queried(dim, num_layers, num_events, 16, num_conditions, rounds))
            print({name: value for name, value in of_queries[-1].items() if name != "times"}, flush=True)
    write_result(
        out,
        {
            "switches": switches,
            "torch": torch.__version__,
            "processor_class": torch.backends.cpu.get_cpu_capability(),
            "threads": 1,
            "rounds": rounds,
            "packing": of_packing,
            "group_query": of_queries,
            "losses": losses(epochs) if losses_too else None,
        },
    )


if __name__ == "__main__":
    cyclopts.run(main)
