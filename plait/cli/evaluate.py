"""The verb that shows what a finished run found."""

import sys
from collections.abc import Mapping
from pathlib import Path

from plait.cli.arguments import Beyond, Json
from plait.cli.output import console, say, show, show_json
from plait.cli.runs import data_of, finished_run
from plait.data import Dataset
from plait.evaluation.answers import measure
from plait.evaluation.beyond_accuracy import BeyondAccuracy, Sliced, TrainingFacts
from plait.evaluation.beyond_accuracy import beyond_accuracy as told_beyond
from plait.evaluation.counting import BASELINES, against_counting, baselines_of, kept_baselines, told_of
from plait.evaluation.counts_effect import effects
from plait.evaluation.run_files import (
    MODEL,
    Result,
    answers_of_run,
    answers_without_counts,
    measured_answers,
    of_checkpoint,
)
from plait.layouts import Layout, name_of
from plait.metrics.intervals import Estimate, bootstrap
from plait.metrics.table import task_of
from plait.terminal import FittedTable, NumberHeading

NO_LISTS = "lists: nothing is told, since the layout recommends none, or an earlier version kept none"


def evaluate(run: Path, /, *, beyond_accuracy: Beyond = False, json: Json = False) -> None:
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
    answers, dataset = measured_answers(run, result), data_of(result)
    found = {name: bootstrap(statistic).estimate for name, statistic in measure(answers).items()}
    beside = None
    if (json or beyond_accuracy) and not isinstance(dataset, str):
        beside = told_beyond([answers], TrainingFacts.of(dataset))
    if json:
        if isinstance(dataset, str):
            print(f"plait: beyond accuracy: not known, since {dataset}", file=sys.stderr)
        told = {"metrics": found, "beyond_accuracy": beside, "deployed": _deployed(run, result)}
        show_json({"run": str(run), **told, "result": result})
        return
    _show(run, result, found, dataset)
    if beyond_accuracy:
        _show_beyond(beside, dataset)


def _show(run: Path, result: Result, found: Mapping[str, Estimate], dataset: Dataset | str) -> None:
    deployed = _deployed(run, result)
    headings: list[str | NumberHeading] = [
        "metric",
        *map(NumberHeading, ("value", "95 % interval", "users", "carried by")),
    ]
    rows = [[name, *_cells(estimate)] for name, estimate in found.items()]
    if deployed:
        headings.append(NumberHeading("model/"))
        rows = [[*row, deployed.get(row[0], row[1])] for row in rows]
    ranker, layout = result.settings.model.ranker, Layout.parse(result.settings.layout, allow_leaks=True)
    towers = result.settings.model.two_tower
    what = ranker.kind if ranker.is_on else towers.kind if towers.is_on else name_of(layout)
    out = console()
    show(FittedTable(headings, rows, title=f"{what} on {result.dataset}"), out)
    say(_when_chosen(result), out)
    if result.beside is not None:
        its = result.beside
        say(
            f"{of_checkpoint(MODEL, its.best_for)}/: epoch {its.best_epoch:.4g}, chosen by validation {its.selection}",
            out,
        )
    if (without := answers_without_counts(run, result)) is not None:
        found_with = measure(measured_answers(run, result))
        for effect in effects([found_with], [measure(without)], told_of(result.actions)):
            say(f"counts beside the model: {effect}", out)
    if result.refit is not None:
        say(
            f"evaluation: of {result.refit}, which the held-out rows were kept from; {run / MODEL} is trained on all "
            "rows, and cannot be judged by them",
            out,
        )
    say(_against_counting(run, result, dataset), out)
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


def _show_beyond(beside: BeyondAccuracy | None, dataset: Dataset | str) -> None:
    """What lists hold, and every metric of every slice."""
    out = console()
    if beside is None:
        say(f"beyond accuracy: not known, since {dataset}", out)
        return
    rows = [[name, *_cells(estimate)] for name, estimate in beside.lists.items()]
    headings: list[str | NumberHeading] = ["lists", *map(NumberHeading, ("value", "95 % interval", "users"))]
    show(FittedTable(headings, [row[:4] for row in rows]) if rows else NO_LISTS, out)
    metrics = dict.fromkeys(name for of in beside.slices for name in of.metrics)
    cells = [[name, *(_value_in(of, name) for of in beside.slices)] for name in metrics]
    notes = [str(of.slice) for of in beside.slices]
    show(
        FittedTable(
            ["metric", *(NumberHeading(of.slice.heading) for of in beside.slices)], cells, notes=notes
        ),
        out,
    )


def _value_in(of: Sliced, metric: str) -> str:
    """With half its interval."""
    estimate = of.metrics.get(metric)
    if estimate is None or estimate.value is None:
        return ""
    half = "" if estimate.half_width is None else f" ±{estimate.half_width:.4f}"
    return f"{estimate.value:.4f}{half}"


def _against_counting(run: Path, result: Result, dataset: Dataset | str) -> str:
    """What the run is worth beside counting, on the data that it was trained on; the counts are kept beside it."""
    if isinstance(dataset, str):
        return f"against counting: not known, since {dataset}"
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
