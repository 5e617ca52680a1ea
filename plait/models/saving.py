"""A model's folder: `model.safetensors`, `config.json`, and `counts.safetensors` where counts belong to the model; no
pickle. A run keeps some histories beside it."""

import errno
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from plait import files
from plait.counts.beside import Counts
from plait.models.building import built
from plait.models.counts_file import COUNTS, load_counts, save_counts
from plait.models.generative import GenerativeRecommender, ModelConfig

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
RECORDED = "histories.safetensors"  # of some users, beside the model of a run (`plait.engine.recorded`)
AGAIN = "save the model there again, or train it again"


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """`config.json`."""

    format_version: int
    model: ModelConfig
    weights_sha256: str = ""  # of the other file, in models of before files had hashes


def model_hash(folder: Path) -> str:
    """What tells a saved model from all others; a part of it is the version of its interests."""
    hashes = files.Hashes.read(folder)
    return hashes.sha256 if hashes else files.sha256(folder / WEIGHTS)


def save_model(model: GenerativeRecommender, folder: Path) -> None:
    """Writes the files, the configuration last; the folder must exist. A model that it holds is forgotten first, so
    that a kill leaves no weights of one with the configuration of another.

    Raises:
        OSError: the folder cannot be written (disk full, no permission).
    """
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    for name in (CONFIG, COUNTS, RECORDED):
        (folder / name).unlink(missing_ok=True)

    def write_weights(aside: Path) -> None:
        try:
            save_file(weights, aside)
        except SafetensorError as error:
            raise OSError(errno.EIO, f"no room, or a broken disk ({error})") from error

    files.write_listed(folder / WEIGHTS, write_weights)
    if model.takes_counts:
        assert model.counts is not None, "they are fitted after training"
        save_counts(model.counts, folder)
    config = msgspec.json.format(
        msgspec.json.encode(Saved(format_version=FORMAT_VERSION, model=model.config))
    )
    files.write_listed(folder / CONFIG, lambda aside: aside.write_bytes(config))


def put_in_place(draft: Path, folder: Path) -> None:
    """Moves the files of a saved model into a folder, over those of another. While the folder holds some of each it
    has no configuration, which `load_model` refuses."""
    for name in (CONFIG, COUNTS, RECORDED):
        (folder / name).unlink(missing_ok=True)
    moved = [path for path in draft.iterdir() if path.name != files.HASHES]
    for path in sorted(moved, key=lambda path: path.name == CONFIG):
        files.move_listed(path, folder / path.name)


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
        version = _version_of(raw)
        if version not in (None, FORMAT_VERSION):
            raise ValueError(
                f"format_version is {version}, this Plait reads {FORMAT_VERSION}; save it again with this version"
            )
        files.check_hashes(folder, AGAIN, CONFIG, WEIGHTS)
        saved = msgspec.json.decode(raw, type=Saved)
        if saved.weights_sha256 and saved.weights_sha256 != files.sha256(folder / WEIGHTS):
            raise ValueError(f"{WEIGHTS} is damaged, or not the one that {CONFIG} was saved with; {AGAIN}")
        model = built(saved.model)
        model.load_state_dict(model.without_unread(load_file(folder / WEIGHTS)))
        if model.takes_counts:
            model.counts = _counts_of(model, folder)
    except Exception as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    return model.eval()


def _counts_of(model: GenerativeRecommender, folder: Path) -> Counts:
    if not (folder / COUNTS).is_file():
        raise ValueError(
            f"it has no {COUNTS}, and model.counts = 'auto' says that counts belong to it: without them it would "
            f"answer otherwise than it was tested; {AGAIN}"
        )
    files.check_hashes(folder, AGAIN, COUNTS)
    counts, same_request = (
        load_counts(folder, model.config.actions),
        model.config.settings.exposure.same_request,
    )
    if counts.same_request != same_request:
        raise ValueError(
            f"{COUNTS} was counted under same_request = {counts.same_request}, and the model is asked under "
            f"{same_request}; {AGAIN}"
        )
    if counts.num_items > model.config.num_items:
        raise ValueError(
            f"{COUNTS} knows {counts.num_items} items, and the model {model.config.num_items}; {AGAIN}"
        )
    return counts


class _Version(msgspec.Struct):
    format_version: int


def _version_of(raw: bytes) -> int | None:
    """None where the configuration is damaged so that it does not tell."""
    try:
        return msgspec.json.decode(raw, type=_Version).format_version
    except msgspec.MsgspecError:
        return None
