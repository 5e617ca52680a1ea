"""What people name becomes a thing once, where the command begins: the layout and the device."""

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tiny import assert_caught
from words import SMALL, plait, train

from plait.cli import train as train_verb
from plait.data import Dataset
from plait.layouts import Layout, resolve
from plait.nn.device import resolve_device

ONCE = (resolve, resolve_device)


@contextmanager
def calls_of(*functions: Callable[..., Any]) -> Iterator[Counter[str]]:
    """How often each is called, by whatever name."""
    names = {inspect.unwrap(function).__code__: function.__name__ for function in functions}
    counted: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in names:
            counted[names[frame.f_code]] += 1

    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(None)


def check_train(dataset: Dataset, out: Path) -> None:
    with calls_of(*ONCE, Layout.parse) as counted:
        assert plait(*train(dataset, out)) == 0
    assert counted == {
        "resolve": 1,
        "resolve_device": 1,
        # Of conditions; of the model, and of its hash beside kept histories, twice each; of the result that is
        # shown, and for what is asked next.
        "parse": 7,
    }


def test_a_training_resolves_layout_and_device_once(dataset: Dataset, tmp_path: Path) -> None:
    check_train(dataset, tmp_path / "run")


def test_a_training_that_resolves_twice_is_caught(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_verb, "resolve_device", lambda device: resolve_device(resolve_device(device)))
    assert_caught(check_train, dataset, tmp_path / "run")


def test_a_comparison_resolves_each_layout_and_the_device_once(dataset: Dataset, tmp_path: Path) -> None:
    words = ("compare", dataset.folder, "--layouts", "item,lac", "--seeds", 2, "--out", tmp_path / "out")
    with calls_of(*ONCE) as counted:
        assert plait(*words, *SMALL) == 0
    assert counted == {"resolve": 2, "resolve_device": 1}
