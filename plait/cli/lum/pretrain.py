"""The verb that trains a large user model: step 1."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plait.cli.arguments import MODEL, PROTOCOL, TRAINING, Device, Quiet
from plait.cli.train import train_as
from plait.cli.verb_settings import LumModelSettings, VerbProtocol
from plait.evaluation.settings import Optim
from plait.nn.config import TrunkKind


def pretrain(
    dataset: str | None = None,
    /,
    *,
    out: Path,
    layout: str = "lum",
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    trunk: TrunkKind | None = None,
    device: Device = "auto",
    quiet: Quiet = False,
    model: Annotated[LumModelSettings, MODEL] = LumModelSettings(),
    optim: Annotated[Optim, TRAINING] = Optim(),
    protocol: Annotated[VerbProtocol, PROTOCOL] = VerbProtocol(),
) -> None:
    """Trains a large user model: `plait train --layout lum` with the LUM paper's loss, and interests of a fixed width.

    Example: plait lum pretrain kuairand-pure --out runs/lum --protocol.max-epochs 20

    Parameters
    ----------
    dataset
        A prepared folder with conditions, or a name of `plait data list`.
    out
        The run's folder. Killed and started again, the command goes on where it stopped.
    layout
        Another layout, such as item: the ablation without condition tokens.
    from_
        A run, or a model's folder, whose weights the training goes on from, with new events and new items.
    trunk
        Short for --model.trunk.kind.
    device
        What to train on; auto is cuda where there is one.
    """
    usual = LumModelSettings()
    train_as(
        dataset, out, layout, from_, None, "deployed", trunk, device, quiet, model, usual, optim, protocol
    )
