"""Training, from a prepared dataset to a recommender that answers."""

import reprlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plait.data import Dataset
from plait.data.forks import check_can_work
from plait.evaluation.run_files import MODEL, RunSettings
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.nn.device import resolve_device
from plait.notices import Interrupted, Watch
from plait.recommender import Recommender
from plait.training.run import run_training


def fit(
    data: Dataset | Path | str,
    layout: str = "lac",
    *,
    model: ModelSettings = ModelSettings(),
    optim: Optim = Optim(),
    protocol: Protocol = Protocol(),
    out: Path | str | None = None,
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
        layout: a name of the catalogue, or a layout in notation.
        report: takes a line per validation.
        watch: is called after every step with the share of the cap that is spent, and tokens per second.
        out: the run's folder, from which a killed training goes on; without it nothing is kept.
        device: cpu, cuda, or auto, which is cuda where there is one. The tests run on a CPU.

    Raises:
        ValueError: the layout, the settings and the data do not fit each other, or one is of the wrong type. Or the
            folder is not prepared, or there is no such device.
        KeyboardInterrupt: SIGINT or SIGTERM came; says what is kept.
    """
    check_can_work()
    if isinstance(data, str | Path):
        data = Dataset.open(data)
    _check_type(
        "data", data, Dataset, "a prepared plait.Dataset, or its folder; plait.prepare makes them of a log"
    )
    _check_type("layout", layout, str, "text: a name of `plait layouts`, or a notation")
    for name, given, settings_of in (
        ("model", model, ModelSettings),
        ("optim", optim, Optim),
        ("protocol", protocol, Protocol),
    ):
        _check_type(name, given, settings_of, f"a plait.{settings_of.__name__}(...)")
    notation, on = str(resolve(layout, allow_leaks=model.allow_leaks)), resolve_device(device)
    settings = RunSettings(layout=notation, model=model, optim=optim, protocol=protocol)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(out) if out is not None else Path(scratch)
        try:
            run_training(data, settings, folder, report, on, watch)
        except Interrupted as stop:
            if out is not None:
                raise
            raise KeyboardInterrupt(
                f"{stop.stopped}; nothing of it is kept, since it had no folder: plait.fit(..., out=FOLDER) saves what "
                "is trained, and goes on from there"
            ) from None
        return Recommender.from_pretrained(folder / MODEL, on)


def _check_type(name: str, given: Any, of: type, expected: str) -> None:
    if not isinstance(given, of):
        raise ValueError(f"fit: {name} = {reprlib.repr(given)}: expected {expected}")
