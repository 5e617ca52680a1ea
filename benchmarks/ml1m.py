"""MovieLens-1M, the 3,416-item version: five layouts under one protocol; HSTU with and without the target's time.

    python benchmarks/ml1m.py prepare --log ml1m_reconstructed.parquet --out runs/ml-1m-data
    plait compare runs/ml-1m-data --config benchmarks/ml1m.toml --layouts item,interleaved,pc,lac,lac_patched ...
    plait compare runs/ml-1m-data --layouts item --config benchmarks/ml1m_hstu.toml --out runs/ml-1m-hstu ...
    python benchmarks/ml1m.py prepare --last-tenth --log ml1m_reconstructed.parquet --out runs/ml-1m-tenths
    python benchmarks/ml1m.py by-exactness runs/ml-1m-hstu/runs/item-seed0 --log ml1m_reconstructed.parquet --out ...

The log is a reconstruction of MovieLens-1M: (user, item) pairs and their order are complete, `liked` (rating of
4 and 5) is exact on every row, and `position` is the user's rank in the 3,416-item file that SASRec and its
successors use. Some times are interpolated (`timestamp_exact`): a figure that rests on knowing the target's time
is told apart for users whose target time is exact. The log is not part of this project.
"""

from dataclasses import replace
from pathlib import Path

import cyclopts
import msgspec
import numpy as np
import polars as pl
from provenance import write_result

import plait
from plait.data import LeaveOneOut, SplitColumn
from plait.evaluation.answers import Answers, measure
from plait.evaluation.run_files import Result, answers_of_run, load_result
from plait.metrics.intervals import Estimate, bootstrap

FOLD = "part"
app = cyclopts.App()


@app.command
def prepare(*, log: Path, out: Path, last_tenth: bool = False) -> None:
    """Prepares the log: rows of the 3,416-item version, ties in the order of that version.

    With `last_tenth` each user's last tenth is the test, and the tenth before it the validation; else one event each.
    """
    frame = _rows(log)
    if last_tenth:
        frame = _with_tenths(frame)
    dataset = plait.prepare(
        frame,
        user="user_id",
        item="item_id",
        time="timestamp",
        order="position",
        actions={"liked": plait.Binary()},
        split=SplitColumn(FOLD) if last_tenth else LeaveOneOut(),
        out=out,
        name="ml-1m (3,416 items)",
        note="reconstructed",
    )
    print(dataset, f"{dataset.manifest.tied_share:.1%} tied")


@app.command
def by_exactness(*runs: Path, log: Path, out: Path) -> None:
    """HR@10 and NDCG@10 of finished runs, for all users and for those whose target time is exact."""
    found = {f"{run.parent.parent.name}, {run.name}": of_users(run, log) for run in runs}
    for name, (_, by_users) in found.items():
        for users, (count, estimates) in by_users.items():
            figures = [f"{m} {e.value:.4f} ({e.low:.4f} to {e.high:.4f})" for m, e in estimates.items()]
            print(f"{name}, {users} ({count:,}): {', '.join(figures)}")
    record = {
        name: {
            "protocol": result.protocol,
            "provenance": str(result.provenance),
            "epochs": result.epochs,
            "train_wall_s": round(result.train_wall_s),
            "users": {
                users: {"count": count} | msgspec.to_builtins(estimates)
                for users, (count, estimates) in by_users.items()
            },
        }
        for name, (result, by_users) in found.items()
    }
    write_result(out, {"runs": record})


def of_users(run: Path, log: Path) -> tuple[Result, dict[str, tuple[int, dict[str, Estimate]]]]:
    """The run, and by choice of users how many they are, and their metrics."""
    result = load_result(run)
    answers = answers_of_run(run, result)
    dataset = plait.Dataset.open(result.dataset_folder)
    last = _rows(log).sort("user_id", "timestamp", "position").group_by("user_id", maintain_order=True).last()
    exact = dict(last.select("user_id", "timestamp_exact").iter_rows())
    is_exact_Q = np.array([exact[user] for user in dataset.user_ids().gather(answers.user_Q)])
    by_users = {}
    for name, chosen_Q in (("all users", np.ones_like(is_exact_Q)), ("exact target time", is_exact_Q)):
        found = measure(chosen(answers, chosen_Q))
        estimates = {metric: bootstrap(found[metric]).estimate for metric in ("hr@10", "ndcg@10")}
        by_users[name] = int(chosen_Q.sum()), estimates
    return result, by_users


def chosen(answers: Answers, chosen_Q: np.ndarray) -> Answers:
    """The answers to some of the questions."""
    return replace(
        answers,
        user_Q=answers.user_Q[chosen_Q],
        list_Q=answers.list_Q[chosen_Q],
        item_Q=answers.item_Q[chosen_Q],
        rank_Q=None if answers.rank_Q is None else answers.rank_Q[chosen_Q],
        predicted={name: value_Q[chosen_Q] for name, value_Q in answers.predicted.items()},
        label_QA=answers.label_QA[chosen_Q],
    )


def _with_tenths(frame: pl.DataFrame) -> pl.DataFrame:
    """A column that says which part each event is of: of n events, `max(1, round(n / 10))` are a tenth."""
    nth = pl.int_range(pl.len()).over("user_id")
    left, tenth = pl.len().over("user_id") - nth, (pl.len().over("user_id") / 10).round().clip(1)
    part = pl.when(left <= tenth).then(pl.lit("test")).when(left <= 2 * tenth).then(pl.lit("validation"))
    ordered = frame.sort("user_id", "timestamp", "position")
    return ordered.with_columns(part.otherwise(pl.lit("train")).alias(FOLD))


def _rows(log: Path) -> pl.DataFrame:
    return pl.read_parquet(log).filter(pl.col("position").is_not_null())


if __name__ == "__main__":
    app()
