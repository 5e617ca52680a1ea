"""What it costs that a ranker is told interests while a request is on its way (LUM paper, section 4.6 and figure 5).

python benchmarks/serve_ranking.py                                     into benchmarks/results/serve_ranking.json
python benchmarks/serve_ranking.py --seconds 5 --out short.json        a look at it

A large user model and a ranker (DIN) of one simulated log are served together, and asked at Poisson arrivals, in turns:

- alone: the ranker scores candidates, with nothing of its user (`interests`: none; users of whom nothing was asked).
- told: the user model retrieves those candidates and is asked for the interests behind it; then the ranker scores them.

Told are the latency of the ranker's answer in both, of the whole of the second, and how often it was told what.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from provenance import write_result

from plait.load.arrivals import poisson_arrivals
from plait.load.client import Address, Client, Reply
from plait.load.figures import quantile_ms
from plait.load.own_service import SERVE, own_service

USERS, EVENTS, ITEMS, CANDIDATES = 400, 60, 2_000, 500
DEADLINE_MS = 500
PLAIT = [sys.executable, "-c", SERVE]
LOG = f"simulate --num-users {USERS} --num-events {EVENTS} --num-items {ITEMS} --queries 0.5 --condition scenario"
ONE_EPOCH = "--protocol.max-epochs 1 --quiet"


@dataclass(frozen=True)
class Trip:
    """One arrival: seconds of the ranker's answer, of everything, and what the ranker was told."""

    ranker_s: float
    whole_s: float
    told: str


def plait(folder: Path, words: str) -> None:
    subprocess.run([*PLAIT, *words.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def trained(folder: Path) -> tuple[Path, Path]:
    """A user model and a ranker that reads its interests; an epoch each, since weights cost nothing."""
    plait(folder, f"{LOG} --out early --temporal 0.1 0.4")
    plait(folder, f"{LOG} --out late --temporal 0.2 0.2")
    plait(folder, f"lum pretrain early --out lum --protocol.no-filter-seen {ONE_EPOCH}")
    parts = "train", "validation", "test"
    for part in parts:
        plait(folder, f"lum query lum --dataset late --of events --part {part} --out {part}.parquet")
    plait(folder, "lum query lum --of items --out items.parquet")
    told = " ".join(f"--interests {part}.parquet" for part in parts)
    plait(folder, f"rank train late --ranker din --out din {told} --item-interests items.parquet {ONE_EPOCH}")
    return folder / "lum", folder / "din"


async def posted(client: Client, path: str, body: dict[str, Any], request_id: str) -> Reply:
    headers = {"plait-request-id": request_id, "plait-deadline-ms": str(DEADLINE_MS)}
    reply = await client.send(client.message("POST", path, orjson.dumps(body), headers))
    assert reply.status == 200, reply.body
    return reply


async def alone(client: Client, nth: int, user: int, items: Sequence[int]) -> Trip:
    begin_s = time.perf_counter()
    body = {"model": "din", "user": user, "items": items}
    answer = orjson.loads((await posted(client, "/v1/score", body, f"alone-{nth}")).body)
    took_s = time.perf_counter() - begin_s
    return Trip(took_s, took_s, answer["interests"])


async def told(client: Client, nth: int, user: int) -> Trip:
    begin_s, request_id = time.perf_counter(), f"told-{nth}"
    body: dict[str, Any] = {"model": "lum", "user": user, "k": CANDIDATES, "condition": {"scenario": "0"}}
    found = orjson.loads((await posted(client, "/v1/retrieve", body | {"rank_with": "din"}, request_id)).body)
    middle_s = time.perf_counter()
    body = {"model": "din", "user": user, "items": found["items"], "request_id": request_id}
    answer = orjson.loads((await posted(client, "/v1/score", body, f"ranked-{nth}")).body)
    return Trip(time.perf_counter() - middle_s, time.perf_counter() - begin_s, answer["interests"])


async def measured(url: str, per_s: float, seconds: float) -> dict[str, Any]:
    """Users of even numbers are told of, and the others not, so that nothing of these is remembered."""
    rng, due_R = np.random.default_rng(0), poisson_arrivals(per_s, seconds, np.random.default_rng(1))
    begin_s, trips = time.perf_counter(), dict[str, list[asyncio.Task[Trip]]](alone=[], told=[])
    async with Client(Address.of(url)) as client:
        for nth, due_s in enumerate(due_R.tolist()):
            await asyncio.sleep(max(0.0, begin_s + due_s - time.perf_counter()))
            user = 2 * int(rng.integers(USERS // 2))
            if nth % 2:
                trips["told"].append(asyncio.create_task(told(client, nth, user)))
            else:
                items = (rng.permutation(ITEMS)[:CANDIDATES] + 1).tolist()
                trips["alone"].append(asyncio.create_task(alone(client, nth, user + 1, items)))
        return {name: figures(await asyncio.gather(*tasks)) for name, tasks in trips.items()}


def figures(trips: Sequence[Trip]) -> dict[str, Any]:
    ranker_s, whole_s = ([getattr(trip, name) for trip in trips] for name in ("ranker_s", "whole_s"))
    return {
        "requests": len(trips),
        "ranker_ms": {"p50": quantile_ms(ranker_s, 0.5), "p99": quantile_ms(ranker_s, 0.99)},
        "whole_ms": {"p50": quantile_ms(whole_s, 0.5), "p99": quantile_ms(whole_s, 0.99)},
        "interests": dict(Counter(trip.told for trip in trips)),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--per-s", type=float, default=20.0, help="arrivals, half of each kind")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serve_ranking.json")
    asked = parser.parse_args()
    before = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory(dir=".") as place:
        lum, din = trained(Path(place).resolve())
        with own_service(lum, lum, [str(din), "--threads", str(asked.threads)]) as own:
            asyncio.run(
                measured(own.url, asked.per_s, min(5.0, asked.seconds))
            )  # states, and what runs first
            found = asyncio.run(measured(own.url, asked.per_s, asked.seconds))
    write_result(
        asked.out,
        {
            "load": {"before": before, "after": round(os.getloadavg()[0], 1), "why": "the machine is shared"},
            "threads": asked.threads,
            "per_s": asked.per_s,
            "shape": {"users": USERS, "events": EVENTS, "items": ITEMS, "candidates": CANDIDATES},
            **found,
        },
    )


if __name__ == "__main__":
    main()
