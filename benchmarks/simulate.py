"""How long `plait simulate` takes for about a million events: the whole command, and its log without the oracle.

    python benchmarks/simulate.py --out benchmarks/results/simulate.json

The command starts Python, draws the log, prepares it, and says what the oracle reaches in the test, once from the
histories and once from the hidden truth. The goal is 30 s.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from provenance import write_result

from plait.data.simulator import World, simulate
from plait.nn.runtime import tune_process

ROUNDS = 5
NUM_USERS = 16_700  # 60 events each, on average


def run_command(folder: Path) -> tuple[float, int]:
    """Seconds of the whole command, and the number of events that it says it drew."""
    plait = Path(sys.executable).with_name("plait")
    command = [str(plait), "simulate", "--out", str(folder), "--num-users", str(NUM_USERS)]
    begin = time.perf_counter()
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.perf_counter() - begin
    told = re.search(r"([\d,]+) events", printed)
    assert told, printed
    return seconds, int(told[1].replace(",", ""))


def run_log(folder: Path) -> tuple[float, int]:
    """Seconds of drawing and preparing alone."""
    begin = time.perf_counter()
    dataset = simulate(World(num_users=NUM_USERS), folder)
    return time.perf_counter() - begin, dataset.manifest.counts.events


def main(out: Path) -> None:
    tune_process()
    runs = {"command": run_command, "log": run_log}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    counts = set()
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(ROUNDS):
            for name, run in runs.items():
                taken, events = run(Path(folder) / f"{name}-{round_}")
                seconds[name].append(round(taken, 2))
                counts.add(events)
    (events,) = counts  # a world and its seed say everything
    results = {
        name: {"seconds": statistics.median(s), "min_s": min(s), "max_s": max(s)}
        for name, s in seconds.items()
    }
    write_result(out, {"events": events, "rounds": ROUNDS, "results": results})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--out", out]:
            main(Path(out))
        case _:
            sys.exit(__doc__)
