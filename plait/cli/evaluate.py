"""The verb that shows what a finished run found."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from plait.cli.output import console, say
from plait.cli.runs import finished_run
from plait.data import Dataset
from plait.evaluation.answers import measure
from plait.evaluation.counting import BASELINES, against_counting, baselines_of, kept_baselines
from plait.evaluation.run_files import MODEL, Result, load_answers, measured_answers, of_checkpoint
from plait.layouts import Layout, name_of
from plait.metrics.intervals import bootstrap
from plait.metrics.table import task_of


def evaluate(run: Path, /) -> None:
    """Prints the test metrics of a finished run, with 95 % intervals over users.

    Where it kept two checkpoints, each task is measured on the one that is best for it, and what the deployed one
    (model/) has stands beside.

    Example: plait evaluate runs/lac

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`.
    """
    result = finished_run(run)
    deployed = _deployed(run, result)
    table = Table(
        "metric",
        "value",
        "95 % interval",
        "users",
        "carried by",
        *(["model/"] if deployed else []),
        title=Text(f"{name_of(Layout.parse(result.settings.layout, allow_leaks=True))} on {result.dataset}"),
    )
    for name, statistic in measure(measured_answers(run, result)).items():
        found = bootstrap(statistic).estimate
        value, interval = "not defined", "not defined"
        if found.value is not None:
            value = f"{found.value:.4f}"
        if found.low is not None:
            interval = f"{found.low:.4f} to {found.high:.4f}"
        carried_by = "" if found.carried_by is None else f"{found.carried_by:.3g}"
        row = (name, value, interval, str(found.num_users), carried_by)
        table.add_row(*row, *([deployed.get(name, value)] if deployed else []))
    out = console()
    out.print(table)
    say(
        f"epoch {result.best_epoch:.4g} of {result.epochs:.4g}, chosen by validation {result.selection}; "
        f"stopped: {result.why_stopped}",
        out,
    )
    if result.beside is not None:
        its = result.beside
        say(
            f"{of_checkpoint(MODEL, its.best_for)}/: epoch {its.best_epoch:.4g}, chosen by validation {its.selection}",
            out,
        )
    say(_against_counting(run, result), out)
    say(f"protocol: {result.protocol or 'not recorded'}", out)
    say(f"by {result.provenance}", out)


def _against_counting(run: Path, result: Result) -> str:
    """What the run is worth beside counting, on the data that it was trained on; the counts are kept beside it."""
    unknown = "against counting: not known, since"
    try:
        dataset = Dataset.open(result.dataset_folder)
    except ValueError as error:
        return f"{unknown} its data cannot be opened: {error}"
    if dataset.manifest.content_hash != result.content_hash:
        return f"{unknown} {result.dataset_folder} holds other data than it was trained on"
    asked = dataset, result.settings.protocol, result.settings.model.exposure.same_request
    of_comparison = run.parent.parent / BASELINES  # where the run is one of a comparison
    _, counted = kept_baselines(*asked, of_comparison) or baselines_of(*asked, run / BASELINES)
    return against_counting(measured_answers(run, result), counted)


def _deployed(run: Path, result: Result) -> dict[str, str]:
    """What the deployed checkpoint has in the metrics that are measured on another; empty where there are none."""
    if result.measured_beside is None:
        return {}
    measured = measure(load_answers(run, result.actions))
    values = {name: its.value for name, its in measured.items() if task_of(name) == result.measured_beside}
    return {name: "not defined" if value is None else f"{value:.4f}" for name, value in values.items()}
