"""How fast, and in how much memory, a CSV log becomes per-user sequences: plait.prepare against pandas.

    python benchmarks/prepare.py 10_000_000 --out benchmarks/results/prepare.json
    python benchmarks/prepare.py 30_000_000 --out benchmarks/results/prepare_30m.json --alone
    python benchmarks/prepare.py 10_000_000 --out benchmarks/results/prepare_before.json --before CHECKOUT

Both read the same CSV file and sort it by (user, time), ties in the order of the file. pandas then gathers
lists per user, in memory; plait checks every row, encodes ids, counts ties and duplicates, runs the (idle)
k-core, hashes and writes its memory-mapped folder through to the disk. The results must be equal. Each
measurement is a process of its own; its peak memory is the kernel's, above what the imports took.

The third command tells what changes did: another checkout and this one take turns. Processor seconds are those of all
threads, in the program and in the kernel; a ratio is the median over pairs, with the quartiles beside it.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from provenance import commit_of, write_result

if TYPE_CHECKING:
    import pandas as pd

SEED = 7
HERE = Path(__file__).resolve().parent
ROUNDS = 3  # all variants in turn within each
PAIRS = 7  # of another checkout and this one
CHUNK_ROWS = 1_000_000
EVENTS_PER_USER = 50
TWO_YEARS_S = 2 * 365 * 86_400


def write_log(path: Path, rows: int) -> None:
    """A log in time order with a power-law popularity of items, every user at least twice."""
    rng = np.random.default_rng(SEED)
    users, items = max(rows // EVENTS_PER_USER, 1), max(rows // 100, 10)
    with path.open("wb") as file:
        for begin in range(0, rows, CHUNK_ROWS):
            size = min(CHUNK_ROWS, rows - begin)
            row = np.arange(begin, begin + size)
            user = np.where(row < 2 * users, row % users, rng.integers(0, users, size))
            chunk = {
                "user": user * 3 + 1,
                "item": (items * rng.random(size) ** 3).astype(np.int64) * 7 + 5,
                "time": 1_500_000_000 + row * TWO_YEARS_S // rows + rng.integers(0, 3, size),
                "rating": rng.integers(1, 11, size) / 2,
            }
            pl.DataFrame(chunk).write_csv(file, include_header=begin == 0)


def run_plait(log: Path, out: Path) -> object:
    from plait.data import prepare
    from plait.schema import Regression

    return prepare(
        log,
        user="user",
        item="item",
        time="time",
        actions={"rating": Regression(0.5, 5)},
        out=out,
        min_user_events=1,
        min_item_events=1,
    )


def run_pandas(log: Path, out: Path) -> object:
    """Per-user lists of the sorted events, in memory only."""
    frame = run_pandas_sorted(log, out)
    return frame.groupby("user")[["item", "time", "rating"]].agg(list)


def run_pandas_sorted(log: Path, out: Path) -> "pd.DataFrame":
    """Without the lists: pandas at its best, though no user's events are at hand yet."""
    import pandas as pd

    return pd.read_csv(log).sort_values(["user", "time"], kind="stable")


RUNS = {"plait": run_plait, "pandas": run_pandas, "pandas_sorted": run_pandas_sorted}


def child(name: str, log: Path, out: Path) -> None:
    """One measurement; its imports are warm before the clock starts. Plait's process is tuned as its commands are."""
    if name == "plait":
        from plait.data import prepare  # noqa: F401
        from plait.nn.runtime import tune_process

        tune_process()
    else:
        import pandas  # noqa: F401
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, begin_processor = time.perf_counter(), time.process_time()
    result = RUNS[name](log, out)
    seconds, processor_s = time.perf_counter() - begin, time.process_time() - begin_processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name == "pandas":
        result.to_pickle(out)  # outside the clock, for `check_equal`
    took = {"seconds": round(seconds, 2), "processor_s": round(processor_s, 2)}
    print(json.dumps(took | {"base_mb": base >> 10, "peak_mb": peak >> 10}))


def measure(name: str, log: Path, out: Path, checkout: Path = HERE.parent) -> dict[str, float]:
    path = os.pathsep.join(map(str, (checkout, HERE)))
    command = [sys.executable, __file__, "--child", name, str(log), str(out)]
    env = os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    printed = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def summary_of(measured: list[dict[str, float]]) -> dict[str, float]:
    """Median times with their ranges, and the largest peak."""
    seconds, processor_s = (sorted(each[key] for each in measured) for key in ("seconds", "processor_s"))
    return {
        "seconds": statistics.median(seconds),
        "min_s": seconds[0],
        "max_s": seconds[-1],
        "processor_s": statistics.median(processor_s),
        "min_processor_s": processor_s[0],
        "max_processor_s": processor_s[-1],
        "base_mb": measured[0]["base_mb"],
        "peak_mb": max(each["peak_mb"] for each in measured),
    }


def check_equal(plait_out: Path, pandas_out: Path) -> None:
    import pandas as pd

    from plait.data import Dataset

    data = Dataset.open(plait_out)
    lists = pd.read_pickle(pandas_out)
    assert data.user_ids().to_list() == lists.index.to_list(), "users differ"
    arrays = {name: np.load(plait_out / f"{name}.npy") for name in ("start", "item", "time_s", "action")}
    assert (np.diff(arrays["start"]) == lists["item"].map(len).to_numpy()).all(), "lengths differ"
    item_id = data.item_ids().to_numpy()
    for column, ours in (
        ("item", item_id[arrays["item"] - 1]),
        ("time", arrays["time_s"]),
        ("rating", arrays["action"][:, 0]),
    ):
        theirs = np.concatenate([np.asarray(values) for values in lists[column]])
        assert (ours == theirs).all(), f"{column} differs"


def main(rows: int, out: Path, names: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        write_log(log, rows)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for round_ in range(ROUNDS):
            for name in names:
                out_of_run = Path(folder) / (name if round_ == 0 else f"{name}-{round_}")
                runs[name].append(measure(name, log, out_of_run))
        results = {name: summary_of(measured) for name, measured in runs.items()}
        if "pandas" in names:
            check_equal(Path(folder) / "plait", Path(folder) / "pandas")
        csv_mb = log.stat().st_size >> 20
    record: dict[str, object] = {
        "rows": rows,
        "csv_mb": csv_mb,
        "results": results,
        "bytes_per_row": round((results["plait"]["peak_mb"] - results["plait"]["base_mb"]) * 2**20 / rows, 1),
    }
    if "pandas" in names:
        record["times_faster"] = round(results["pandas"]["seconds"] / results["plait"]["seconds"], 2)
    print(f"{'':16}{'seconds':>10}{'peak MB':>10}{'base MB':>10}")
    for name, result in results.items():
        print(f"{name:16}{result['seconds']:>10}{result['peak_mb']:>10}{result['base_mb']:>10}")
    write_result(out, record)


def compare(rows: int, out: Path, before: Path) -> None:
    """Another checkout and this one in turns, of which either begins every other pair."""
    checkouts = {"before": before.resolve(), "after": HERE.parent}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        write_log(log, rows)
        for pair in range(PAIRS):
            for name in list(checkouts)[:: 1 if pair % 2 else -1]:
                out_of_run = Path(folder) / "prepared"
                runs[name].append(measure("plait", log, out_of_run, checkouts[name]))
                print(name, runs[name][-1], file=sys.stderr)
                shutil.rmtree(out_of_run)
    ratios = [
        after["processor_s"] / before["processor_s"] for before, after in zip(*runs.values(), strict=True)
    ]
    low, middle, high = statistics.quantiles(ratios, n=4)
    record = {
        "rows": rows,
        "pairs": PAIRS,
        "checkouts": {name: commit_of(at) for name, at in checkouts.items()},
    }
    record |= {"results": {name: summary_of(measured) for name, measured in runs.items()}}
    record |= {"processor_ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}
    write_result(out, record)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--child", name, log, out]:
            child(name, Path(log), Path(out))
        case [rows, "--out", out]:
            main(int(rows), Path(out), tuple(RUNS))
        case [rows, "--out", out, "--alone"]:
            main(int(rows), Path(out), ("plait",))
        case [rows, "--out", out, "--before", before]:
            compare(int(rows), Path(out), Path(before))
        case _:
            sys.exit(__doc__)
