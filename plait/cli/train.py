"""The verb that trains one layout."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

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
from plait.evaluation.run_files import RunSettings, load_result
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import Layout, audit, resolve
from plait.layouts.facts import Field
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkKind, TrunkSize
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
    size: TrunkSize | None = None,
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
    size
        Width, blocks and heads of the trunk, by about how many parameters they make.
    device
        What to train on; auto is cuda where there is one.
    """
    # Before a dataset is fetched for nothing:
    its_model, its_protocol = model_of_verb(model, trunk, size), protocol_of_verb(protocol)
    usual, usual_protocol = model_of_verb(VerbModelSettings()), protocol_of_verb(VerbProtocol())
    on, screen = resolve_device(device), progress_console(quiet=quiet)
    start = None if from_ is None else Start.of(from_)
    if refit is None:
        train_layout(Training(dataset, out, layout, start, on, screen, its_model, usual, optim, its_protocol))
        return
    _check_alone(layout, (its_model, optim, its_protocol) == (usual, Optim(), usual_protocol))
    opened = open_dataset(dataset or load_result(refit).dataset_folder)
    with training_bar(screen) as watch:
        run_refit(refit, opened, out, checkpoint, lambda line: say(line, screen), on, watch, start)
    tell_trained(out, opened)


@dataclass(frozen=True)
class Training:
    """What a verb that trains was told."""

    dataset: str | None
    out: Path
    layout: str | None
    start: Start | None
    device: str
    screen: Console
    model: ModelSettings
    usual_model: ModelSettings  # what a model has where nothing was given
    optim: Optim
    protocol: Protocol

    def settings(self) -> RunSettings:
        """Everything that decides the run. Raises ValueError where no layout is given."""
        if self.layout is None and self.start is None:
            raise ValueError("--layout is missing: give one, or --from RUN, whose layout is taken")
        leaks, usual_protocol = self.model.allow_leaks, protocol_of_verb(VerbProtocol())
        notation = None if self.layout is None else str(resolve(self.layout, allow_leaks=leaks))
        return settings_from(
            self.start, notation, self.model, self.optim, self.protocol, self.usual_model, usual_protocol
        )


def train_layout(given: Training) -> None:
    """Trains, tests, and tells where the model is. Raises ValueError where a layout or the dataset is missing."""
    settings = given.settings()
    if given.dataset is None:
        raise ValueError("the dataset is missing: a prepared folder, or a name of `plait data list`")
    opened, report = open_dataset(given.dataset), lambda line: say(line, given.screen)
    with training_bar(given.screen) as watch:
        run_training(opened, settings, given.out, report, given.device, watch, start=given.start)
    tell_trained(given.out, opened)


def tell_trained(run: Path, dataset: Dataset) -> None:
    """What a finished run is worth, where its model is, and what to ask next."""
    evaluate(run)
    result = load_result(run)
    say(f"model: {run / MODEL_FOLDER}, trained in {duration(result.wall_s)}")
    if command := asking(run, result.settings.parsed_layout, result.settings.model, dataset):
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
