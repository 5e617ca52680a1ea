"""Processor time of commands that compute nothing, and of one that loads torch to say its options.

    python benchmarks/start_up.py --out benchmarks/results/start_up.json

Seconds of processor time, in the program and in the system: the median of several starts that take turns, and the
range. The goal is 0.4 s for all but the last.
"""

import resource
import statistics
import subprocess
import sys
from pathlib import Path

from provenance import write_result

COMMANDS = (
    "--help",
    "--version",
    "trian",
    "layouts",
    "layouts show lac",
    "data list",
    "data --help",
    "train --help",
)
STARTS = 9
CODE = "import sys; from plait.cli import main; sys.exit(main())"


def processor_s(command: str) -> float:
    """Of one start."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", CODE, *command.split()], capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(out: Path) -> None:
    taken: dict[str, list[float]] = {command: [] for command in COMMANDS}
    for _ in range(STARTS):
        for command, seconds in taken.items():
            seconds.append(round(processor_s(command), 3))
    results = {
        command: {"processor_s": statistics.median(s), "min_s": min(s), "max_s": max(s)}
        for command, s in taken.items()
    }
    for command, its in results.items():
        print(f"{its['processor_s']:.2f} s  plait {command}")
    write_result(out, {"starts": STARTS, "results": results})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--out", out]:
            main(Path(out))
        case _:
            sys.exit(__doc__)
