"""The verb that trains a large user model: step 1."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plait.cli.arguments import MODEL, PROTOCOL, TRAINING, Device, Quiet
from plait.cli.output import progress_console
from plait.cli.train import Training, train_layout
from plait.cli.verb_settings import LumModelSettings, VerbProtocol, model_of_verb, protocol_of_verb
from plait.evaluation.settings import Optim
from plait.nn.config import TrunkKind, TrunkSize
from plait.nn.device import resolve_device
from plait.training.start import Start


def pretrain(
    dataset: str | None = None,
    /,
    *,
    out: Path,
    layout: str = "lum",
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    trunk: TrunkKind | None = None,
    size: TrunkSize | None = None,
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
    size
        Width, blocks and heads of the trunk, by about how many parameters they make.
    device
        What to train on; auto is cuda where there is one.
    """
    train_layout(
        Training(
            dataset,
            out,
            layout,
            None if from_ is None else Start.of(from_),
            resolve_device(device),
            progress_console(quiet=quiet),
            model_of_verb(model, trunk, size),
            model_of_verb(LumModelSettings()),
            optim,
            protocol_of_verb(protocol),
        )
    )
