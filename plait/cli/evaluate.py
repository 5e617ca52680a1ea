"""The verb that shows what a finished run found."""

from collections.abc import Mapping
from pathlib import Path

from plait.cli.arguments import Json
from plait.cli.output import console, say, show, show_json
from plait.cli.runs import finished_run
from plait.data import Dataset
from plait.evaluation.answers import measure
from plait.evaluation.counting import BASELINES, against_counting, baselines_of, kept_baselines
from plait.evaluation.counts_effect import effects
from plait.evaluation.run_files import (
    MODEL,
    Result,
    answers_of_run,
    answers_without_counts,
    measured_answers,
    of_checkpoint,
)
from plait.evaluation.selection import Selection
from plait.layouts import Layout, name_of
from plait.metrics.intervals import Estimate, bootstrap
from plait.metrics.table import task_of
from plait.terminal import FittedTable, NumberHeading


def evaluate(run: Path, /, *, json: Json = False) -> None:
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
    statistics = measure(measured_answers(run, result))
    found = {name: bootstrap(statistic).estimate for name, statistic in statistics.items()}
    if json:
        show_json({"run": str(run), "metrics": found, "deployed": _deployed(run, result), "result": result})
    else:
        _show(run, result, found)


def _show(run: Path, result: Result, found: Mapping[str, Estimate]) -> None:
    deployed = _deployed(run, result)
    headings: list[str | NumberHeading] = [
        "metric",
        *map(NumberHeading, ("value", "95 % interval", "users", "carried by")),
    ]
    rows = [[name, *_cells(estimate)] for name, estimate in found.items()]
    if deployed:
        headings.append(NumberHeading("model/"))
        rows = [[*row, deployed.get(row[0], row[1])] for row in rows]
    layout = name_of(Layout.parse(result.settings.layout, allow_leaks=True))
    out = console()
    show(FittedTable(headings, rows, title=f"{layout} on {result.dataset}"), out)
    say(_when_chosen(result), out)
    if result.beside is not None:
        its = result.beside
        say(
            f"{of_checkpoint(MODEL, its.best_for)}/: epoch {its.best_epoch:.4g}, chosen by validation {its.selection}",
            out,
        )
    if (without := answers_without_counts(run, result)) is not None:
        found_with = measure(measured_answers(run, result))
        for effect in effects([found_with], [measure(without)], [Selection.RETRIEVAL]):
            say(f"counts beside the model: {effect}", out)
    if result.refit is not None:
        say(
            f"evaluation: of {result.refit}, which the held-out rows were kept from; {run / MODEL} is trained on all "
            "rows, and cannot be judged by them",
            out,
        )
    say(_against_counting(run, result), out)
    say(f"protocol: {result.protocol or 'not recorded'}", out)
    say(f"by {result.provenance}", out)


def _when_chosen(result: Result) -> str:
    if result.refit is not None:
        return f"{result.refit.steps} steps, as many as that model took whose evaluation this is"
    return (
        f"epoch {result.best_epoch:.4g} of {result.epochs:.4g}, chosen by validation {result.selection}; "
        f"stopped: {result.why_stopped}"
    )


def _cells(found: Estimate) -> tuple[str, str, str, str]:
    """Value, interval, users, and how many of them carry it."""
    value = "not defined" if found.value is None else f"{found.value:.4f}"
    interval = "not defined" if found.low is None else f"{found.low:.4f} to {found.high:.4f}"
    carried_by = "" if found.carried_by is None else f"{found.carried_by:.3g}"
    return value, interval, str(found.num_users), carried_by


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
    measured = measure(answers_of_run(run, result))
    values = {name: its.value for name, its in measured.items() if task_of(name) == result.measured_beside}
    return {name: "not defined" if value is None else f"{value:.4f}" for name, value in values.items()}
