"""Where a result comes from: code, machine, date."""

import datetime
import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

import msgspec
import torch

from plait.nn.arithmetic import Arithmetic
from plait.nn.precision import Multiplied


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """The code and the machine of a run; "" where it was not recorded, or (a commit) there was none."""

    version: str = ""  # of plait
    commit: str = ""
    machine: str = ""
    date: str = ""  # on which it ended
    arithmetic: Multiplied | None = None  # what matrices were multiplied in, and why that was chosen
    arithmetic_because: str = ""

    def __str__(self) -> str:
        """In one line.

        >>> str(Provenance(version="1.2", commit="0a1b", machine="a processor, 2 threads", date="2030-01-31"))
        'plait 1.2, commit 0a1b, a processor, 2 threads, 2030-01-31'
        >>> str(Provenance(machine="a processor", arithmetic="bf16", arithmetic_because="asked for"))
        'a processor, products in bf16 (asked for)'
        >>> str(Provenance())
        'not recorded'
        """
        parts = (self.version and f"plait {self.version}", self.commit and f"commit {self.commit}")
        because = self.arithmetic_because and f" ({self.arithmetic_because})"
        products = self.arithmetic and f"products in {self.arithmetic}{because}"
        return (
            ", ".join(part for part in (*parts, self.machine, self.date, products) if part) or "not recorded"
        )


def provenance(device: str, arithmetic: Arithmetic | None = None) -> Provenance:
    """Where a run comes from that ends now, on this machine's `device`."""
    return Provenance(
        version=importlib.metadata.version("plait"),
        commit=_commit(),
        machine=", ".join(
            [
                *([torch.cuda.get_device_name(device)] if torch.device(device).type == "cuda" else []),
                _processor(),
                f"{torch.get_num_threads()} threads",
                f"torch {torch.__version__}",
            ]
        ),
        date=datetime.date.today().isoformat(),
        arithmetic=arithmetic.precision if arithmetic else None,
        arithmetic_because=arithmetic.because if arithmetic else "",
    )


def _processor() -> str:
    """Its name where the kernel tells it (Linux), else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@cache
def _commit() -> str:
    """The commit of the checkout that runs, as this process first saw it, with a mark where files had changed since;
    "" outside a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
        )
    except OSError:  # no git here
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
