"""What a comparison found whose run is served, from the files that it left."""

from pathlib import Path
from typing import Any

import msgspec

from plait.service.problems import Problem

SUMMARY, REPORT, RUNS = "summary.json", "report.html", "runs"


class _Estimate(msgspec.Struct):
    value: float | None = None
    low: float | None = None
    high: float | None = None


class _Metric(msgspec.Struct):
    estimate: _Estimate


class _Line(msgspec.Struct):
    layout: str
    metrics: dict[str, _Metric] = {}


class _Data(msgspec.Struct):
    name: str


class _Summary(msgspec.Struct):
    """What a page shows of `summary.json`."""

    dataset: _Data
    protocol: str
    date: str
    summaries: list[_Line]
    verdict: list[str] = []


def comparison_of(model_folder: Path) -> Path | None:
    """The folder of the comparison whose runs/RUN/model it is; None where the run lies in none."""
    runs = model_folder.resolve().parent.parent
    found = runs.parent
    return found if runs.name == RUNS and (found / SUMMARY).is_file() else None


def summary_of(folder: Path | None) -> dict[str, Any]:
    """
    Raises:
        Problem: there is none, or it cannot be read.
    """
    try:
        if folder is None:
            raise FileNotFoundError
        found = msgspec.json.decode((folder / SUMMARY).read_bytes(), type=_Summary)
    except FileNotFoundError:
        raise Problem(404, "no comparison", "the run that is served lies in no comparison") from None
    except (OSError, msgspec.MsgspecError):
        raise Problem(
            404, "no comparison", "the comparison's summary cannot be read; compare again"
        ) from None
    metrics = list(dict.fromkeys(name for line in found.summaries for name in line.metrics))
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return {**plain, "dataset": found.dataset.name, "metrics": metrics}


def report_of(folder: Path | None) -> bytes:
    """
    Raises:
        Problem: there is none.
    """
    if folder is None or not (folder / REPORT).is_file():
        raise Problem(404, "no report", "the run that is served lies in no comparison with a report")
    return (folder / REPORT).read_bytes()
