"""The verb that builds an index of a model's items."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from cyclopts import Parameter

from plait.cli.arguments import Device, Json
from plait.cli.output import say, show_json
from plait.cli.runs import finished_run, run_and_model
from plait.cli.user_state import model_and_data, state_as_logged
from plait.engine.by_index import measured_recall
from plait.engine.item_index import INDEX, index_of_items, save_index

NUM_USERS = 256  # whose lists recall is measured on
DAY_S = 86_400


def index(
    run: Path,
    /,
    *,
    kind: Literal["hnsw", "ivf"] = "hnsw",
    k: Annotated[int, Parameter(name="-k")] = 100,
    num_probes: int | None = None,
    seed: int = 0,
    dataset: str | None = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Builds an index of a model's items, for `plait recommend --index`: quicker than the exact answer where there are
    millions, and some items are missed. How many is measured on users of the data, and kept with the index.

    Example: plait index runs/lac --kind hnsw

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`: the model that it deploys (model/). Where
        another lies beside it, RUN/model-actions names that.
    kind
        hnsw, a graph: quick to ask, slow to build. ivf, lists of near items: the other way round.
    k
        The length of the lists whose recall is measured; at most the items that there are.
    num_probes
        Of ivf, how many lists are looked at; by default a sixteenth. All of them give the exact answer.
    seed
        Which users recall is measured on, 256 at most.
    dataset
        A prepared folder, or a name of `plait data list`, with the users' histories; without it, the dataset
        that the run was trained on.
    device
        What the model runs on; auto is cuda where there is one.
    """
    folder, model_folder = run_and_model(run)
    model, data = model_and_data(model_folder, finished_run(folder), dataset, device)
    found, k = index_of_items(model.model, kind, num_probes), min(k, len(model.items))
    user_U = np.sort(np.random.default_rng(seed).permutation(data.num_users)[:NUM_USERS])
    state = state_as_logged(model, data, user_U)
    at_s = int(state.events.time_s_E.max()) + DAY_S
    recall = measured_recall(model.model, state, k, found, at_s=at_s)
    measured = {"recall": recall, "recall_k": k, "recall_users": len(user_U), "seed": seed}
    about = msgspec.structs.replace(found.about, **measured)
    save_index(replace(found, about=about), model_folder)
    if json:
        show_json({"run": str(run), **msgspec.structs.asdict(about)})
        return
    say(f"recall@{k}: {recall:.4f} of the exact answer, {len(user_U)} users, seed {seed}")
    say(f"{model_folder / INDEX}: {kind} of {about.num_items} items")
