"""WarpRec's server beside Plait's: one shape, one load, and each against its own capacity.

python benchmarks/serve_beside_warprec.py FOLDER       about 12 minutes where nothing else runs
python benchmarks/serve_beside_warprec.py FOLDER --seconds 3 --out /tmp/warprec.json      a look at it

It writes benchmarks/results/serve_beside_warprec.json.

WarpRec (MIT; sisinflab) serves its models on Ray Serve. It needs Python 3.12 and an environment of its own, which is
made in FOLDER where it is not there yet (about 7 GB): --python names the Python.

Both get the same requests: about users whose histories the server has, 1,000 candidates to score or the ten best of
the catalogue to find. Both compute in one thread. Two things differ. Plait keeps encoded histories; WarpRec encodes
the history for every request, so Plait is measured with and without what it keeps. And a candidate's answer is another
one: WarpRec multiplies it with the last state, Plait passes it through the trunk and tells the actions to expect. The
ten best are the same work in both: one state, and its products with every item.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from provenance import write_result
from serve import DIM, ITEMS, LAYERS, OF_CAPACITY, SETTINGS, USERS, WINDOW, progress, trained

from plait.load.client import Address, Client
from plait.load.figures import quantile_ms
from plait.load.loops import closed_loop
from plait.load.machine import held_memory_mb, processor_s
from plait.load.measuring import Load
from plait.load.mix import Kind
from plait.load.own_service import own_service, stop
from plait.load.population import Population

VERSION = "2.2.8"  # of WarpRec: the one that this was written against
SHAPE = {"window": WINDOW, "dim": DIM, "layers": LAYERS, "heads": 4, "users": USERS, "items": ITEMS}
KINDS: tuple[Kind, ...] = ("score", "retrieve")
ROUTES = {"/v1/score": "/v1/models/sasrec/score", "/v1/retrieve": "/v1/models/sasrec/recommend"}
READY_S, STOP_S = 300.0, 90.0
PATIENCE_S = 10.0  # WarpRec refuses nobody: what waits beyond its capacity is late long before
PEOPLE = Population([str(user) for user in range(USERS)], (), [str(item) for item in range(ITEMS)])


@dataclass(frozen=True)
class Served:
    """Args:
    pid: of the process that all others of the server come from.
    ready_s: from its start to its first answer.
    """

    url: str
    pid: int
    ready_s: float


class AskingWarpRec:
    """A client of WarpRec that is asked as if it were one of Plait: same questions, its words."""

    def __init__(self, client: Client) -> None:
        self.address, self.send, self._client = client.address, client.send, client

    def message(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> bytes:
        translated = body.replace(b'"user":', b'"user_id":', 1)
        return self._client.message(method, ROUTES.get(path, path), translated, headers)


async def measured(served: Served, seconds: float, is_warprec: bool) -> dict[str, Any]:
    """Memory, and for each kind of question its capacity and the stages beyond it."""
    told: dict[str, Any] = {"ready_s": served.ready_s, "memory_mb": {}}
    async with Client(Address.of(served.url), patience_s=PATIENCE_S) as client:
        for kind in KINDS:
            settings = replace(SETTINGS, rates=(), mix={kind: 1.0}, seconds=seconds, patience_s=PATIENCE_S)
            asking: Any = AskingWarpRec(client) if is_warprec else client
            told[kind] = await of_kind(Load(asking, None, PEOPLE, settings, progress), served)  # type: ignore[arg-type]
            told["memory_mb"][f"after {kind}"] = memory_mb(served.pid)
    return told


async def of_kind(load: Load, served: Served) -> dict[str, Any]:
    warmed, alone = await load.warm(), await one_by_one(load, served)
    capacity = await load.capacity()
    rates = [(times, times * capacity.per_s) for times in OF_CAPACITY if capacity.per_s]
    stages = [await load.stage(f"{times} x capacity", rate) for times, rate in rates]
    return {
        "warmed": None if warmed is None else asdict(warmed),
        "one by one": alone,
        "capacity": asdict(capacity),
        "stages": [asdict(stage) for stage in stages],
    }


async def one_by_one(load: Load, served: Served) -> dict[str, Any]:
    """Requests that wait for each other: what one takes, and costs all processes of the server."""
    seconds, before_s = load.settings.seconds / 2, taken_s(served.pid)
    answers = await closed_loop(load.client.send, load.requests().draw, 1, seconds)
    cost_ms = (taken_s(served.pid) - before_s) / len(answers) * 1e3
    p50_ms = quantile_ms([answer.latency_s for answer in answers], 0.5)
    return {"p50_ms": p50_ms, "processor_ms": round(cost_ms, 1), "times": len(answers)}


def family(pid: int) -> list[int]:
    """A process and all that come from it."""
    every = [int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()]
    parents, found = {one: parent_and_birth(one)[0] for one in every}, [pid]
    for one in found:  # grows meanwhile
        found += [child for child, parent in parents.items() if parent == one]
    return found


def parent_and_birth(pid: int) -> tuple[int, int]:
    """Which process a process comes from, and when it began, in ticks; zeros where it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return int(words[1]), int(words[19])


def memory_mb(pid: int) -> float:
    return round(sum(held_memory_mb(one) or 0.0 for one in family(pid)), 1)


def taken_s(pid: int) -> float:
    return sum(processor_s(one) or 0.0 for one in family(pid))


def environment(folder: Path, python: str) -> Path:
    """Where WarpRec's commands lie; made where they are not there."""
    commands = folder / "bin"
    if not (commands / "warprec.serve").exists():
        progress(f"installs WarpRec into {folder}")
        subprocess.run([python, "-m", "venv", folder], check=True)
        packages = [f"warprec[serving]=={VERSION}"]
        subprocess.run([commands / "python", "-m", "pip", "install", "--quiet", *packages], check=True)
    return commands


@contextmanager
def warprec(folder: Path, commands: Path) -> Iterator[Served]:
    """Serves a checkpoint of the shape, on this machine alone."""
    maker = Path(__file__).parent / "warprec_checkpoint.py"
    subprocess.run([commands / "python", maker, folder, json.dumps(SHAPE)], check=True)
    port, begin_s = free_port(), time.perf_counter()
    (folder / "serve.yml").write_text(
        f"server:\n  host: 127.0.0.1\n  port: {port}\n"
        f"endpoints:\n  - name: sasrec\n    checkpoint: {folder / 'sasrec.pth'}\n"
    )
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(folder)}
    with open(folder / "warprec.log", "wb") as log:
        command = [commands / "warprec.serve", "-c", folder / "serve.yml"]
        child = subprocess.Popen(command, env=quiet, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}{ROUTES['/v1/score']}", b'{"user_id":"0","items":["0"]}', child)
        yield Served(url, child.pid, round(time.perf_counter() - begin_s, 2))
    finally:
        stop_all(child)


def wait_for(url: str, body: bytes, child: "subprocess.Popen[bytes]") -> None:
    """Until a question is answered."""
    asked = urllib.request.Request(url, body, {"content-type": "application/json"})
    for _ in range(round(READY_S / 0.1)):
        assert child.poll() is None, "WarpRec's server ended; see warprec.log"
        try:
            with urllib.request.urlopen(asked, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise TimeoutError(f"WarpRec's server did not answer within {READY_S:g} s")


def stop_all(child: "subprocess.Popen[bytes]") -> None:
    """Asks it to end, and then ends what it left."""
    births = {pid: parent_and_birth(pid)[1] for pid in family(child.pid)}
    stop(child, STOP_S)
    for pid, birth in births.items():
        if birth and parent_and_birth(pid)[1] == birth:  # the very process, and no later one of its number
            os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def measure_plait(run: Path, seconds: float, words: list[str]) -> dict[str, Any]:
    with own_service(run, run, ["--threads", "1", *words]) as own:
        return asyncio.run(measured(Served(own.url, own.pid, own.ready_s), seconds, is_warprec=False))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="python3.12")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a stage")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "serve_beside_warprec.json"
    )
    asked = parser.parse_args()
    commands, before = environment(asked.folder.absolute(), asked.python), round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        with warprec(folder, commands) as served:
            theirs = asyncio.run(measured(served, asked.seconds, is_warprec=True))
        run = trained(folder)
        told = {
            "warprec": {"version": VERSION, **theirs},
            "plait": measure_plait(run, asked.seconds, []),
            "plait without kept states": measure_plait(run, asked.seconds, ["--state-memory-mb", "0"]),
        }
    load = {"before": before, "after": round(os.getloadavg()[0], 1), "why": "the machine is shared"}
    settings = asdict(replace(SETTINGS, rates=(), seconds=asked.seconds, patience_s=PATIENCE_S))
    write_result(asked.out, {"load": load, "shape": SHAPE, "settings": settings, **told})


if __name__ == "__main__":
    main()
