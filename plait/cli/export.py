"""The verb that writes a model as programs for services that have no Plait."""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from plait.cli.arguments import Json
from plait.cli.output import say, show_json, show_table
from plait.cli.runs import finished_run, run_and_model
from plait.exporting.writing import check_can_hold_export
from plait.exporting.writing import export as export_programs
from plait.recommender import Recommender

HEADINGS = ("logits", "difference", "allowed")
IN_UNITS = "largest difference from the engine on drawn histories of three sizes, and what is allowed"


def export(
    run: Path,
    /,
    *,
    out: Path,
    format: Literal["onnx", "torch"] = "onnx",
    without_counts: bool = False,
    json: Json = False,
) -> None:
    """Writes a model as programs of tensors: encode histories, score candidates, rank the catalogue.

    A README in the folder says what goes in and out. Before it is put in place, the programs are compared with the
    engine on sizes that were not traced.

    Example: plait export runs/lac --format onnx --out exported/lac

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`: the model that it deploys (model/). Where
        another lies beside it, RUN/model-actions names that.
    out
        The folder: a new one, or that of an earlier export.
    format
        onnx, for onnxruntime; torch, a program of torch.export.
    without_counts
        Export the network alone, where counts belong to the model: its answers are then others, and take less room.
    """
    check_can_hold_export(out)  # before a model is loaded for nothing
    folder, model_folder = run_and_model(run)
    finished_run(folder)
    recommender = Recommender.from_pretrained(model_folder, "cpu")
    found = export_programs(recommender, out, format, without_counts=without_counts)
    worst = {each.logits: each for each in sorted(found, key=lambda each: each.difference / each.allowed)}
    if json:
        show_json({"out": str(out), "format": format, "compared": [asdict(each) for each in worst.values()]})
        return
    show_table(HEADINGS, [(each.logits, each.difference, each.allowed) for each in worst.values()], IN_UNITS)
    say(f"{out}/README.md says what goes in and out")
