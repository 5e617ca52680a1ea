"""Ctrl-C and SIGTERM during training: a step is finished and saved, then training stops, and can go on."""

import re
import signal
import threading
from pathlib import Path

import pytest
from small_runs import STEPS_PER_EPOCH, fitted, settings_of, silent
from test_loop import assert_same_state
from tiny import assert_caught

import plait
from plait.data import Dataset
from plait.training import loop
from plait.training.checkpoint import load_training
from plait.training.interrupts import KEPT, interrupts_kept


def signalled_in(place: str, nth: int, which: signal.Signals, patch: pytest.MonkeyPatch) -> None:
    """The signal arrives in the middle of the nth step or validation."""
    right, calls = getattr(loop._Run, place), iter(range(1, 1000))

    def call(self, *arguments):
        if next(calls) == nth:
            signal.raise_signal(which)
        return right(self, *arguments)

    patch.setattr(loop._Run, place, call)


def check_interrupted(
    dataset: Dataset, folder: Path, place: str, nth: int, which: signal.Signals, stands: str
) -> None:
    settings = settings_of(max_epochs=2)
    handlers = [signal.getsignal(kept) for kept in KEPT]
    with pytest.MonkeyPatch.context() as patch:
        signalled_in(place, nth, which, patch)
        try:
            fitted(dataset, folder / "stopped", settings)
        except KeyboardInterrupt as stopped:
            said = str(stopped)
        else:
            raise AssertionError("went on as if nothing had come")
    assert [signal.getsignal(kept) for kept in KEPT] == handlers
    path = folder / "stopped" / loop.CHECKPOINT
    assert said.startswith(f"{which.name}: training stopped in {stands}") and str(path) in said
    assert path.exists()
    lines: list[str] = []
    fitted(dataset, folder / "stopped", settings, lines.append)
    assert any(line.startswith("resumed from epoch") for line in lines)
    fitted(dataset, folder / "whole", settings)
    assert_same_state(load_training(path), load_training(folder / "whole" / loop.CHECKPOINT))


@pytest.mark.parametrize("which", KEPT)
@pytest.mark.parametrize(
    ("place", "nth", "stands"),
    [
        ("_step", 1, "epoch 1 after 1 of 5 steps"),
        ("_step", STEPS_PER_EPOCH, "epoch 1 after 5 of 5 steps"),
        ("_step", STEPS_PER_EPOCH + 2, "epoch 2 after 2 of 5 steps"),
        ("_validate", 1, "epoch 2 after 0 of 5 steps"),
        ("_validate", 2, "epoch 3 after 0 of 5 steps"),
    ],
)
def test_an_interrupted_training_saves_its_step_and_goes_on(dataset, place, nth, which, stands, tmp_path):
    check_interrupted(dataset, tmp_path, place, nth, which, stands)


def test_an_interrupt_that_is_swallowed_is_caught(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Run, "obey", lambda self, arrived: None)
    assert_caught(check_interrupted, dataset, tmp_path, "_step", 1, signal.SIGTERM, "epoch 1")


def test_who_asks_twice_does_not_wait(dataset, tmp_path, monkeypatch):
    right = loop._Run._step

    def step(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        right(self, *arguments)

    monkeypatch.setattr(loop._Run, "_step", step)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM a second time: stopped at once"):
        fitted(dataset, tmp_path, settings_of())
    assert not (tmp_path / loop.CHECKPOINT).exists()


def test_signals_that_the_process_ignores_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_kept() as arrived:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN and not arrived
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_left_alone_in_other_threads_and_after_errors(dataset, tmp_path):
    before = [signal.getsignal(kept) for kept in KEPT]
    with pytest.raises(ZeroDivisionError), interrupts_kept():
        assert [signal.getsignal(kept) for kept in KEPT] != before
        raise ZeroDivisionError
    assert [signal.getsignal(kept) for kept in KEPT] == before
    epochs = []
    thread = threading.Thread(
        target=lambda: epochs.append(fitted(dataset, tmp_path, settings_of(max_epochs=1)).progress.epoch)
    )
    thread.start()
    thread.join()
    assert epochs == [1]


@pytest.mark.parametrize("out", [None, "run"])
def test_an_interrupted_fit_says_what_is_kept(out, dataset, tmp_path, monkeypatch):
    signalled_in("_step", 2, signal.SIGINT, monkeypatch)
    folder = tmp_path / out if out else None
    settings = settings_of()
    with pytest.raises(KeyboardInterrupt) as stopped:
        plait.fit(
            dataset,
            model=settings.model,
            optim=settings.optim,
            protocol=settings.protocol,
            out=folder,
            report=silent,
        )
    said = str(stopped.value)
    assert said.startswith("SIGINT: training stopped in epoch 1 after 2 of 5 steps")
    named = re.findall(r"/[^ ,;]+", said)
    if folder:
        assert [Path(path) for path in named] == [folder / loop.CHECKPOINT] and Path(named[0]).exists()
    else:
        assert not named and "nothing of it is kept" in said and "out=FOLDER" in said
