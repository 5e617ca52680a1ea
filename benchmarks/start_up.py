"""Processor time of commands that compute nothing: the median of several starts, in seconds.

python benchmarks/start_up.py --starts 9
"""

import resource
import statistics
import subprocess
import sys

import cyclopts

COMMANDS = ("--help", "--version", "trian", "layouts", "layouts show lac", "data list", "train --help")


def main(starts: int = 9) -> None:
    for command in COMMANDS:
        print(f"{statistics.median(processor_s(command) for _ in range(starts)):.2f} s  plait {command}")


def processor_s(command: str) -> float:
    """Of one start, in the program and in the system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "import sys; from plait.cli import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    cyclopts.run(main)
