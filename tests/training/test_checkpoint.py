"""A file is whole or it is the one that was there before."""

import os

import pytest
import torch

from plait.files import HASHES, write_whole
from plait.training.checkpoint import load_training, save_training


def test_a_state_comes_back(tmp_path):
    state = {
        "weights": torch.arange(5.0),
        "progress": {"epoch": 3, "curve": [{"loss": 0.5}]},
        "rng": torch.get_rng_state(),
    }
    save_training(tmp_path / "state.pt", state)
    found = load_training(tmp_path / "state.pt")
    assert found["progress"] == state["progress"]
    assert torch.equal(found["weights"], state["weights"]) and torch.equal(found["rng"], state["rng"])


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    """A pickle that would call a function is refused, not obeyed."""
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": _Evil()}, tmp_path / "state.pt")
    with (
        pytest.warns(UserWarning, match=HASHES),
        pytest.raises(ValueError, match="is not a checkpoint that can be read"),
    ):
        load_training(tmp_path / "state.pt")
    assert not (tmp_path / "obeyed").exists()


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("obeyed",)


@pytest.mark.parametrize("before", [None, "old"])
def test_a_write_that_fails_leaves_what_was_there(before, tmp_path):
    path = tmp_path / "file.json"
    if before:
        path.write_text(before)

    def fail_half_way(aside):
        aside.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail_half_way)
    assert [found.read_text() for found in tmp_path.iterdir()] == ([before] if before else [])
    write_whole(path, lambda aside: aside.write_text("new"))
    assert path.read_text() == "new" and len(list(tmp_path.iterdir())) == 1
