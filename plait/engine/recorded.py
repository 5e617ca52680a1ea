"""Histories that are kept beside a model, so that `plait check` can ask it where the data is not at hand.

They hold what goes in alone. What should come out is computed again, by the forward pass of training on the machine
that checks: the weights have their hash, and logits of another machine would differ by its arithmetic.

Shape letters: U users.
"""

from dataclasses import fields, replace
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from plait import files
from plait.engine.state_file import hash_of
from plait.models.generative import GenerativeRecommender
from plait.models.saving import RECORDED
from plait.schema import EventBatch
from plait.wording import setting

FORMAT_VERSION = 1
ABOUT = "recorded"  # in the file's header
INSTEAD = "name the data that the model was trained on, if it is at hand"


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format_version: int
    model: str  # `hash_of`


def save_recorded(model: GenerativeRecommender, histories: EventBatch, folder: Path) -> None:
    """Writes the file into a model's folder. Users have numbers from 0 on there, and are not told.

    Args:
        histories: whole ones, in the model's items.
    """
    nameless = replace(histories, user_U=np.arange(histories.num_users))
    arrays = {field.name: np.ascontiguousarray(getattr(nameless, field.name)) for field in fields(EventBatch)}
    header = {ABOUT: msgspec.json.encode(_About(FORMAT_VERSION, hash_of(model))).decode()}
    files.write_listed(folder / RECORDED, lambda aside: save_file(arrays, aside, metadata=header))


def load_recorded(model: GenerativeRecommender, folder: Path) -> EventBatch:
    """The histories beside a model.

    Raises:
        ValueError: there are none, or they are damaged, of another format version or of another model.
    """
    path = folder / RECORDED
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {RECORDED}: it was trained before histories were kept, or with "
            f"{setting('protocol.recorded', 0)}; {INSTEAD}"
        )
    files.check_hashes(folder, INSTEAD, RECORDED)
    try:
        with safe_open(path, framework="numpy") as file:
            about = msgspec.json.decode((file.metadata() or {}).get(ABOUT, "{}"), type=_About)
            events = EventBatch(**{field.name: file.get_tensor(field.name) for field in fields(EventBatch)})
    except (OSError, SafetensorError, msgspec.DecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}); {INSTEAD}") from None
    files.check_format_version(path, about.format_version, FORMAT_VERSION, INSTEAD)
    if about.model != hash_of(model):
        raise ValueError(f"{path} is of another model than the one beside it; {INSTEAD}")
    return events
