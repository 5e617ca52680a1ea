"""Training, from a prepared dataset to a recommender that answers."""

import reprlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plait.data import Dataset
from plait.data.forks import check_can_work
from plait.evaluation.checkpoints import Checkpoint
from plait.evaluation.run_files import MODEL, load_result
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.nn.device import resolve_device
from plait.notices import Interrupted, Watch
from plait.recommender import Recommender
from plait.training.refit import run_refit
from plait.training.run import run_training
from plait.training.start import Start, settings_from


def fit(
    data: Dataset | Path | str,
    layout: str | None = None,
    *,
    model: ModelSettings = ModelSettings(),
    optim: Optim = Optim(),
    protocol: Protocol = Protocol(),
    out: Path | str | None = None,
    start_from: Path | str | None = None,
    device: str = "auto",
    report: Callable[[str], None] = print,
    watch: Watch | None = None,
) -> Recommender:
    """Trains a recommender and tests it.

    Returns:
        What the run deploys (`out`/model): of a layout that retrieves, the best checkpoint for retrieval, or that for
        actions with protocol.deploy = "actions". The other lies beside it, where `Recommender.from_pretrained` finds
        it: `out`/model-actions.

    Args:
        data: a dataset, or the path of a prepared folder.
        layout: a name of the catalogue, or a layout in notation; lac where none is given.
        report: takes a line per validation.
        watch: is called after every step with the share of the cap that is spent, and tokens per second.
        out: the run's folder, from which a killed training goes on; without it nothing is kept.
        start_from: a finished run, or a saved model, whose weights the training goes on from: with new events, and with
            new items. The layout and all settings that are left at their defaults are those of that run.
        device: cpu, cuda, or auto, which is cuda where there is one. The tests run on a CPU.

    Raises:
        ValueError: the layout, the settings, the data and the model to go on from do not fit each other, or one is of
            the wrong type. Or the
            folder is not prepared, or there is no such device.
        KeyboardInterrupt: SIGINT or SIGTERM came; says what is kept.
    """
    check_can_work()
    if isinstance(data, str | Path):
        data = Dataset.open(data)
    _check_type(
        "data", data, Dataset, "a prepared plait.Dataset, or its folder; plait.prepare makes them of a log"
    )
    if layout is not None:
        _check_type("layout", layout, str, "text: a name of `plait layouts`, or a notation")
    for name, given, settings_of in (
        ("model", model, ModelSettings),
        ("optim", optim, Optim),
        ("protocol", protocol, Protocol),
    ):
        _check_type(name, given, settings_of, f"a plait.{settings_of.__name__}(...)")
    on = resolve_device(device)
    start = None if start_from is None else Start.of(Path(start_from))
    notation = None if layout is None else str(resolve(layout, allow_leaks=model.allow_leaks))
    settings = settings_from(start, notation, model, optim, protocol)
    return in_folder(
        out, on, lambda folder: run_training(data, settings, folder, report, on, watch, start=start)
    )


def refit(
    run: Path | str,
    data: Dataset | Path | str | None = None,
    *,
    checkpoint: Checkpoint = "deployed",
    out: Path | str | None = None,
    start_from: Path | str | None = None,
    device: str = "auto",
    report: Callable[[str], None] = print,
    watch: Watch | None = None,
) -> Recommender:
    """Trains the settings of a finished run once more, on all rows of its data, the held-out ones included: for as many
    steps as the checkpoint took. Nothing is left to judge it by; the evaluation in `out` is that of the checkpoint.

    Args:
        run: the folder of `plait.fit(..., out=...)`.
        data: what the run was trained on, where that lies elsewhere by now.
        checkpoint: deployed, or the one beside it: actions, or retrieval.
        out: the new run's folder; without it nothing is kept.
        start_from: what the run went on from, where it did.
        device, report, watch: as for `plait.fit`.

    Raises:
        ValueError: there is no such finished run or checkpoint, or the data is not the run's.
        KeyboardInterrupt: SIGINT or SIGTERM came; says what is kept.
    """
    check_can_work()
    on, of = resolve_device(device), Path(run)
    given = load_result(of).dataset_folder if data is None else data
    dataset = given if isinstance(given, Dataset) else Dataset.open(given)
    start = None if start_from is None else Start.of(Path(start_from))
    return in_folder(
        out,
        on,
        lambda folder: run_refit(of, dataset, folder, checkpoint, report, on, watch, start),
    )


def in_folder(out: Path | str | None, device: str, train: Callable[[Path], object]) -> Recommender:
    """What a training leaves in its folder; in one that is gone afterwards, where `out` names none."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(out) if out is not None else Path(scratch)
        try:
            train(folder)
        except Interrupted as stop:
            if out is not None:
                raise
            raise KeyboardInterrupt(
                f"{stop.stopped}; nothing of it is kept, since it had no folder: out=FOLDER saves what "
                "is trained, and goes on from there"
            ) from None
        return Recommender.from_pretrained(folder / MODEL, device)


def _check_type(name: str, given: Any, of: type, expected: str) -> None:
    if not isinstance(given, of):
        raise ValueError(f"fit: {name} = {reprlib.repr(given)}: expected {expected}")
