"""The verb that shows what a finished run found."""

from collections.abc import Mapping
from pathlib import Path

from plait.cli.arguments import Json
from plait.cli.output import console, say, show, show_json
from plait.cli.runs import finished_run
from plait.evaluation.answers import measure
from plait.evaluation.run_files import Result, load_answers
from plait.layouts import Layout, name_of
from plait.metrics.intervals import Estimate, bootstrap
from plait.terminal import FittedTable, Numbers


def evaluate(run: Path, /, *, json: Json = False) -> None:
    """Prints the test metrics of a finished run, with 95 % intervals over users.

    Example: plait evaluate runs/lac

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`.
    """
    result = finished_run(run)
    statistics = measure(load_answers(run, result.actions))
    found = {name: bootstrap(statistic).estimate for name, statistic in statistics.items()}
    if json:
        show_json({"run": str(run), "metrics": found, "result": result})
    else:
        _show(result, found)


def _show(result: Result, found: Mapping[str, Estimate]) -> None:
    rows = [(name, *_cells(estimate)) for name, estimate in found.items()]
    headings = ("metric", Numbers("value"), Numbers("95 % interval"), Numbers("users"))
    layout = name_of(Layout.parse(result.settings.layout, allow_leaks=True))
    out = console()
    show(FittedTable(headings, rows, title=f"{layout} on {result.dataset}"), out)
    say(
        f"epoch {result.best_epoch:.4g} of {result.epochs:.4g}, chosen by validation {result.selection}; "
        f"stopped: {result.why_stopped}",
        out,
    )
    say(f"protocol: {result.protocol or 'not recorded'}", out)
    say(f"by {result.provenance}", out)


def _cells(found: Estimate) -> tuple[str, str, str]:
    """Value, interval and users."""
    value = "not defined" if found.value is None else f"{found.value:.4f}"
    interval = "not defined" if found.low is None else f"{found.low:.4f} to {found.high:.4f}"
    return value, interval, str(found.num_users)
