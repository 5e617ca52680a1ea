"""Full disks, kills, interrupts, divergence: nothing is lost, and the same command goes on."""

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import assert_caught, random_log
from words import ACTIONS, COLUMNS, Capture, complaint, outcome, plait, told_by, train

from plait.data import Dataset
from plait.training import loop


def failing(call: Callable[..., Any], nth: int) -> Callable[..., Any]:
    """`call`, but the nth time there is no space left on the device."""
    count = iter(range(1, 1000))

    def fail(*arguments: Any) -> Any:
        if next(count) == nth:
            raise OSError(28, "No space left on device")
        return call(*arguments)

    return fail


def meet_a_full_disk(
    call: str, run: Path, dataset: Dataset, folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Trains again and again, the disk full four writes later each time; returns how often it was.

    Where it is full as a file is flushed, other files are met than where it is full as one is renamed.
    """
    first = {"fsync": 1, "replace": 3}[call]
    for met, nth in enumerate(range(first, 100, 4)):
        out = folder / f"run{nth}"
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(getattr(os, call), nth))
            code = plait(*train(dataset, out))
        said = capsys.readouterr().err
        if code == 0:
            assert outcome(out) == outcome(run)
            return met
        assert code == 1 and "No space left on device" in said and "Traceback" not in said
        assert not list(out.rglob("*.tmp"))
        assert "no finished run" in complaint(capsys, 2, "evaluate", out)
        assert plait(*train(dataset, out)) == 0
        assert outcome(out) == outcome(run)
    pytest.fail("the disk was full at every write")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_is_full_at_any_write_loses_nothing(
    call: str, run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert meet_a_full_disk(call, run, dataset, tmp_path, capsys, monkeypatch) >= 5, "met too seldom"


def test_files_that_are_written_in_place_are_seen(
    run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: results that a full disk leaves behind half-made."""

    def in_place(path: Path, write: Callable[[Path], object]) -> None:
        write(path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())

    monkeypatch.setattr("plait.files.write_whole", in_place)
    assert_caught(meet_a_full_disk, "fsync", run, dataset, tmp_path, capsys, monkeypatch)


def test_a_disk_that_takes_no_large_file(
    run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    """Real failing writes: of torch's checkpoint, of safetensors, of polars."""
    sizes = {path.name: path.stat().st_size for path in run.rglob("*") if path.is_file()}
    weights = sizes["model.safetensors"]
    assert weights > 5000
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def limited(limit: int, *words: object) -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            return complaint(capsys, 1, *words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    assert "checkpoint.pt" in limited(weights + 100, *train(dataset, tmp_path / "run"))
    assert plait(*train(dataset, tmp_path / "run")) == 0
    assert outcome(tmp_path / "run") == outcome(run)
    random_log().write_parquet(tmp_path / "log.parquet")
    words = ("data", "prepare", tmp_path / "log.parquet", *COLUMNS, *ACTIONS, "--out", tmp_path / "data")
    assert "nothing of it was kept" in limited(600, *words)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "log.parquet"}
    assert plait(*words) == 0


def test_weights_that_cannot_be_written(run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    (out / "model" / "model.safetensors").mkdir(parents=True)  # where the file should go
    assert "model.safetensors" in complaint(capsys, 1, *train(dataset, out))
    (out / "model" / "model.safetensors").rmdir()
    assert plait(*train(dataset, out)) == 0
    assert outcome(out) == outcome(run)


KILLED = """
import os, signal, sys
from plait.cli import main
from plait.training import loop

loop.CHECKPOINT_EVERY_S = 0.0
save = loop._Run.save

def save_and_die(run):
    save(run)
    if run.progress.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)

loop._Run.save = save_and_die
main(sys.argv[1:])
"""


def test_a_killed_training_goes_on(run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    words = [str(word) for word in train(dataset, tmp_path / "run")]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "resumed from epoch 1" in told_by(capsys, *words)
    assert outcome(tmp_path / "run") == outcome(run)


def test_an_interrupted_training_goes_on(
    run: Path, dataset: Dataset, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = loop._Run._validate

    def interrupted(self: Any) -> None:
        validate(self)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_validate", interrupted)
        said = complaint(capsys, 130, *train(dataset, tmp_path / "run"))
    assert re.search(
        r"interrupted; SIGINT: training stopped in epoch 2 after 0 of 2 steps, .*checkpoint\.pt", said
    )
    assert plait(*train(dataset, tmp_path / "run")) == 0
    assert outcome(tmp_path / "run") == outcome(run)


def test_a_training_that_diverges_names_the_batch(dataset: Dataset, tmp_path: Path, capsys: Capture) -> None:
    words = train(dataset, tmp_path / "run", "--optim.learning-rate", "1e9", "--optim.warmup-steps", 1)
    said = complaint(capsys, 1, *words)
    assert re.search(r"epoch \d+, step \d+ of 2, users 'u\d\d'", said) and "--optim.learning-rate" in said
    assert "no finished run" in complaint(capsys, 2, "evaluate", tmp_path / "run")


def test_a_folder_with_a_run_of_other_settings(run: Path, dataset: Dataset, capsys: Capture) -> None:
    before = outcome(run)
    assert "of other settings" in complaint(capsys, 2, *train(dataset, run, "--optim.learning-rate", 0.5))
    assert outcome(run) == before
