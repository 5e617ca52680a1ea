"""The state of a training on the disk."""

import errno
from pathlib import Path
from typing import Any

import torch

from plait import files


def save_training(path: Path, state: dict[str, Any]) -> None:
    """A training state: tensors and plain values."""

    def write(aside: Path) -> None:
        try:
            torch.save(state, aside)
        except RuntimeError as error:  # torch's name for a failed write, a full disk among them
            raise OSError(errno.EIO, f"no room, or a broken disk ({error})") from error

    files.write_listed(path, write)


def load_training(path: Path) -> dict[str, Any]:
    """Raises ValueError where the file is damaged or cannot be read back."""
    files.check_hashes(path.parent, f"delete {path} to train this run from the start", path.name)
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint that can be read ({type(error).__name__}: {error}). "
            "Delete it to train this run from the start."
        ) from error
