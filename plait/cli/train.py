"""The verb that trains one layout."""

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plait.cli.arguments import MODEL, PROTOCOL, TRAINING, Device, Quiet
from plait.cli.datasets import open_dataset
from plait.cli.evaluate import evaluate
from plait.cli.output import progress_console, say
from plait.cli.progress import training_bar
from plait.cli.verb_settings import VerbModelSettings, VerbProtocol, model_of_verb, protocol_of_verb
from plait.compare.words import duration
from plait.data import Dataset
from plait.engine.asking import needs_time, reads_condition
from plait.evaluation.checkpoints import Checkpoint
from plait.evaluation.run_files import MODEL as MODEL_FOLDER
from plait.evaluation.run_files import load_result
from plait.evaluation.settings import Optim
from plait.layouts import Layout, audit, resolve
from plait.layouts.facts import Field
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkKind
from plait.nn.device import resolve_device
from plait.schema import Categories, Category, Number
from plait.training.refit import run_refit
from plait.training.run import run_training
from plait.training.start import Start, settings_from


def train(
    dataset: str | None = None,
    /,
    *,
    out: Path,
    layout: str | None = None,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    refit: Path | None = None,
    checkpoint: Checkpoint = "deployed",
    trunk: TrunkKind | None = None,
    device: Device = "auto",
    quiet: Quiet = False,
    model: Annotated[VerbModelSettings, MODEL] = VerbModelSettings(),
    optim: Annotated[Optim, TRAINING] = Optim(),
    protocol: Annotated[VerbProtocol, PROTOCOL] = VerbProtocol(),
) -> None:
    """Trains one layout and tests it; killed and started again, it goes on where it stopped.

    Example: plait train ml-100k --layout lac --out runs/lac --protocol.max-epochs 20

    Parameters
    ----------
    dataset
        A prepared folder, or a name of `plait data list`.
    out
        The run's folder.
    layout
        A name of `plait layouts`, or a layout in notation.
    from_
        A run, or a model's folder, whose weights the training goes on from, with new events and new items. Its layout,
        and settings that are left at their defaults, are the run's.
    refit
        A finished run, whose settings are trained once more: on all rows, the held-out ones included, for the steps of
        its checkpoint. The evaluation stays that of the run.
    checkpoint
        Whose steps --refit takes: deployed, or the one beside it.
    trunk
        Short for --model.trunk.kind.
    device
        What to train on; auto is cuda where there is one.
    """
    usual = VerbModelSettings()
    train_as(
        dataset, out, layout, from_, refit, checkpoint, trunk, device, quiet, model, usual, optim, protocol
    )


def train_as(
    dataset: str | None,
    out: Path,
    layout: str | None,
    from_: Path | None,
    refit: Path | None,
    checkpoint: Checkpoint,
    trunk: TrunkKind | None,
    device: Device,
    quiet: bool,
    model: VerbModelSettings,
    usual_model: VerbModelSettings,
    optim: Optim,
    protocol: VerbProtocol,
) -> None:
    """What `train` does, for verbs with other usual settings of the model."""
    # Before a dataset is fetched for nothing:
    on, its_model, screen = resolve_device(device), model_of_verb(model, trunk), progress_console(quiet=quiet)
    usual, usual_protocol = model_of_verb(usual_model, None), protocol_of_verb(VerbProtocol())
    its_protocol = protocol_of_verb(protocol)
    start = None if from_ is None else Start.of(from_)
    if refit is not None:
        _check_alone(layout, (its_model, optim, its_protocol) == (usual, Optim(), usual_protocol))
        opened = open_dataset(dataset or load_result(refit).dataset_folder)
        with training_bar(screen) as watch:
            run_refit(refit, opened, out, checkpoint, lambda line: say(line, screen), on, watch, start)
    else:
        if layout is None and start is None:
            raise ValueError("--layout is missing: give one, or --from RUN, whose layout is taken")
        if dataset is None:
            raise ValueError("the dataset is missing: a prepared folder, or a name of `plait data list`")
        notation = None if layout is None else str(resolve(layout, allow_leaks=its_model.allow_leaks))
        settings = settings_from(start, notation, its_model, optim, its_protocol, usual, usual_protocol)
        opened = open_dataset(dataset)
        with training_bar(screen) as watch:
            run_training(opened, settings, out, lambda line: say(line, screen), on, watch, start=start)
    evaluate(out)
    result = load_result(out)
    say(f"model: {out / MODEL_FOLDER}, trained in {duration(result.wall_s)}")
    if command := asking(out, result.settings.parsed_layout, result.settings.model, opened):
        say(f"next: {command}")


def _check_alone(layout: str | None, is_usual: bool) -> None:
    """Raises ValueError where a refit is given settings of its own."""
    if layout is not None or not is_usual:
        raise ValueError(
            "--refit trains the settings of its run: leave out --layout, --trunk and all settings"
        )


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
    if reads_condition(layout):
        words.append(f"--condition={_some_condition(dataset)}")
    return shlex.join(["plait", *words]) + (" --at TIME" if needs_time(layout, model, field) else "")


def _some_condition(dataset: Dataset) -> str:
    """A value of the first condition, as --condition takes it."""
    feature = dataset.conditions[0]
    match feature.kind:
        case Category(values=values) | Categories(values=values) if values:
            return f"{feature.name}={values[0]}"
        case Number(edges=edges) if edges:
            return f"{feature.name}={edges[0]:g}"
        case _:
            return f"{feature.name}=VALUE"


def quoted_item(id: str) -> str:
    """As --items takes one id.

    >>> quoted_item("i05"), quoted_item('the "Heat", 1995')
    ('i05', '"the ""Heat"", 1995"')
    """
    doubled = id.replace('"', '""')
    return f'"{doubled}"' if set(',"') & set(id) or id != id.strip() else id
