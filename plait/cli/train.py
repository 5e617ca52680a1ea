"""The verb that trains one layout."""

from pathlib import Path

from plait.cli.arguments import Device
from plait.cli.datasets import open_dataset
from plait.cli.evaluate import evaluate
from plait.cli.model_settings import with_trunk
from plait.cli.output import console, say, training_bar
from plait.evaluation.settings import Optim, Protocol
from plait.fitting import fit
from plait.layouts import resolve
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkKind
from plait.nn.device import resolve_device


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
    on, model = resolve_device(device), with_trunk(model, trunk)
    notation = str(resolve(layout, allow_leaks=model.allow_leaks))  # before a dataset is fetched for nothing
    opened, screen = open_dataset(dataset), console()
    with training_bar(screen) as watch:
        fit(
            opened,
            notation,
            model=model,
            optim=optim,
            protocol=protocol,
            out=out,
            device=on,
            report=lambda line: say(line, screen),
            watch=watch,
        )
    evaluate(out)
