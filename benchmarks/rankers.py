"""What rankers cost and reach on MovieLens-100K: seconds an epoch, AUC, GAUC and log-loss of `liked`.

    python benchmarks/rankers.py prepare --out runs/ml-100k-liked
    OMP_NUM_THREADS=1 python benchmarks/rankers.py measure runs/ml-100k-liked --rankers din --epochs 5 \\
        --out benchmarks/results/rankers-ml-100k.json

`liked` is a rating of 4 or 5. Of every user's n events in order, the last max(1, rint(n / 10)) are the test, and as
many before them the validation; the events of a part do not see each other. Beside the rankers stand means and damped
effects of items and users, counted on the same split. Processor time is told beside wall time: others may use the
machine meanwhile.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import cyclopts
import polars as pl
from provenance import write_result

import plait
from plait.data import Dataset, SplitColumn
from plait.data.sources import prepared
from plait.evaluation.answers import Answers, measure
from plait.evaluation.counting import baselines_of
from plait.evaluation.run_files import RunSettings, measured_answers
from plait.metrics.intervals import bootstrap
from plait.rankers.settings import RankerName, RankerProtocol, run_settings
from plait.schema import Binary
from plait.training.run import run_training

METRICS = "auc:liked", "gauc:liked", "log_loss:liked", "ne:liked"
app = cyclopts.App()


@app.command
def prepare(*, out: Path) -> None:
    """Prepares MovieLens-100K with the action `liked`, and each user's last tenth as the test."""
    log = prepared.get("ml-100k")
    events = log.histories(log.train_users())
    frame = pl.DataFrame(
        {
            "user": events.user_U.repeat(events.num_events_U),
            "item": events.item_E,
            "time": events.time_s_E,
            "number": events.number_E,
            "liked": (events.action_EA[:, 0] >= 4).astype(float),
        }
    )
    dataset = plait.prepare(
        frame.with_columns(part=_part()),
        user="user",
        item="item",
        time="time",
        order="number",
        actions={"liked": Binary()},
        split=SplitColumn("part"),
        out=out,
        name="ml-100k liked",
    )
    print(dataset)


def _part() -> pl.Expr:
    """The part of an event, of its user's events in order."""
    length, place = pl.len().over("user"), pl.col("number")
    held_out = (length / 10).round().clip(1).cast(pl.Int64)
    return (
        pl.when(place >= length - held_out)
        .then(pl.lit("test"))
        .when(place >= length - 2 * held_out)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )


@app.command(name="measure")
def measure_rankers(
    data: Path,
    *,
    rankers: list[RankerName],
    epochs: int = 5,
    users_per_step: int = 16,
    seed: int = 0,
    out: Path,
) -> None:
    """Trains each ranker for so many epochs, and tells what it cost and reached."""
    dataset, rows = Dataset.open(data), {}
    with tempfile.TemporaryDirectory() as scratch:
        asked = run_settings(rankers[0], protocol=RankerProtocol(max_epochs=epochs, seed=seed))
        _, counted = baselines_of(dataset, asked.protocol, "causal", Path(scratch))
        rows |= {name: _told(answers) for name, answers in counted.items() if answers.predicted}
        for ranker in rankers:
            settings = replace(asked, model=run_settings(ranker).model)
            settings = replace(settings, optim=replace(settings.optim, users_per_step=users_per_step))
            rows[ranker] = _measured(dataset, settings, Path(scratch) / ranker)
            print(ranker, rows[ranker])
    write_result(out, {"dataset": repr(dataset), "content_hash": dataset.manifest.content_hash, "rows": rows})


def _measured(dataset: Dataset, settings: RunSettings, folder: Path) -> dict[str, object]:
    result = run_training(dataset, settings, folder)
    return {
        "s_per_epoch": result.train_wall_s / result.epochs,
        "processor_s_per_epoch": None if result.train_cpu_s is None else result.train_cpu_s / result.epochs,
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        "wall_s": result.wall_s,
        "num_parameters": result.num_parameters,
        "flops_per_epoch": result.train_flops / result.epochs,
        "protocol": result.protocol,
        "provenance": str(result.provenance),
        **_told(measured_answers(folder, result)),
    }


def _told(answers: Answers) -> dict[str, str]:
    found = measure(answers)
    estimates = {name: bootstrap(found[name]).estimate for name in METRICS if name in found}
    return {
        name: "not defined" if its.value is None else f"{its.value:.4f} ({its.low:.4f} to {its.high:.4f})"
        for name, its in estimates.items()
    }


if __name__ == "__main__":
    app()
