"""What a service takes under load, by `plait.load`: a model of 1,000 candidates, T = 200, d = 128 and 2 layers.

python benchmarks/serve.py                                               all, into benchmarks/results/serve.json
python benchmarks/serve.py --mixed-seconds 600                           with ten minutes of mixed load
python benchmarks/serve.py --seconds 5 --swaps 2 --out short.json        a look at it

Stages, each of Poisson arrivals with latency from the moment a request was due: scores at 20 a second; appends at 50 a
second, beside what the disk takes to sync; scores at 1, 2, 4 and 8 times the capacity; a mix at 70 % of its capacity;
and the same mix at 50 % while the model is swapped. The model is trained for one epoch: what an answer costs does not
depend on its weights.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from provenance import write_result

from plait.load.asked_service import described_service, event_form
from plait.load.client import Address, Client
from plait.load.figures import StageFigures, quantile_ms, stage_figures
from plait.load.loops import closed_loop
from plait.load.machine import disk_syncs_s, processor_s
from plait.load.measuring import Load
from plait.load.mix import Kind, mix_of
from plait.load.own_service import OwnService, own_service
from plait.load.population import Population
from plait.load.settings import LoadSettings

USERS, EVENTS, ITEMS = 100, 250, 3_700
WINDOW, STEP, DIM, LAYERS = 200, 50, 128, 2
FIRST_S = 1_600_000_000
SETTINGS = LoadSettings(
    mix=mix_of("append=0.5,score=0.3,retrieve=0.2"), candidates=1_000, users=USERS, deadline_ms=500
)
SCORES_PER_S, APPENDS_PER_S = 20.0, 50.0
OF_CAPACITY = (1, 2, 4, 8)
PLAIT = [sys.executable, "-c", "import sys; from plait.cli import main; sys.exit(main(sys.argv[1:]))"]


def trained(folder: Path) -> Path:
    """A run, after one epoch on a log of chance."""
    import polars as pl

    import plait

    rng, count = np.random.default_rng(0), USERS * EVENTS
    log = pl.DataFrame(
        {
            "user": np.repeat(np.arange(USERS), EVENTS),
            "item": np.concatenate([np.arange(ITEMS), rng.integers(0, ITEMS, count - ITEMS)]),
            "time": FIRST_S + 60 * np.tile(np.arange(EVENTS), USERS),
            "rating": rng.integers(1, 6, count),
            "liked": rng.integers(0, 2, count),
        }
    )
    actions = {"rating": plait.Regression(1, 5), "liked": plait.Binary()}
    plait.prepare(
        log, user="user", item="item", time="time", actions=actions, out=folder / "data", min_item_events=1
    )
    words = f"""train {folder / "data"} --layout lac --out {folder / "run"} --quiet --protocol.max-epochs 1
        --protocol.max-events {WINDOW} --protocol.window-step {STEP} --model.trunk.dim {DIM}
        --model.trunk.num-layers {LAYERS} --model.trunk.num-heads 4 --model.counts none"""
    subprocess.run([*PLAIT, *words.split()], check=True, stdout=subprocess.DEVNULL)
    return folder / "run"


def other_version(run: Path) -> Path:
    """The same model with other weights, beside the run."""
    from plait.recommender import Recommender

    model = Recommender.from_pretrained(run / "model", "cpu")
    for parameter in model.model.parameters():
        parameter.data.mul_(1.01)
    model.save_pretrained(run / "other")
    shutil.copytree(run / "model", run / "first")
    return run / "other"


async def measured(run: Path, own: OwnService, asked: argparse.Namespace) -> dict[str, Any]:
    settings = replace(SETTINGS, seconds=asked.seconds, deadline_ms=asked.deadline_ms)
    async with Client(Address.of(own.url), patience_s=settings.patience_s) as client:
        load = await load_of(client, own, settings)
        told: dict[str, Any] = {"memory_mb": {"before": load.memory_mb()}}
        told["warmed"] = asdict(await load.warm())
        told["one by one"] = {kind: await one_by_one(load, kind, asked.seconds / 4) for kind in SETTINGS.mix}
        told["stages"] = [asdict(stage) for stage in await stages(load, told)]
        told["mixed"] = await mixed(load, asked.mixed_seconds)
        told["memory_mb"]["after"] = load.memory_mb()
        told["swaps"] = await swapped(load, run, asked.swaps, 0.5 * told["mixed"]["capacity"]["per_s"] or 1.0)
        told["memory_mb"]["after swaps"] = load.memory_mb()
    return told


async def load_of(client: Client, own: OwnService, settings: LoadSettings) -> Load:
    described, users = await described_service(client), [str(user) for user in range(USERS)]
    event = await event_form(client, described, users)
    people = Population(users, (), [str(item) for item in range(ITEMS)], event)
    return Load(client, described, people, settings, progress, own)


async def stages(load: Load, told: dict[str, Any]) -> list[StageFigures]:
    """Scores and appends, each alone; those beyond the capacity for half the time."""
    scores, appends = (replace(load.settings, mix={kind: 1.0}) for kind in ("score", "append"))
    found = [
        await load.stage("score at 20/s", SCORES_PER_S, scores),
        await load.stage("append at 50/s", APPENDS_PER_S, appends),
    ]
    capacity = await load.capacity(scores)
    told["score capacity"] = asdict(capacity)
    shorter = replace(scores, seconds=scores.seconds / 2)
    for times in OF_CAPACITY if capacity.per_s else ():
        found.append(await load.stage(f"score at {times} x capacity", times * capacity.per_s, shorter))
    return found


async def mixed(load: Load, seconds: float) -> dict[str, Any]:
    capacity = await load.capacity()
    told: dict[str, Any] = {"capacity": asdict(capacity)}
    if capacity.per_s:
        chosen = replace(load.settings, seconds=seconds)
        told["stage"] = asdict(await load.stage("mixed at 70 % of capacity", 0.7 * capacity.per_s, chosen))
    return told


async def one_by_one(load: Load, kind: Kind, seconds: float) -> dict[str, Any]:
    """Requests that wait for each other: what one costs, whatever else runs on the machine."""
    assert load.own is not None
    chosen, before_s = replace(load.settings, mix={kind: 1.0}), processor_s(load.own.pid) or 0.0
    answers = await closed_loop(load.client.send, load.requests(chosen).draw, 1, seconds)
    cost_s = (processor_s(load.own.pid) or 0.0) - before_s
    (found,) = stage_figures(kind, answers, 0.0, seconds, load.settings.deadline_ms / 1e3).kinds
    cost_ms = round(cost_s / len(answers) * 1e3, 2)
    return {"p50_ms": found.p50_ms, "processor_ms": cost_ms, "requests": len(answers)}


async def swapped(load: Load, run: Path, swaps: int, per_s: float) -> dict[str, Any]:
    """Two versions in turns while requests come: what each swap takes, and what became of the requests."""
    versions, took_s, stages = (run / "other", run / "first"), list[float](), list[StageFigures]()

    async def swap() -> None:
        for nth in range(swaps):
            await asyncio.to_thread(put, versions[nth % 2], run / "model")
            begin_s = time.perf_counter()
            reply = await patient.send(patient.message("POST", "/v1/models/reload"))
            assert b'"swapped":true' in reply.body, reply
            took_s.append(time.perf_counter() - begin_s)

    async with Client(load.client.address, patience_s=600) as patient:
        swapping = asyncio.create_task(swap())
        while not swapping.done():
            stages.append(await load.stage(f"{len(took_s)} swaps", per_s, replace(load.settings, seconds=10)))
        await swapping
    outcomes: Counter[str] = Counter()
    for kind in (kind for stage in stages for kind in stage.kinds):
        outcomes.update(kind.outcomes)
    return {
        "swaps": swaps,
        "per_s": round(per_s, 2),
        "swap_p50_s": round(statistics.median(took_s), 2),
        "swap_most_s": round(max(took_s), 2),
        "outcomes": dict(outcomes),
        "problems": sorted({kind.problem for stage in stages for kind in stage.kinds if kind.problem}),
    }


def put(version: Path, folder: Path) -> None:
    """Each file in one step, since the service may read them."""
    for file in version.iterdir():
        shutil.copy(file, folder / f".{file.name}")
        os.replace(folder / f".{file.name}", folder / file.name)


def engine_alone(run: Path, threads: int) -> dict[str, float]:
    """The median of the engine alone, for the same questions: of every user in turn, each about candidates of its own.
    Keys kept, one process, no HTTP."""
    code = f"""
import json, time, numpy as np, torch
torch.set_num_threads({threads})
from pathlib import Path
from plait.data import Dataset
from plait.engine import one_pass
from plait.nn.runtime import tune_process
from plait.recommender import Recommender
tune_process()
run, rng, took = Path({str(run)!r}), np.random.default_rng(0), []
model = Recommender.from_pretrained(run / "model", "cpu")
data = Dataset.open(run.parent / "data")
states = [model.encode(data.history(user)) for user in range({USERS})]
for nth in range(4 * {USERS}):
    item_UC = rng.permutation({ITEMS})[None, :{SETTINGS.candidates}] + 1
    begin = time.perf_counter(), time.process_time()
    one_pass.score(model.model, states[nth % {USERS}], item_UC)
    took.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
print(*np.median(took[{USERS}:], axis=0) * 1e3)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wall_ms, cpu_ms = map(float, told.stdout.split())
    return {"p50_ms": round(wall_ms, 2), "processor_ms": round(cpu_ms, 2)}


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of a stage; those beyond capacity take half"
    )
    parser.add_argument("--mixed-seconds", type=float, default=60.0)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--deadline-ms", type=float, default=SETTINGS.deadline_ms)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serve.json")
    asked = parser.parse_args()
    before = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory(dir=".") as place:
        run = trained(Path(place).resolve())
        other_version(run)
        syncs_s = disk_syncs_s(run)
        with own_service(run, run, ["--threads", str(asked.threads)]) as own:
            told = asyncio.run(measured(run, own, asked))
        alone = engine_alone(run, asked.threads)
    shape = {
        "window": WINDOW,
        "step": STEP,
        "dim": DIM,
        "layers": LAYERS,
        "users": USERS,
        "items": ITEMS,
        "candidates": SETTINGS.candidates,
    }
    write_result(
        asked.out,
        {
            "load": {"before": before, "after": round(os.getloadavg()[0], 1), "why": "the machine is shared"},
            "threads": asked.threads,
            "shape": shape,
            "deadline_ms": asked.deadline_ms,
            "filling_s": own.filling_s,
            "ready_s": own.ready_s,
            "disk_sync_ms": {
                "p50": quantile_ms(syncs_s, 0.5),
                "p99": quantile_ms(syncs_s, 0.99),
                "times": len(syncs_s),
            },
            "engine alone": alone,
            **told,
        },
    )


if __name__ == "__main__":
    main()
