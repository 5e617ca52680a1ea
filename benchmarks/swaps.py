"""What a swap of the model does to the requests that come meanwhile, and how long it keeps other threads waiting.

python benchmarks/swaps.py                              ten swaps at 43 requests a second, into results/swaps.json
python benchmarks/swaps.py --swaps 3 --out short.json   a look at it

The model, its users and the mix are those of `serve.py`. A thread in the service's process sleeps a millisecond again
and again, and writes down how much later it woke: what a thread that holds Python's lock does to all others, and what
the processor does. The same is measured while nothing is swapped.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from provenance import write_result
from serve import SETTINGS, load_of, other_version, put, trained

from plait.load.client import Address, Client
from plait.load.figures import StageFigures
from plait.load.measuring import Load
from plait.load.own_service import OwnService, own_service

PROBE_S = 0.001
REST_S = 3.0  # between two swaps
PROBED = "--probed"  # the word by which this script is the service


def probed(file: Path, words: list[str]) -> int:
    """`plait` with the probe beside it, which is written down at the end: when it woke, and how late."""
    from plait.cli import main as plait

    woke_s, late_s = array("d"), array("d")

    def probe() -> None:
        while True:
            due_s = time.monotonic() + PROBE_S
            time.sleep(PROBE_S)
            woke_s.append(time.monotonic())
            late_s.append(woke_s[-1] - due_s)

    threading.Thread(target=probe, daemon=True).start()
    try:
        return plait(words) or 0
    finally:
        count = len(late_s)
        np.save(file, np.stack([np.array(woke_s[:count]), np.array(late_s[:count])]))


async def swapped(load: Load, run: Path, swaps: int) -> list[dict[str, Any]]:
    """Two versions in turns: when each swap began and ended, and what the service said of it."""
    versions, told = (run / "other", run / "first"), list[dict[str, Any]]()
    async with Client(load.client.address, patience_s=600) as patient:
        for nth in range(swaps):
            await asyncio.to_thread(put, versions[nth % 2], run / "model")
            begin_s = time.monotonic()
            reply = await patient.send(patient.message("POST", "/v1/models/reload"))
            assert b'"swapped":true' in reply.body, reply
            warmed = json.loads(reply.body)["models"][0]["warmed_users"]
            told.append({"begin_s": begin_s, "end_s": time.monotonic(), "warmed_users": warmed})
            await asyncio.sleep(REST_S)
    return told


async def measured(run: Path, own: OwnService, asked: argparse.Namespace) -> dict[str, Any]:
    async with Client(Address.of(own.url), patience_s=SETTINGS.patience_s) as client:
        load = await load_of(client, own, SETTINGS)
        await load.warm()
        calm, begin_s = replace(SETTINGS, seconds=asked.seconds), time.monotonic()
        quiet = await load.stage("no swap", asked.per_s, calm)
        told: dict[str, Any] = {"quiet": asdict(quiet), "quiet_s": (begin_s, time.monotonic())}
        swapping, stages = asyncio.create_task(swapped(load, run, asked.swaps)), list[StageFigures]()
        while not swapping.done():
            stages.append(await load.stage(f"{asked.swaps} swaps", asked.per_s, replace(calm, seconds=10)))
        told["swaps"] = await swapping
    told["stages"] = [asdict(stage) for stage in stages]
    told["outcomes"] = {"quiet": outcomes_of([quiet]), "swaps": outcomes_of(stages)}
    return told


def outcomes_of(stages: list[StageFigures]) -> dict[str, int]:
    outcomes: Counter[str] = Counter()
    for stage in stages:
        for kind in stage.kinds:
            outcomes.update(kind.outcomes)
    return dict(outcomes)


def lateness_ms(probe: np.ndarray, spans: list[tuple[float, float]]) -> dict[str, float]:
    """Of the probe in spans of time: quantiles, the largest, and the share of the time that it could not have run."""
    woke_s, late_s = probe
    inside = np.any([(begin_s <= woke_s) & (woke_s <= end_s) for begin_s, end_s in spans], axis=0)
    late_ms = late_s[inside] * 1e3
    p50, p99, p999, most = np.quantile(late_ms, [0.5, 0.99, 0.999, 1.0], method="higher").round(2).tolist()
    return {"p50": p50, "p99": p99, "p999": p999, "most": most, "samples": int(inside.sum())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--per-s", type=float, default=43.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="without a swap")
    parser.add_argument("--run", type=Path, help="one of an earlier call that kept it")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "swaps.json")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as place:
        run = asked.run.resolve() if asked.run else trained(Path(place).resolve())
        if not (run / "other").exists():
            other_version(run)
        file = Path(place).resolve() / "probe.npy"
        begin = (sys.executable, __file__, PROBED, str(file))
        with own_service(run, run, ["--threads", "1"], begin) as own:
            told = asyncio.run(measured(run, own, asked))
        probe = np.load(file)
    took_s = [swap["end_s"] - swap["begin_s"] for swap in told["swaps"]]
    write_result(
        asked.out,
        {
            "per_s": asked.per_s,
            "swap_p50_s": round(statistics.median(took_s), 2),
            "swap_most_s": round(max(took_s), 2),
            "warmed_users": [swap["warmed_users"] for swap in told["swaps"]],
            "probe_late_ms": {
                "quiet": lateness_ms(probe, [told["quiet_s"]]),
                "swaps": lateness_ms(probe, [(swap["begin_s"], swap["end_s"]) for swap in told["swaps"]]),
            },
            "outcomes": told["outcomes"],
            "stages": [told["quiet"], *told["stages"]],
        },
    )


if __name__ == "__main__":
    if PROBED in sys.argv[1:2]:
        sys.exit(probed(Path(sys.argv[2]), sys.argv[3:]))
    main()
