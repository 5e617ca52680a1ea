"""The verb that names items like one."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plait.cli.arguments import Device, Json
from plait.cli.output import show_rows
from plait.cli.recommend import with_titles
from plait.cli.runs import finished_run, run_and_model
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
        A file with a row per item: the log's item column, and one with titles.
    title_column
        What that one is called.
    device
        What the model runs on; auto is cuda where there is one.
    """
    folder, model_folder = run_and_model(run)
    finished_run(folder)
    model = Recommender.from_pretrained(model_folder, device)
    found = model.similar([item], k).select("similar", "rank", "cosine").rename({"similar": "item"})
    if titles is not None:
        found = with_titles(found, model.columns, titles, title_column)
    show_rows(found.columns, found.rows(), json=json)
