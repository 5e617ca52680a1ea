"""Verbs that train, and that show what was found."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from plait.cli.opening import finished_run, open_dataset
from plait.cli.settings import Device, split_layouts
from plait.cli.showing import console, say, show_dataset, training_bar
from plait.compare.comparing import compare as compare_layouts
from plait.compare.page import terminal_table
from plait.evaluation.answers import measure
from plait.evaluation.settings import Optim, Protocol
from plait.fitting import fit
from plait.layouts import Layout, name_of, resolve
from plait.metrics.intervals import bootstrap
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkKind
from plait.nn.device import resolve_device
from plait.training.run import load_answers


class Unfinished(Exception):
    """A command that did not do all of its work, and says what is left."""


def train(
    dataset: str,
    /,
    *,
    layout: str,
    out: Path,
    trunk: TrunkKind | None = None,
    device: Device = "auto",
    model: ModelSettings = ModelSettings(),
    optim: Optim = Optim(),
    protocol: Protocol = Protocol(),
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
    on, model = resolve_device(device), _with_trunk(model, trunk)
    notation = str(resolve(layout, allow_leaks=model.allow_leaks))  # before a dataset is fetched for nothing
    opened, screen = open_dataset(dataset), console()
    with training_bar(screen) as watch:
        fit(
            opened,
            notation,
            model=model,
            optim=optim,
            protocol=protocol,
            out=out,
            device=on,
            report=lambda line: say(line, screen),
            watch=watch,
        )
    evaluate(out)


def evaluate(run: Path, /) -> None:
    """Prints the test metrics of a finished run, with 95 % intervals over users.

    Example: plait evaluate runs/lac

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`.
    """
    result = finished_run(run)
    table = Table(
        "metric",
        "value",
        "95 % interval",
        "users",
        title=Text(f"{name_of(Layout.parse(result.settings.layout, allow_leaks=True))} on {result.dataset}"),
    )
    for name, statistic in measure(load_answers(run, result.actions)).items():
        found = bootstrap(statistic).estimate
        value, interval = "not defined", "not defined"
        if found.value is not None:
            value = f"{found.value:.4f}"
        if found.low is not None:
            interval = f"{found.low:.4f} to {found.high:.4f}"
        table.add_row(name, value, interval, str(found.num_users))
    out = console()
    out.print(table)
    say(
        f"epoch {result.best_epoch:.4g} of {result.epochs:.4g}, chosen by validation {result.selection}; "
        f"stopped: {result.why_stopped}",
        out,
    )
    say(f"protocol: {result.protocol or 'not recorded'}", out)
    say(f"by {result.provenance}", out)


def compare(
    dataset: str,
    /,
    *,
    layouts: str,
    seeds: int = 3,
    out: Path,
    trunk: TrunkKind | None = None,
    device: Device = "auto",
    model: ModelSettings = ModelSettings(),
    optim: Optim = Optim(),
    protocol: Protocol = Protocol(),
    command_line: Annotated[tuple[str, ...], Parameter(parse=False)] = (),
) -> None:
    """Trains several layouts under one protocol, and says what each is worth and costs.

    Example: plait compare ml-100k --layouts item,interleaved,pc,lac --seeds 2 --out runs/ml-100k

    Parameters
    ----------
    dataset
        A prepared folder, or a name of `plait data list`.
    layouts
        Names of `plait layouts` or layouts in notation, separated by commas.
    seeds
        Runs of each layout, with the seeds from --protocol.seed on.
    out
        Folder of the runs, rows.jsonl, comparison.json and report.html. Started again, it goes on.
    trunk
        Short for --model.trunk.kind.
    device
        What to train on; auto is cuda where there is one.
    """
    on, model = resolve_device(device), _with_trunk(model, trunk)
    # Before a dataset is fetched for nothing:
    notations = [str(resolve(name, allow_leaks=model.allow_leaks)) for name in split_layouts(layouts)]
    opened, screen = open_dataset(dataset), console()
    show_dataset(opened)
    with training_bar(screen) as watch:
        comparison = compare_layouts(
            opened,
            notations,
            seeds,
            out,
            model,
            optim,
            protocol,
            command=shlex.join(command_line),
            device=on,
            report=lambda line: say(line, screen),
            watch=watch,
        )
    screen.print(terminal_table(comparison, screen.width))
    say(f"page: {out / 'report.html'}", screen)
    failed = [f"{row.layout} with seed {row.seed}: {row.note}" for row in comparison.rows if row.cost is None]
    if failed:
        raise Unfinished("\n".join([f"{len(failed)} of {len(comparison.rows)} runs failed", *failed]))


def _with_trunk(model: ModelSettings, kind: TrunkKind | None) -> ModelSettings:
    return model if kind is None else replace(model, trunk=replace(model.trunk, kind=kind))
