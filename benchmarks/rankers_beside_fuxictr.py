"""Plait's rankers beside FuxiCTR's, on the same rows: AUC, GAUC and log-loss of `liked`, and what an epoch costs.

    python benchmarks/ml1m.py prepare --last-tenth --log ml1m_reconstructed.parquet --out runs/ml-1m-tenths
    python benchmarks/rankers_beside_fuxictr.py runs/ml-1m-tenths FOLDER --epochs 3 \\
        --out benchmarks/results/rankers_beside_fuxictr.json

FuxiCTR (Apache-2.0) gets an environment of its own in FOLDER, where it is not there yet. It reads the rows that Plait
asks about: a target, and the events of its user that its answer may be computed from. An event is an item and whether
it was liked; of the target the item alone is known. What its configuration leaves open stands in `SETTINGS`; widths are
those of Plait's defaults. A step has about as many rows in both, so that an epoch has as many steps. Histories are
whole in Plait, since a window of the last events would leave earlier rows of the training out: `din` reads the last 100
events of them, as FuxiCTR's does. The other three look at all of them, and FuxiCTR's at the last `max_len`.

Every model is trained for as many epochs, and that of the best validation AUC is judged by the test, both by Plait's
metrics. Times are processor time of one thread, of training alone. `plait - fuxictr` is paired over users.
"""

import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import cyclopts
import msgspec
import numpy as np
import polars as pl
import torch
from provenance import write_result

from plait.data import Dataset
from plait.data.dataset import Targets
from plait.evaluation.answers import Answers, in_context, measure, targets_of
from plait.evaluation.run_files import METRICS as METRICS_FILE
from plait.evaluation.run_files import RunSettings, load_result, measured_answers
from plait.evaluation.settings import Optim
from plait.metrics.intervals import bootstrap, paired_difference
from plait.rankers.settings import EVERY_REQUEST, RankerName, RankerProtocol, run_settings
from plait.training.run import run_training

VERSION = "2.3.10"  # of FuxiCTR: the one that this was written against
LIKED = "liked"
METRICS = f"auc:{LIKED}", f"gauc:{LIKED}", f"log_loss:{LIKED}"
PADDING, KINDS = 1, 3  # rows of events: padding, then of each item not liked, liked, and not known
UNKNOWN = 2
BATCH_SIZE = 512
SETTINGS = {"batch_size": BATCH_SIZE, "dnn_hidden_units": [200, 80]}


def main(
    data: Path,
    folder: Path,
    *,
    out: Path,
    rankers: list[RankerName],
    epochs: int = 3,
    learning_rate: float = 1e-3,
    max_len: int = 100,
    seed: int = 0,
    python: str = "python3",
) -> None:
    """Trains each ranker by both, and writes one JSON file; after each what there is so far.

    Args:
        max_len: of a history, the last events that FuxiCTR reads. Plait reads what its rankers do by default.
    """
    torch.set_num_threads(1)
    dataset, folder = Dataset.open(data), folder.absolute()
    protocol = RankerProtocol(max_epochs=epochs, patience=epochs, seed=seed, select=f"auc:{LIKED}")
    optim = Optim(learning_rate=learning_rate, users_per_step=users_per_step(dataset))
    asked = run_settings(rankers[0], optim=optim, protocol=protocol)
    theirs, rows = environment(folder / "env", python), {}
    write_rows(dataset, asked, folder / "data")
    for ranker in rankers:
        model = run_settings(ranker).model
        its = {
            "dim": model.trunk.dim,
            "epochs": epochs,
            "seed": seed,
            "learning_rate": learning_rate,
            "users_per_step": optim.users_per_step,
            "max_len": max_len,
            "max_events": asked.protocol.max_events,
            "short": model.ranker.recent_events,
            "top_k": model.ranker.top_k,
            **SETTINGS,
        }
        with tempfile.TemporaryDirectory() as scratch:
            ours = replace(asked, model=model)
            answers, costs = trained(dataset, ours, Path(scratch) / ranker)
            found = fuxictr(theirs, ranker, folder / "data", its, Path(scratch))
        rows[ranker] = compared(answers, found.pop("predicted")) | {"plait": costs, "fuxictr": found}
        print(ranker, rows[ranker], flush=True)
        write_result(
            out,
            {
                "dataset": repr(dataset),
                "content_hash": dataset.manifest.content_hash,
                "fuxictr": VERSION,
                "settings": its,
                "rows": rows,
            },
        )


def users_per_step(dataset: Dataset) -> int:
    """So many that a step has about as many rows as FuxiCTR's: both take as many steps an epoch."""
    rows_per_user = len(dataset.train_targets(int(EVERY_REQUEST)).user_Q) / dataset.num_users
    return max(1, round(BATCH_SIZE / rows_per_user))


def environment(folder: Path, python: str) -> Path:
    """FuxiCTR's Python; its environment is made where it is not there."""
    its = folder / "bin" / "python"
    if not its.exists():
        subprocess.run([python, "-m", "venv", folder], check=True)
        packages = [f"fuxictr=={VERSION}", f"torch=={torch.__version__.split('+')[0]}"]
        subprocess.run([its, "-m", "pip", "install", "--quiet", *packages], check=True)
    return its


def write_rows(dataset: Dataset, asked: RunSettings, folder: Path) -> None:
    """The rows of every part, the events of every user, and what an event is."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = asked.protocol.plan(asked.parsed_layout, asked.model)
    parts = {"train": dataset.train_targets(asked.protocol.candidate_requests)}
    for part in ("validation", "test"):
        parts[part] = in_context(dataset, targets_of(dataset, part, plan, asked.protocol), plan)
    for part, targets in parts.items():
        rows_of(dataset, targets).write_parquet(folder / f"{part}.parquet")
    events = dataset.histories(np.arange(dataset.num_users))
    code_E = PADDING + (events.item_E - 1) * KINDS + events.action_EA[:, liked(dataset)].astype(np.int64)
    per_user = np.split(code_E, np.cumsum(events.num_events_U)[:-1])
    pl.DataFrame({"full_item_seq": per_user}).write_parquet(folder / "users.parquet")
    code_I = np.arange(dataset.num_items * KINDS)
    pl.DataFrame(
        {
            "item_index": np.arange(PADDING + len(code_I)),
            "item": np.append(0, code_I // KINDS + 1),
            "shown": np.append(0, code_I % KINDS + 1),
        }
    ).write_parquet(folder / "events.parquet")
    sizes = {"item": dataset.num_items + 1, "shown": KINDS + 1}
    (folder / "sizes.json").write_text(json.dumps(sizes))


def rows_of(dataset: Dataset, targets: Targets) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_index": targets.user_Q,
            "item_index": PADDING + (dataset.target_items(targets) - 1) * KINDS + UNKNOWN,
            "seq_len": dataset.target_lengths(targets),
            LIKED: dataset.target_actions(targets)[:, liked(dataset)].astype(np.int64),
        }
    )


def liked(dataset: Dataset) -> int:
    return [action.name for action in dataset.actions].index(LIKED)


def trained(dataset: Dataset, settings: RunSettings, folder: Path) -> tuple[Answers, dict[str, object]]:
    run_training(dataset, settings, folder)
    result = load_result(folder)
    costs = {
        "processor_s_per_epoch": None if result.train_cpu_s is None else result.train_cpu_s / result.epochs,
        "best_epoch": result.best_epoch,
        "validation_auc": max(row[f"auc:{LIKED}"] for row in map(json.loads, (folder / METRICS_FILE).open())),
        "num_parameters": result.num_parameters,
        "provenance": str(result.provenance),
    }
    return measured_answers(folder, result), costs


def fuxictr(
    python: Path, ranker: str, data: Path, settings: dict[str, object], scratch: Path
) -> dict[str, object]:
    """What it cost and predicted for the rows of the test, in their order."""
    told = scratch / "told.npz"
    script = Path(__file__).parent / "fuxictr_ranker.py"
    subprocess.run([python, script, ranker.upper(), data, json.dumps(settings), told], check=True)
    with np.load(told) as found:
        return {name: found[name] if found[name].ndim else found[name].item() for name in found.files}


def compared(answers: Answers, predicted_Q: np.ndarray) -> dict[str, object]:
    """Metrics of both over the same rows, and their paired difference."""
    assert len(predicted_Q) == len(answers.user_Q), "FuxiCTR answers every row of the test"
    theirs = replace(answers, predicted={LIKED: predicted_Q.astype(np.float32)})
    ours, others = measure(answers), measure(theirs)
    found: dict[str, object] = {}
    for metric in METRICS:
        both = bootstrap(ours[metric]), bootstrap(others[metric])
        found[metric] = {
            "plait": msgspec.to_builtins(both[0].estimate),
            "fuxictr": msgspec.to_builtins(both[1].estimate),
            "plait - fuxictr": msgspec.to_builtins(paired_difference(*both)),
        }
    return found


if __name__ == "__main__":
    cyclopts.run(main)
