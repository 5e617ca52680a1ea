"""The verb that trains one layout."""

import shlex
from pathlib import Path
from typing import Annotated

from plait.cli.arguments import MODEL, PROTOCOL, TRAINING, Device, Quiet
from plait.cli.datasets import open_dataset
from plait.cli.evaluate import evaluate
from plait.cli.model_settings import with_trunk
from plait.cli.output import progress_console, say
from plait.cli.progress import training_bar
from plait.compare.words import duration
from plait.data import Dataset
from plait.engine.asking import needs_time
from plait.evaluation.run_files import MODEL as MODEL_FOLDER
from plait.evaluation.run_files import RunSettings, load_result
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import Layout, audit, resolve
from plait.layouts.facts import Field
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkKind
from plait.nn.device import resolve_device
from plait.training.run import run_training


def train(
    dataset: str,
    /,
    *,
    layout: str,
    out: Path,
    trunk: TrunkKind | None = None,
    device: Device = "auto",
    quiet: Quiet = False,
    model: Annotated[ModelSettings, MODEL] = ModelSettings(),
    optim: Annotated[Optim, TRAINING] = Optim(),
    protocol: Annotated[Protocol, PROTOCOL] = Protocol(),
) -> None:
    """Trains one layout and tests it; killed and started again, it goes on where it stopped.

    Example: plait train ml-100k --layout lac --out runs/lac --protocol.max-epochs 20

    Parameters
    ----------
    dataset
        A prepared folder, or a name of `plait data list`.
    layout
        A name of `plait layouts`, or a layout in notation.
    out
        The run's folder.
    trunk
        Short for --model.trunk.kind.
    device
        What to train on; auto is cuda where there is one.
    """
    # Before a dataset is fetched for nothing:
    on, model = resolve_device(device), with_trunk(model, trunk)
    resolved = resolve(layout, allow_leaks=model.allow_leaks)
    settings = RunSettings(layout=str(resolved), model=model, optim=optim, protocol=protocol)
    opened, screen = open_dataset(dataset), progress_console(quiet=quiet)
    with training_bar(screen) as watch:
        run_training(opened, settings, out, lambda line: say(line, screen), on, watch)
    evaluate(out)
    say(f"model: {out / MODEL_FOLDER}, trained in {duration(load_result(out).wall_s)}")
    if command := asking(out, resolved, model, opened):
        say(f"next: {command}")


def asking(run: Path, layout: Layout, model: ModelSettings, dataset: Dataset) -> str:
    """The command that asks a finished run about the dataset's first user; empty where its layout answers nothing."""
    user, found = f"--user={dataset.user_ids()[0]}", audit(layout)
    field: Field
    if found.can_retrieve:
        words, field = ["recommend", str(run), user], "i"
    elif found.can_score != "no":
        words, field = ["score", str(run), user, f"--items={quoted_item(str(dataset.item_ids()[0]))}"], "a"
    else:
        return ""
    return shlex.join(["plait", *words]) + (" --at TIME" if needs_time(layout, model, field) else "")


def quoted_item(id: str) -> str:
    """As --items takes one id.

    >>> quoted_item("i05"), quoted_item('the "Heat", 1995')
    ('i05', '"the ""Heat"", 1995"')
    """
    doubled = id.replace('"', '""')
    return f'"{doubled}"' if set(',"') & set(id) or id != id.strip() else id
