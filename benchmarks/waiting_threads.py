"""What threads cost that wait for each other: an epoch of training on an idle machine, and beside other work.

    python benchmarks/waiting_threads.py ml-100k --out benchmarks/results/waiting_threads.json

Products are computed by as many threads as there are cores, which wait for each other several thousand times a second.
The runtime of OpenMP that torch comes with lets them spin meanwhile. Beside other work the thread that is waited for
may not run, and the others keep the core that it wants. `GOMP_SPINCOUNT` bounds their turns; beyond them they sleep.

Rounds take turns through all ways, idle and beside one busy process for each core. An epoch is that of `lac`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cyclopts
from provenance import write_result

WAYS: dict[str, dict[str, str]] = {
    "as the runtime has it": {"GOMP_SPINCOUNT": "300000"},
    "10,000 turns": {"GOMP_SPINCOUNT": "10000"},
    "1,000 turns": {"GOMP_SPINCOUNT": "1000"},
    "no turn": {"GOMP_SPINCOUNT": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
CODE = "import sys; from plait.cli import main; sys.exit(main())"
BUSY = "while True: pass"


def main(dataset: str, *, out: Path, rounds: int = 3) -> None:
    found: dict[str, dict[str, list[dict[str, float]]]] = {
        beside: {way: [] for way in WAYS} for beside in ("idle", "busy")
    }
    for _ in range(rounds):
        for beside, ways in found.items():
            for way, epochs in ways.items():
                with busy_cores(os.cpu_count() or 1 if beside == "busy" else 0):
                    epochs.append(epoch(dataset, WAYS[way]))
                print(beside, way, epochs[-1], flush=True)
    results = {
        beside: {
            way: {unit: statistics.median(its[unit] for its in epochs) for unit in epochs[0]}
            | {"rounds": epochs}
            for way, epochs in ways.items()
        }
        for beside, ways in found.items()
    }
    write_result(out, {"dataset": dataset, "rounds": rounds, "results": results})


@contextmanager
def busy_cores(number: int) -> Iterator[None]:
    """So many other processes that never wait."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def epoch(dataset: str, way: Mapping[str, str]) -> dict[str, float]:
    """Wall and processor seconds of one epoch's training."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [
            "train",
            dataset,
            "--layout",
            "lac",
            "--out",
            run,
            "--protocol.max-epochs",
            "1",
            "--model.counts",
        ]
        command = [sys.executable, "-c", CODE, *words, "none", "-q"]
        subprocess.run(command, env={**os.environ, **way}, check=True, capture_output=True)
        its = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return {"wall_s": round(its["train_wall_s"], 2), "processor_s": round(its["train_cpu_s"], 2)}


if __name__ == "__main__":
    cyclopts.run(main)
