"""The verb that trains one ranker."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from plait.cli.arguments import MODEL, PROTOCOL, TRAINING, Device, Quiet
from plait.cli.datasets import open_dataset
from plait.cli.output import progress_console, say
from plait.cli.progress import training_bar
from plait.cli.told_interests import read_interests
from plait.cli.train import tell_trained
from plait.cli.verb_settings import VerbModelSettings, model_of_verb
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Optim
from plait.nn.device import resolve_device
from plait.nn.towers import TowerConfig
from plait.rankers.going_on import going_on
from plait.rankers.settings import RankerName, RankerProtocol, Shown, run_settings
from plait.rankers.two_tower import of_positions, two_tower_settings
from plait.training.run import run_training
from plait.training.start import Start


@dataclass(frozen=True, kw_only=True)
class RankerTower(TowerConfig):
    """A ranker's own layers come before its heads."""

    kind: Literal["linear", "mlp", "mmoe", "ple"] = "linear"


@dataclass(frozen=True, kw_only=True)
class RankerModelSettings(VerbModelSettings):
    """A model's settings with the defaults of a ranker."""

    tower: RankerTower = RankerTower()


def train_ranker(
    dataset: str,
    /,
    *,
    ranker: RankerName | Literal["ebr"],
    out: Path,
    history: Shown = "actions",
    interests: tuple[Path, ...] = (),
    item_interests: Path | None = None,
    from_: Annotated[Path | None, Parameter(name="--from")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    model: Annotated[RankerModelSettings, MODEL] = RankerModelSettings(),
    optim: Annotated[Optim, TRAINING] = Optim(),
    protocol: Annotated[RankerProtocol, PROTOCOL] = RankerProtocol(),
) -> None:
    """Trains one ranker and tests it; killed and started again, it goes on where it stopped.

    Example: plait rank train ml-100k --ranker din --out runs/din --protocol.max-epochs 5

    Parameters
    ----------
    dataset
        A prepared folder with an action to predict, or a name of `plait data list`.
    ranker
        din, dien, rankmixer: the last events. sim, twin: the whole history, of which a search finds what matters. ebr:
        two towers that retrieve items, and predict no action.
    out
        The run's folder.
    history
        What events of a history show: items with their actions, or items alone.
    interests
        What a user model said of users before their events: `plait lum query --of events` writes it, and `plait data
        shown --interests` what a served ranker read. One file or several, such as one for each part.
    item_interests
        What it says of items: `plait lum query --of items`.
    from_
        A deployed ranker: a run, or a model's folder, whose weights the training goes on from. Settings that are left
        at their defaults are the run's. Interests and --model.late may be new: nothing is lost by them.
    device
        What to train on; auto is cuda where there is one.
    """
    on, screen = resolve_device(device), progress_console(quiet=quiet)
    if ranker == "ebr" and from_ is not None:
        raise ValueError(f"--from {from_}: is of rankers, and ebr is none; train it anew")
    start = None if from_ is None else Start.of(from_)
    opened = open_dataset(dataset)
    told = read_interests(interests, item_interests, opened, screen)

    def settings_of(of: RankerModelSettings, by: Optim, under: RankerProtocol) -> RunSettings:
        its = replace(model_of_verb(of, None), tower=TowerConfig(**vars(of.tower)))
        if ranker != "ebr":
            return run_settings(ranker, its, by, under, history, told)
        return two_tower_settings(model_of_verb(of, None), by, of_positions(under.plain()), told)

    if ranker == "ebr" and history != "actions":
        raise ValueError("--history is of rankers: ebr reads items alone; leave it out")
    usual = settings_of(RankerModelSettings(), Optim(), RankerProtocol())
    settings = going_on(start, settings_of(model, optim, protocol), usual)
    with training_bar(screen) as watch:
        run_training(
            opened, settings, out, lambda line: say(line, screen), on, watch, start=start, interests=told
        )
    tell_trained(out, opened)
