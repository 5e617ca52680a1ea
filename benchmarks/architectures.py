"""What each architecture's training step costs beside interleaved HSTU, as ratios measured in one run.

    python benchmarks/architectures.py --out benchmarks/results/architectures.json

Users of exactly T events, d = 256, 4 layers, fp32 unless asked otherwise. Variants take turns within every round.
Two groups, because papers measure different jobs: `both` predicts items (full softmax) and actions, `ranker`
actions alone, as AttnMVP's and GenRank's baselines do. A ranker of GenRank's group is supervised on the events of
the last request, which has 10. Beside each ratio stands what its paper reports for its own machines and sizes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import cyclopts
import numpy as np
from provenance import write_result
from train_step import NUM_ITEMS, Step, batch_of, medians_ms, trainable, whole_step

from plait.layouts import resolve
from plait.models.generative import ModelConfig, ModelSettings
from plait.models.inputs import training_inputs
from plait.nn.config import TrunkConfig
from plait.nn.runtime import tune_process
from plait.schema import Action, Regression

DIM, NUM_LAYERS = 256, 4
REQUEST_EVENTS = 10
USERS = {200: 16, 1024: 4}  # of a step, by T
RANKER = "i[t] -> a[t]; a[t] -> ()"


@dataclass(frozen=True)
class Architecture:
    layout: str
    trunk: str
    positions: str
    beside: str  # the architecture that it is measured against
    paper: str = ""  # what the paper reports against its own baseline
    candidates: bool = False  # supervised on the last request's events only


ARCHITECTURES = {
    "interleaved hstu": Architecture("interleaved", "hstu", "rab", "interleaved hstu"),
    "lac hstu": Architecture("lac", "hstu", "rab", "interleaved hstu", "-31.3 % to -42.7 % (LAC, table 5)"),
    "pc hstu": Architecture("pc", "hstu", "rab", "interleaved hstu"),
    "interleaved gpt": Architecture("interleaved", "gpt", "rope", "interleaved hstu"),
    "lac gpt": Architecture("lac", "gpt", "rope", "interleaved gpt", "-31.3 % to -42.7 % (LAC, table 5)"),
    "ranker hstu": Architecture(RANKER, "hstu", "rab", "ranker hstu"),
    "ranker gpt": Architecture(RANKER, "gpt", "rope", "ranker hstu"),
    "attn_lfa": Architecture("attn_lfa", "gpt", "rope", "ranker gpt", "-22.8 % (AttnMVP, table 1)"),
    "attn_mvp": Architecture("attn_mvp", "gpt", "rope", "ranker gpt", "-12.3 % (AttnMVP, table 2)"),
    "attn_mvp_early": Architecture(
        "attn_mvp_early", "gpt", "rope", "ranker gpt", "-13.0 % (AttnMVP, table 2)"
    ),
    "attn_dhn": Architecture("attn_dhn", "gpt", "rope", "ranker gpt"),
    "attn_lfa hstu": Architecture("attn_lfa", "hstu", "rab", "ranker hstu", "-22.8 % (AttnMVP, table 1)"),
    "attn_mvp hstu": Architecture("attn_mvp", "hstu", "rab", "ranker hstu", "-12.3 % (AttnMVP, table 2)"),
    "attn_mvp_early hstu": Architecture(
        "attn_mvp_early", "hstu", "rab", "ranker hstu", "-13.0 % (AttnMVP, table 2)"
    ),
    "attn_dhn hstu": Architecture("attn_dhn", "hstu", "rab", "ranker hstu"),
    "candidates hstu": Architecture(RANKER, "hstu", "rab", "candidates hstu", candidates=True),
    "action-oriented": Architecture(
        "genrank", "hstu", "rab", "candidates hstu", "+78.7 % speed (GenRank, table 1)", candidates=True
    ),
    "linear biases": Architecture(
        RANKER, "hstu", "genrank", "candidates hstu", "+25.0 % speed (GenRank, table 1)", candidates=True
    ),
    "genrank": Architecture(
        "genrank", "hstu", "genrank", "candidates hstu", "+94.8 % speed (GenRank, table 1)", candidates=True
    ),
}


def step_of(architecture: Architecture, num_events: int, precision: str) -> Step:
    trunk = TrunkConfig(
        kind=architecture.trunk,
        dim=DIM,
        num_layers=NUM_LAYERS,
        num_heads=DIM // 64,
        positions=architecture.positions,
    )
    config = ModelConfig(
        layout=str(resolve(architecture.layout)),
        settings=ModelSettings(trunk=trunk),
        num_items=NUM_ITEMS,
        actions=(Action("rating", Regression(1, 5)),),
        max_events=num_events,
        asked_as_candidates=architecture.candidates,
    )
    model = trainable(config)
    batch = batch_of(np.full(USERS[num_events], num_events))
    of_user_E = (np.arange(num_events) - num_events) // REQUEST_EVENTS  # the last request is whole
    batch = replace(batch, request_E=np.tile(of_user_E, USERS[num_events]))
    return whole_step(model, [training_inputs(model.plan, batch)], precision)


def measure(num_events: int, precision: str) -> dict[str, object]:
    found = medians_ms({name: step_of(a, num_events, precision) for name, a in ARCHITECTURES.items()})
    rows = {}
    for name, architecture in ARCHITECTURES.items():
        ratio = found[name]["median_ms"] / found[architecture.beside]["median_ms"]
        rows[name] = found[name] | {
            "beside": architecture.beside,
            "time_change": f"{100 * (ratio - 1):+.1f} %",
            "speed": f"{100 * (1 / ratio - 1):+.1f} %",
            "of_interleaved_hstu": found[name]["median_ms"] / found["interleaved hstu"]["median_ms"],
            "paper": architecture.paper,
        }
        print(f"T = {num_events}, {precision}, {name}: {rows[name]}", flush=True)
    return rows


def main(out: Path, precision: str = "fp32") -> None:
    tune_process()
    write_result(out, {f"T = {n}, {precision}": measure(n, precision) for n in USERS})


if __name__ == "__main__":
    cyclopts.run(main)
