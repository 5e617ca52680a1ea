"""Where a figure comes from: every result file carries commit, command, machine and date."""

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

RESULTS = "benchmarks/results"


def provenance() -> dict[str, str]:
    return {
        "commit": commit_of(Path(__file__).parent),
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": f"{processor()}, {os.cpu_count()} cores, {memory_gib():.0f} GiB, {platform.system()}",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def commit_of(checkout: Path) -> str:
    """With `-dirty` behind it where a file differs from it that is no result."""
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no", "--", ":/", f":!/{RESULTS}")
    return _git(checkout, "rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")


def _git(checkout: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True).stdout.strip()


def processor() -> str:
    """The processor's name as the kernel tells it, and what it multiplies bf16 matrices by, if by anything."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.machine()
    lines = dict(line.split("\t", 1) for line in info.read_text().splitlines() if "\t" in line)
    name = lines.get("model name", platform.machine()).lstrip(": \t")
    has = set(lines.get("flags", "").split())
    classes = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16"}
    return name + next((f" with {its}" for flag, its in classes.items() if flag in has), "")


def memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def write_result(out: Path, result: dict[str, object]) -> None:
    """Writes the result with its provenance, and prints it as the last line."""
    whole = provenance() | result
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(whole, indent=2) + "\n")
    print(json.dumps(whole))
