"""What `optim.precision = auto` stands for: chosen once for a run, or for all runs that are compared, and kept."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec

from plait.evaluation.run_files import CHECKPOINT, RESULT, Result, RunSettings, load_result, read_file
from plait.evaluation.settings import Optim
from plait.files import write_whole
from plait.nn.arithmetic import Arithmetic, arithmetic_of, check_exact
from plait.nn.precision import Multiplied
from plait.training.checkpoint import load_training

ARITHMETIC = "arithmetic.json"
OF_BEFORE = "recorded by an earlier version of Plait"


def arithmetic_of_run(
    settings: RunSettings, folder: Path, device: str, shared: Arithmetic | None = None
) -> Arithmetic:
    """What a run is to multiply in: as it is asked, or as the runs do that it is compared with, or as it began.

    Raises:
        ValueError: it began with fp32 by oneDNN, which is not exact on this machine; or its files are not whole.
    """
    dim, ranks = settings.model.trunk.dim, settings.model.ranker.is_on
    if settings.optim.precision != "auto":
        return arithmetic_of(settings.optim.precision, dim, device)
    kept = shared or recorded_arithmetic(folder)
    if kept is None:
        return arithmetic_of("auto", dim, device, ranks)
    check_exact(kept.precision, device)
    return kept


def made_definite(optim: Optim, chosen: Arithmetic) -> Optim:
    """With the precision that was chosen in place of `auto`.

    >>> chosen = Arithmetic("bf16", "it is faster")
    >>> made_definite(Optim(), chosen).precision, made_definite(Optim(precision="fp32"), chosen).precision
    ('bf16', 'fp32')
    """
    return replace(optim, precision=chosen.precision) if optim.precision == "auto" else optim


def shared_arithmetic(folder: Path, settings: Sequence[RunSettings], device: str) -> Arithmetic:
    """What all runs of a comparison multiply in where they leave it open: chosen for the widest model when it began,
    as rankers multiply where one is among them, and kept in its folder. Of one that an earlier version began, what its
    runs recorded.

    Raises:
        ValueError: a file is not whole.
    """
    leave_open = [its.model for its in settings if its.optim.precision == "auto"]
    if not leave_open:
        return arithmetic_of(settings[0].optim.precision, settings[0].model.trunk.dim, device)
    path = folder / ARITHMETIC
    if path.exists():
        return read_file(path, Arithmetic)
    recorded = map(recorded_arithmetic, sorted(folder.glob("runs/*")))
    chosen = next(filter(None, recorded), None) or arithmetic_of(
        "auto",
        max(model.trunk.dim for model in leave_open),
        device,
        ranks=any(model.ranker.is_on for model in leave_open),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda aside: aside.write_bytes(msgspec.json.format(msgspec.json.encode(chosen))))
    return chosen


def recorded_arithmetic(run: Path) -> Arithmetic | None:
    """What a run in a folder multiplies in, finished or begun; None where none has come to its first checkpoint."""
    if (run / RESULT).exists():
        return _of_result(load_result(run))
    if not (run / CHECKPOINT).exists():
        return None
    state = load_training(run / CHECKPOINT)
    precision = state.get("fingerprint", {}).get("optim", {}).get("precision")
    if precision not in get_args(Multiplied):
        return None
    return Arithmetic(precision, state.get("arithmetic_because", OF_BEFORE))


def _of_result(result: Result) -> Arithmetic | None:
    """Of a run of before, its protocol line has it."""
    origin = result.provenance
    if origin.arithmetic is not None:
        return Arithmetic(origin.arithmetic, origin.arithmetic_because)
    found = re.search(r"users a step, (bf16|fp32)\b", result.protocol)
    return found and msgspec.convert({"precision": found[1], "because": OF_BEFORE}, Arithmetic)
