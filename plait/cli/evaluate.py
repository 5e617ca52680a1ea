"""The verb that shows what a finished run found."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from plait.cli.output import console, say
from plait.cli.runs import finished_run
from plait.data import Dataset
from plait.evaluation.answers import measure
from plait.evaluation.counting import BASELINES, against_counting, baselines_of, kept_baselines
from plait.evaluation.run_files import Result, load_answers
from plait.layouts import Layout, name_of
from plait.metrics.intervals import bootstrap


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
        "carried by",
        title=Text(f"{name_of(Layout.parse(result.settings.layout, allow_leaks=True))} on {result.dataset}"),
    )
    for name, statistic in measure(load_answers(run, result.actions)).items():
        found = bootstrap(statistic).estimate
        value, interval = "not defined", "not defined"
        if found.value is not None:
            value = f"{found.value:.4f}"
        if found.low is not None:
            interval = f"{found.low:.4f} to {found.high:.4f}"
        carried_by = "" if found.carried_by is None else f"{found.carried_by:.3g}"
        table.add_row(name, value, interval, str(found.num_users), carried_by)
    out = console()
    out.print(table)
    say(
        f"epoch {result.best_epoch:.4g} of {result.epochs:.4g}, chosen by validation {result.selection}; "
        f"stopped: {result.why_stopped}",
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
    return against_counting(load_answers(run, result.actions), counted)
