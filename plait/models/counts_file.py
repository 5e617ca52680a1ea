"""The counts beside a model: one file of its folder, `counts.safetensors`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy import sparse

from plait import files
from plait.counts.actions import ActionCounts, CountedAction, CountedPart, WeighedPart
from plait.counts.beside import Counts, ItemCounts, Tables
from plait.counts.effects import Damping, ItemTotals
from plait.counts.kinds import Part, counted
from plait.counts.weighing import TermWeights
from plait.schema import Action

COUNTS = "counts.safetensors"
SETTINGS = "settings"  # in the file's header
PARTS = "data", "indices", "indptr"  # of a sparse table

Arrays = dict[str, np.ndarray]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    damping: Damping
    reads_item: bool
    constant: float


class _Action(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    parts: tuple[_Part, ...]
    said: str


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    same_request: str
    # Of items:
    last: int | None = None  # None: the model ranks none
    decay: float = 1.0
    reads_own: bool = False
    said: str = ""
    # None: the model predicts none, or the file is of before actions were counted.
    actions: tuple[_Action, ...] | None = None


def save_counts(counts: Counts, folder: Path) -> None:
    """Writes the file, over that of others."""
    settings, arrays = _Settings(counts.same_request), Arrays()
    if counts.items is not None:
        tables = counts.items.tables
        settings = msgspec.structs.replace(
            settings, last=tables.last, decay=tables.decay, reads_own=tables.reads_own, said=counts.items.said
        )
        arrays |= _arrays_of_items(counts.items)
    if counts.actions is not None:
        settings = msgspec.structs.replace(settings, actions=tuple(map(_action, counts.actions.actions)))
        arrays |= _arrays_of_actions(counts.actions)
    header = {SETTINGS: msgspec.json.encode(settings).decode()}
    files.write_listed(folder / COUNTS, lambda aside: save_file(arrays, aside, metadata=header))


def load_counts(folder: Path, actions: Sequence[Action]) -> Counts:
    """
    Args:
        actions: of the model.

    Raises:
        ValueError: the file is damaged, or of another version.
    """
    with safe_open(folder / COUNTS, framework="numpy") as file:
        settings = msgspec.json.decode(file.metadata()[SETTINGS], type=_Settings)
        names: list[str] = list(file.keys())
        arrays: dict[str, Any] = {name: file.get_tensor(name) for name in names}
    return Counts(_items(settings, arrays), _actions(settings, arrays, actions), settings.same_request)


def _arrays_of_items(items: ItemCounts) -> Arrays:
    tables = items.tables
    arrays = {"popularity": tables.popularity_V1, "weights": items.weight_T} | _arrays("rules", tables.rules)
    return arrays | ({} if tables.ease is None else _arrays("ease", tables.ease))


def _items(settings: _Settings, arrays: Arrays) -> ItemCounts | None:
    if settings.last is None:
        return None
    tables = Tables(
        arrays["popularity"],
        _table("rules", arrays),
        settings.last,
        settings.decay,
        _table("ease", arrays) if "ease_data" in arrays else None,
        settings.reads_own,
    )
    return ItemCounts(tables, arrays["weights"], settings.said)


def _arrays(name: str, table: sparse.csr_array) -> Arrays:
    return {f"{name}_{part}": getattr(table, part) for part in PARTS}


def _table(name: str, arrays: Arrays) -> sparse.csr_array:
    size = len(arrays["popularity"])
    return sparse.csr_array(tuple(arrays[f"{name}_{part}"] for part in PARTS), shape=(size, size))


def _action(action: CountedAction) -> _Action:
    parts = (
        _Part(part.counted.damping, part.counted.reads_item, part.weights.constant) for part in action.parts
    )
    return _Action(tuple(parts), action.said)


def _arrays_of_actions(actions: ActionCounts) -> Arrays:
    found: Arrays = {}
    for column, action in enumerate(actions.actions):
        for nth, part in enumerate(action.parts):
            totals = part.counted.totals
            found |= {
                f"{_name(column, nth)}_sums": totals.sum_VK,
                f"{_name(column, nth)}_events": totals.events_V,
                f"{_name(column, nth)}_mean": totals.mean_K,
                f"{_name(column, nth)}_weights": part.weights.weight_T,
            }
    return found


def _actions(settings: _Settings, arrays: Arrays, actions: Sequence[Action]) -> ActionCounts | None:
    if settings.actions is None:
        return None
    return ActionCounts(
        tuple(
            CountedAction(
                action.kind,
                tuple(
                    _part(part, saved, arrays, column, nth)
                    for nth, (part, saved) in enumerate(
                        zip(counted(action.kind).parts, of_action.parts, strict=True)
                    )
                ),
                of_action.said,
            )
            for column, (action, of_action) in enumerate(zip(actions, settings.actions, strict=True))
        )
    )


def _part(part: Part, saved: _Part, arrays: Arrays, column: int, nth: int) -> WeighedPart:
    sums, events, mean, weights = (
        arrays[f"{_name(column, nth)}_{what}"] for what in ("sums", "events", "mean", "weights")
    )
    of_part = CountedPart(part, column, ItemTotals(sums, events, mean), saved.damping, saved.reads_item)
    return WeighedPart(of_part, TermWeights(weights, saved.constant))


def _name(column: int, nth: int) -> str:
    return f"action_{column}_part_{nth}"
