"""How long a service takes under load: Poisson arrivals from a second process, which do not wait for each other.

python benchmarks/serve.py                 all of it, into benchmarks/results/serve.json
python benchmarks/serve.py server FOLDER   the process that is asked

Latency counts from the moment that a request was due, so that a queue in front of the service counts, too. A model of
the shape asked for has weights as drawn: what an answer costs does not depend on them.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from provenance import write_result

USERS, EVENTS, ITEMS = 100, 250, 3_700
WINDOW, STEP, DIM, LAYERS, CANDIDATES = 200, 50, 128, 2, 1_000
FIRST_S = 1_600_000_000
DEADLINE_MS = 500.0
SECONDS = 20.0
STATE_MB = 256
Sent = tuple[str, bytes]  # the kind of a request, and all its bytes


def prepare(folder: Path) -> None:
    """A dataset and a model."""
    import polars as pl
    import torch

    import plait
    from plait.data.history import columns_read
    from plait.layouts import resolve
    from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
    from plait.nn.config import TrunkConfig
    from plait.nn.initialising import initialised
    from plait.recommender import Recommender

    rng = np.random.default_rng(0)
    count = USERS * EVENTS
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
    data = plait.prepare(
        log, user="user", item="item", time="time", actions=actions, out=folder / "data", min_item_events=1
    )
    config = ModelConfig(
        layout=str(resolve("lac")),
        settings=ModelSettings(trunk=TrunkConfig(dim=DIM, num_layers=LAYERS, num_heads=4)),
        num_items=data.num_items,
        actions=data.actions,
        max_events=WINDOW,
        window_step=STEP,
    )
    model = initialised(GenerativeRecommender(config), torch.Generator().manual_seed(0)).eval()
    Recommender(model, data.items, columns_read(data)).save_pretrained(folder / "model")


def serve(folder: Path, threads: int) -> None:
    import torch

    from plait.data import Dataset
    from plait.nn.runtime import tune_process
    from plait.recommender import Recommender
    from plait.service.models import Model
    from plait.service.running import run
    from plait.service.service import Service, seed
    from plait.service.settings import ServiceSettings
    from plait.store.lmdb_store import LmdbStore

    tune_process()
    torch.set_num_threads(threads)
    data, store = Dataset.open(folder / "data"), LmdbStore(folder / "store", "power")
    seed(store, data, Recommender.from_pretrained(folder / "model", "cpu"))
    settings = ServiceSettings(port=0, deadline_ms=DEADLINE_MS, state_memory_mb=STATE_MB)
    service = Service([Model("bench", folder / "model", data, "cpu")], store, settings)
    run(service, lambda line: print(line, flush=True))


class Requests:
    """Requests of each kind, drawn anew; users are drawn evenly."""

    def __init__(self, seed: int) -> None:
        self.rng, self.nth, self.seed = np.random.default_rng(seed), 0, seed

    def user(self) -> str:
        return str(self.rng.integers(0, USERS))

    def score(self) -> Sent:
        items = self.rng.choice(ITEMS, CANDIDATES, replace=False).tolist()
        return "score", post("/v1/score", {"user": self.user(), "items": items, "value": "rating + liked"})

    def retrieve(self) -> Sent:
        return "retrieve", post("/v1/retrieve", {"user": self.user(), "k": 10})

    def append(self) -> Sent:
        self.nth += 1
        event = {
            "item": int(self.rng.integers(0, ITEMS)),
            "time": FIRST_S + 10_000_000 + self.nth,
            "rating": 4,
            "liked": 1,
        }
        sent = {"id": f"{self.seed}-{self.nth}", "user": self.user(), "event": event}
        return "append", post("/v1/events", {"events": [sent]})

    def mixed(self) -> Sent:
        draw = self.rng.random()
        return self.append() if draw < 0.5 else self.score() if draw < 0.8 else self.retrieve()


def post(path: str, body: Any) -> bytes:
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json"]
    return "\r\n".join([*lines, f"content-length: {len(content)}", "", ""]).encode() + content


class Client:
    """Connections that are kept, as many as are needed at once."""

    def __init__(self, port: int) -> None:
        self.port, self.free = port, []

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """A kept connection may have been closed by the service meanwhile; then another is taken."""
        while True:
            kept = bool(self.free)
            reader, writer = self.free.pop() if kept else await self._open()
            try:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                if not kept:
                    raise
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        self.free.append((reader, writer))
        return int(head.split(b" ", 2)[1]), body

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def open_loop(
    client: Client, draw: Callable[[], Sent], per_s: float, seconds: float, seed: int
) -> list[Any]:
    """(kind, status, by whom, seconds since it was due) of each request."""
    rng, due_s, tasks = np.random.default_rng(seed), 0.0, []
    begin = time.perf_counter()

    async def one(kind: str, request: bytes, due: float) -> Any:
        status, body = await client.send(request)
        by = "fallback" if b'"answered_by":"fallback"' in body[:300] else "model"
        return kind, status, by, time.perf_counter() - begin - due

    while due_s < seconds:
        due_s += rng.exponential(1 / per_s)
        kind, request = draw()
        await asyncio.sleep(max(0.0, due_s - (time.perf_counter() - begin)))
        tasks.append(asyncio.create_task(one(kind, request, due_s)))
    return list(await asyncio.gather(*tasks))


async def capacity(client: Client, draw: Callable[[], Sent], seconds: float) -> float:
    """Requests a second that two askers get who wait for each answer."""
    done, begin = 0, time.perf_counter()

    async def asker() -> None:
        nonlocal done
        while time.perf_counter() - begin < seconds:
            await client.send(draw()[1])
            done += 1

    await asyncio.gather(asker(), asker())
    return done / (time.perf_counter() - begin)


def summary(found: list[Any], per_s: float, seconds: float) -> dict[str, Any]:
    told = {}
    for kind in sorted({each[0] for each in found}):
        mine = [each for each in found if each[0] == kind]
        took_ms = np.array([each[3] for each in mine if each[1] == 200]) * 1e3
        good = sum(each[1] == 200 and each[2] == "model" and each[3] * 1e3 <= DEADLINE_MS for each in mine)
        quantiles = np.quantile(took_ms, [0.5, 0.99, 0.999]).round(2).tolist() if len(took_ms) else [None] * 3
        told[kind] = {
            "requests": len(mine),
            "p50_ms": quantiles[0],
            "p99_ms": quantiles[1],
            "p99.9_ms": quantiles[2],
            "good_per_s": round(good / seconds, 2),
            "statuses": dict(Counter(str(each[1]) for each in mine)),
            "fallbacks": sum(each[2] == "fallback" for each in mine),
        }
    return {"offered_per_s": round(per_s, 2), "seconds": seconds, **told}


def memory_mb(pid: int) -> dict[str, float]:
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    found = {words[0]: int(words[1]) / 1e3 for words in lines}
    return {"anonymous_pss_mb": round(found["Pss_Anon:"], 1), "resident_mb": round(found["Rss:"], 1)}


def processor_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def one_by_one(client: Client, draw: Callable[[], Sent], pid: int, times: int) -> dict[str, float]:
    """Requests that wait for each other: what one costs, whatever else runs on the machine."""
    took, before_s = [], processor_s(pid)
    for _ in range(times):
        request = draw()[1]
        begin = time.perf_counter()
        await client.send(request)
        took.append(time.perf_counter() - begin)
    cost_ms = (processor_s(pid) - before_s) / times * 1e3
    return {"p50_ms": round(float(np.median(took)) * 1e3, 2), "processor_ms": round(cost_ms, 2)}


def disk_sync_ms(folder: Path, times: int = 100) -> float:
    """The median of one fdatasync behind 4 KB, on the store's disk."""
    took = []
    with open(folder / "probe", "wb") as file:
        for _ in range(times):
            file.write(os.urandom(4096))
            file.flush()
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begin)
    return round(float(np.median(took)) * 1e3, 3)


def engine_alone(folder: Path, threads: int) -> dict[str, float]:
    """The median of the engine alone, for the same question: keys kept, one process, no HTTP."""
    code = f"""
import json, time, numpy as np, torch
torch.set_num_threads({threads})
from pathlib import Path
from plait.data import Dataset
from plait.engine import one_pass
from plait.nn.runtime import tune_process
from plait.recommender import Recommender
tune_process()
folder = Path({str(folder)!r})
model = Recommender.from_pretrained(folder / "model", "cpu")
state = model.encode(Dataset.open(folder / "data").history(3))
item_UC, took = np.random.default_rng(0).permutation({ITEMS})[None, :{CANDIDATES}] + 1, []
for _ in range(60):
    begin = time.perf_counter(), time.process_time()
    one_pass.score(model.model, state, item_UC)
    took.append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
print(*np.median(took[10:], axis=0) * 1e3)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wall_ms, cpu_ms = map(float, told.stdout.split())
    return {"p50_ms": round(wall_ms, 2), "processor_ms": round(cpu_ms, 2)}


def started(folder: Path, threads: int) -> tuple[subprocess.Popen, int, float]:
    begin = time.perf_counter()
    command = [sys.executable, __file__, "server", str(folder), "--threads", str(threads)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if "serving" in line:
            return child, int(line.rsplit(":", 1)[1]), time.perf_counter() - begin
    raise RuntimeError("the service did not start")


async def measure(port: int, pid: int, seconds: float) -> dict[str, Any]:
    client, drawn = Client(port), Requests(1)
    for user in range(USERS):  # states of all users
        await client.send(post("/v1/score", {"user": str(user), "items": [1]}))
    told: dict[str, Any] = {"memory": memory_mb(pid)}
    for name, draw in (("score", drawn.score), ("retrieve", drawn.retrieve), ("append", drawn.append)):
        told[f"{name} one by one"] = await one_by_one(client, draw, pid, int(20 + 6 * seconds))
    told["score at 20 per s"] = summary(await open_loop(client, drawn.score, 20, seconds, 2), 20, seconds)
    told["append at 50 per s"] = summary(await open_loop(client, drawn.append, 50, seconds, 3), 50, seconds)
    most = await capacity(client, drawn.score, seconds / 2)
    told["score capacity_per_s"] = round(most, 2)
    for times in (1, 2, 4, 8):
        part = seconds / 2
        found = await open_loop(client, drawn.score, times * most, part, 10 + times)
        told[f"score at {times} times capacity"] = summary(found, times * most, part)
    most = await capacity(client, drawn.mixed, seconds / 2)
    told["mixed capacity_per_s"] = round(most, 2)
    found = await open_loop(client, drawn.mixed, 0.7 * most, 3 * seconds, 4)
    told["mixed at 70 % of capacity"] = summary(found, 0.7 * most, 3 * seconds)
    told["memory after"] = memory_mb(pid)
    return told


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", choices=("all", "server"), default="all")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serve.json")
    asked = parser.parse_args()
    if asked.what == "server":
        serve(asked.folder, asked.threads)
        return
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        prepare(folder)
        child, _, _ = started(folder, asked.threads)  # fills the store
        child.terminate()
        child.wait()
        child, port, cold_s = started(folder, asked.threads)
        try:
            told = {
                "load": {"before": round(os.getloadavg()[0], 1), "why": "the machine is shared"},
                "threads": asked.threads,
                "shape": {
                    "window": WINDOW,
                    "step": STEP,
                    "dim": DIM,
                    "layers": LAYERS,
                    "candidates": CANDIDATES,
                },
                "deadline_ms": DEADLINE_MS,
                "ready_s": round(cold_s, 2),
                "disk_sync_ms": disk_sync_ms(folder),
                **asyncio.run(measure(port, child.pid, asked.seconds)),
            }
        finally:
            child.terminate()
            child.wait()
        told["engine alone"] = engine_alone(folder, asked.threads)
        told["load"]["after"] = round(os.getloadavg()[0], 1)
    write_result(asked.out, told)


if __name__ == "__main__":
    main()
