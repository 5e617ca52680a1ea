"""A model's folder: `model.safetensors` and `config.json`, no pickle."""

import hashlib
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from plait.models.generative import GenerativeRecommender, ModelConfig

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """`config.json`."""

    format_version: int
    model: ModelConfig
    weights_sha256: str = ""  # of the other file; "" in models that were saved before it was recorded


def save_model(model: GenerativeRecommender, folder: Path) -> None:
    """Writes both files, the configuration last; the folder must exist. A model that it holds is forgotten first, so
    that a kill leaves no weights of one with the configuration of another.

    Raises:
        OSError: the folder cannot be written (disk full, no permission).
    """
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    (folder / CONFIG).unlink(missing_ok=True)
    try:
        save_file(weights, folder / WEIGHTS)
    except SafetensorError as error:
        raise OSError(f"{folder / WEIGHTS} could not be written: {error}") from error
    saved = Saved(format_version=FORMAT_VERSION, model=model.config, weights_sha256=_sha256(folder / WEIGHTS))
    (folder / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(saved)))


def put_in_place(draft: Path, folder: Path) -> None:
    """Moves the files of a saved model into a folder, over those of another. While the folder holds some of each it
    has no configuration, which `load_model` refuses."""
    (folder / CONFIG).unlink(missing_ok=True)
    for path in sorted(draft.iterdir(), key=lambda path: path.name == CONFIG):
        path.replace(folder / path.name)


def load_model(folder: Path) -> GenerativeRecommender:
    """The model of a folder, in evaluation mode.

    Raises:
        ValueError: a file is missing, damaged, or of another format version.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} is no saved model: it has no {name}. Expected a folder of save_pretrained."
            )
    raw = (folder / CONFIG).read_bytes()
    try:
        version = msgspec.json.decode(raw).get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"format_version is {version}, this Plait reads {FORMAT_VERSION}; save it again with this version"
            )
        saved = msgspec.json.decode(raw, type=Saved)
        if saved.weights_sha256 not in ("", _sha256(folder / WEIGHTS)):
            raise ValueError(
                f"{WEIGHTS} is damaged, or not the one that {CONFIG} was saved with; save the model there again"
            )
        model = GenerativeRecommender(saved.model)
        model.load_state_dict(model.without_unread(load_file(folder / WEIGHTS)))
    except Exception as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    return model.eval()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
