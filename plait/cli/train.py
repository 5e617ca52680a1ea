"""The verb that trains one layout."""

from pathlib import Path

from plait.cli.arguments import Device
from plait.cli.datasets import open_dataset
from plait.cli.evaluate import evaluate
from plait.cli.model_settings import with_trunk
from plait.cli.output import console, say, training_bar
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkKind
from plait.nn.device import resolve_device
from plait.training.run import run_training


def train(
    dataset: str,
    /,
    *,
    layout: str,
    out: Path,
    trunk: TrunkKind | None = None,
    device: Device = "auto",
    model: ModelSettings = ModelSettings(),
    optim: Optim = Optim(),
    protocol: Protocol = Protocol(),
) -> None:
    """Trains one layout and tests it; killed and started again, it goes on where it stopped.

    Example: plait train ml-100k --layout lac --out runs/lac --protocol.max-epochs 20

    Parameters
    ----------
    dataset
        A prepared folder, or a name of `plait data list`.
    layout
        A name of `plait layouts`, or a layout in notation.
    out
        The run's folder.
    trunk
        Short for --model.trunk.kind.
    device
        What to train on; auto is cuda where there is one.
    """
    # Before a dataset is fetched for nothing:
    on, model = resolve_device(device), with_trunk(model, trunk)
    notation = str(resolve(layout, allow_leaks=model.allow_leaks))
    settings = RunSettings(layout=notation, model=model, optim=optim, protocol=protocol)
    opened, screen = open_dataset(dataset), console()
    with training_bar(screen) as watch:
        run_training(opened, settings, out, lambda line: say(line, screen), on, watch)
    evaluate(out)
