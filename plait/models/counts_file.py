"""The counts beside a model: one file of its folder, `counts.safetensors`."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy import sparse

from plait import files
from plait.counts.beside import Counts, Tables

COUNTS = "counts.safetensors"
SETTINGS = "settings"  # in the file's header
PARTS = "data", "indices", "indptr"  # of a sparse table


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    last: int
    decay: float
    reads_own: bool
    same_request: str
    said: str


def save_counts(counts: Counts, folder: Path) -> None:
    """Writes the file, over that of others."""
    tables = counts.tables
    settings = _Settings(tables.last, tables.decay, tables.reads_own, counts.same_request, counts.said)
    arrays = {"popularity": tables.popularity_V1, "weights": counts.weight_T} | _arrays("rules", tables.rules)
    arrays |= {} if tables.ease is None else _arrays("ease", tables.ease)
    header = {SETTINGS: msgspec.json.encode(settings).decode()}
    files.write_listed(folder / COUNTS, lambda aside: save_file(arrays, aside, metadata=header))


def load_counts(folder: Path) -> Counts:
    """Raises ValueError where the file is damaged, or of another version."""
    with safe_open(folder / COUNTS, framework="numpy") as file:
        settings = msgspec.json.decode(file.metadata()[SETTINGS], type=_Settings)
        names: list[str] = list(file.keys())
        arrays: dict[str, Any] = {name: file.get_tensor(name) for name in names}
    tables = Tables(
        arrays["popularity"],
        _table("rules", arrays),
        settings.last,
        settings.decay,
        _table("ease", arrays) if "ease_data" in arrays else None,
        settings.reads_own,
    )
    return Counts(tables, arrays["weights"], settings.same_request, settings.said)


def _arrays(name: str, table: sparse.csr_array) -> dict[str, np.ndarray]:
    return {f"{name}_{part}": getattr(table, part) for part in PARTS}


def _table(name: str, arrays: dict[str, np.ndarray]) -> sparse.csr_array:
    size = len(arrays["popularity"])
    return sparse.csr_array(tuple(arrays[f"{name}_{part}"] for part in PARTS), shape=(size, size))
