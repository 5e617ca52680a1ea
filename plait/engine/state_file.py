"""A state in a file: safetensors, with a format version and the hash of the model that it is of; no pickle.

Shape letters: U users, S items that users have seen, laid end to end.
"""

import hashlib
import json
from collections.abc import Hashable
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plait import files
from plait.engine.one_pass import Kept, weights_version
from plait.engine.ranking import Seen
from plait.engine.state import State
from plait.models.generative import GenerativeRecommender, ModelConfig
from plait.nn.encoded import Encoded
from plait.schema import EventBatch

FORMAT_VERSION = 1
ABOUT = "state"  # in the file's header
AGAIN = "encode the histories again"
LATER_FIELDS = ("condition_EG",)  # of events, that files of before they were there lack
EVENTS, SEEN, KEPT = "events.", "seen.", "kept."  # what names of arrays begin with

Name = str | int | float | None


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is no array."""

    format_version: int
    model: str  # `hash_of`
    id_U: tuple[Name, ...]
    unknown_items: tuple[Name, ...]
    request_name_U: tuple[Name, ...] | None
    place_U: tuple[tuple[Name, ...], ...] | None


def hash_of(model: GenerativeRecommender) -> str:
    """Of the weights and of all that says how they are read, as a file of the model would say it."""
    written = msgspec.json.encode(model.config)
    read = msgspec.json.decode(written, type=ModelConfig)  # a range of 1 to 5 becomes one of 1.0 to 5.0
    found = hashlib.sha256(msgspec.json.encode(read))
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def save_state(state: State, model: GenerativeRecommender, path: Path) -> None:
    """Writes the file whole, over another.

    Raises:
        ValueError: an id of a user, an item or a request, or what orders events, is neither text nor a number.
        OSError: the file cannot be written (disk full, no permission).
    """
    about = _About(
        FORMAT_VERSION,
        hash_of(model),
        _names(state.id_U),
        _names(state.unknown_items),
        None if state.request_name_U is None else _names(state.request_name_U),
        None if state.place_U is None else tuple(_names(place) for place in state.place_U),
    )
    tensors = {EVENTS + field.name: getattr(state.events, field.name) for field in fields(EventBatch)}
    seen = Seen.joined(state.seen_U)
    tensors |= {SEEN + "start_U1": seen.start_U1, SEEN + "item_S": seen.item_S}
    if state.kept is not None and state.kept.is_of(model):
        tensors[KEPT + "first_U"] = state.kept.first_U
        tensors |= {KEPT + name: value for name, value in state.kept.encoded.arrays().items()}
    whole = {name: _tensor(value) for name, value in tensors.items()}
    header = {ABOUT: msgspec.json.encode(about).decode()}
    files.write_whole(path, lambda aside: save_file(whole, aside, header))


def load_state(model: GenerativeRecommender, path: Path) -> State:
    """The state of a file, with its keys where the model is.

    Raises:
        ValueError: the file is no state, damaged, of another format version, or of another model.
    """
    about, tensors = _read(path)
    if about.model != hash_of(model):
        raise ValueError(f"{path} is a state of another model; {AGAIN}")
    arrays = {name: value.numpy() for name, value in tensors.items() if not name.startswith(KEPT)}
    try:
        names = [field.name for field in fields(EventBatch) if field.name not in LATER_FIELDS]
        names += [name for name in LATER_FIELDS if EVENTS + name in arrays]
        events = EventBatch(**{name: arrays[EVENTS + name] for name in names})
        seen = Seen(arrays[SEEN + "start_U1"], arrays[SEEN + "item_S"])
        kept = _kept(
            model, {name.removeprefix(KEPT): x for name, x in tensors.items() if name.startswith(KEPT)}
        )
    except (KeyError, StopIteration) as error:
        raise ValueError(f"{path} is damaged: it lacks {error}; {AGAIN}") from None
    return State(
        events,
        tuple(np.split(seen.item_S, seen.start_U1[1:-1])),
        about.id_U,
        about.unknown_items,
        about.request_name_U,
        about.place_U,
        kept,
    )


def _kept(model: GenerativeRecommender, tensors: dict[str, Tensor]) -> Kept | None:
    if not tensors:
        return None
    device, first_U = next(model.parameters()).device, tensors.pop("first_U").numpy()
    encoded = Encoded.from_arrays({name: value.to(device) for name, value in tensors.items()})
    return Kept(encoded, first_U, model, weights_version(model))


def _read(path: Path) -> tuple[_About, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(ABOUT, "")
            version = json.loads(header or "{}").get("format_version")
            if version != FORMAT_VERSION:
                found = "no state" if version is None else f"of format version {version}"
                raise ValueError(f"{path} is {found}; expected one of version {FORMAT_VERSION}: {AGAIN}")
            about = msgspec.json.decode(header, type=_About)
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, msgspec.DecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a state ({error}); {AGAIN}") from None


def _names(values: tuple[Hashable, ...]) -> tuple[Any, ...]:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            raise ValueError(
                f"{value!r}, of type {type(value).__name__}, is an id or a place in the log that no file of a state "
                "holds: expected text or numbers"
            )
    return tuple(values)


def _tensor(value: np.ndarray | Tensor) -> Tensor:
    return (torch.from_numpy(value) if isinstance(value, np.ndarray) else value).contiguous()
