"""What the kernel tells of a process and of a disk."""

import os
import time
from pathlib import Path
from tempfile import TemporaryFile

MAP_OF_LMDB = "/data.mdb"


def held_memory_mb(pid: int) -> float | None:
    """Megabytes that a process holds (PSS), without LMDB's map: those pages are the system's, which takes them back
    when it wants. None where the kernel does not tell."""
    try:
        text = Path(f"/proc/{pid}/smaps").read_text()
    except OSError:
        return None
    return round(pss_kb(text) / 1e3, 1)


def pss_kb(smaps: str) -> int:
    """The sum of `Pss` over the maps of `/proc/PID/smaps`, without LMDB's.

    >>> pss_kb("7f00-7f01 rw-p 00 00:00 0 [heap]\\nPss: 5 kB\\n7f02-7f03 r--s 00 08:01 9 /store/data.mdb\\nPss: 70 kB")
    5
    """
    total, counts = 0, True
    for line in smaps.splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):  # the head of a map: its range, and at the end its file
            counts = MAP_OF_LMDB not in line
        elif name == "Pss:" and counts:
            total += int(rest.split()[0])
    return total


def processor_s(pid: int) -> float | None:
    """Processor time that a process has taken, in seconds; None where the kernel does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def disk_syncs_s(folder: Path, most: int = 1_000, most_s: float = 5.0) -> list[float]:
    """How long `fdatasync` takes behind 4 KB each, on the disk of a folder: so many times, or for so long."""
    took, begin_s = list[float](), time.perf_counter()
    with TemporaryFile(dir=folder, buffering=0) as probe:
        while len(took) < most and time.perf_counter() - begin_s < most_s:
            probe.write(os.urandom(4096))
            before_s = time.perf_counter()
            os.fdatasync(probe.fileno())
            took.append(time.perf_counter() - before_s)
    return took
