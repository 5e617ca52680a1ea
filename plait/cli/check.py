"""The verb that asks a model the same in every way there is."""

from pathlib import Path
from typing import Literal

from plait.cli.arguments import Device, Json
from plait.cli.output import say, show_json, show_table
from plait.cli.runs import finished_run, run_and_model
from plait.cli.unfinished import Disagreement
from plait.cli.user_state import in_items_of, model_and_data
from plait.engine.agreement import check as check_agreement
from plait.engine.agreement import users_to_check
from plait.engine.recorded import load_recorded
from plait.evaluation.run_files import Result
from plait.exporting.checking import exported_way
from plait.recommender import Recommender
from plait.schema import EventBatch

HEADINGS = ("asked", "logits", "users", "compared", "difference", "allowed", "agrees")
IN_UNITS = "largest difference, and what is allowed, in standard deviations of the logits"


def check(
    run: Path,
    /,
    *,
    seed: int = 0,
    exported: Literal["onnx", "torch", "none"] = "onnx",
    dataset: str | None = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Whether a model gives one answer, whatever way it is asked: the forward pass of training against the engine's.

    Up to 256 users of the run's data are asked about, those of the longest and of the shortest histories and some who
    fill the window among them. Where the data is not at hand, the few that were kept beside the model are. Exit code 1
    where logits lie too far apart.

    Example: plait check runs/lac

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`: the model that it deploys (model/). Where
        another lies beside it, RUN/model-actions names that.
    seed
        Which users, candidates and items are drawn.
    exported
        What the model is exported to, to be asked so, too; it takes a minute. none: it is not.
    dataset
        A prepared folder, or a name of `plait data list`, with the users' histories. Without it, the dataset
        that the run was trained on; where that is gone, what was kept of it beside the model.
    device
        What the model runs on; auto is cuda where there is one.
    """
    folder, model_folder = run_and_model(run)
    recommender, histories, source = _histories(model_folder, finished_run(folder), dataset, device, seed)
    more_ways = [] if exported == "none" else [exported_way(exported)]
    found = check_agreement(recommender.model, histories, seed, more_ways)
    if json:
        told = {"compared": found.compared, "left_out": found.left_out}
        show_json({"run": str(run), "seed": seed, "source": source, "agrees": found.agrees, **told})
    else:
        rows = [
            (its.way, its.logits, its.num_users, its.num_logits, its.difference, its.allowed, its.agrees)
            for its in found.compared
        ]
        show_table(HEADINGS, rows, IN_UNITS)
        for line in found.left_out:
            say(f"not compared: {line}")
        say(f"histories: {source}")
        say(f"seed: {seed}")
    apart = [f"{its.way} ({its.logits})" for its in found.compared if not its.agrees]
    if apart:
        raise Disagreement(
            f"{run}: {len(apart)} of {len(found.compared)} comparisons lie too far apart: {', '.join(apart)}; what was "
            "measured of this model is not what it answers with"
        )


def _histories(
    folder: Path, result: Result, dataset: str | None, device: Device, seed: int
) -> tuple[Recommender, EventBatch, str]:
    """A run's model, what it is asked about, and where that comes from."""
    if dataset is None and not Path(result.dataset_folder).exists():
        recommender = Recommender.from_pretrained(folder, device)
        histories = load_recorded(recommender.model, folder)
        gone = f"{result.dataset_folder} is no longer there"
        return recommender, histories, f"{histories.num_users} that were kept beside the model, since {gone}"
    recommender, data = model_and_data(folder, result, dataset, device)
    user_U = users_to_check(data.train_user_counts(), recommender.model, seed)
    return recommender, in_items_of(recommender, data, data.histories(user_U)), f"of {data.folder}"
