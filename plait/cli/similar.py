"""The verb that names items like one."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plait.cli.arguments import Device, Json
from plait.cli.output import show_rows
from plait.cli.recommend import titled
from plait.cli.runs import data_of, finished_run, run_and_model
from plait.recommender import Recommender


def similar(
    run: Path,
    /,
    *,
    item: str,
    k: Annotated[int, Parameter(name="-k")] = 10,
    titles: Path | None = None,
    title_column: str = "title",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The items most like one: those whose vectors point the same way, as the model reads items.

    Example: plait similar runs/lac --item 242 -k 10

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`: the model that it deploys answers
        (model/). Where another lies beside it, RUN/model-actions names that.
    item
        The item's id, as the log spells it.
    k
        How many items.
    titles
        A file with a row per item: the log's item column, and one with titles. Without it, those that the
        dataset was prepared with, where it is still there.
    title_column
        What that one is called.
    device
        What the model runs on; auto is cuda where there is one.
    """
    folder, model_folder = run_and_model(run)
    data = data_of(finished_run(folder))
    model = Recommender.from_pretrained(model_folder, device)
    found = model.similar([item], k).select("similar", "rank", "cosine").rename({"similar": "item"})
    found = titled(found, model.columns, None if isinstance(data, str) else data, titles, title_column)
    show_rows(found.columns, found.rows(), json=json)
